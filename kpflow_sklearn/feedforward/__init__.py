"""Feed-forward networks by their fields: kernels, closed dynamics, attribution of steps.

``_network`` is the network, ``_recognition`` finds it in a torch module, ``_fields`` are
activities and adjoints, ``_kernel`` is the layerwise kernel, ``_closed`` the systems that close
without weights, ``_simulation`` runs them, ``_attribution`` splits one step among layers,
``_weight_grams`` are the Grams of deeper layers' weights.
"""

from kpflow_sklearn.feedforward._attribution import (
    attribute_step,
    balance,
    conserves_balance,
    gate_flips,
)
from kpflow_sklearn.feedforward._closed import (
    ClosedFields,
    check_closed,
    closed_system,
    why_not_closed,
)
from kpflow_sklearn.feedforward._fields import Fields, field_rates, forward_fields
from kpflow_sklearn.feedforward._kernel import FeedForwardKernel
from kpflow_sklearn.feedforward._network import (
    ACTIVATIONS,
    FeedForwardNetwork,
    build_feedforward,
    is_piecewise_linear,
)
from kpflow_sklearn.feedforward._recognition import recognise_feedforward
from kpflow_sklearn.feedforward._simulation import Simulation, simulate_fields
from kpflow_sklearn.feedforward._weight_grams import (
    LEAST_PAIRS,
    GramPairs,
    choose_pairs,
    every_gram,
    mean_over_pairs,
    pairwise_grams,
)

__all__ = [
    "ACTIVATIONS",
    "ClosedFields",
    "FeedForwardKernel",
    "FeedForwardNetwork",
    "Fields",
    "GramPairs",
    "LEAST_PAIRS",
    "Simulation",
    "attribute_step",
    "balance",
    "build_feedforward",
    "check_closed",
    "choose_pairs",
    "closed_system",
    "conserves_balance",
    "every_gram",
    "field_rates",
    "forward_fields",
    "gate_flips",
    "is_piecewise_linear",
    "mean_over_pairs",
    "pairwise_grams",
    "recognise_feedforward",
    "simulate_fields",
    "why_not_closed",
]

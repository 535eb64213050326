"""Feed-forward networks through their fields: kernels, closed dynamics, attribution of steps.

``_network`` defines the network and ``_recognition`` recognises it in a torch module. ``_fields``
computes activities and adjoints, and ``_kernel`` the layerwise kernel from them. ``_closed``
contains the systems of fields that evolve without weights, and ``_simulation`` runs them.
``_attribution`` splits the change of the outputs among the layers, and ``_weight_grams`` measures
the Grams of weights.
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

"""Derivatives of a network along a run of states.

``_mapped`` differentiates cells that declare weight maps, ``_user`` any other step, and
``_network`` a whole network of stacked layers. ``_blocks`` are parameters as blocks of J_theta,
``_raw`` those from which weights are computed; ``_products`` are those with the derivatives of a
user's functions, and ``_user_checks`` shows on a few trials how these can be computed.
``_coactivation`` is the product of activity Gram and co-activation, over time or depth.
"""

from kpflow_sklearn.networks.tangents._blocks import MapBlock
from kpflow_sklearn.networks.tangents._coactivation import (
    coactivation_gram,
    coactivation_trace,
    pull_back,
    push_forward,
)
from kpflow_sklearn.networks.tangents._mapped import LayerWeights, MappedTangent
from kpflow_sklearn.networks.tangents._network import LayerBlock, NetworkTangent
from kpflow_sklearn.networks.tangents._raw import WeightReader
from kpflow_sklearn.networks.tangents._user import UserTangent

__all__ = [
    "LayerBlock",
    "LayerWeights",
    "MapBlock",
    "MappedTangent",
    "NetworkTangent",
    "UserTangent",
    "WeightReader",
    "coactivation_gram",
    "coactivation_trace",
    "pull_back",
    "push_forward",
]

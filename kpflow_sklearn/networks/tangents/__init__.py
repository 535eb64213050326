"""Derivatives of a network along a run of states.

``_mapped`` differentiates cells that declare weight maps, ``_user`` any other step, ``_network`` a
whole network of stacked layers, ``_raw`` parametrized weights; ``_blocks`` are the parameters of
one map as a block of J_theta, ``_coactivation`` is Gram times co-activation, over time or depth.
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

"""A recurrent network: step, readout, initial state; built here, or found in a torch module.

``_network`` is the network, ``_layers`` its stacked layers, ``_recognition`` and ``_named_step``
find it in a user's module, ``_readouts`` finds the readout, ``_reproduction`` checks that the
rebuilt network computes what the module does, ``_targets`` encodes targets, ``_objective`` is the
loss with its error signal, ``tangents`` are the derivatives along a run.
"""

from kpflow_sklearn.networks._named_step import Step
from kpflow_sklearn.networks._network import (
    RecurrentNetwork,
    build_network,
    refuse_unusable,
    to_tensors,
)
from kpflow_sklearn.networks._objective import Objective
from kpflow_sklearn.networks._recognition import recognise_network
from kpflow_sklearn.networks._reproduction import check_rebuilt
from kpflow_sklearn.networks._targets import TargetEncoder, Targets, as_labels

__all__ = [
    "Objective",
    "RecurrentNetwork",
    "Step",
    "TargetEncoder",
    "Targets",
    "as_labels",
    "build_network",
    "check_rebuilt",
    "recognise_network",
    "refuse_unusable",
    "to_tensors",
]

"""A recurrent network: encoder, step, readout and z_0, built here or recognised in a module.

``_network`` is the network, ``_layers`` its layers, ``_build`` makes a new one. ``_recognition``
views a user's module as one: ``_named_step`` finds the parts that the user names,
``_initial_state`` z_0, ``_readouts`` the readout, ``_encoders`` what comes before the step;
``_functions`` makes modules of a network's functions and methods. ``_reproduction`` checks that
the result computes what the module does: ``_coupling`` its step and encoder, ``_step_order`` its
step alone, ``_parameter_use`` its parameters, ``_comparison`` its states and outputs on a run of
the module (``_module_run``, with ``_forward_arguments``), ``_gradients`` the gradients;
``_remedies`` says what to do. ``_step_errors`` adds advice to the errors of a step. ``_layout``
finds out whether the module takes steps first. ``_targets`` encodes targets, ``_objective`` is the
loss with its error signal. A function given as loss is called by ``_user_loss``, has the targets
of ``_user_targets`` and is checked by ``_user_loss_checks``. ``tangents`` holds the derivatives
along a run.
"""

from kpflow_sklearn.networks._build import build_network
from kpflow_sklearn.networks._forward_arguments import warn_without_mask
from kpflow_sklearn.networks._functions import is_kept_apart, parts_in_network, refuse_scripted
from kpflow_sklearn.networks._gradients import is_given_as_values
from kpflow_sklearn.networks._layout import (
    CLEARLY,
    is_prefix_both_ways,
    losses_by_layout,
    takes_steps_first,
)
from kpflow_sklearn.networks._named_step import Part, Step
from kpflow_sklearn.networks._network import RecurrentNetwork, refuse_unusable, to_tensors
from kpflow_sklearn.networks._objective import Objective
from kpflow_sklearn.networks._parameter_use import (
    refuse_same_memory,
    refuse_untrained,
    warn_of_gradient_hooks,
)
from kpflow_sklearn.networks._recognition import recognise_network
from kpflow_sklearn.networks._reproduction import check_rebuilt
from kpflow_sklearn.networks._targets import TargetEncoder, Targets, as_labels
from kpflow_sklearn.networks._user_loss import Loss
from kpflow_sklearn.networks._user_loss_checks import check_user_loss
from kpflow_sklearn.networks._user_targets import target_encoder

__all__ = [
    "CLEARLY",
    "Loss",
    "Objective",
    "Part",
    "RecurrentNetwork",
    "Step",
    "TargetEncoder",
    "Targets",
    "as_labels",
    "build_network",
    "check_rebuilt",
    "check_user_loss",
    "is_given_as_values",
    "is_kept_apart",
    "is_prefix_both_ways",
    "losses_by_layout",
    "parts_in_network",
    "recognise_network",
    "refuse_same_memory",
    "refuse_scripted",
    "refuse_untrained",
    "refuse_unusable",
    "takes_steps_first",
    "target_encoder",
    "to_tensors",
    "warn_of_gradient_hooks",
    "warn_without_mask",
]

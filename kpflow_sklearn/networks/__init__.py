"""A recurrent network: encoder, step, readout and z_0, built here or recognised in a module.

- The network: ``_network``, its layers ``_layers``, and ``_build``, which makes a new one.
- Recognition of a user's module: ``_recognition`` puts the parts together. ``_named_step`` finds
  those that the user names, ``_initial_state`` z_0, ``_readouts`` the readout, ``_encoders`` what
  comes before the step. ``_functions`` makes modules of functions and methods, ``_dependence``
  finds their parameters, and ``_user_code`` calls code, or refuses it.
- Comparison with the module: ``_reproduction`` checks that the network computes what the module
  does. ``_rebuilt_states`` checks the states of the network, ``_coupling`` that trials do not
  influence one another, ``_step_errors`` runs the step and adds advice to its errors.
  ``_module_run`` runs the module (with ``_forward_arguments``, or a part of ``_containers``),
  ``_differences`` compares two results, ``_comparison`` all that passes through the two, and
  ``_gradients`` their gradients; ``_remedies`` says what to do.
- Parameters: ``_parameter_use`` finds what depends on which, ``_shared_parameters`` refuses those
  in two places, ``_trained_parameters`` checks those that train.
- Targets and loss: ``_targets`` encodes targets, which consist of ``_target_values``,
  ``_target_scores`` judges outputs by them, and ``_objective`` is the loss with its error signal.
  A function given as loss is called by ``_user_loss``, has the targets of ``_user_targets`` and is
  checked by ``_user_loss_checks``. ``_layout`` finds out whether a module takes steps first.
- ``tangents`` holds the derivatives along a run.
"""

from kpflow_sklearn.networks._build import build_network
from kpflow_sklearn.networks._forward_arguments import warn_without_mask
from kpflow_sklearn.networks._functions import is_kept_apart, parts_in_network
from kpflow_sklearn.networks._initial_state import is_given_as_values
from kpflow_sklearn.networks._layout import (
    CLEARLY,
    is_prefix_both_ways,
    losses_by_layout,
    takes_steps_first,
)
from kpflow_sklearn.networks._named_step import Part, Step
from kpflow_sklearn.networks._network import RecurrentNetwork, refuse_unusable, to_tensors
from kpflow_sklearn.networks._objective import Objective
from kpflow_sklearn.networks._recognition import recognise_network
from kpflow_sklearn.networks._reproduction import check_rebuilt
from kpflow_sklearn.networks._shared_parameters import refuse_same_memory
from kpflow_sklearn.networks._target_values import Targets, as_labels
from kpflow_sklearn.networks._targets import TargetEncoder
from kpflow_sklearn.networks._trained_parameters import refuse_untrained, warn_of_gradient_hooks
from kpflow_sklearn.networks._user_code import refuse_scripted
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

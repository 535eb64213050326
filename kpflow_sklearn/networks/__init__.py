"""A recurrent network: encoder, step, readout and z_0, built here or recognised in a module.

- The network: ``_network``, its layers ``_layers``, and ``_build``, which makes a new one.
- Recognition of a user's module: ``_recognition`` puts the parts together. ``_named_step`` finds
  those that the user names, ``_initial_state`` z_0, ``_readouts`` the readout, ``_encoders`` what
  comes before the step. ``_functions`` makes modules of functions and methods, ``_dependence``
  finds their parameters, and ``_user_code`` calls code, or refuses it.
- ``agreement`` checks that the network computes what the module does.
- ``loss`` holds targets, the loss and the score.
- ``tangents`` holds the derivatives along a run.
"""

from kpflow_sklearn.networks._build import build_network
from kpflow_sklearn.networks._functions import is_kept_apart, label_of, parts_in_network
from kpflow_sklearn.networks._initial_state import is_given_as_values
from kpflow_sklearn.networks._named_step import Part, Step
from kpflow_sklearn.networks._network import RecurrentNetwork, refuse_unusable, to_tensors
from kpflow_sklearn.networks._recognition import recognise_network
from kpflow_sklearn.networks._user_code import refuse_scripted
from kpflow_sklearn.networks.agreement import (
    CLEARLY,
    check_features,
    check_rebuilt,
    is_prefix_both_ways,
    losses_by_layout,
    refuse_same_memory,
    refuse_untrained,
    refuse_zero_kernel,
    takes_steps_first,
    warn_of_gradient_hooks,
    warn_without_draws,
    warn_without_mask,
)
from kpflow_sklearn.networks.loss import (
    Loss,
    Objective,
    TargetEncoder,
    Targets,
    as_labels,
    check_user_loss,
    target_encoder,
)

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
    "check_features",
    "check_rebuilt",
    "check_user_loss",
    "is_given_as_values",
    "is_kept_apart",
    "is_prefix_both_ways",
    "label_of",
    "losses_by_layout",
    "parts_in_network",
    "recognise_network",
    "refuse_same_memory",
    "refuse_scripted",
    "refuse_untrained",
    "refuse_zero_kernel",
    "refuse_unusable",
    "takes_steps_first",
    "target_encoder",
    "to_tensors",
    "warn_of_gradient_hooks",
    "warn_without_draws",
    "warn_without_mask",
]

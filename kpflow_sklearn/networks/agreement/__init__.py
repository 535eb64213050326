"""Whether a network that was rebuilt of parts computes what the user's module computes.

- ``_reproduction`` asks the question. ``_rebuilt_states`` checks the states of the network,
  ``_coupling`` that trials do not influence one another, and ``_hidden_draws`` that frozen noise
  is all the noise of the step; ``_step_errors`` runs the step and adds advice to its errors.
- ``_module_run`` runs the module (with ``_forward_arguments``, or a part of ``_containers``),
  ``_differences`` compares two results, ``_comparison`` all that passes through the two, and
  ``_gradients`` their gradients; ``_remedies`` says what to do.
- ``_parameter_use`` finds what depends on which parameters, ``_unregistered`` refuses tensors
  that are not registered, ``_shared_parameters`` parameters in two places, and
  ``_trained_parameters`` checks those that train.
- ``_layout`` checks the features of X, and whether a module takes steps first.
"""

from kpflow_sklearn.networks.agreement._coupling import refuse_coupled_trials
from kpflow_sklearn.networks.agreement._forward_arguments import warn_without_mask
from kpflow_sklearn.networks.agreement._hidden_draws import warn_without_draws
from kpflow_sklearn.networks.agreement._layout import (
    CLEARLY,
    check_features,
    is_prefix_both_ways,
    losses_by_layout,
    takes_steps_first,
)
from kpflow_sklearn.networks.agreement._reproduction import check_rebuilt
from kpflow_sklearn.networks.agreement._shared_parameters import refuse_same_memory
from kpflow_sklearn.networks.agreement._trained_parameters import (
    refuse_untrained,
    refuse_zero_kernel,
    warn_of_gradient_hooks,
)

__all__ = [
    "CLEARLY",
    "check_features",
    "check_rebuilt",
    "is_prefix_both_ways",
    "losses_by_layout",
    "refuse_coupled_trials",
    "refuse_same_memory",
    "refuse_untrained",
    "refuse_zero_kernel",
    "takes_steps_first",
    "warn_of_gradient_hooks",
    "warn_without_draws",
    "warn_without_mask",
]

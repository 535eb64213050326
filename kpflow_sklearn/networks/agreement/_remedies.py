"""What to do about a module that differs from its rebuilt form, in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from kpflow_sklearn.networks._initial_state import IN_THE_STEP, parts_of
from kpflow_sklearn.networks._network import RecurrentNetwork
from kpflow_sklearn.networks.agreement._forward_arguments import arguments_not_given
from kpflow_sklearn.networks.agreement._parameter_use import ParameterUse, first_few

_OPT_OUT = (
    "SavedTraining(..., check_outputs=False) analyses that readout nevertheless: outputs, loss "
    "and error signal are then those of the readout, not of the module, and not compared."
)
#: Remedies, by the stage at which module and rebuilt network first differ: 0 the call on X, 1 the
#: input of the recurrent part, 2 its states, 3 the input of the readout, 4 the outputs.
REMEDIES = {
    0: "Wrap the network in a module whose forward takes X alone.",
    1: "Give what happens to X before that as SavedTraining(..., encoder=...): the name of a "
    "submodule, or a function encoder=lambda network, X: ... that returns what the recurrent part "
    "receives, for X (n_trials, n_timesteps, n_features).",
    2: "If the states are computed in another way, name that as step='...'.",
    3: "Give what maps the states to the outputs, with all that lies between them, as "
    "SavedTraining(..., readout=...): the name of one module, or a function "
    "readout=lambda network, states: ...; if the states themselves differ, name what computes "
    "them as step='...', and what happens to X before it as encoder='...'.",
    4: "Give all that follows the states as SavedTraining(..., readout=...): the name of one "
    "module, or a function readout=lambda network, states: ... . If the module changes the "
    f"outputs of its readout afterwards, {_OPT_OUT}",
}
#: What to do about a forward that computes gradients, which are disabled where it is called.
NEEDS_GRAD_REMEDY = (
    "It computes gradients of its own: compute them by torch.func.grad, or wrap the network in a "
    "module whose forward(self, X) returns self.network(X) inside with torch.enable_grad(). Parts "
    "then have names such as 'network.out'."
)
#: What to do if two results differ from their first step on.
START = (
    "If the states start neither from zero nor from the initial_state that was given, give "
    f"initial_state=..., which is common to all trials; if it differs between them, {IN_THE_STEP}."
)


@dataclass(frozen=True)
class Problem:
    """The first difference between a module and its rebuilt form.

    Attributes
    ----------
    stage : int
        The stage at which they differ, a key of ``REMEDIES``.
    words : str
        How they differ.
    remedy : str
        What to do about it, besides the remedy of the stage.
    """

    stage: int
    words: str
    remedy: str = ""


def further_parameters(
    module: nn.Module,
    names: list[str],
    use: ParameterUse,
    view: RecurrentNetwork,
    initial_state: Any,
    check_outputs: bool,
) -> str:
    """Return a sentence on the parameters that belong to no part, or "" if there are none."""
    if not names:
        return ""
    text = (
        f"{type(module).__name__} has further parameters, {first_few(names)}, that its "
        f"{'outputs' if check_outputs else 'states'} depend on, but that belong to no encoder, "
        "step, readout or initial state."
    )
    parts = {1: view.n_states, 2: view.n_states / 2}
    sizes = [use.sizes[name] for name in names]
    has_name = any(isinstance(spec, str) for spec in parts_of(initial_state))
    if not has_name and sizes == [parts.get(len(names))] * len(names):
        start = names[0] if len(names) == 1 else tuple(names)
        text += f" If the initial state is {' and '.join(names)}, give initial_state={start!r}."
    return text


def arguments_remedy(module: nn.Module) -> str:
    """Return what to do about arguments of a module's forward that are not given, or ""."""
    names = arguments_not_given(module)
    if not names:
        return ""
    given = ", ".join(f"{name}=..." for name in names)
    text = (
        f"The forward of {type(module).__name__} also takes {', '.join(names)}, which the "
        "comparison does not give: if what it returns depends on this, wrap the network in a "
        f"module whose forward(self, X) returns self.network(X, {given}). Parts then have names "
        "such as 'network.rnn'."
    )
    masks = [name for name in names if "mask" in name.lower()]
    if masks:
        text += (
            " Give mask= to fit for padded trials: masked steps are not compared, so that the "
            f"wrapper can give a {masks[0]} in which all steps are valid."
        )
    return text

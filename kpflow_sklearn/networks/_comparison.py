"""Compare a user's module with the rebuilt network, and describe the first difference in words."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kpflow_sklearn._common.callbacks import warn_caller
from kpflow_sklearn.exceptions import UnsupportedNetworkError
from kpflow_sklearn.networks._encoders import describe
from kpflow_sklearn.networks._functions import is_kept_apart
from kpflow_sklearn.networks._module_run import (
    Form,
    ModuleRun,
    Trials,
    compare,
    forms_of,
    run_module,
)
from kpflow_sklearn.networks._network import RecurrentNetwork
from kpflow_sklearn.networks._parameter_use import ParameterUse

_OPT_OUT = (
    "SavedTraining(..., check_outputs=False) analyses that readout nevertheless: outputs, loss "
    "and error signal are then those of the readout, not of the module, and not compared."
)
#: Remedies, by the stage at which module and rebuilt network first differ: 0 the call on X, 1 the
#: input of the recurrent part, 2 its states, 3 the input of the readout, 4 the outputs.
_REMEDIES = {
    0: "Wrap the network in a module whose forward takes X alone.",
    1: "Give what happens to X before that as SavedTraining(..., encoder=...): the name of a "
    "submodule, or a function encoder=lambda network, X: ... that returns what the recurrent part "
    "receives, for X (n_trials, n_timesteps, n_features).",
    2: "If the states do not start from zero, give initial_state=...; if they are computed in "
    "another way, name that as step='...'.",
    3: "Give what maps the states to the outputs, with all that lies between them, as "
    "SavedTraining(..., readout=...): the name of one module, or a function "
    "readout=lambda network, states: ...; if the states themselves differ, name what computes "
    "them as step='...', and what happens to X before it as encoder='...'.",
    4: "Give all that follows the states as SavedTraining(..., readout=...): the name of one "
    "module, or a function readout=lambda network, states: ... . If the module changes the "
    f"outputs of its readout afterwards, {_OPT_OUT}",
}


def further_parameters(
    module: nn.Module,
    names: list[str],
    use: ParameterUse,
    view: RecurrentNetwork,
    initial_state: Any,
) -> str:
    """Return a sentence on the parameters that belong to no part, or "" if there are none."""
    if not names:
        return ""
    listed = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    text = (
        f"{type(module).__name__} has further parameters, {listed}, that its outputs depend on, "
        "but that belong to no encoder, step, readout or initial state."
    )
    parts = {1: view.n_states, 2: view.n_states / 2}
    sizes = [use.sizes[name] for name in names]
    specs = initial_state if isinstance(initial_state, tuple) else (initial_state,)
    has_name = any(isinstance(spec, str) for spec in specs)
    if not has_name and sizes == [parts.get(len(names))] * len(names):
        start = names[0] if len(names) == 1 else tuple(names)
        text += f" If the initial state is {' and '.join(names)}, give initial_state={start!r}."
    return text


class Comparison:
    """The comparison of a module with its rebuilt form, on a few trials.

    Parameters
    ----------
    module : Module
        The user's network, which can be called on X.
    view : RecurrentNetwork
        The same network as step, readout and initial state.
    trials : Trials
        The trials.
    states : Tensor of shape (n_trials, n_timesteps, n_states)
        The states of ``view``.
    check_outputs : bool
        Whether outputs are compared too.
    """

    def __init__(
        self,
        module: nn.Module,
        view: RecurrentNetwork,
        trials: Trials,
        states: Tensor,
        check_outputs: bool,
    ) -> None:
        self.module, self.view, self.trials = module, view, trials
        self.inputs, self.rates = view.encode(trials.X).detach(), view.rates(states)
        self.check_outputs = check_outputs and view.readout is not None
        # What the module should return: the outputs, or the states if it has no readout.
        self.returned = [] if view.readout is None else [view.outputs(states).detach()]
        if is_kept_apart(module, view.readout) or view.readout is None:
            self.returned.append(self.rates)
        self.form, self.matched = Form(), 0  # How it takes X; the index of the result that agrees.

    @torch.no_grad()
    def problem(self) -> tuple[int, str] | None:
        """Return the stage at which the two first differ, and what differs; None if nothing does.

        A module may take X in several forms: the one in which the two agree longest is used.
        """
        problems = []
        for form in forms_of(self.trials.X):
            problem = self._problem(form)
            if problem is None:
                self.form = form
                return None
            problems.append((*problem, form))
        stage, text, self.form = max(problems, key=lambda problem: problem[0])
        if stage == 0 and not self.check_outputs:
            warn_caller(
                f"the states of the rebuilt network were not compared with those of "
                f"{type(self.module).__name__}, which {text}.",
                UserWarning,
            )
            return None
        return stage, text

    def _run(self, form: Form, seed: int = 0) -> ModuleRun:
        return run_module(self.module, self.view, self.trials, form, seed)

    def _problem(self, form: Form) -> tuple[int, str] | None:
        try:
            run = self._run(form)
        except Exception as error:  # A user's forward may take something other than X.
            return 0, f"fails on X ({type(error).__name__}: {error})"
        trials = self.trials
        received = compare(self.inputs, run.received, trials)
        if run.received is not None and (received is None or not received.is_none):
            how = (
                f"differ by shape: {tuple(run.received.shape)}" if not received else received.words
            )
            name = type(self.view.recurrent).__name__
            return 1, f"{describe(self.view.encoder)} and what its {name} receives {how}"
        for stage, name, theirs in (
            (2, "the states", run.states),
            (3, "the states read out", run.read),
        ):
            if stage == 3 and run.states is not None and not self.check_outputs:
                break
            difference = compare(self.rates, theirs, trials)
            if difference is not None and not difference.is_none:
                return stage, f"{name} {difference.words}"
        seen = run.states is not None or compare(self.rates, run.read, trials) is not None
        if seen and not self.check_outputs:
            return None
        return self._returned_problem(run)

    def _returned_problem(self, run: ModuleRun) -> tuple[int, str] | None:
        words = []
        for index, theirs in enumerate(run.outputs):
            for ours in self.returned if self.check_outputs else [self.rates]:
                difference = compare(ours, theirs, self.trials)
                if difference is None:  # Of another shape.
                    continue
                if difference.is_none:
                    self.matched = index
                    return None
                words.append(difference.words)
        if not self.check_outputs:
            return 0, "does not show its states"
        return 4, f"they {words[0]}" if words else f"it returns {run.returned}"

    def refuse(self, problem: tuple[int, str], further: str) -> None:
        """Raise an error that describes a problem and what can be done about it."""
        stage, text = problem
        name = type(self.module).__name__
        part = "the readout of the recurrent states" if self.check_outputs else "the rebuilt step"
        what = "outputs" if self.check_outputs else "states"
        message = f"{part} does not reproduce the {what} of {name}: "
        message += f"{name} {text}." if stage == 0 else f"{text}."
        if stage and self._is_random():
            raise UnsupportedNetworkError(
                f"{name} is random even in evaluation mode: two calls on the same trials return "
                "different numbers. Look for torch.nn.functional.dropout without "
                "training=self.training, and for noise that forward draws (torch.randn, NumPy); "
                "switch it off in evaluation mode, or, if it belongs to the step, put it there "
                "(step='...') and give noise='frozen'."
            )
        remedy = _REMEDIES[stage]
        raise UnsupportedNetworkError(" ".join(filter(None, (message, further, remedy))))

    @torch.no_grad()
    def _is_random(self) -> bool:
        """Tell whether two calls of the module on the same trials differ."""
        first, second = (self._run(self.form, seed).tensors() for seed in (0, 1))
        pairs = zip(first, second, strict=False)
        return not all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs)

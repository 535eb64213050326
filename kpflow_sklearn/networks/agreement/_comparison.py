"""Compare a user's module with the rebuilt network, and describe the first difference in words."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kpflow_sklearn._common.callbacks import warn_caller
from kpflow_sklearn.exceptions import UnsupportedNetworkError
from kpflow_sklearn.networks._encoders import TWO_USES, describe
from kpflow_sklearn.networks._functions import is_kept_apart
from kpflow_sklearn.networks._network import RecurrentNetwork
from kpflow_sklearn.networks._readouts import POOLS, READS_X
from kpflow_sklearn.networks.agreement._differences import compare
from kpflow_sklearn.networks.agreement._module_run import (
    Form,
    ModuleRun,
    Trials,
    forms_of,
    run_module,
)
from kpflow_sklearn.networks.agreement._remedies import (
    NEEDS_GRAD_REMEDY,
    REMEDIES,
    START,
    Problem,
    arguments_remedy,
)
from kpflow_sklearn.networks.agreement._step_errors import NEEDS_GRAD


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
        self.passes = False  # Whether the states pass through a part where they can be seen.
        self.is_compared = True

    @torch.no_grad()
    def problem(self) -> Problem | None:
        """Return the first difference between the two; None if they agree.

        A module may take X in several forms: the one in which the two agree longest is used.
        """
        problems = []
        for form in forms_of(self.trials.X):
            self.form = form
            problem = self._problem()
            if problem is None:
                return None
            problems.append((problem, form))
        worst, self.form = max(problems, key=lambda pair: pair[0].stage)
        if worst.stage == 0 and not self.check_outputs:
            self.warn_not_compared(worst.words)
            return None
        return worst

    def warn_not_compared(self, reason: str) -> None:
        """Warn that the states were not compared, because the module does something."""
        self.is_compared = False
        warn_caller(
            f"the states of the rebuilt network were not compared with those of "
            f"{type(self.module).__name__}, which {reason}.",
            UserWarning,
        )

    def compared(self, run: ModuleRun) -> list[Tensor]:
        """Return what was compared of a run: a list of one tensor, or of none."""
        if self.view.readout is None and run.states is not None:
            return [run.states]
        if not self.check_outputs:
            if not self.is_compared:
                return []
            passing = run.states if run.states is not None else run.read
            if self.passes and passing is not None:
                return [passing]
        return run.outputs[self.matched :][:1]

    def _run(self, seed: int = 0) -> ModuleRun:
        return run_module(self.module, self.view, self.trials, self.form, seed)

    def _problem(self) -> Problem | None:
        """Return the first difference between the two with X in the present form."""
        try:
            run = self._run()
        except Exception as error:  # A user's forward may take something other than X.
            remedy = NEEDS_GRAD_REMEDY if NEEDS_GRAD in str(error) else ""
            return Problem(0, f"fails on X ({type(error).__name__}: {error})", remedy)
        trials = self.trials
        received = compare(self.inputs, run.received, trials)
        if run.received is not None and (received is None or not received.is_none):
            how = (
                f"differ by shape: {tuple(run.received.shape)}" if not received else received.words
            )
            name = type(self.view.recurrent).__name__
            encoder = describe(self.view.encoder)
            return Problem(1, f"{encoder} and what its {name} receives {how}")
        for stage, name, theirs in (
            (2, "the states", run.states),
            (3, "the states read out", run.read),
        ):
            if stage == 3 and run.states is not None and not self.check_outputs:
                break
            difference = compare(self.rates, theirs, trials)
            if difference is not None and not difference.is_none:
                # States that agree before they are read show that z_0 is right.
                starts_apart = difference.at_start and (stage == 2 or run.states is None)
                remedy = self._calls_remedy(run) or (START if starts_apart else "")
                if stage == 3 and _is_one_per_trial(theirs):
                    remedy = f"{remedy} {POOLS}".strip()
                return Problem(stage, f"{name} {difference.words}", remedy)
        self.passes = run.states is not None or compare(self.rates, run.read, trials) is not None
        if self.passes and not self.check_outputs:
            return None
        return self._returned_problem(run)

    def _returned_problem(self, run: ModuleRun) -> Problem | None:
        """Compare what the module returns; its states agree if they can be seen."""
        differences = []
        for index, theirs in enumerate(run.outputs):
            for ours in self.returned if self.check_outputs else [self.rates]:
                difference = compare(ours, theirs, self.trials)
                if difference is None:  # Of another shape.
                    continue
                if difference.is_none:
                    self.matched = index
                    return None
                differences.append(difference)
        if not self.check_outputs:
            return Problem(0, "does not show its states")
        reads_more = run.read is not None and run.read.shape[-1] > self.rates.shape[-1]
        remedy = READS_X if self.passes or reads_more else self._calls_remedy(run)
        if run.outputs and _is_one_per_trial(run.outputs[0]):
            remedy = f"{POOLS} {remedy}".strip()
        if not differences:
            return Problem(4, f"it returns {run.returned}", remedy)
        remedy = remedy or (START if differences[0].at_start else "")
        return Problem(4, f"they {differences[0].words}", remedy)

    def _calls_remedy(self, run: ModuleRun) -> str:
        """Return what to do about a recurrent part that runs over several sequences, or ""."""
        if run.n_calls < 2 or run.states is not None:
            return ""
        core = type(self.view.recurrent).__name__
        return f"{type(self.module).__name__} calls its {core} {run.n_calls} times. {TWO_USES}"

    def refuse(self, problem: Problem, further: str) -> None:
        """Raise an error that describes a problem and what can be done about it."""
        stage, text = problem.stage, problem.words
        name = type(self.module).__name__
        part = "the readout of the recurrent states" if self.check_outputs else "the rebuilt step"
        what = "outputs" if self.check_outputs else "states"
        message = f"{part} does not reproduce the {what} of {name}: "
        message += f"{name} {text}." if stage == 0 else f"{text}."
        if stage and self._differs(0, 0):
            raise UnsupportedNetworkError(
                f"two calls of {name} on the same trials return different numbers, although they "
                "start from the same seed. If it keeps a state between calls (self.h, for "
                "example), let forward start anew each time; if it draws numbers from NumPy or "
                "from a generator of its own, switch these off in evaluation mode."
            )
        if stage and self._differs(0, 1):
            raise UnsupportedNetworkError(
                f"{name} is random even in evaluation mode: two calls on the same trials return "
                "different numbers. Look for torch.nn.functional.dropout without "
                "training=self.training, and for noise that forward draws (torch.randn); "
                "switch it off in evaluation mode, or, if it belongs to the step, put it there "
                "(step='...') and give noise='frozen'."
            )
        arguments = arguments_remedy(self.module)
        remedy = "" if stage == 0 and (arguments or problem.remedy) else REMEDIES[stage]
        sentences = (message, further, problem.remedy, remedy, arguments)
        raise UnsupportedNetworkError(" ".join(filter(None, sentences)))

    @torch.no_grad()
    def _differs(self, *seeds: int) -> bool:
        """Tell whether two calls of the module on the same trials, with these seeds, differ."""
        first, second = (self._run(seed).tensors() for seed in seeds)
        pairs = zip(first, second, strict=False)
        return not all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in pairs)


def _is_one_per_trial(result: Tensor | None) -> bool:
    """Tell whether a result has no axis of steps, (n_trials, n_values)."""
    return result is not None and result.ndim == 2

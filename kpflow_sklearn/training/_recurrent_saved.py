"""SavedTraining: a network that was trained elsewhere, with or without checkpoints."""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from torch import nn

from kpflow_sklearn._common.callbacks import FitTask, warn_caller, with_callbacks
from kpflow_sklearn._common.checks import check_choice, check_flag
from kpflow_sklearn._common.estimators import undone_if_it_fails
from kpflow_sklearn._common.modules import named_parts, parameters_of, set_training
from kpflow_sklearn._common.tensors import copy_module
from kpflow_sklearn.exceptions import UnsupportedNetworkError
from kpflow_sklearn.networks import (
    Loss,
    RecurrentNetwork,
    Step,
    check_rebuilt,
    check_user_loss,
    recognise_network,
    refuse_unusable,
)
from kpflow_sklearn.training._layout import (
    features_advice,
    warn_of_channels_first,
    warn_of_steps_first,
)
from kpflow_sklearn.training._recurrent_model import RecurrentModel
from kpflow_sklearn.training._snapshots import Snapshot
from kpflow_sklearn.training._state_dicts import Checkpoints, fixed_parts, load_each, unwrapped

logger = logging.getLogger("kpflow_sklearn")


class SavedTraining(RecurrentModel):
    """Stand in for a trainer with a network that was trained elsewhere.

    Nothing is trained: `fit` recognises the parts of the module, loads the checkpoints and checks
    that the rebuilt step reproduces the states of the module.

    Parameters
    ----------
    network : Module
        A module with one ``torch.nn.RNN``, ``GRU`` or ``LSTM`` and one ``torch.nn.Linear``
        readout, or any other module if ``step`` is given. It is copied, never changed.
    checkpoints : str, path-like, or sequence of state_dict or path-like, optional
        The states of the module over training: a file, a pattern such as ``"run/*.pt"``, or a
        sequence of files or state_dicts. Files are sorted by the number in their names and read on
        the CPU, by safetensors if they are named ``*.safetensors``, otherwise by
        ``torch.load(weights_only=True)``. A state_dict may be saved under a key such as
        "state_dict" or "model", and its keys may have the prefixes of DataParallel, torch.compile
        or a LightningModule. By default only the present state is analysed.
    recurrent : str, optional
        Name of the recurrent submodule, needed if the module has several. With ``step`` it is the
        submodule that the step belongs to. A submodule of another kind than RNN, GRU or LSTM is
        used as a cell.
    step : str or callable, optional
        The step that computes h_t from (x_t, h_{t-1}): the name of a submodule or method, or a
        function (network, x_t, h). Derivatives are then computed by automatic differentiation.
        The parameters theta are those of the submodule; for a method or function, they are all
        parameters of the network except those of the readout and z_0.
    readout : str, optional
        Name of the readout, needed if several Linear modules fit. A readout that is named may be
        any module that maps the state of each step separately.
    initial_state : str, array-like or tuple of these, optional
        The initial state z_0, zero by default: values, or the name of a tensor of the network,
        which counts as trained if it is a trainable parameter. A tuple is needed if the state is
        one; the readout receives its first part.
    loss : {"auto", "mse", "cross_entropy"} or callable, default="auto"
        The loss that the network was trained on; "auto" chooses it as `RecurrentTrainer` does. A
        function ``loss(outputs, y)`` that returns one number per trial and step, as for
        `RecurrentTrainer`, judges a network with any number of outputs, for example the binary
        cross entropy of one logit. Penalties on rates or weights are not part of Err.
    iterations : sequence of int, optional
        Number of parameter updates before each checkpoint. By default, they are the numbers in
        the names of the files, or 0, 1, 2, ... for state_dicts. They must be given if two numbers
        vary in the names, or one that does not count updates, such as a loss or a date: in the
        order of the list or, for a pattern, in that of these numbers.
    parameters : sequence of str, optional
        Names of the network's parameters, or patterns such as ``"core.weight_*"``, that form
        theta; the others are treated as fixed. By default theta contains all trainable parameters.
        Parameters with ``requires_grad=False`` do not train: a name that matches no other raises
        an error, and a pattern that matches some of them a warning.
    noise : {"off", "frozen"}, default="off"
        How a random step is analysed. "off" uses evaluation mode, and raises an error if the step
        is random even then. "frozen" uses one realisation of the random numbers (of dropout too)
        that the step draws from torch's generator: it differs between steps, is shared by all
        trials, and is the same in every run. The module draws other numbers, so that its outputs
        are then not compared with those of the step.
    layout : {"auto", "trials_first"}, default="auto"
        The order of the axes of X, which is always read as (n_trials, n_timesteps, n_features).
        "auto" warns if the module takes steps first (``batch_first=False``, torch's default) and
        the data do not show that they have trials first. "trials_first" confirms that they have.
    check_outputs : bool, default=True
        Whether the module must return the readout of the states, on the first eight trials. With
        False, only the states are compared with those of the module, and nothing shows that the
        module returns the readout of them: outputs, loss, error signal and predictions are those
        of the readout, and whatever the module does between the states and its outputs beside it
        (a normalisation, a second readout, a softmax) is left out of the analysis.

    Attributes
    ----------
    network_ : RecurrentNetwork
        A copy of the module in its last state, split into step, readout and initial state.
    snapshots_ : list of Snapshot
        One snapshot per checkpoint.
    n_iter_ : int
        Iteration of the last checkpoint.
    noise_sources_ : list of str
        Dropout in the recurrent part, which ``noise="off"`` switches off.
    loss_curve_ : ndarray of shape (0,)
        Empty, because the losses during training are unknown.
    n_features_in_ : int
        Size of the last axis of X.

    Examples
    --------
    >>> import torch
    >>> from kpflow_sklearn import SavedTraining
    >>> from kpflow_sklearn.datasets import make_flip_flop
    >>> X, y = make_flip_flop(8, n_timesteps=10, random_state=0)
    >>> module = torch.nn.ModuleDict({"rnn": torch.nn.GRU(3, 6), "out": torch.nn.Linear(6, 3)})
    >>> saved = SavedTraining(module, [module.state_dict()], iterations=[500]).fit(X, y)
    >>> saved.trajectories(X).shape
    (8, 10, 6)
    """

    def __init__(
        self,
        network: nn.Module,
        checkpoints: Checkpoints = None,
        *,
        recurrent: str | None = None,
        step: Step | None = None,
        readout: str | None = None,
        initial_state: Any = None,
        loss: Loss = "auto",
        iterations: Sequence[int] | None = None,
        parameters: Sequence[str] | None = None,
        noise: str = "off",
        layout: str = "auto",
        check_outputs: bool = True,
    ) -> None:
        self.network = network
        self.checkpoints = checkpoints
        self.recurrent = recurrent
        self.step = step
        self.readout = readout
        self.initial_state = initial_state
        self.loss = loss
        self.iterations = iterations
        self.parameters = parameters
        self.noise = noise
        self.layout = layout
        self.check_outputs = check_outputs

    @undone_if_it_fails
    @with_callbacks
    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        *,
        mask: ArrayLike | None = None,
        loss_weight: ArrayLike | None = None,
    ) -> SavedTraining:
        """Recognise the network and load its checkpoints; nothing is trained.

        Parameters
        ----------
        X : array-like of shape (n_trials, n_timesteps, n_features)
            Trials, on which the rebuilt step is checked.
        y : array-like, optional
            Targets, in one of the forms of `RecurrentTrainer.fit`.
        mask : array-like of bool, shape (n_trials, n_timesteps), optional
            Valid steps.
        loss_weight : array-like of shape (n_trials, n_timesteps[, n_outputs]), optional
            Weight w >= 0 of each step in the loss.

        Returns
        -------
        SavedTraining
            Itself.

        Raises
        ------
        UnsupportedNetworkError
            If the analysis does not support this kind of module, or if its states or outputs are
            not those of the recognised parts.
        CheckpointError
            If a checkpoint cannot be read or does not fit the module.
        ValueError
            If X, y or the number of iterations does not fit.

        Examples
        --------
        >>> import torch
        >>> from kpflow_sklearn import SavedTraining
        >>> from kpflow_sklearn.datasets import make_flip_flop
        >>> X, y = make_flip_flop(4, n_timesteps=5, random_state=0)
        >>> module = torch.nn.ModuleDict({"rnn": torch.nn.GRU(3, 4), "out": torch.nn.Linear(4, 3)})
        >>> SavedTraining(module).fit(X, y).n_iter_
        0
        """
        self._check_parameters()
        trials, valid, single_step = self._check_trials(X, mask, reset=True)
        module = self._copied_module()
        view = self._recognise(module)
        self._check_fits(view, trials)
        self.noise_sources_ = _dropout_in(view.recurrent)
        if self.noise_sources_:
            logger.info("noise=%r: %s", self.noise, ", ".join(self.noise_sources_))
        targets = self._fit_targets(trials, y, valid, loss_weight, single_step, self.loss, 0.0)
        self.encoder_.match_outputs(view.n_outputs)
        if self.encoder_.classes_ is not None:
            self.classes_ = self.encoder_.classes_
        self.snapshots_ = []
        given = self.checkpoints is not None
        with FitTask.root(self, X=X, y=y):
            fixed = fixed_parts(unwrapped(self.network))
            loaded = load_each(module, self.checkpoints, self.iterations, fixed)
            for index, iteration in enumerate(loaded):
                refuse_unusable(module, f"checkpoints[{index}]" if given else "network")
                view = self._recognise(module)  # z_0 may be a copy of what was loaded.
                self.snapshots_.append(Snapshot.take(iteration, view))
        check_rebuilt(
            module,
            view,
            trials,
            valid,
            original=unwrapped(self.network),
            initial_state=self.initial_state,
            check_outputs=self.check_outputs,
        )
        check_user_loss(self.objective_, view, trials, targets, valid)
        if self.layout == "auto" and not single_step:
            warn_of_steps_first(module, view, self.objective_, self.encoder_, trials, y, valid)
        self.network_ = view
        self.n_iter_ = self.snapshots_[-1].iteration
        self.loss_curve_ = np.empty(0)
        return self

    def _check_parameters(self) -> None:
        if not isinstance(self.network, nn.Module):
            raise UnsupportedNetworkError(
                f"network must be a torch.nn.Module, got a {type(self.network).__name__}."
            )
        check_choice(self.noise, "noise", ("off", "frozen"))
        check_choice(self.layout, "layout", ("auto", "trials_first"))
        check_flag(self.check_outputs, "check_outputs")
        for name in ("recurrent", "readout"):
            given = getattr(self, name)
            if given is not None and not (isinstance(given, str) and given):
                raise ValueError(f"{name} must be the name of a submodule, got {given!r}.")

    def _copied_module(self) -> nn.Module:
        """Return a copy of the module in evaluation mode, in which only theta trains."""
        module = set_training(copy_module(unwrapped(self.network)), False)
        if self.checkpoints is None:
            refuse_unusable(module, "network")
        if self.parameters is not None:
            _train_alone(module, self.parameters)
        return module

    def _recognise(self, module: nn.Module) -> RecurrentNetwork:
        return recognise_network(
            module,
            self.recurrent,
            self.readout,
            step=self.step,
            initial_state=self.initial_state,
            frozen=self.noise == "frozen",
        )

    def _check_fits(self, view: RecurrentNetwork, trials: np.ndarray) -> None:
        """Check that the recurrent part has parameters that train, and takes the inputs."""
        if not any(p.requires_grad for p in nn.Module.parameters(view.recurrent)):
            raise UnsupportedNetworkError(
                "no parameter of the recurrent part trains (requires_grad is False for all, or "
                f"parameters={self.parameters!r} names none), so K is zero and there is "
                "nothing to analyse."
            )
        expected = getattr(view.layers[0], "n_features", trials.shape[-1])
        if trials.shape[-1] != expected:
            raise ValueError(
                f"X has {trials.shape[-1]} features, but the network takes {expected}."
                + features_advice(trials, expected)
            )
        if self.layout == "auto":
            warn_of_channels_first(trials)


def _train_alone(module: nn.Module, patterns: Sequence[str]) -> None:
    """Freeze all parameters that match none of the patterns."""
    is_sequence = isinstance(patterns, Iterable) and not isinstance(patterns, str | Mapping)
    if not (is_sequence and all(isinstance(pattern, str) for pattern in patterns)):
        raise ValueError(f"parameters must be a sequence of names, got {patterns!r}.")
    named = parameters_of(module)
    frozen = {name for name, p in named.items() if not p.requires_grad}
    ignored: list[str] = []
    for pattern in patterns:
        matches = fnmatch.filter(named, pattern)
        if matches and frozen.issuperset(matches):
            raise ValueError(
                f"parameters: {pattern!r} names {', '.join(matches)}, which does not train "
                "(requires_grad=False) and cannot be part of theta; leave it out, or call "
                "requires_grad_(True) on it if it was trained."
            )
        ignored += [name for name in matches if name in frozen and name not in ignored]
        if not matches:
            raise ValueError(
                f"parameters: {pattern!r} is not a parameter of {type(module).__name__}; it has "
                f"{', '.join(map(repr, named))}."
            )
    if ignored:
        warn_caller(
            f"parameters matches {', '.join(ignored)}, which do not train (requires_grad=False) "
            "and are not part of theta.",
            UserWarning,
        )
    chosen = {
        id(p)
        for name, p in named.items()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    }
    for p in named.values():
        p.requires_grad_(p.requires_grad and id(p) in chosen)


def _dropout_in(part: nn.Module) -> list[str]:
    """Return descriptions of the dropout in a recurrent part."""
    sources = [f"dropout={part.dropout}"] if isinstance(part, nn.RNNBase) and part.dropout else []
    for name, m in named_parts(part):
        if isinstance(m, nn.modules.dropout._DropoutNd) and m.p:
            sources.append(f"{name} ({type(m).__name__}, p={m.p})")
    return sources

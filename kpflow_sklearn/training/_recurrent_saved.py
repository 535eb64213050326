"""SavedTraining: a network that was trained elsewhere, with or without checkpoints."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from torch import nn

from kpflow_sklearn._common.callbacks import FitTask, with_callbacks
from kpflow_sklearn._common.checks import check_choice, check_flag
from kpflow_sklearn._common.estimators import undone_if_it_fails
from kpflow_sklearn._common.tensors import copy_module
from kpflow_sklearn.exceptions import UnsupportedNetworkError
from kpflow_sklearn.networks import (
    Loss,
    Part,
    Step,
    check_features,
    check_user_loss,
    label_of,
    warn_without_draws,
    warn_without_mask,
)
from kpflow_sklearn.training._layout import warn_of_channels_first, warn_of_steps_first
from kpflow_sklearn.training._recurrent_model import RecurrentModel
from kpflow_sklearn.training._recurrent_parts import check_part, dropout_in
from kpflow_sklearn.training._saved_network import SavedNetwork
from kpflow_sklearn.training._state_dicts import Checkpoints, unwrapped

logger = logging.getLogger("kpflow_sklearn")


class SavedTraining(RecurrentModel):
    """Stand in for a trainer if a network was trained elsewhere.

    Nothing is trained: `fit` recognises the parts of the module, loads the checkpoints and checks
    that the rebuilt step reproduces the states of the module.

    Parameters
    ----------
    network : Module
        A module with one ``torch.nn.RNN``, ``GRU`` or ``LSTM`` and one ``torch.nn.Linear``
        readout, or any other module if ``step`` is given. It is copied, never changed.
    checkpoints : str, path-like, or sequence of state_dict or path-like, optional
        The state_dicts of the module over training: a file, a pattern such as ``"run/*.pt"``, or a
        sequence of files or state_dicts. Files are sorted by the number in their names and read on
        the CPU, by safetensors if they are named ``*.safetensors``, otherwise by
        ``torch.load(weights_only=True)``. A state_dict may be saved under a key such as
        "state_dict" or "model", and its keys may have the prefixes of DataParallel, torch.compile
        or a LightningModule. By default only the present state of the module is analysed.
    recurrent : str, optional
        Name of the recurrent submodule, needed if the module has several. If ``step`` is
        given, it names the submodule that the step belongs to; without ``step``, a submodule that
        is not an RNN, GRU or LSTM is used as a cell (x_t, h) -> h.
    step : str or callable, optional
        The step that computes h_t from (x_t, h_{t-1}): the name of a submodule or method, or a
        function (network, x_t, h). Derivatives are then computed by automatic differentiation.
        Theta contains the parameters of the submodule or, for a method or function, all parameters
        of the network except those of the readout and the encoder; a trained z_0 belongs to theta
        in every case. Functions, here and below, are pickled by name: if the estimator is to be
        saved, give a function that is defined in a module, not a lambda.
    readout : str, Module or callable, optional
        The map from the states to the outputs, needed unless exactly one Linear module fits: the
        name of a submodule or method, a module, or a function (network, states). A function
        receives the copy of the network that is analysed and the states (n_trials, n_timesteps,
        n_units). The readout must map the state of each step separately. The parameters that it
        uses are not in theta. A module outside the network is copied as it is: it does not follow
        the checkpoints, and the network must then return the states that it reads.
    encoder : str, Module or callable, optional
        The map from X to the inputs of the recurrent part, in one of the forms of ``readout``. A
        function (network, X) receives X as (n_trials, n_timesteps, n_features), whatever order of
        the axes the network itself takes, and returns the inputs (n_trials, n_timesteps,
        n_inputs). Trials must not influence one another. The parameters that it uses are not in
        theta: K, PKP and the flow are those of a training with the encoder held fixed. If some of
        these parameters train, a warning names them.
    initial_state : str, array-like or tuple of these, optional
        The initial state z_0, zero by default and common to all trials: either values or the name
        of a tensor of the network, read as one vector. It counts as trained if that tensor is a
        trainable parameter. If the state is a tuple, z_0 must be a tuple too (not a list), whose
        parts all train or none; the readout receives its first part.
    loss : {"auto", "mse", "cross_entropy"} or callable, default="auto"
        The loss that the network was trained on; "auto" chooses it as `RecurrentTrainer` does. It
        may be a function ``loss(outputs, y)`` that returns one number per trial and step, as for
        `RecurrentTrainer`, for a network with any number of outputs; an example is the binary
        cross entropy of one logit. Penalties on rates or weights are not part of Err.
    iterations : sequence of int, optional
        Number of parameter updates before each checkpoint. By default, they are the numbers in
        the names of the files, or 0, 1, 2, ... for state_dicts. They must be given if more than
        one number varies in the names, or if the number that varies does not count updates (a loss
        or a date, for example). Their order is then that of the list or, for a pattern, that of
        the files sorted by the numbers in their names.
    parameters : sequence of str, optional
        Names of the network's parameters, or patterns such as ``"core.weight_*"``, that form
        theta; the others are treated as fixed. By default theta contains all trainable parameters
        of the step, and z_0 if it is trained. Parameters with ``requires_grad=False`` cannot be in
        theta: a name or pattern that matches only such parameters raises an error, and a pattern
        that also matches others causes a warning.
    noise : {"off", "frozen"}, default="off"
        How a random step is analysed. "off" uses evaluation mode, and raises an error if the step
        is random even then. "frozen" uses one realisation of the random numbers that the step
        draws from torch's generator, including those of ``nn.Dropout``; a step whose noise depends
        on ``self.training`` in another way raises an error. The numbers differ between steps, are
        shared by all trials, and are the same in every run. The module itself draws other
        numbers, so it is compared with the rebuilt network with dropout off and every random
        number replaced by the same constant. A warning says if this is not possible.
    layout : {"auto", "trials_first"}, default="auto"
        The order of the axes of X, which is always read as (n_trials, n_timesteps, n_features).
        "auto" warns if the module takes steps first (``batch_first=False``, torch's default) and
        the data do not show that they have trials first. "trials_first" confirms that X has
        trials first.
    check_outputs : bool, default=True
        Whether the outputs of the module must equal its readout applied to its states; this is
        checked on eight trials, spread over X. With False, only the states are compared. Outputs,
        loss, error signal and predictions are then those of the readout, whether or not the module
        returns the same. Anything else that the module does between its states and its outputs (a
        normalisation, a second readout, a softmax) is left out of the analysis. In either case,
        the trainable parameters on which the states depend must belong to a part.

    Attributes
    ----------
    network_ : RecurrentNetwork
        A copy of the module with its last parameters, split into encoder, step, readout and
        initial state.
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

    A network with an encoder of its inputs and a readout of two parts:

    >>> parts = {"embed": torch.nn.Linear(3, 2), "rnn": torch.nn.GRU(2, 6),
    ...          "norm": torch.nn.LayerNorm(6), "out": torch.nn.Linear(6, 3)}
    >>> module = torch.nn.ModuleDict(parts)
    >>> module["embed"].requires_grad_(False)
    Linear(in_features=3, out_features=2, bias=True)
    >>> saved = SavedTraining(
    ...     module,
    ...     encoder=lambda network, X: torch.relu(network["embed"](X)),
    ...     readout=lambda network, states: network["out"](network["norm"](states)),
    ... )
    >>> saved.fit(X, y).predict(X).shape
    (8, 10, 3)
    """

    def __init__(
        self,
        network: nn.Module,
        checkpoints: Checkpoints = None,
        *,
        recurrent: str | None = None,
        step: Step | None = None,
        readout: Part = None,
        encoder: Part = None,
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
        self.encoder = encoder
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
            Valid steps. Without it, a UserWarning is issued if the module takes lengths or a mask
            and trials end in constant steps.
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

        Warns
        -----
        UserWarning
            If gradients of the module differ from those of the analysis, although the values agree
            (detach in ``forward``, hooks), or if states could not be compared.

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
        warn_without_mask(unwrapped(self.network), trials, valid)
        network = SavedNetwork(self, trials, valid)
        view = network.view()
        check_features(view, trials)
        if self.layout == "auto":
            warn_of_channels_first(trials)
        network.check_parts(view)
        self.noise_sources_ = dropout_in(view.recurrent)
        if self.noise_sources_:
            logger.info("noise=%r: %s", self.noise, ", ".join(self.noise_sources_))
        targets = self._fit_targets(trials, y, valid, loss_weight, single_step, self.loss, 0.0)
        self.target_encoder_.match_outputs(view.n_outputs)
        if self.target_encoder_.classes_ is not None:
            self.classes_ = self.target_encoder_.classes_
        with FitTask.root(self, X=X, y=y):
            self.snapshots_, view = network.read_checkpoints()
        # A network that is run may keep values of its weights, which other snapshots must not see.
        self._unrun = copy_module(view)
        network.check_rebuilt(view, original=network.original)
        if self.noise == "frozen" and not view.is_frozen:
            warn_without_draws(label_of(view.recurrent))
        check_user_loss(self.objective_, view, trials, targets, valid)
        if self.layout == "auto" and not single_step:
            warn_of_steps_first(
                network.module, view, self.objective_, self.target_encoder_, trials, y, valid
            )
        self.network_ = view
        self.n_iter_ = self.snapshots_[-1].iteration
        self.loss_curve_ = np.empty(0)
        return self

    @property
    def _to_copy(self) -> Any:
        return self._unrun

    def _check_parameters(self) -> None:
        if not isinstance(self.network, nn.Module):
            raise UnsupportedNetworkError(
                f"network must be a torch.nn.Module, got a {type(self.network).__name__}."
            )
        check_choice(self.noise, "noise", ("off", "frozen"))
        check_choice(self.layout, "layout", ("auto", "trials_first"))
        check_flag(self.check_outputs, "check_outputs")
        if self.recurrent is not None and not (isinstance(self.recurrent, str) and self.recurrent):
            raise ValueError(f"recurrent must be the name of a submodule, got {self.recurrent!r}.")
        for name in ("readout", "encoder"):
            check_part(name, getattr(self, name))

"""One step of a user's module, whatever the form of its state, and with frozen random numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NoReturn

import torch
from torch import Tensor, nn
from torch.func import functional_call

from kpflow_sklearn._common.modules import named_parts, parameters_of
from kpflow_sklearn._common.random import isolated_torch_seed
from kpflow_sklearn.cells._frozen_draws import Draw, Recorder, Replay, joined, record
from kpflow_sklearn.exceptions import UnsupportedNetworkError


class UserStep:
    """One step of a module ``forward(x_t, h) -> h`` as a function of flat states.

    Parameters
    ----------
    module : Module
        The cell, in which trials must not influence one another.
    sizes : tuple of int
        Length of each part of the state.
    is_tuple : bool, default=False
        Whether the module takes and returns a tuple of these parts instead of a tensor.
    seed : int, optional
        Seed that freezes the numbers drawn from torch's generator: one realisation per step,
        common to all trials, and the same for runs and derivatives.
    prefix : str, default=""
        What to put before the names of the ``parameters`` given to a call to get the module's own
        names. A step that is a function of a network uses the names of the whole network.
    label : str, optional
        The step in words; by default "cell" and the class of the module.
    """

    def __init__(
        self,
        module: nn.Module,
        sizes: tuple[int, ...],
        is_tuple: bool = False,
        seed: int | None = None,
        prefix: str = "",
        label: str | None = None,
    ) -> None:
        self.module, self.sizes, self.is_tuple, self.seed = module, sizes, is_tuple, seed
        self.prefix, self.label = prefix, label or f"cell {type(module).__name__}"
        names: dict[int, list[str]] = {}
        for name, p in parameters_of(module).items():
            names.setdefault(id(p), []).append(name)
        #: All names of the parameter with a name: tied weights have several.
        self._names = {name: every for every in names.values() for name in every}
        #: The draws recorded for each step, dtype and device.
        self._draws: dict[tuple, list[Draw] | None] = {}

    def unfrozen(self) -> UserStep:
        """Return the same step, which draws random numbers anew."""
        return UserStep(self.module, self.sizes, self.is_tuple, None, self.prefix, self.label)

    @property
    def has_drawn(self) -> bool:
        """Whether any step that was run with frozen numbers draws some."""
        return any(draws is None or draws for draws in self._draws.values())

    def state_in_words(self, n_rows: int) -> str:
        """Describe the states that the module is given for ``n_rows`` trials."""
        shapes = [(n_rows, size) for size in self.sizes]
        return f"states of shapes {shapes}" if self.is_tuple else f"a state of shape {shapes[0]}"

    def __call__(
        self, t: int, x: Tensor, z: Tensor, parameters: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Return the states (n, n_states) that follow ``z`` at step ``t``, for inputs ``x``."""
        if self.seed is None:
            return self._plain(x, z, parameters)
        with dropout_acts(self.module):
            draws = self._draws_of(t, x, z, parameters)
            if draws is None:
                return self._trial_by_trial(t, x, z, parameters)
            with Replay(draws):
                return self._plain(x, z, parameters)

    def along(self, inputs: Tensor, previous: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
        """Return the states (T, B, n_states) that follow ``previous``, by one call if it can."""
        flat = inputs.flatten(0, 1), previous.flatten(0, 1)
        if self.seed is None:
            return self._plain(*flat, parameters).reshape(previous.shape)
        pairs = list(zip(inputs, previous, strict=True))
        with dropout_acts(self.module):
            draws = joined([self._draws_of(t, *pair, parameters) for t, pair in enumerate(pairs)])
            if draws is None:
                return self.one_by_one(inputs, previous, parameters)
            with Replay(draws):
                return self._plain(*flat, parameters).reshape(previous.shape)

    def one_by_one(
        self, inputs: Tensor, previous: Tensor, parameters: Mapping[str, Tensor]
    ) -> Tensor:
        """Return what `along` returns, with a call for each step."""
        pairs = zip(inputs, previous, strict=True)
        return torch.stack([self(t, *pair, parameters) for t, pair in enumerate(pairs)])

    def _draws_of(
        self, t: int, x: Tensor, z: Tensor, parameters: Mapping[str, Tensor] | None
    ) -> list[Draw] | None:
        """Return what step t draws for one trial, or None if that cannot be replayed."""
        key = t, z.dtype, z.device
        if key not in self._draws:

            def call(n_trials: int) -> None:
                rows = [0] * n_trials
                with isolated_torch_seed(self._seed_of(t)), torch.no_grad():
                    self._plain(x[rows], z[rows], parameters)

            self._draws[key] = record(call)
        return self._draws[key]

    def _seed_of(self, t: int) -> int:
        return (self.seed or 0) + t

    def _trial_by_trial(
        self, t: int, x: Tensor, z: Tensor, parameters: Mapping[str, Tensor] | None
    ) -> Tensor:
        """Return the next states, drawing new numbers from the seed of step t."""

        def of_one(x: Tensor, z: Tensor) -> Tensor:
            return self._plain(x[None], z[None], parameters)[0]

        with isolated_torch_seed(self._seed_of(t)):
            try:
                return torch.vmap(of_one, randomness="same")(x, z)
            except RuntimeError as error:
                if "vmap" not in str(error).lower():
                    raise
                self._refuse_draws(x, z, error)

    def _refuse_draws(self, x: Tensor, z: Tensor, error: Exception) -> NoReturn:
        """Say that what the step draws cannot be the same for all trials."""
        with Recorder() as recorder, torch.no_grad():
            self._plain(x[:1], z[:1], None)
        names = ", ".join(dict.fromkeys(recorder.of_tensors)) or "an operation"
        raise UnsupportedNetworkError(
            f"the {self.label} draws random numbers by {names}, whose distribution is given by "
            "tensors (as in torch.bernoulli, torch.multinomial and Categorical): noise='frozen' "
            "cannot make such draws the same for all trials. Draw numbers whose distribution "
            "depends on shapes alone, and transform them: torch.rand_like(p) < p for bernoulli, "
            "mean + std * torch.randn_like(mean) for normal, and "
            "(logits - torch.log(-torch.log(torch.rand_like(logits)))).argmax(-1) for a "
            "categorical distribution."
        ) from error

    def _plain(self, x: Tensor, z: Tensor, parameters: Mapping[str, Tensor] | None) -> Tensor:
        x, z = x.clone(), z.clone()  # The module may change its arguments in place.
        state = z.split(self.sizes, dim=-1) if self.is_tuple else z
        if parameters is None:
            new = self.module(x, state)
        else:
            # Under all of their names: torch finds those of tied weights only without a prefix.
            named = {
                every: value
                for name, value in parameters.items()
                for every in self._names.get(self.prefix + name, [self.prefix + name])
            }
            new = functional_call(self.module, named, (x, state))
        if self.is_tuple:
            self._check_parts(new, len(z))
            return torch.cat(new, dim=-1)
        if not isinstance(new, Tensor) or new.shape != z.shape:
            self._refuse(f"a tensor of shape {tuple(z.shape)}", new)
        return new

    def _check_parts(self, new: object, n_rows: int) -> None:
        expected = [(n_rows, size) for size in self.sizes]
        if type(new) is not tuple or _shapes(new) != expected:
            self._refuse(f"a tuple of tensors of shapes {expected}", new)

    def _refuse(self, expected: str, new: object) -> None:
        came = str(tuple(new.shape)) if isinstance(new, Tensor) else type(new).__name__
        if isinstance(new, tuple):
            came = f"tuple of {_shapes(new)}"
        remedy = ""
        if isinstance(new, Tensor) and new.ndim > 2:
            remedy = (
                " The state of a trial is one vector: begin the step with h.unflatten(-1, ...) "
                "and end it with h.flatten(1)."
            )
        elif isinstance(new, (tuple, list)) and not self.is_tuple:
            remedy = (
                " If the state is a tuple, give initial_state=(...) with each of its parts; "
                "otherwise return the state alone."
            )
        raise UnsupportedNetworkError(
            f"the {self.label} must return the next state as {expected}, got {came}.{remedy}"
        )


@contextmanager
def dropout_acts(module: nn.Module) -> Iterator[None]:
    """Let the dropout in a module act inside the block, by putting it in training mode."""
    dropouts = [p for _, p in named_parts(module) if isinstance(p, nn.modules.dropout._DropoutNd)]
    modes = [part.training for part in dropouts]
    try:
        for part in dropouts:
            part.training = True
        yield
    finally:  # Restored, because other parts of a network than the step may use dropout too.
        for part, mode in zip(dropouts, modes, strict=True):
            part.training = mode


def _shapes(parts: tuple) -> list[tuple[int, ...]]:
    return [tuple(part.shape) for part in parts if isinstance(part, Tensor)]

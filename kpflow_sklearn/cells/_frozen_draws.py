"""The random numbers that a step draws: recorded for one trial, then replayed.

Recorded numbers serve runs and derivatives of any number of trials at once, without setting a seed
at every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from kpflow_sklearn._common.random import isolated_torch_seed


class Draw(NamedTuple):
    """The result of one random operation.

    Attributes
    ----------
    values : tuple of Tensor
        One tensor per step. If the numbers are drawn per trial, its first axis has length 1.
    per_trial : bool
        Whether the first axis of the operation's result is that of the trials.
    """

    values: tuple[Tensor, ...]
    per_trial: bool


class Recorder(TorchDispatchMode):
    """Keep the results of all random operations inside the block.

    Attributes
    ----------
    results : list of Tensor
        Copies of the results.
    n_draws : int
        The number of random operations.
    of_tensors : list of str
        The operations whose results depended on the values of tensors too, and not only on the
        generator and the shapes of arguments. If there are any, the results cannot be replayed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.results: list[Tensor] = []
        self.n_draws, self.of_tensors = 0, list[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the operation, and keep its result if it is random."""
        out = func(*args, **(kwargs or {}))
        if _is_random(func):
            self.n_draws += 1
            if not _depends_on_shapes_alone(func):
                self.of_tensors.append(func._schema.name.removeprefix("aten::"))
            if not self.of_tensors:
                self.results.append(out.detach().clone())
        return out


class Replay(TorchDispatchMode):
    """Let random operations inside the block return recorded numbers, the same for all trials.

    Parameters
    ----------
    draws : sequence of Draw
        The numbers, in the order in which they are drawn.

    Raises
    ------
    RuntimeError
        If more numbers are drawn than were recorded, or numbers of another shape.
    """

    def __init__(self, draws: Sequence[Draw]) -> None:
        super().__init__()
        self._left: Iterator[Draw] = iter(draws)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the operation, or return the recorded numbers if it is random."""
        if not _is_random(func):
            return func(*args, **(kwargs or {}))
        draw = next(self._left, None)
        if draw is None:
            raise RuntimeError("it draws other random numbers for one trial than for several")
        shape = _shape_of_result(func, args, kwargs or {})
        # Stacked inside the dispatch, where the transforms of torch.func do not wrap the result.
        values = torch.stack(draw.values)
        if draw.per_trial:  # One trial stands for all: (T, 1, ...) -> (T, B, ...) -> (T B, ...).
            values = values.expand(len(values), shape[0] // len(values), *shape[1:])
        values = values.reshape(shape)
        return args[0].copy_(values) if _is_in_place(func) else values.clone()


class ConstantDraws(TorchDispatchMode):
    """Let random operations return the same number everywhere, whatever they have drawn before.

    Two networks that draw the same kinds of numbers, in any order and in tensors of any shape,
    then give the same results. The number is the first one that a fixed seed gives; for
    ``bernoulli_`` it is the mean, so that functional dropout changes nothing.

    Attributes
    ----------
    other : str
        The name of an operation that still returned random numbers, or "".
    """

    def __init__(self) -> None:
        super().__init__()
        self.other = ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the operation, or return a constant if it is random."""
        kwargs = kwargs or {}
        if not _is_random(func):
            return func(*args, **kwargs)
        if not _depends_on_shapes_alone(func):
            self.other = func._schema.name
            return func(*args, **kwargs)
        if _is_in_place(func) or func._schema.name.endswith("_like"):
            empty = args[0] if _is_in_place(func) else torch.empty_like(args[0])
            values = _first_draw(func, args, kwargs)
            return empty.copy_(values.expand(empty.shape))
        shape = _shape_of_result(func, args, kwargs)
        places = [
            i for i, argument in enumerate(func._schema.arguments) if argument.name == "size"
        ]
        if not places or places[0] >= len(args):
            self.other = func._schema.name
            return func(*args, **kwargs)
        one = [[1] if i == places[0] else value for i, value in enumerate(args)]
        return _seeded(func, one, kwargs).expand(shape).clone()


def _first_draw(func: Any, args: Any, kwargs: Any) -> Tensor:
    """Return one number that an operation on a tensor draws, (1,), from a fixed seed."""
    one = torch.empty(1, dtype=args[0].dtype, device=args[0].device)
    if func._schema.name == "aten::bernoulli_":
        return one.fill_(args[1] if len(args) > 1 else kwargs.get("p", 0.5))
    return _seeded(func, [one, *args[1:]], kwargs)


def _seeded(func: Any, args: Any, kwargs: Any) -> Tensor:
    """Return what an operation draws from a fixed seed, rounded alike in every precision."""
    kwargs = {name: None if name == "generator" else value for name, value in kwargs.items()}
    with isolated_torch_seed(0):
        values = func(*args, **kwargs)
    return values.bfloat16().to(values.dtype) if values.is_floating_point() else values


def record(call: Callable[[int], None]) -> list[Draw] | None:
    """Record what a step draws for one trial; return None if that cannot be replayed.

    Parameters
    ----------
    call : callable
        Runs the step on the given number of trials, with the same seed each time.

    Returns
    -------
    list of Draw or None
        The numbers for one trial.
    """
    runs = []
    for n_trials in (1, 2):
        with Recorder() as recorder:
            call(n_trials)
        if recorder.of_tensors:
            return None
        runs.append(recorder.results)
    one, two = runs
    if len(one) != len(two):
        return None
    pairs = list(zip(one, two, strict=True))
    draws = [Draw((a,), per_trial=a.shape != b.shape) for a, b in pairs]
    # With two trials, a draw per trial has a first axis of length two; its other axes are equal.
    fits = all(a.shape == b.shape or (2, *a.shape[1:]) == tuple(b.shape) for a, b in pairs)
    return draws if fits else None


def joined(steps: Sequence[list[Draw] | None]) -> list[Draw] | None:
    """Join the draws of several steps, or return None if the steps cannot be run as one batch."""
    if any(draws is None or len(draws) != len(steps[0] or ()) for draws in steps):
        return None
    out = []
    for group in zip(*(draws for draws in steps if draws is not None), strict=True):
        values = tuple(value for draw in group for value in draw.values)
        if len({v.shape for v in values}) > 1 or not all(draw.per_trial for draw in group):
            return None
        out.append(Draw(values, per_trial=True))
    return out


@cache
def _is_random(func: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in func.tags


def _is_in_place(func: Any) -> bool:
    return func._schema.name.endswith("_")


def _depends_on_shapes_alone(func: Any) -> bool:
    """Tell whether an operation uses tensors for their shape only: ``randn_like``, ``normal_``."""
    schema = func._schema
    n_tensors = sum("Tensor" in str(argument.type) for argument in schema.arguments)
    shape_only = _is_in_place(func) or schema.name.endswith("_like")
    return len(schema.returns) == 1 and n_tensors == int(shape_only)


def _shape_of_result(func: Any, args: Any, kwargs: Any) -> tuple[int, ...]:
    """Return the shape of an operation's result, without calling the operation on data."""
    if args and isinstance(args[0], Tensor):
        return tuple(args[0].shape)
    return tuple(func(*args, **{**kwargs, "device": "meta"}).shape)

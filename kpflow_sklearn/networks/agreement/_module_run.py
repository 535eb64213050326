"""Run a user's module on trials, and record what passes through its parts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, fields, is_dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from kpflow_sklearn._common.random import isolated_torch_seed
from kpflow_sklearn.networks._functions import is_kept_apart
from kpflow_sklearn.networks._network import RecurrentNetwork
from kpflow_sklearn.networks.agreement._forward_arguments import takes_lengths_second


@dataclass(frozen=True)
class Trials:
    """The trials on which a module is run.

    Attributes
    ----------
    X : Tensor of shape (n_trials, n_timesteps, n_features)
        Inputs, zero on steps that are not valid; the longest trial comes first, as
        ``pack_padded_sequence`` expects by default.
    valid : Tensor of bool, shape (n_trials, n_timesteps)
        Valid steps.
    rows : Tensor of int, shape (n_trials,)
        The index of each trial in the user's X.
    """

    X: Tensor
    valid: Tensor
    rows: Tensor

    @property
    def lengths(self) -> Tensor:
        """The number of valid steps of each trial, (n_trials,), on the CPU."""
        return self.valid.sum(1).cpu()


@dataclass(frozen=True)
class Form:
    """How a module is given X.

    Attributes
    ----------
    axes : tuple of int
        The order of the axes trials, steps and features.
    as_indices : bool
        Whether the only feature of X is given as integers (n_trials, n_timesteps), as an
        embedding takes them.
    """

    axes: tuple[int, int, int] = (0, 1, 2)
    as_indices: bool = False

    def of(self, X: Tensor) -> Tensor:
        """Return X (n_trials, n_timesteps, n_features) in this form."""
        X = X.permute(self.axes)
        return X[..., 0].long() if self.as_indices else X


def forms_of(X: Tensor) -> list[Form]:
    """Return the forms in which a module may take X: trials, steps or channels first, indices."""
    forms = [Form(), Form((1, 0, 2)), Form((0, 2, 1))]
    if X.shape[-1] == 1 and bool((X.round() == X).all()):
        forms += [Form(form.axes, True) for form in forms[:2]]
    return forms


@dataclass(frozen=True)
class ModuleRun:
    """What passes through a module.

    Attributes
    ----------
    received, states : Tensor or None
        Inputs and outputs of its ``torch.nn.RNN``, ``GRU`` or ``LSTM``, if it has one.
    read : Tensor or None
        The input of its readout.
    outputs : list of Tensor
        The tensors among what it returns, the first of them first.
    returned : str
        What it returns, in words.
    n_calls : int
        How often its recurrent part is called.
    """

    received: Tensor | None
    states: Tensor | None
    read: Tensor | None
    outputs: list[Tensor]
    returned: str
    n_calls: int

    def tensors(self) -> list[Tensor]:
        """Return everything that depends on the states."""
        passing = [part for part in (self.states, self.read) if part is not None]
        return [*passing, *self.outputs]


def run_module(
    module: nn.Module, view: RecurrentNetwork, trials: Trials, form: Form, seed: int = 0
) -> ModuleRun:
    """Call a module on X and record what passes through its parts.

    An encoder that is kept apart from the module comes before it. A forward with a second argument
    whose name contains "len" is given the lengths of the trials.
    """
    X = form.of(view.encode(trials.X) if is_kept_apart(module, view.encoder) else trials.X)
    received: list[Any] = []
    states: list[Any] = []
    read: list[Tensor] = []
    core = view.recurrent

    def at_core(_: nn.Module, args: tuple, kwargs: dict, result: tuple) -> None:
        # Copies, because the module may change these tensors in place afterwards.
        received.append(_copied(args[0] if args else kwargs.get("input")))
        states.append(_copied(result[0]))

    with ExitStack() as stack, isolated_torch_seed(seed):
        if view.readout is not None:
            hook = view.readout.register_forward_pre_hook(
                lambda _, inputs: read.append(_copied(inputs[0]))
            )
            stack.callback(hook.remove)
        if isinstance(core, nn.RNNBase):
            at = core.register_forward_hook(at_core, with_kwargs=True)
            stack.callback(at.remove)
        lengths = [trials.lengths] if takes_lengths_second(module) else []
        returned = module(X.clone(), *lengths)
    outputs = list(tensors_in(returned))
    shape = tuple(outputs[0].shape) if outputs else None
    words = type(returned).__name__ if shape is None else f"shape {shape}"
    first = getattr(core, "batch_first", True)
    sequences = _joined(received, first), _joined(states, first)
    return ModuleRun(*sequences, _read(read), outputs, words, len(received))


def _copied(value: Any) -> Any:
    """Return a copy of a tensor, which keeps its graph, and any other value as it is."""
    return value.clone() if isinstance(value, Tensor) else value


def tensors_in(returned: Any) -> Iterator[Tensor]:
    """Yield the tensors in a result: one, or those of a sequence, mapping or dataclass."""
    if isinstance(returned, Mapping):
        returned = list(returned.values())
    if is_dataclass(returned) and not isinstance(returned, type):
        returned = [getattr(returned, field.name) for field in fields(returned)]
    if isinstance(returned, SimpleNamespace):
        returned = list(vars(returned).values())
    if isinstance(returned, PackedSequence):
        returned = pad_packed_sequence(returned, batch_first=True)[0]
    if isinstance(returned, Tensor):
        if returned.is_floating_point():
            yield returned
    elif isinstance(returned, (tuple, list)):
        for part in returned:
            yield from tensors_in(part)


def _joined(parts: list[Any], batch_first: bool) -> Tensor | None:
    """Return all inputs, or all outputs, of a recurrent part that ran in one call or many."""
    sequences = []
    for part in parts:
        if isinstance(part, PackedSequence):
            sequences.append(pad_packed_sequence(part, batch_first=True)[0])
        elif isinstance(part, Tensor) and part.ndim == 3:
            sequences.append(part if batch_first else part.transpose(0, 1))
        else:
            return None
    if len(sequences) == 1:
        return sequences[0]
    if sequences and all(part.shape[1] == 1 for part in sequences):
        return torch.cat(sequences, dim=1)
    return None


def _read(given: list[Tensor]) -> Tensor | None:
    """Return the input of the readout, given for all steps at once or step by step."""
    if not given or not all(isinstance(part, Tensor) for part in given):
        return None
    if len(given) == 1:
        return given[0]
    is_stack = given[0].ndim == 2 and len({part.shape for part in given}) == 1
    return torch.stack(given, dim=1) if is_stack else None

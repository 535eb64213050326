"""Which parameters the encoder, the step, the readout and the module itself depend on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from kpflow_sklearn._common.callbacks import warn_caller
from kpflow_sklearn._common.modules import named_once, named_parts, parameters_of, tensors_of
from kpflow_sklearn._common.tensors import copy_module
from kpflow_sklearn.exceptions import UnsupportedNetworkError
from kpflow_sklearn.networks._encoders import TWO_USES
from kpflow_sklearn.networks._functions import FunctionOf, leaves_of
from kpflow_sklearn.networks._initial_state import parts_of
from kpflow_sklearn.networks._network import RecurrentNetwork
from kpflow_sklearn.networks._step_errors import run_step


@dataclass(frozen=True)
class ParameterUse:
    """Names of the parameters of a module, by what depends on them.

    Attributes
    ----------
    encoder, step, readout, start : set of str
        Those that the rebuilt encoder, step and readout compute with, and those that are z_0.
    trained : set of str
        Those that train.
    sizes : dict of str to int
        The number of values of each parameter.
    """

    encoder: set[str]
    step: set[str]
    readout: set[str]
    start: set[str]
    trained: set[str]
    sizes: dict[str, int]

    @property
    def theta(self) -> set[str]:
        """The parameters in theta."""
        return (self.step | self.start) & self.trained

    @property
    def recognised(self) -> set[str]:
        """The parameters that belong to a part of the rebuilt network."""
        return self.encoder | self.step | self.readout | self.start

    def left_out(self, used: Iterable[str]) -> list[str]:
        """Return those of ``used`` that belong to no part of the rebuilt network."""
        return [name for name in used if name not in self.recognised]


class Rehearsal:
    """A copy of a module and of its rebuilt form, in which every parameter has a gradient.

    The graphs of its results show which parameters they depend on, whatever the values. A module
    may store what it computes, so the user's own module must not be run with gradients.

    Parameters
    ----------
    module : Module
        The user's network.
    view : RecurrentNetwork
        The same network as step, readout and initial state.
    initial_state : Any
        z_0 as the user gives it: values or names of tensors, or a tuple of these.
    """

    def __init__(self, module: nn.Module, view: RecurrentNetwork, initial_state: Any) -> None:
        memo: dict[int, Any] = {}
        self.module = copy_module(module, memo)
        self.view = copy.deepcopy(view, memo)
        named = named_once(self.module)
        self._names = {id(p): name for name, p in named.items()}
        every = parameters_of(self.module)
        specs = [spec for spec in parts_of(initial_state) if _is_key(spec, every)]
        self._start = {self._names[id(every[spec])] for spec in specs}
        self._trained = {name for name, p in named.items() if p.requires_grad}
        self._sizes = {name: p.numel() for name, p in named.items()}
        for p in named.values():
            if p.is_floating_point():
                p.requires_grad_(True)

    def rebuilt(self, X: Tensor, n_steps: int | None = None) -> ParameterUse:
        """Return what the encoder, the step and the readout depend on, on ``X``.

        The step is only run for the first ``n_steps`` steps; all by default.
        """
        view = self.view
        with torch.enable_grad():
            inputs = view.encode(X)
            states = run_step(view, inputs.detach()[:, :n_steps])
            outputs = [] if view.readout is None else [view.outputs(states.detach())]
        return ParameterUse(
            self._own([inputs], view.encoder),
            self._own([states], view.recurrent),
            self._own(outputs, view.readout),
            self._start,
            self._trained,
            self._sizes,
        )

    def parameters(self) -> list[tuple[str, Tensor]]:
        """Return the parameters of the copy with their names."""
        return [(name, p) for name, p in named_once(self.module).items()]

    def of(self, run: Callable[[nn.Module], Iterable[Tensor]]) -> list[str]:
        """Return the parameters on which the tensors of ``run(module)`` depend, in order."""
        try:
            with torch.enable_grad():
                used = self._leaves(run(self.module))
        except Exception:  # A user's forward may only work without gradients.
            return []
        return [name for name in self._names.values() if name in used]

    def _own(self, tensors: Iterable[Tensor], part: nn.Module | None) -> set[str]:
        """Return the parameters that a part's results depend on; refuse those of other modules."""
        tensors = list(tensors)
        if isinstance(part, FunctionOf):
            inside = {id(p) for p in (*tensors_of(self.module), *tensors_of(self.view))}
            others = [p for key, p in leaves_of(tensors).items() if key not in inside]
            if others:
                raise UnsupportedNetworkError(
                    f"the {part.label} computes with a parameter of shape "
                    f"{tuple(others[0].shape)} that is not part of the network that it is given, "
                    f"a copy in the state of a checkpoint. {_advice_on_outside(part)}"
                )
        return self._leaves(tensors)

    def _leaves(self, tensors: Iterable[Tensor]) -> set[str]:
        identities = leaves_of(tensors)
        return {name for key, name in self._names.items() if key in identities}


def _advice_on_outside(part: FunctionOf) -> str:
    """Say how a function or method uses the parameters of the network that it is given."""
    if isinstance(part.function, str):
        return (
            f"{part.role}={part.function!r} names an attribute that stays bound to the original "
            "network, as torch.compile(self.step) in __init__ is, or a lambda that uses self. "
            f"Give the name of the plain method, for example {part.role}='step', or a function "
            "of the network."
        )
    return (
        "Use the parameters of the network in its first argument, for example "
        "lambda network, ...: network.layer(...), not those of a module outside."
    )


def _is_key(spec: Any, mapping: Collection[str]) -> bool:
    return isinstance(spec, str) and spec in mapping


def refuse_shared(original: nn.Module, use: ParameterUse) -> None:
    """Refuse parameters that train in two places, of which the analysis sees one.

    Parameters
    ----------
    original : Module
        The user's network, not a copy, which does not share memory as its original does.
    use : ParameterUse
        What its parts depend on.

    Raises
    ------
    UnsupportedNetworkError
        If a parameter in theta belongs both to the step and to the encoder or readout, or is z_0
        too; or if two parameters share memory.
    """
    parts = {"encoder": use.encoder, "step": use.step, "readout": use.readout,
             "initial state": use.start}  # fmt: skip
    for (first, ours), (second, theirs) in combinations(parts.items(), 2):
        shared = ours & theirs & use.theta
        if shared:
            places = f"the {first} and the {second}"
            _refuse(original, shared, places, use.theta - shared)
    refuse_same_memory(original, use.recognised, use.trained)


def refuse_untrained(
    module: nn.Module,
    view: RecurrentNetwork,
    X: Tensor,
    initial_state: Any,
    parameters: Collection[str] | None,
) -> None:
    """Refuse a network in which no parameter of the recurrent part trains, and say why.

    Parameters
    ----------
    module : Module
        The user's network, in which only the chosen parameters train.
    view : RecurrentNetwork
        The same network as step, readout and initial state.
    X : Tensor of shape (n_trials, n_timesteps, n_features)
        A few trials.
    initial_state : Any
        z_0 as the user gives it.
    parameters : collection of str or None
        The user's choice of parameters, for the error.

    Raises
    ------
    UnsupportedNetworkError
        If no parameter of the recurrent part trains, or only some that it shares with the encoder
        or the readout.
    """
    if any(p.requires_grad for p in nn.Module.parameters(view.recurrent)):
        return
    trained = [name for name, p in named_once(module).items() if p.requires_grad]
    if trained:  # A function or method does not count what the encoder or the readout use.
        use = Rehearsal(module, view, initial_state).rebuilt(X, n_steps=2)
        _refuse_only_shared(module, use)
    others = f" Of the network, only {', '.join(trained[:4])} would train." if trained else ""
    raise UnsupportedNetworkError(
        "no parameter of the recurrent part trains (requires_grad is False for all, or "
        f"parameters={parameters!r} names none), so K is zero and there is nothing to analyse."
        + others
    )


def _refuse_only_shared(module: nn.Module, use: ParameterUse) -> None:
    for part, names in (("readout", use.readout), ("encoder", use.encoder)):
        shared = sorted(names & use.theta)
        if shared:
            raise UnsupportedNetworkError(
                f"the step and the {part} of {type(module).__name__} share {', '.join(shared)}, "
                "and no other parameter of the step trains. A gradient step moves what is shared "
                "by the sum of its gradients in both places, but the flow PKP* Err contains only "
                "the part through the step. Analyse a network that is trained with separate "
                "parameters, or let other parameters of the step train and name them in "
                "parameters=[...]."
            )


def refuse_embeddings(module: nn.Module, use: ParameterUse) -> None:
    """Refuse embeddings in theta whose gradient is not the derivative.

    Parameters
    ----------
    module : Module
        The user's network.
    use : ParameterUse
        What its parts depend on.

    Raises
    ------
    UnsupportedNetworkError
        If an embedding in theta has ``padding_idx`` or another option that changes its gradient.
    """
    for name, part in named_parts(module):
        if not isinstance(part, (nn.Embedding, nn.EmbeddingBag)):
            continue
        if f"{name}.weight".removeprefix(".") not in use.theta:
            continue
        options = {
            "padding_idx": part.padding_idx,
            "max_norm": part.max_norm,
            "scale_grad_by_freq": part.scale_grad_by_freq,
            "sparse": part.sparse,
        }
        given = [f"{k}={v}" for k, v in options.items() if v is not None and v is not False]
        if given:
            raise UnsupportedNetworkError(
                f"the step contains the {type(part).__name__} {name!r} with {', '.join(given)}, "
                "whose gradient is not the derivative that K is made of, or cannot be computed. "
                "Analyse a network with the same weights in an Embedding without these options "
                "(a padding token on masked steps changes nothing), or hold it fixed with "
                "requires_grad_(False)."
            )


def refuse_same_memory(
    original: nn.Module, names: Collection[str], trained: Collection[str]
) -> None:
    """Refuse different parameters with values at the same address, which a copy separates.

    Parameters
    ----------
    original : Module
        The user's network, not a copy.
    names, trained : collection of str
        The parameters that the analysis uses, and those that train.

    Raises
    ------
    UnsupportedNetworkError
        If one of them that trains shares memory with another one.
    """
    storages: dict[int, list[tuple[str, nn.Parameter]]] = {}
    for name, p in named_once(original).items():
        if name in names and p.numel() and not p.is_meta:
            storages.setdefault(p.untyped_storage().data_ptr(), []).append((name, p))
    for named in storages.values():
        for (name, p), (other, q) in combinations(named, 2):
            if (name in trained or other in trained) and _overlap(p, q):
                raise UnsupportedNetworkError(
                    f"the parameters {name} and {other} of {type(original).__name__} lie in the "
                    "same memory: an update of one changes the other, but the analysis treats "
                    "them as two. Analyse a network that is trained with separate parameters."
                )


def _refuse(original: nn.Module, names: set[str], places: str, others: set[str]) -> None:
    identities = {id(p) for n, p in parameters_of(original).items() if n in names}
    every = [n for n, p in parameters_of(original).items() if id(p) in identities]
    remedy = "Analyse a network that is trained with separate parameters"
    if others:
        remedy += (
            f", or give SavedTraining(..., parameters={sorted(others)}): the flow is then that of "
            "a training in which the shared ones are held fixed"
        )
    uses = f" {TWO_USES}" if places == "the encoder and the step" else ""
    raise UnsupportedNetworkError(
        f"{places} share {', '.join(every)} of {type(original).__name__}. A gradient step moves "
        "them by the sum of their gradients in all places, but the flow PKP* Err contains only "
        "the part through the step, so it would differ from that of the training. "
        f"{remedy}.{uses}"
    )


def _overlap(p: Tensor, q: Tensor) -> bool:
    """Tell whether two tensors of one storage have values at the same address."""
    return bool(torch.isin(_addresses(p), _addresses(q)).any())


def _addresses(p: Tensor) -> Tensor:
    offsets = torch.tensor([p.data_ptr()])
    for size, stride in zip(p.shape, p.stride(), strict=True):
        offsets = (offsets[:, None] + torch.arange(size) * stride * p.element_size()).flatten()
    return offsets


def warn_of_gradient_hooks(original: nn.Module, names: Collection[str]) -> None:
    """Warn of hooks on the gradients of parameters in theta, which the analysis does not call.

    Parameters
    ----------
    original : Module
        The user's network, not a copy, which has no hooks.
    names : collection of str
        The names of the parameters in theta.
    """
    hooked = [n for n, p in _hooked(original) if n in names]
    if hooked:
        warn_caller(
            f"gradient hooks on {', '.join(hooked)} of {type(original).__name__} are not part of "
            "the analysis: K and the flow are those of gradients that no hook changes. If a hook "
            "changes the gradient, for example by a mask, compute the weight from a raw one with "
            "torch.nn.utils.parametrize instead; if not, remove it before the analysis.",
            UserWarning,
        )


def _hooked(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    for name, p in named_once(module).items():
        if p._backward_hooks or getattr(p, "_post_accumulate_grad_hooks", None):
            yield name, p

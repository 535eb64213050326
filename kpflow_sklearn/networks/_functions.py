"""Functions and methods of a network as modules, and the parameters that they compute with."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kpflow_sklearn._common.memory import ran_out
from kpflow_sklearn._common.modules import named_parts, parameters_of
from kpflow_sklearn._common.random import isolated_torch_seed
from kpflow_sklearn._common.tensors import copy_module
from kpflow_sklearn.exceptions import UnsupportedNetworkError


class FunctionOf(nn.Module):
    """A method of a network, or a function of it, as a module with some of its parameters.

    Parameters
    ----------
    network : Module
        The module that holds the parameters.
    function : str or callable
        Name of a method or submodule, or a function whose first argument is the network.
    role : str
        What it is in the analysis, for labels and errors: "step", "readout" or "encoder".
    parameters : iterable of Tensor, optional
        The parameters of the network that count as those of this module; all by default.
    """

    #: What stands before the names of the network's parts in those of this module.
    prefix = "network."

    def __init__(
        self,
        network: nn.Module,
        function: str | Callable[..., Any],
        role: str,
        parameters: Iterable[Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.network, self.function, self.role = network, function, role
        name = function if isinstance(function, str) else type(function).__name__
        self.label = f"{role} {getattr(function, '__name__', name)}"
        named = parameters_of(network)
        counted = set(map(id, named.values() if parameters is None else parameters))
        self._names = {self.prefix + name for name, p in named.items() if id(p) in counted}

    def forward(self, *inputs: Any) -> Any:
        """Return what the function or method returns."""
        if callable(self.function):
            return self.function(self.network, *inputs)
        return named_part(self.network, self.function, self.role)(*inputs)

    def named_parameters(self, *args: Any, **options: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the parameters that count as those of this module.

        Parameters
        ----------
        *args, **options
            The arguments of `torch.nn.Module.named_parameters`.

        Yields
        ------
        tuple of (str, Parameter)
            The name in the network, and the parameter.
        """
        for name, p in super().named_parameters(*args, **options):
            if name in self._names:
                yield name.removeprefix(self.prefix), p


@contextmanager
def failures_of(label: str, given: str, advice: Callable[[Exception], str]) -> Iterator[None]:
    """Raise an UnsupportedNetworkError that names the user's part that fails inside the block.

    Parameters
    ----------
    label : str
        The part in words, such as "the step advance".
    given : str
        What it was given.
    advice : callable
        Given the error, returns sentences that say what to do.

    Raises
    ------
    UnsupportedNetworkError
        If the block raises any error; the package's own errors and a lack of memory are passed on.
    """
    try:
        yield
    except UnsupportedNetworkError:
        raise
    except Exception as error:  # A user's code can fail in any way.
        if isinstance(error, MemoryError) or ran_out(error):
            raise
        what = f"{type(error).__name__} on {given}: {str(error).removesuffix('.')}."
        raise UnsupportedNetworkError(
            f"{label} failed with {what} {advice(error)}".strip()
        ) from error


def arguments_of(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return the arguments of a function by name; none if it has no signature, as some of C."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def refuse_scripted(module: nn.Module, role: str) -> None:
    """Refuse modules of ``torch.jit``, whose code can neither be differentiated nor copied.

    Parameters
    ----------
    module : Module
        A network or a part of it. Scripted parts without parameters that train are accepted.
    role : str
        The name of the argument, for the error.

    Raises
    ------
    UnsupportedNetworkError
        If the module, or a part of it that trains, comes from ``torch.jit.script``, ``trace`` or
        ``load``.
    """
    for name, part in named_parts(module):
        if not isinstance(part, torch.jit.ScriptModule):
            continue
        if name and not any(p.requires_grad for p in parameters_of(part).values()):
            continue
        which = f"part {name!r} of {type(module).__name__}" if name else role
        raise UnsupportedNetworkError(
            f"{role}: expected modules of Python code, but the {which} is a "
            f"{type(part).__name__}, made by torch.jit.script, trace or load, which the analysis "
            "can neither differentiate nor copy. Make the module from its Python class, without "
            "torch.jit, load the weights with load_state_dict(scripted.state_dict()), and give "
            "that."
        )


def refuse_complex(part: nn.Module, role: str) -> None:
    """Refuse complex parameters that train.

    Parameters
    ----------
    part : Module
        A part of the network; of a `FunctionOf`, the parameters that it counts are checked.
    role : str
        The name of the part, for the error.

    Raises
    ------
    UnsupportedNetworkError
        If a parameter that trains is complex.
    """
    for name, p in part.named_parameters():
        if p.is_complex() and p.requires_grad:
            raise UnsupportedNetworkError(
                f"{role}: expected real parameters, but {name} holds "
                f"{p.dtype} numbers, which are unsupported. Store its real and imaginary parts as "
                "real parameters, torch.nn.Parameter(torch.view_as_real(values)), and let the "
                "network compute the complex numbers with torch.view_as_complex."
            )


def refuse_bound(
    module: nn.Module, given: Callable[..., Any], role: str, n_arguments: int
) -> None:
    """Refuse a method that is bound to a module, or a module, where a function is expected.

    Parameters
    ----------
    module : Module
        The user's network.
    given : callable
        What is given as a step, readout or encoder.
    role : str
        The name of the argument, for the error.
    n_arguments : int
        The number of arguments of a function, of which the first is the network.

    Raises
    ------
    UnsupportedNetworkError
        If it is bound and does not take the network as an argument, so that it would use the
        weights of this module instead of those of the analysed copy.
    """
    owner = given if isinstance(given, nn.Module) else getattr(given, "__self__", None)
    if not isinstance(owner, nn.Module) or _takes(given, n_arguments):
        return
    method = "" if given is owner else str(getattr(given, "__name__", "forward"))
    what = f"the method {method} of a" if method else "a"
    names = [name for name, part in named_parts(module) if type(part) is type(owner)]
    name = ".".join(filter(None, [*names, method])) if len(names) == 1 else ""
    advice = (
        f"Give its name, {role}={name!r}."
        if name
        else f"Give the name of a submodule or method of {type(module).__name__}, or a function "
        "whose first argument is the network."
    )
    raise UnsupportedNetworkError(
        f"{role}: expected a name or a function of the network, got {what} "
        f"{type(owner).__name__}, which keeps its own weights, although the analysis uses a copy "
        f"of the network with the weights of each checkpoint. {advice}"
    )


def _takes(given: Callable[..., Any], n_arguments: int) -> bool:
    """Tell whether a callable can be called with so many arguments."""
    function = given.forward if isinstance(given, nn.Module) else given
    try:
        inspect.signature(function).bind(*[None] * n_arguments)
    except TypeError:
        return False
    return True


def named_part(module: nn.Module, name: str, role: str) -> Any:
    """Return a submodule, method or tensor by its dotted name; errors name the ``role``."""
    part: Any = module
    for piece in name.split("."):
        if not hasattr(part, piece):
            submodules = ", ".join(repr(n) for n, _ in named_parts(module) if n)
            raise UnsupportedNetworkError(
                f"{role}={name!r} is not a submodule or attribute of {type(module).__name__}, "
                f"whose submodules are {submodules or 'none'}."
            )
        part = getattr(part, piece)
    return part


def parts_in_network(part: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules in a part; those in a `FunctionOf` under their names in the network."""
    prefix = part.prefix if isinstance(part, FunctionOf) else ""
    for name, module in named_parts(part):
        yield name.removeprefix(prefix), module


def label_of(part: nn.Module) -> str:
    """Return a part of the network in words: its role and name if it is a function."""
    return getattr(part, "label", type(part).__name__)


def find_part(module: nn.Module, given: Any, role: str) -> nn.Module | None:
    """Return what is given as a readout or an encoder, as a module.

    Parameters
    ----------
    module : Module
        The user's network.
    given : str, Module, callable or None
        Name of a submodule or method of the network, a module, or a function whose first argument
        is the network.
    role : str
        The name of the parameter, for errors.

    Returns
    -------
    Module or None
        The module; a method or function is a `FunctionOf` with all parameters of the network.

    Raises
    ------
    UnsupportedNetworkError
        If the name does not exist, or names something else.
    """
    if isinstance(given, nn.Module):
        refuse_scripted(given, role)
    if given is None or isinstance(given, nn.Module):
        return given
    part = named_part(module, given, role) if isinstance(given, str) else given
    if isinstance(part, nn.Module):
        return part
    if not callable(part):
        raise UnsupportedNetworkError(
            f"{role}={given!r} must name a submodule or a method of {type(module).__name__}, got "
            f"a {type(part).__name__}."
        )
    if not isinstance(given, str):
        refuse_bound(module, given, role, 2)
    return FunctionOf(module, given, role)


def parameters_in(part: nn.Module | None) -> list[nn.Parameter]:
    """Return the parameters of a part of the network; of a `FunctionOf`, those that it counts."""
    if part is None:
        return []
    named = dict(part.named_parameters()) if isinstance(part, FunctionOf) else parameters_of(part)
    return list(named.values())


def modules_in(part: nn.Module | None) -> set[nn.Module]:
    """Return the modules inside a part.

    Those in a `FunctionOf` are the ones whose parameters all count. Parameters with two names,
    such as tied weights, are left out, because either of their modules may be the one in use.
    """
    if not isinstance(part, FunctionOf):
        return set() if part is None else {m for _, m in named_parts(part)}
    names = Counter(map(id, parameters_of(part.network).values()))
    counted = {id(p) for p in parameters_in(part) if names[id(p)] == 1}
    inside = ((m, parameters_of(m).values()) for _, m in named_parts(part.network))
    return {m for m, every in inside if every and counted.issuperset(map(id, every))}


def is_kept_apart(module: nn.Module, part: nn.Module | None) -> bool:
    """Tell whether a part is a module of its own, which shares no module with the network."""
    if part is None or isinstance(part, FunctionOf):
        return False
    return modules_in(part).isdisjoint(modules_in(module))


def leaves_of(tensors: Iterable[Tensor]) -> dict[int, Tensor]:
    """Return the leaves of the graphs of some tensors, such as parameters, by their identities."""
    nodes = [tensor.grad_fn for tensor in tensors if tensor.grad_fn is not None]
    visited: set[Any] = set()
    leaves: dict[int, Tensor] = {}
    while nodes:
        node: Any = nodes.pop()
        if node in visited:
            continue
        visited.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None:
            leaves[id(variable)] = variable
        nodes += [after for after, _ in node.next_functions if after is not None]
    return leaves


def with_its_parameters(part: FunctionOf, inputs: Tensor) -> FunctionOf:
    """Return a function with the parameters that its result depends on, as graphs show.

    Parameters
    ----------
    part : FunctionOf
        A function or method of a network, which is run on a copy of the network.
    inputs : Tensor
        An input.

    Returns
    -------
    FunctionOf
        The same function; with no parameters if it fails or does not return a tensor.
    """
    copied = copy_module(part)
    names = {id(p): name for name, p in parameters_of(copied.network).items()}
    for p in parameters_of(copied.network).values():
        if p.is_floating_point():
            p.requires_grad_(True)
    try:
        with torch.enable_grad(), isolated_torch_seed(0):
            returned = copied(inputs)
    except Exception:  # A user's function can fail in any way; later checks say how.
        returned = None
    leaves = leaves_of([returned] if isinstance(returned, Tensor) else [])
    every = parameters_of(part.network)
    used = [every[names[key]] for key in leaves if key in names]
    return FunctionOf(part.network, part.function, part.role, used)

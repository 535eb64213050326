"""Parts of a network as modules: what the user names, and functions and methods of the network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from kpflow_sklearn._common.modules import named_parts, parameters_of
from kpflow_sklearn.exceptions import UnsupportedNetworkError
from kpflow_sklearn.networks._user_code import refuse_bound, refuse_scripted


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
    return part.label if isinstance(part, FunctionOf) else type(part).__name__


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

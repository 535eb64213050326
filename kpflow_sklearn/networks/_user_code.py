"""Call a user's code, and refuse code that cannot be analysed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn

from kpflow_sklearn._common.memory import ran_out
from kpflow_sklearn._common.modules import named_parts, parameters_of
from kpflow_sklearn._common.random import isolated_torch_seed
from kpflow_sklearn.exceptions import UnsupportedNetworkError

T = TypeVar("T")


@contextmanager
def failures_of(label: str, given: str, advice: Callable[[Exception], str]) -> Iterator[None]:
    """If a user's code fails inside the block, raise an error that names this part.

    Parameters
    ----------
    label : str
        The part's role and name, such as "the step advance".
    given : str
        What it was given.
    advice : callable
        Given the error, returns sentences that say what to do.

    Raises
    ------
    UnsupportedNetworkError
        If the block raises an error, unless it is one of these or a lack of memory, which are
        passed on.
    """
    try:
        yield
    except UnsupportedNetworkError:
        raise
    except Exception as error:  # A user's code can fail in any way.
        if isinstance(error, MemoryError) or ran_out(error):
            raise
        what = f"{type(error).__name__} on {given}: {sentence(error)}"
        raise UnsupportedNetworkError(
            f"{label} failed with {what} {advice(error)}".strip()
        ) from error


def sentence(error: Exception) -> str:
    """Return the message of an error, which may end in a period or not, with one at its end."""
    return f"{str(error).rstrip('. ')}."


def run_twice(function: Callable[..., T], *inputs: Any) -> tuple[T, T]:
    """Return two results of a function, with different seeds of torch's generator."""
    first, second = (run_seeded(function, seed, *inputs) for seed in (0, 1))
    return first, second


def run_seeded(function: Callable[..., T], seed: int, *inputs: Any) -> T:
    """Return the result of a function that may draw numbers from torch's generator."""
    with isolated_torch_seed(seed):
        return function(*inputs)


def arguments_of(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return the named arguments of a function; none if it has no signature, as some C code."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


def refuse_scripted(module: nn.Module, role: str) -> None:
    """Refuse modules of ``torch.jit``, which the analysis can neither differentiate nor copy.

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
        A part of the network. Of a `FunctionOf`, only its own parameters are checked.
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


def refuse_sparse(part: nn.Module, role: str) -> None:
    """Refuse sparse parameters that train; fixed ones, and buffers, are accepted.

    Parameters
    ----------
    part : Module
        A part of the network. Of a `FunctionOf`, only its own parameters are checked.
    role : str
        The name of the part, for the error.

    Raises
    ------
    UnsupportedNetworkError
        If a parameter that trains is sparse.
    """
    for name, p in part.named_parameters():
        if p.layout != torch.strided and p.requires_grad:
            raise UnsupportedNetworkError(
                f"{role}: expected dense parameters, but {name} is a trained tensor of layout "
                f"{p.layout}, which is unsupported. Store the trained entries as one dense "
                "vector, torch.nn.Parameter(values), with their rows and columns as buffers, and "
                "let the step compute torch.zeros(shape).index_put((rows, columns), values). If "
                "the tensor is fixed, call requires_grad_(False)."
            )


def refuse_bound(
    module: nn.Module, given: Callable[..., Any], role: str, n_arguments: int
) -> None:
    """Refuse a module, or a method bound to one, where a function of the network is expected.

    Parameters
    ----------
    module : Module
        The user's network.
    given : callable
        What is given as a step, readout or encoder.
    role : str
        The name of the argument, for the error.
    n_arguments : int
        The number of arguments that the function takes, the network first.

    Raises
    ------
    UnsupportedNetworkError
        If ``given`` is a module or bound to one and does not take the network as an argument: it
        would use the weights of that module instead of those of the analysed copy.
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
    """Tell whether a callable can be called with ``n_arguments`` arguments."""
    function = given.forward if isinstance(given, nn.Module) else given
    try:
        inspect.signature(function).bind(*[None] * n_arguments)
    except TypeError:
        return False
    return True

"""Products with the derivatives of a user's function, by ``torch.func``.

A function that has no forward mode (``torch.nn.utils.parametrizations.weight_norm``) is
differentiated twice in reverse mode. With g(u) = J^T u, which is linear in u, J v = (dg/du)^T v.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.func import jvp, vjp

from kpflow_sklearn.exceptions import UnsupportedNetworkError

#: What to do, by a piece of torch's message.
_REMEDIES = {
    "'workspace'": "It calls torch.nn.LSTM: compute the step with torch.nn.LSTMCell instead, or "
    "with torch.lstm_cell(x_t, (h, c), lstm.weight_ih_l0, lstm.weight_hh_l0, lstm.bias_ih_l0, "
    "lstm.bias_hh_l0), which uses the same weights.",
    "Jitted": "It contains a module of torch.jit: make that from its Python class and load the "
    "weights with load_state_dict(scripted.state_dict()).",
    "saved tensor hooks": "It uses torch.utils.checkpoint, or other hooks on saved tensors: call "
    "the function directly, which returns the same numbers.",
    "setup_context": "It uses an autograd.Function without setup_context, as "
    "torch.utils.checkpoint(use_reentrant=True) and the adjoints of adaptive solvers do: call a "
    "checkpointed function directly; write your own autograd.Function with setup_context; give a "
    'solver a fixed grid, for example method="rk4", without adjoint.',
    "_scaled_dot_product": "Attention (scaled_dot_product_attention, "
    "torch.nn.TransformerEncoderLayer) uses a fused kernel: call it in the step inside "
    "with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH).",
    "_cdist": "It calls torch.cdist: write the distance out, for example "
    "((a[:, None] - b) ** 2).sum(-1), with torch.sqrt around it if it is not squared.",
    "do not have strides": "It uses a sparse tensor of a compressed layout, such as CSR: give the "
    "network W.to_sparse_coo(), or W.to_dense(), instead.",
    "requires_grad_()": "It computes gradients of its own by torch.autograd: compute them by "
    "torch.func.grad(energy)(z), where energy is a function of z that returns one number.",
    "mutate a captured": "It changes a tensor of the network in place: compute a new tensor, or, "
    "if the network is to remember it, make it a part of the state.",
    "modified by an inplace": "It changes in place a tensor that the derivative needs: write "
    "h = 0.8 * h instead of h *= 0.8, and torch.relu(h) instead of torch.relu_(h).",
    "data pointer": "It leaves torch, for example for NumPy: write it with operations of torch.",
    ".item()": "It makes a number of a tensor, by .item(), float() or if: write it with "
    "operations of torch, such as torch.where.",
}
_OTHERWISE = (
    "Write what torch names with other operations of torch. If the step calls an adaptive solver, "
    'give that a fixed grid, for example method="rk4".'
)


def forward_product(function: Callable[[Any], Any], at: Any, direction: Any) -> Any:
    """Return J v of a function at a point.

    Parameters
    ----------
    function : callable
        Function of one tensor or dict of tensors.
    at, direction : Tensor or dict of Tensor
        The point, and v in the same form.

    Returns
    -------
    Tensor or dict of Tensor
        J v, in the form of the function's value.

    Raises
    ------
    UnsupportedNetworkError
        If ``torch.func`` cannot differentiate the function.
    """
    with _refusing():
        try:
            return jvp(function, (at,), (direction,))[1]
        except NotImplementedError:  # Some operation has no forward mode.
            value, pull = vjp(function, at)[:2]
            return vjp(lambda u: pull(u)[0], value)[1](direction)[0]


def reverse_map(function: Callable[[Any], Any], at: Any) -> tuple[Any, Callable[[Any], Any]]:
    """Return the value of a function at a point, and the map from u to J^T u.

    Parameters
    ----------
    function : callable
        Function of one tensor or dict of tensors.
    at : Tensor or dict of Tensor
        The point.

    Returns
    -------
    value : Tensor or dict of Tensor
        The function's value.
    pull : callable
        Function from u, in the form of the value, to J^T u.

    Raises
    ------
    UnsupportedNetworkError
        If ``torch.func`` cannot differentiate the function.
    """
    with _refusing():
        value, pull = vjp(function, at)[:2]

    def adjoint(u: Any) -> Any:
        with _refusing():
            return pull(u)[0]

    return value, adjoint


@contextmanager
def _refusing() -> Iterator[None]:
    """Turn errors of ``torch.func`` inside a user's step into one that says what to change."""
    try:
        yield
    except (NotImplementedError, RuntimeError) as error:
        if "memory" in str(error):  # Running out of it says nothing about the step.
            raise
        reason = str(error).splitlines()[0].partition(" Hint:")[0].rstrip(".")
        remedy = next((text for sign, text in _REMEDIES.items() if sign in reason), _OTHERWISE)
        raise UnsupportedNetworkError(
            f"torch.func cannot differentiate the network's step, or a parametrization of its "
            f"weights ({type(error).__name__}: {reason}). {remedy}"
        ) from error

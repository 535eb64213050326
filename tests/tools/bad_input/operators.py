"""Entries of the operators and their methods."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kpflow_sklearn import Linearization, linearize, operators
from tests.tools.bad_input import arrays
from tests.tools.bad_input.entries import Entry, data, network
from tests.tools.bad_input.hostile import Hostile, made, plain
from tests.tools.bad_input.settings import Anything, any_of, count, real


@cache
def linearized() -> Linearization:
    return linearize(network(), data()["X"], data()["mask"])


@cache
def operators_by_name() -> dict[str, operators.LinearOperator]:
    lin = linearized()
    return {"ParameterJacobian": lin.J_theta, "ParameterOperator": lin.K, "FlowPropagator": lin.P,
            "InversePropagator": lin.P.inverse(), "TangentKernel": lin.PKP}  # fmt: skip


def of_array(convert: Callable[[np.ndarray], Any]) -> Callable[[Tensor], Any]:
    return lambda q: convert(q.numpy())


#: Right factors of ``@``; the good value is a tensor in the operator's dtype.
AS_ARRAYS = made("same", {
    "array": Tensor.numpy, "array of integers": of_array(lambda a: a.astype(int)),
    "read-only array": of_array(arrays.read_only),
    "object array": of_array(lambda a: a.astype(object)),
    "reversed array": of_array(lambda a: a[::-1].copy()[::-1]),
})  # fmt: skip
EXPANDED = made("answer", {"expanded": lambda q: q[..., :1].expand(q.shape)})
OF_OTHER_TYPES = made("error", {"float32": Tensor.float, "integers": Tensor.long,
                                "complex": lambda q: q + 0j})  # fmt: skip
SEVERAL = [
    *made("answer", {"several": lambda q: torch.stack([q, q])}),
    *made("either", {"none of them": lambda q: torch.stack([q])[:0]}),
]
VECTORS = [
    *made("same", {
        "with grad": lambda q: q.clone().requires_grad_(),
        "strided": lambda q: q.repeat_interleave(2, -1)[..., ::2],
    }),
    *made("answer", {"zero": torch.zeros_like, "tiny": lambda q: q * 1e-300,
                     "huge": lambda q: q * 1e100}),
    *made("error", {
        "complex array": of_array(lambda a: a + 1j),
        "array of words": of_array(lambda a: a.astype(str)),
        "array of None": lambda q: np.full(q.shape, None),
        "other shape": lambda q: q[..., :1], "no axis": Tensor.sum,
        "in no memory": lambda q: q.to("meta"), "sparse": Tensor.to_sparse,
    }),
    *plain("error", None, 3, 0.5, "text", [], [1.0], {}, True, Anything(), np.array(3.0)),
]  # fmt: skip
SLICES = [
    *plain("either", slice(None), slice(0, 1), slice(-1, None), slice(9, 12), slice(2, 1)),
    *any_of([0, 1], np.array([True, False, True, False]), slice("a"), slice(0.5)),
]
FACTORS = [
    *(v for v in real(-1e400) if v.fate == "error" and v.name not in ("-inf", "-1e+300")),
    *plain("answer", -1, 0, np.float64(3), 2),
]


def every_entry() -> Iterator[Entry]:
    """Yield an entry for every operator and each of its methods."""
    lin = linearized()
    for name, op in operators_by_name().items():
        if name != "TangentKernel":
            yield Entry(name, getattr(operators, name), lambda: {"tangent": lin.tangent},
                        {"tangent": any_of("K", network())})  # fmt: skip
        yield from _methods(name, op)
    yield Entry(
        "TangentKernel", operators.TangentKernel,
        lambda: {"parameter_operator": lin.K, "propagator": lin.P},
        {"parameter_operator": any_of(lin.P), "propagator": any_of(lin.K)},
    )  # fmt: skip


def _methods(name: str, op: operators.LinearOperator) -> Iterator[Entry]:
    rng = np.random.default_rng(0)
    q = torch.as_tensor(rng.integers(-2, 3, op.in_shape).astype(float))
    of_numbers = plain("error", np.zeros(op.in_shape))
    unlike = any_of("K", np.zeros(op.out_shape), linearized().states)
    if name != "ParameterJacobian":
        unlike += plain("error", operators_by_name()["ParameterJacobian"])

    def apply_(q: Any) -> Any:
        return op.apply_(q.clone() if isinstance(q, Tensor) else q)

    # Method, call, the good argument, hostile ones, and what errors call the argument.
    table: list[tuple[str, Callable, dict[str, Any], list[Hostile], str]] = [
        ("__matmul__", lambda other: op @ other, {"other": q},
         [*VECTORS, *AS_ARRAYS, *EXPANDED, *SEVERAL, *OF_OTHER_TYPES], f"{name}|_Adjoint"),
        ("apply_", apply_, {"q": q}, [*VECTORS, *SEVERAL, *OF_OTHER_TYPES, *of_numbers],
         f"{name}|_Adjoint"),
        ("__add__", lambda other: op + other, {"other": op}, unlike, f"{name}|_Scaled"),
        ("__sub__", lambda other: op - other, {"other": op}, unlike, f"{name}|_Scaled"),
        ("__mul__", lambda factor: op * factor, {"factor": 2.0}, FACTORS, name),
        ("to_dense", op.to_dense, {"chunk_size": 7}, count(largest=False), "chunk_size"),
        ("on_trials", op.on_trials, {"trials": slice(0, 2)}, SLICES, "trials"),
    ]  # fmt: skip
    if name == "ParameterJacobian":
        table.append(("to_parameters", op.to_parameters, {"v": q},
                      [*VECTORS, *EXPANDED, *of_numbers], "v"))  # fmt: skip
    for method, call, good, hostile, called in table:
        (argument,) = good
        yield Entry(f"{name}.{method}", call, lambda good=good: _fresh(good),
                    {argument: hostile}, {argument: called})  # fmt: skip
    yield Entry(f"{name}.to_scipy", op.to_scipy, dict, {})
    if name == "ParameterOperator":
        yield Entry(f"{name}.compress", op.compress, lambda: {"tolerance": 0.0, "rank": None},
                    {"tolerance": real(0, 1), "rank": count(optional=True)})  # fmt: skip
    if name == "FlowPropagator":
        yield Entry(f"{name}.inverse", op.inverse, dict, {})


def _fresh(arguments: dict[str, Any]) -> dict[str, Any]:
    return {k: v.clone() if isinstance(v, Tensor) else v for k, v in arguments.items()}

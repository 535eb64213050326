"""The formulas, as data: where they stand, what to put there, and which tests must fail."""

from __future__ import annotations

from typing import NamedTuple

OPERATORS = ("contract/test_properties", "operators/test_operators",
             "operators/test_gradient_flow")  # fmt: skip
SPECTRA = ("spectra/test_spectra", "spectra/test_exact")
ESTIMATES = ("spectra/test_estimates",)
COVERAGE = (*ESTIMATES, "spectra/test_coverage")
QUADRATURE = ("spectra/test_quadrature",)
TASKS = ("analyzers/alignment/test_task_flow", "analyzers/alignment/test_task_analyzer")
GRAM = ("feedforward/test_gram_kernel", "feedforward/test_gram_closed",
        "analyzers/gram/test_gram_analyzer")  # fmt: skip
RUN_FOLDER = ("training/test_run_folder",)


class Mutant(NamedTuple):
    """One formula, how it is broken, and the tests that must notice it."""

    name: str
    file: str
    right: str
    wrong: str
    tests: tuple[str, ...]


#: By file and tests: the name of a mutant, the text that stands there, and the broken one.
FORMULAS: dict[tuple[str, tuple[str, ...]], list[tuple[str, str, str]]] = {
    ("operators/_parameter.py", OPERATORS): [
        ("the adjoint without 1/N", "dim=-1).div_(self.tangent.n_valid)", "dim=-1)"),
    ],
    ("operators/_propagator.py", OPERATORS): [
        ("P takes the Jacobian of the step before",
         "tangent.jacobian_forward(t, out[t - 1], push, here)",
         "tangent.jacobian_forward(t - 1, out[t - 1], push, here)"),
        ("P* takes the Jacobian of the step itself",
         "tangent.jacobian_adjoint(t + 1, out[t + 1], push, out[t])",
         "tangent.jacobian_adjoint(t, out[t + 1], push, out[t])"),
        ("P without the direct term",
         "tangent.jacobian_forward(t, out[t - 1], push, here)",
         "tangent.jacobian_forward(t, out[t - 1], 0 * push, here)"),
        ("the layers of a step are not solved", "            tangent.solve_within(t, here)\n", ""),
        ("masked steps contribute",
         "            push = _valid(tangent, t, steps)\n            if t:",
         "            push = steps[t]\n            if t:"),
    ],
    ("spectra/_units.py", SPECTRA): [
        ("K on the time axis over all pairs of trials",
         "gram += coactivation_gram(rows, weights).sum(0).double()",
         "gram += coactivation_gram(rows.sum(0), weights.sum(0)).double()"),
        ("tr K^2 without the pairs of maps counted twice",
         "square += twice * (1 if j == k else 2)", "square += twice"),
        ("tr K^2 with 1/N",
         "return trace / n_valid, square / n_valid**2",
         "return trace / n_valid, square / n_valid"),
    ],
    ("spectra/_gramians.py", SPECTRA): [
        ("Gramians without the cross terms",
         "square += float(_dot(c, c) + 2 * _dot(c, o @ c))", "square += float(_dot(c, c))"),
    ],
    ("spectra/_spectrum.py", (*SPECTRA, "spectra/test_estimates")): [
        ("the rank relative to the sum of the computed eigenvalues",
         "= np.cumsum(self.eigenvalues) / self.trace.value\n        if self.complete",
         "= np.cumsum(self.eigenvalues) / self.eigenvalues.sum()\n        if self.complete"),
    ],
    ("spectra/_spectrum.py", SPECTRA): [
        ("effective dimension tr G / |G|",
         "Estimate(total * (total / square))", "Estimate(total / square**0.5)"),
    ],
    ("spectra/_moments.py", COVERAGE): [
        ("squares of estimates on an axis",
         "return float((values.sum() - np.trace(values)) / (m * (m - 1)))",
         "return float(values.mean())"),
    ],
    ("spectra/_sketch.py", COVERAGE): [
        ("modes are not deflated from the probes",
         'w -= torch.einsum("kni,ind->knd", torch.einsum("knd,ind->kni", w, basis), basis)',
         "pass"),
    ],
    ("spectra/_krylov.py", QUADRATURE): [
        ("Lanczos weights without their square",
         "vectors[..., 0, :].square()", "vectors[..., 0, :].abs()"),
        ("Lanczos without the step before",
         ".sub_(self._betas[-1] * self._before)", ""),
    ],
    ("spectra/_lanczos_rank.py", QUADRATURE): [
        ("eigenvalues of P counted without their sum",
         "(count * np.clip(1 - values / last, 0, None))", "(count * (values < last))"),
    ],
    ("spectra/_growth.py", ("test_lyapunov",)): [
        ("growth that forgets the product before",
         "torch.bmm(y.mT, step.mT", "torch.bmm(self.q.mT, step.mT"),
        ("rounding that does not grow", "noise * after / before + rounding", "rounding / before"),
    ],
    ("spectra/_counts.py", ("spectra/test_counts",)): [
        ("pivots of P without the step after",
         "pivot = pivot + m.mT @ steps.weight(t + 1) @ m", "pivot = pivot + 0.0"),
        ("a pivot of size 2 without its negative eigenvalue",
         "single.sum(-1) + (pivots < 0).sum(-1) // 2", "single.sum(-1)"),
    ],
    ("analyzers/alignment/_task_flow.py", TASKS): [
        ("a task's gradient with 1/N of all trials",
         "name: (part.T @ adjoints) * self.lin.n_valid", "name: (part.T @ adjoints)"),
        ("the flow on the trials of the other task",
         "rows.append(cosines(there[i : i + 1], there)[0])",
         "rows.append(cosines(there, there[i : i + 1])[:, 0].flip(0))"),
        ("states with the LSTM's c",
         "states[..., s.start : s.start + layer.n_units]", "states[..., s]"),
    ],
    ("analyzers/alignment/_similarity.py", ("analyzers/alignment/test_task_flow",)): [
        ("second moments without the mask",
         "(signal if mask is None else signal * mask[..., None])", "signal"),
    ],
    ("analyzers/alignment/_history.py", TASKS): [
        ("the cumulative mean by snapshots",
         "steps = np.diff(self.iterations).astype(float)[:, None, None]",
         "steps = np.ones(len(self.iterations) - 1)[:, None, None]"),
    ],
    ("analyzers/alignment/_grouping.py", TASKS): [
        ("the margin with its diagonal",
         "pair = ~np.eye(len(groups), dtype=bool)",
         "pair = np.ones((len(groups),) * 2, dtype=bool)"),
    ],
    ("networks/tangents/_coactivation.py", GRAM): [
        ("a kernel of sums instead of products",
         "return gram.mul_(activity)", "return gram.add_(activity)"),
    ],
    ("training/_run.py", RUN_FOLDER): [
        ("a resumed run shuffles afresh",
         'self.batches.order, self.batches.start = saved["order"], saved["start"]', "pass"),
        ("a resumed run forgets its optimizer",
         '        self.optimizer.load_state_dict(saved["optimizer"])\n', ""),
    ],
    ("spectra/_spectrum.py", ESTIMATES): [
        ("Ritz values that have not converged are counted",
         "np.cumsum(residuals) + _unseen(", "_unseen("),
        ("equal eigenvalues among the leading ones are counted once",
         "np.cumsum(residuals) + _unseen(sketch, spectrum.square.std_error, values)",
         "np.cumsum(residuals)"),
    ],
}  # fmt: skip
MUTANTS = [
    Mutant(*texts[:1], file, *texts[1:], tests)
    for (file, tests), formulas in FORMULAS.items()
    for texts in formulas
]

"""The formulas, as data: what stands where, what to put there, and which tests must fail."""

from __future__ import annotations

from dataclasses import dataclass

OPERATORS = (
    "contract/test_properties",
    "operators/test_operators",
    "operators/test_gradient_flow",
)
SPECTRA = ("spectra/test_spectra", "spectra/test_exact")
TASKS = ("analyzers/alignment/test_task_flow", "analyzers/alignment/test_task_analyzer")
GRAM = (
    "feedforward/test_gram_kernel",
    "feedforward/test_gram_closed",
    "analyzers/gram/test_gram_analyzer",
)


@dataclass(frozen=True)
class Mutant:
    """One formula, and how it is broken."""

    name: str
    file: str
    right: str
    wrong: str
    tests: tuple[str, ...]


MUTANTS = (
    Mutant(
        "the adjoint without 1/N", "operators/_parameter.py",
        "dim=-1).div_(self.tangent.n_valid)", "dim=-1)", OPERATORS,
    ),
    Mutant(
        "P takes the Jacobian of the step before", "operators/_propagator.py",
        "tangent.jacobian_forward(t, out[t - 1], push, here)",
        "tangent.jacobian_forward(t - 1, out[t - 1], push, here)", OPERATORS,
    ),
    Mutant(
        "P* takes the Jacobian of the step itself", "operators/_propagator.py",
        "tangent.jacobian_adjoint(t + 1, out[t + 1], push, out[t])",
        "tangent.jacobian_adjoint(t, out[t + 1], push, out[t])", OPERATORS,
    ),
    Mutant(
        "P without the direct term", "operators/_propagator.py",
        "tangent.jacobian_forward(t, out[t - 1], push, here)",
        "tangent.jacobian_forward(t, out[t - 1], 0 * push, here)", OPERATORS,
    ),
    Mutant(
        "the layers of a step are not solved", "operators/_propagator.py",
        "            tangent.solve_within(t, here)\n", "", OPERATORS,
    ),
    Mutant(
        "masked steps push", "operators/_propagator.py",
        "            push = _valid(tangent, t, steps)\n            if t:",
        "            push = steps[t]\n            if t:", OPERATORS,
    ),
    Mutant(
        "K on the time axis over all pairs of trials", "spectra/_units.py",
        "gram += coactivation_gram(rows, weights).sum(0).double()",
        "gram += coactivation_gram(rows.sum(0), weights.sum(0)).double()", SPECTRA,
    ),
    Mutant(
        "tr K^2 without the pairs of maps counted twice", "spectra/_units.py",
        "square += twice * (1 if j == k else 2)", "square += twice", SPECTRA,
    ),
    Mutant(
        "tr K^2 with 1/N", "spectra/_units.py",
        "return trace / n_valid, square / n_valid**2", "return trace / n_valid, square / n_valid",
        SPECTRA,
    ),
    Mutant(
        "Gramians without the cross terms", "spectra/_gramians.py",
        "square += float(_dot(c, c) + 2 * _dot(c, o @ c))", "square += float(_dot(c, c))",
        SPECTRA,
    ),
    Mutant(
        "the rank against the trace of the eigenvalues known", "spectra/_spectrum.py",
        "shares = np.cumsum(self.eigenvalues) / self.trace.value\n        reached",
        "shares = np.cumsum(self.eigenvalues) / self.eigenvalues.sum()\n        reached",
        (*SPECTRA, "spectra/test_estimates"),
    ),
    Mutant(
        "effective dimension tr G / |G|", "spectra/_spectrum.py",
        "Estimate(total * (total / square))", "Estimate(total / square**0.5)", SPECTRA,
    ),
    Mutant(
        "squares of estimates on an axis", "spectra/_moments.py",
        "return float((values.sum() - np.trace(values)) / (m * (m - 1)))",
        "return float(values.mean())", ("spectra/test_estimates", "spectra/test_coverage"),
    ),
    Mutant(
        "modes are not taken out of the probes", "spectra/_sketch.py",
        'w -= torch.einsum("kni,ind->knd", torch.einsum("knd,ind->kni", w, basis), basis)',
        "pass", ("spectra/test_estimates", "spectra/test_coverage"),
    ),
    Mutant(
        "Lanczos weights without their square", "spectra/_lanczos_rank.py",
        "weights = (along**2).sum(1) / width", "weights = along.abs().sum(1) / width",
        ("spectra/test_estimates", "spectra/test_coverage"),
    ),
    Mutant(
        "a task's gradient with 1/N of all trials", "analyzers/alignment/_task_flow.py",
        "name: (part.T @ adjoints) * self.lin.n_valid", "name: (part.T @ adjoints)", TASKS,
    ),
    Mutant(
        "flow on the trials of the other task", "analyzers/alignment/_task_flow.py",
        "rows.append(cosines(there[i : i + 1], there)[0])",
        "rows.append(cosines(there, there[i : i + 1])[:, 0].flip(0))", TASKS,
    ),
    Mutant(
        "state with an LSTM's c", "analyzers/alignment/_task_flow.py",
        "states[..., s.start : s.start + layer.n_units]", "states[..., s]", TASKS,
    ),
    Mutant(
        "second moments without the mask", "analyzers/alignment/_similarity.py",
        "(signal if mask is None else signal * mask[..., None])", "signal",
        ("analyzers/alignment/test_task_flow",),
    ),
    Mutant(
        "the cumulative mean by snapshots", "analyzers/alignment/_history.py",
        "steps = np.diff(self.iterations).astype(float)[:, None, None]",
        "steps = np.ones(len(self.iterations) - 1)[:, None, None]", TASKS,
    ),
    Mutant(
        "the margin with its diagonal", "analyzers/alignment/_grouping.py",
        "pair = ~np.eye(len(groups), dtype=bool)",
        "pair = np.ones((len(groups),) * 2, dtype=bool)", TASKS,
    ),
    Mutant(
        "a kernel of sums instead of products", "networks/tangents/_coactivation.py",
        "return gram.mul_(activity)", "return gram.add_(activity)", GRAM,
    ),
    Mutant(
        "a resumed run shuffles afresh", "training/_loop.py",
        'self.stream.order, self.stream.start = found["order"], found["start"]', "pass",
        ("training/test_run_folder",),
    ),
    Mutant(
        "a resumed run forgets its optimizer", "training/_loop.py",
        '        self.optimizer.load_state_dict(found["optimizer"])\n', "",
        ("training/test_run_folder",),
    ),
    Mutant(
        "Ritz values that have not converged are counted", "spectra/_spectrum.py",
        "np.cumsum(residuals) + _unseen(", "_unseen(", ("spectra/test_estimates",),
    ),
    Mutant(
        "equal eigenvalues among the leading ones count once", "spectra/_spectrum.py",
        "np.cumsum(residuals) + _unseen(sketch, found.square.std_error, values)",
        "np.cumsum(residuals)", ("spectra/test_estimates",),
    ),
    Mutant(
        "equal eigenvalues in quadrature count once", "spectra/_lanczos_rank.py",
        " & (_TAIL * values**2 >= outside)", "", ("spectra/test_estimates",),
    ),
)  # fmt: skip

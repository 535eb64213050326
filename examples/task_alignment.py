"""Which sub-tasks will share a subspace, and how early the operators show it.

A GRU learns four tasks, memory and delay x pro and anti, which a cue distinguishes. Each seed
trains once; the groups of the four tasks are determined from the states and from the cumulative
operators.

The following definitions were fixed before the run. Final: the groups of the final states (average
linkage, two groups). State: the iteration from which the states keep the final groups. Lead: how
much earlier the cumulative update keeps them. Call: the pairing of the four tasks, out of three,
with the largest margin (mean alignment within pairs minus that between pairs) at the last snapshot
before "state", for the cumulative update, flow, gradient and the states; chance is 1/3. Permuted:
the margin of the final pairs in the cumulative update after permuting the labels of the tasks
within each stimulus.

    python examples/task_alignment.py --seeds 0 1 2 3 4 5 6 7 8 9
"""

import argparse
import time

import numpy as np
import pandas as pd
from sklearn.frozen import FrozenEstimator

from kpflow_sklearn import RecurrentTrainer, TaskAlignmentAnalyzer
from kpflow_sklearn.analyzers.alignment import describe_groups, margin
from kpflow_sklearn.datasets import make_multitask

BATCH, EVERY, N_PERMUTATIONS = 32, 25, 5
PAIRINGS = [np.array(p) for p in ([0, 0, 1, 1], [0, 1, 0, 1], [0, 1, 1, 0])]


def fit(seed: int, max_iter: int) -> tuple[TaskAlignmentAnalyzer, dict, np.ndarray]:
    """Train on fresh noisy trials, and analyse 16 noise-free stimuli per task."""
    X, y, _ = make_multitask(BATCH * max_iter, noise_std=0.1 * np.sqrt(2), random_state=seed)
    Xa, ya, tasks, angles = make_multitask(16, evenly_spaced=True, return_stimuli=True)
    trainer = RecurrentTrainer(
        "gru", hidden_size=64, recurrent_init="torch", learning_rate=1e-3, max_iter=max_iter,
        batch_size=4 * BATCH, snapshots=range(0, max_iter + 1, EVERY), dtype="float32",
        random_state=seed,
    )  # fmt: skip
    analysis = {
        "X_analysis": Xa,
        "y_analysis": ya,
        "conditions": np.round(1e6 * angles).astype(int),
    }
    analyzer = TaskAlignmentAnalyzer(trainer, n_groups=2, random_state=seed)
    return analyzer.fit(X, y, tasks=tasks, **analysis), analysis, tasks


def called(matrix: pd.DataFrame, final: np.ndarray) -> str:
    """Return whether the pairing with the largest margin is the final one, and its margin."""
    values = (matrix.to_numpy() + matrix.to_numpy().T) / 2
    margins = [margin(values, pairing) for pairing in PAIRINGS]
    best = PAIRINGS[int(np.argmax(margins))]
    return f"{'right' if np.array_equal(best, final) else 'wrong'} {max(margins):+.2f}"


def run(seed: int, max_iter: int) -> dict[str, object]:
    """Return one row of the table."""
    start = time.perf_counter()
    analyzer, analysis, tasks = fit(seed, max_iter)
    final = analyzer.groups_.to_numpy()
    row = {"seed": seed, "final": describe_groups(analyzer.tasks_, final)}
    row |= {"state": analyzer.transition_, "lead": analyzer.lead_}
    before = max(analyzer.transition_ - EVERY, 0)
    for kind in ("update", "flow", "gradient", "state"):
        row[f"call: {kind}"] = called(analyzer.cumulative_alignment_[kind].loc[before], final)
    rng, margins = np.random.default_rng(seed), []
    for _ in range(N_PERMUTATIONS):
        labels = rng.permuted(tasks.reshape(4, 16), axis=0).ravel()
        frozen = TaskAlignmentAnalyzer(FrozenEstimator(analyzer.trainer_), n_groups=2)
        Xa, ya = analysis["X_analysis"], analysis["y_analysis"]
        frozen.fit(Xa, ya, tasks=labels, **analysis)
        update = frozen.cumulative_alignment_["update"].loc[before].to_numpy()
        margins.append(margin(update, final))
    row["permuted"] = f"{np.mean(margins):+.2f} ± {np.std(margins, ddof=1):.2f}"
    return row | {"seconds": round(time.perf_counter() - start)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--max-iter", type=int, default=1000)
    options = parser.parse_args()
    table = pd.DataFrame([run(seed, options.max_iter) for seed in options.seeds])
    print(table.to_string(index=False))

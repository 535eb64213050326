"""
Which sub-tasks will share a subspace, and what shows it first?
===============================================================

One GRU learns four tasks: to point to a stimulus (Pro) or away from it (Anti), which is remembered
(Memory) or still visible (Delay). In the end its states group the tasks into Pro and Anti. Do the
operators show these groups earlier than the states do?
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from kpflow_sklearn import RecurrentTrainer, TaskAlignmentAnalyzer
from kpflow_sklearn.datasets import make_multitask
from kpflow_sklearn.plotting import AlignmentDisplay

N_SEEDS, LAST, EVERY = 5, 300, 20
X_clean, y_clean, tasks, angles = make_multitask(8, evenly_spaced=True, return_stimuli=True)
conditions = np.round(np.degrees(angles)).astype(int)  # To match trials between tasks.


def analyse(seed):
    """Train on noisy trials, and compare the tasks on noise-free trials."""
    X, y, _ = make_multitask(256, noise_std=0.1, random_state=seed)
    trainer = RecurrentTrainer(
        "gru", hidden_size=32, recurrent_init="torch", learning_rate=2e-3, batch_size=64,
        max_iter=LAST, snapshots=range(0, LAST + 1, EVERY), dtype="float32", random_state=seed,
    )  # fmt: skip
    analyzer = TaskAlignmentAnalyzer(trainer, n_groups=2, random_state=seed)
    given = {"X_analysis": X_clean, "y_analysis": y_clean, "conditions": conditions}
    return analyzer.fit(X, y, tasks=tasks, **given)


runs = [analyse(seed) for seed in range(N_SEEDS)]

# %%
# For each seed, "states from" is the iteration from which the states keep the final groups, and
# "lead" is how many iterations earlier the cumulative update alignment does so (negative if
# later). "margin" is its alignment within the final groups minus that between them, at the last
# snapshot before the transition of the states. "chance" is the fraction of permuted task labels
# with at least that margin; for four tasks in pairs it is at least 1/3 for any single seed.
rows = []
for seed, run in enumerate(runs):
    history = run.grouping_history_.query("source == 'cumulative update'").set_index("iteration")
    before = history.loc[max(run.transition_ - EVERY, 0)]
    groups = " | ".join(" + ".join(g.index) for _, g in run.groups_.groupby(run.groups_))
    rows.append(
        {"seed": seed, "final groups": groups, "states from": run.transition_, "lead": run.lead_}
        | {"margin": round(before["margin"], 2), "chance": round(before["chance"], 2)}
    )
print(pd.DataFrame(rows).to_string(index=False))

# %%
# **a** Alignment of the final states of seed 0. **b to f** Margin of the final groups over
# training in all seeds, for the states and for the operators accumulated since the start. Dotted
# lines mark the iterations from which each keeps the final groups; their distance is the lead.
figure, axes = plt.subplots(2, 3, figsize=(13, 7.6), layout="constrained")
AlignmentDisplay.from_estimator(runs[0], kind="state", ax=axes[0, 0])
for run, ax in zip(runs, axes.flat[1:], strict=True):
    AlignmentDisplay(
        run.alignment_history_, run.grouping_history_, transition=run.transition_, lead=run.lead_
    ).plot_history(ax=ax)
    ax.set_ylim(-0.15, 1.0)
words = ("a", *(f"{letter}  seed {k}" for k, letter in enumerate("bcdef")))
for ax, title in zip(axes.flat, words, strict=True):
    ax.set_title("")
    ax.set_title(title, loc="left", fontweight="bold")
plt.show()

# %%
# In all five seeds the final states are grouped into Pro and Anti. Just before the transition of
# the states, the cumulative update favours these groups in four of the five seeds (margins of 0.07
# to 0.39), and in three of them more than any other pairs. This is weak evidence, since one seed
# in three does so by chance. Its clustering shows the groups earlier than that of the states in
# one seed, later in two, and not permanently in the other two. The gradient cosine does no worse.
# Ten larger networks gave the same result; see the page on reproductions.

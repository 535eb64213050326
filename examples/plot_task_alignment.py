"""
Which sub-tasks will share a subspace, and who knows first?
===========================================================

One GRU learns four tasks: to point to a stimulus (Pro) or away from it (Anti), remembered (Memory)
or still seen (Delay). In the end its states group the tasks into Pro and Anti. Do the operators
show these groups earlier than the states do?
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from kpflow_sklearn import RecurrentTrainer, TaskAlignmentAnalyzer
from kpflow_sklearn.datasets._multitask import make_multitask
from kpflow_sklearn.plotting._alignment import AlignmentDisplay

N_SEEDS, LAST, EVERY = 5, 300, 20
X_clean, y_clean, tasks, angles = make_multitask(8, evenly_spaced=True, return_stimuli=True)
conditions = np.round(np.degrees(angles)).astype(int)  # The trials that tasks are matched by.


def analyse(seed):
    """Train on noisy trials, and compare the tasks on noise-free ones."""
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
# Of each seed: since when the states show the final groups for good, and by how many iterations
# the cumulative update alignment does so earlier (negative: later). "margin" is its alignment
# within the final groups less that between them, at the last snapshot before the states turn, and
# "chance" the share of permuted task labels with at least that margin: of four tasks in pairs it
# is 1/3 at best, so that no single seed can say more than that.
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
# **a** Final states of seed 0. **b to f** Over training, all seeds: how far apart the final
# groups are by the states, and by the operators cumulated since the start. The dotted lines mark
# since when each shows the final groups for good; between them lies the lead.
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
# In all five seeds the states end up grouped into Pro and Anti. Just before the states turn, the
# cumulative update is in favour of these groups in four of the five (margins of 0.07 to 0.39), in
# three of them more than of any other pairs: a hint and no more, since one seed in three does so
# by chance. Its clustering shows the groups earlier than that of the states in one seed, later in
# two, and not for good in the other two. The plain gradient cosine does no worse. Ten larger
# networks gave the same picture: see the page of reproductions.

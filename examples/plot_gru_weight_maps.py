"""
What the weights of a GRU can move
==================================

A GRU has four weight maps a = W u: its two gates, the candidate's input and the candidate's state.
Each has a part K_j of the parameter operator, made of what the weights see, the activity u, and of
how much the state answers, the sensitivity S.
"""

import matplotlib.pyplot as plt
import pandas as pd

from kpflow_sklearn import KPFlowAnalyzer, RecurrentTrainer, linearize
from kpflow_sklearn.datasets._memory_pro import make_memory_pro
from kpflow_sklearn.spectra._functions import trace

N_SEEDS = 5
periods = {"stimulus": 10, "memory": 10, "response": 10}
X, y = make_memory_pro(512, **periods, noise_std=0.1, random_state=0)
X_clean, y_clean = make_memory_pro(12, **periods, evenly_spaced=True)


def weight_maps(seed, max_iter):
    """Return the table of the weight maps of one network, with their shares of tr K."""
    trainer = RecurrentTrainer(
        "gru", hidden_size=24, learning_rate=5e-3, grad_clip=1.0, batch_size=64,
        max_iter=max_iter, snapshots=1, dtype="float32", random_state=seed,
    )  # fmt: skip
    analyzer = KPFlowAnalyzer(trainer, operators=("K",), axes=("time",))
    analyzer.fit(X, y, X_analysis=X_clean, y_analysis=y_clean)
    found = analyzer.weight_maps_.set_index("map")
    K = linearize(analyzer.network_, X_clean).K
    share = {name: trace(part).value / trace(K).value for name, part in K.components.items()}
    return found.assign(share=pd.Series(share))


untrained = pd.concat([weight_maps(seed, 0) for seed in range(N_SEEDS)], axis=1)
trained = pd.concat([weight_maps(seed, 300) for seed in range(N_SEEDS)], axis=1)

# %%
# Markers are medians over five seeds, bars the range of the seeds. **a** Whose weights push the
# states. **b, c** Of the trained networks.
figure, axes = plt.subplots(1, 3, figsize=(12.5, 4), layout="constrained")


def draw(ax, values, place, color, marker, label):
    """Draw median and range over seeds beside the name of each map."""
    middle = values.median(axis=1)
    reach = [middle - values.min(axis=1), values.max(axis=1) - middle]
    at = [index + 0.16 * (place - 1) for index in range(len(values))]
    ax.errorbar(at, middle, reach, fmt=marker, color=color, capsize=3, label=label)
    ax.set_xticks(range(len(values)), [name.replace("_", "\n") for name in values.index])


draw(axes[0], untrained["share"], 0.5, "0.6", "o", "untrained")
draw(axes[0], trained["share"], 1.5, "black", "s", "trained")
draw(axes[1], trained["u_effective_dimension"], 0, "#0072B2", "o", "activity u")
draw(axes[1], trained["S_effective_dimension"], 1, "#E69F00", "s", "sensitivity S")
draw(axes[1], trained["K_time_effective_dimension"], 2, "#009E73", "^", "part $K_j$, time axis")
draw(axes[2], trained["u_rank"], 0, "#0072B2", "o", "activity u")
draw(axes[2], trained["K_unit_rank"], 1, "#009E73", "^", "part $K_j$ of a unit, largest")
draw(axes[2], trained["K_unit_rank_bound"], 2, "0.4", "_", "what bounds it")
labels = ("share of tr K", "effective dimension", "rank (95% of trace)")
for ax, letter, label in zip(axes, "abc", labels, strict=True):
    ax.set_title(letter, loc="left", fontweight="bold")
    ax.set(ylabel=label, ylim=(0, None))
    ax.legend(frameon=False)
axes[0].set_ylim(-0.03, 0.9)
plt.show()

# %%
# The candidate's weights hold nearly all of the trace: those of the gates push the states little.
#
# Theorem 1 of the paper bounds the rank of K_j by those of u and S. That is true of exact ranks:
# for each unit rank K_j <= rank u, and summed over units rank K_j <= rank u x rank S. It says
# much of the candidate's input, which sees three inputs and a bias, and little of the other maps,
# which see all states. Of ranks at 95% of the trace it is not true where S varies: **c** has
# units whose K_j needs 7 directions where the activity needs 6. What bounds them weighs the
# activity by the unit's own S.

"""
What the weights of a GRU can move
==================================

A GRU has four weight maps a = W u: its two gates, and the candidate's input and state maps. Each
contributes a part K_j to the parameter operator. The part depends on the activity u, which is the
input of the weights, and on the sensitivity S, which is the response of the state.
"""

import matplotlib.pyplot as plt
import pandas as pd

from kpflow_sklearn import KPFlowAnalyzer, RecurrentTrainer, linearize
from kpflow_sklearn.datasets import make_memory_pro
from kpflow_sklearn.spectra import trace

N_SEEDS = 5
periods = {"stimulus": 10, "memory": 10, "response": 10}
X, y = make_memory_pro(512, **periods, noise_std=0.1, random_state=0)
X_clean, y_clean = make_memory_pro(12, **periods, evenly_spaced=True)


def weight_maps(seed, max_iter):
    """Return the table of the weight maps of a network, with their shares of tr K."""
    trainer = RecurrentTrainer(
        "gru", hidden_size=24, learning_rate=5e-3, grad_clip=1.0, batch_size=64,
        max_iter=max_iter, snapshots=1, dtype="float32", random_state=seed,
    )  # fmt: skip
    analyzer = KPFlowAnalyzer(trainer, operators=("K",), axes=("time",))
    analyzer.fit(X, y, X_analysis=X_clean, y_analysis=y_clean)
    maps = analyzer.weight_maps_.set_index("map")
    K = linearize(analyzer.network_, X_clean).K
    share = {name: trace(part).value / trace(K).value for name, part in K.components.items()}
    return maps.assign(share=pd.Series(share))


untrained = pd.concat([weight_maps(seed, 0) for seed in range(N_SEEDS)], axis=1)
trained = pd.concat([weight_maps(seed, 300) for seed in range(N_SEEDS)], axis=1)

# %%
# Markers are medians over five seeds; bars show the range of the seeds. **a** The share of each
# map in tr K. **b, c** Dimensions and ranks in the trained networks.
figure, axes = plt.subplots(1, 3, figsize=(12.5, 4), layout="constrained")


def draw(ax, values, place, color, marker, label):
    """Draw median and range over seeds above the name of each map."""
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
draw(axes[2], trained["K_unit_rank_bound"], 2, "0.4", "_", "bound on its rank")
labels = ("share of tr K", "effective dimension", "rank (95% of trace)")
for ax, letter, label in zip(axes, "abc", labels, strict=True):
    ax.set_title(letter, loc="left", fontweight="bold")
    ax.set(ylabel=label, ylim=(0, None))
    ax.legend(frameon=False)
axes[0].set_ylim(-0.03, 0.9)
plt.show()

# %%
# The candidate's weights account for nearly all of the trace, those of the gates for little.
#
# Theorem 1 of the paper bounds the rank of K_j by the ranks of u and S. The bound holds for exact
# ranks: rank K_j <= rank u for each unit, and rank K_j <= rank u x rank S summed over units. It is
# informative for the candidate's input map, which receives three inputs and a bias, but not for
# the other maps, which receive all states. For ranks at 95% of the trace it can fail where S
# varies: in **c**, some units have a K_j of rank 7 where the activity has rank 6. The bound drawn
# there weights the activity by the S of the unit.

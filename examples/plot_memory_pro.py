"""
Dynamic collapse on Memory-Pro
==============================

A tanh network with large initial weights (gain 1.5) learns to report a remembered angle. How many
time courses can the weights drive (K), the dynamics propagate (P), and training change (PKP*)?
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.base import clone

from kpflow_sklearn import KPFlowAnalyzer, RecurrentTrainer
from kpflow_sklearn.datasets import make_memory_pro
from kpflow_sklearn.plotting import OPERATOR_STYLE, TrajectoryDisplay, plot_range

periods = {"stimulus": 10, "memory": 10, "response": 10}
X, y = make_memory_pro(512, **periods, noise_std=0.1, random_state=0)
X_clean, y_clean, angles = make_memory_pro(12, **periods, evenly_spaced=True, return_stimuli=True)
trainer = RecurrentTrainer(
    "tanh", hidden_size=48, init_scale=1.5, learning_rate=2e-3, grad_clip=1.0, batch_size=64,
    max_iter=500, snapshots=7, dtype="float32",
)  # fmt: skip


def analyse(**changed):
    """Train on noisy trials, and analyse every snapshot on noise-free trials."""
    run = KPFlowAnalyzer(clone(trainer).set_params(**changed), axes=("time",), random_state=0)
    return run.fit(X, y, X_analysis=X_clean, y_analysis=y_clean)


runs = [analyse(random_state=seed) for seed in range(3)]

# %%
# Lines are medians over three seeds; bands show the range of the seeds.
figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
loss = [run.results_.query("quantity == 'loss'").set_index("iteration")["value"] for run in runs]
plot_range(pd.concat(loss, axis=1), ax=axes[0], color="black", marker="o", label="loss")
axes[0].set(ylabel="mse, noise-free trials", yscale="log")
ranks = pd.concat([run.bottleneck_.set_index("iteration") for run in runs], axis=1)
for name, style in OPERATOR_STYLE.items():
    plot_range(ranks[f"{name}_rank"], ax=axes[1], **style)
axes[1].set(ylabel="rank on the time axis (95% of trace)", ylim=(0, 31))
signals = pd.concat([run.signal_dimensions_ for run in runs], axis=1)
plot_range(signals["PKP*Err"], ax=axes[2], **style | {"label": "their change PKP*Err"})
plot_range(signals["Z"], ax=axes[2], color="#CC79A7", marker="D", label="states Z")
axes[2].set(ylabel="effective dimension, hidden axis", ylim=(0, None))
for ax, letter in zip(axes, "abc", strict=True):
    ax.set_title(letter, loc="left", fontweight="bold")
    ax.set_xscale("symlog", linthresh=1)
    ax.set(xlabel="iteration (parameter updates)", xlim=(-0.1, 600))
    ax.set_xticks([0, 1, 10, 100, 500], ["0", "1", "10", "100", "500"])
    ax.legend(frameon=False)
plt.show()

# %%
# Before training, the operators have high rank, and the states and their change a high dimension
# (**c**). Within about 20 updates, while the loss falls to a plateau, K and PKP* collapse to 3 to
# 6 of 30 time courses, and the states with them, while P grows. Later K widens again.
#
# The next figure shows one seed before and after training. The strength of an eigenfunction of
# PKP* is its root mean square over trials and units. Dotted: starts of memory and response.
before = analyse(random_state=0, max_iter=0, snapshots=1)
figure, axes = plt.subplots(2, 2, figsize=(9, 6.6), layout="constrained")
for row, run in zip(axes, (before, runs[0]), strict=True):
    TrajectoryDisplay.from_estimator(
        run, X_clean, color_by=angles, cyclic=True, label="stimulus angle (rad)", ax=row[0]
    )
    strength = np.sqrt((run.eigenfunctions_["PKP"] ** 2).mean(axis=(1, 3)))
    for mode, color in zip((1, 2, 3), ("#0072B2", "#E69F00", "#CC79A7"), strict=True):
        row[1].plot(range(1, 31), strength[mode - 1], color=color, label=f"mode {mode}")
    row[1].vlines([10.5, 20.5], 0, strength.max(), color="0.6", linestyle=":")
    row[1].set(xlabel="step", ylabel="strength of eigenfunctions")
axes[0, 1].legend(frameon=False)
for ax, words in zip(axes.flat, ("a  untrained", "b", "c  trained", "d"), strict=True):
    ax.set_title(words, loc="left", fontweight="bold")
plt.show()

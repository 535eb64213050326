"""
Lyapunov spectra against gain
=============================

The exponents say how fast small differences between states grow or die along the trials. Networks
of gain above one are chaotic without input; with input, and after training, the picture changes.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from kpflow_sklearn import RecurrentTrainer, linearize
from kpflow_sklearn.datasets._memory_pro import make_memory_pro
from kpflow_sklearn.lyapunov import kaplan_yorke_dimension, lyapunov_exponents
from kpflow_sklearn.plotting._style import plot_range

GAINS, N_SEEDS, HIDDEN = [0.5, 1.0, 1.5, 2.0, 3.0], 3, 32
periods = {"stimulus": 15, "memory": 15, "response": 15}
X, y = make_memory_pro(512, **periods, noise_std=0.1, random_state=0)
X_clean, _ = make_memory_pro(16, **periods, evenly_spaced=True)


def spectrum(gain, seed, max_iter):
    """Return the exponents of one network on the noise-free trials, per step."""
    trainer = RecurrentTrainer(
        "tanh", hidden_size=HIDDEN, init_scale=gain, learning_rate=2e-3, grad_clip=1.0,
        batch_size=32, max_iter=max_iter, snapshots=1, dtype="float32", random_state=seed,
    )  # fmt: skip
    exponents, _ = lyapunov_exponents(linearize(trainer.fit(X, y).network_, X_clean), burn_in=5)
    return pd.Series(exponents, index=np.arange(1, HIDDEN + 1))


def spectra(gain, max_iter):
    """Return the exponents, with a column for each seed."""
    return pd.concat([spectrum(gain, seed, max_iter) for seed in range(N_SEEDS)], axis=1)


found = {(gain, max_iter): spectra(gain, max_iter) for gain in GAINS for max_iter in (0, 300)}

# %%
# Lines are medians over three seeds, bands the range of the seeds. Zero divides growth from
# decay.
figure, axes = plt.subplots(1, 3, figsize=(12.5, 3.8), layout="constrained")
colors = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(GAINS)))
for gain, color in zip(GAINS, colors, strict=True):
    plot_range(found[gain, 0], ax=axes[0], color=color, label=f"g = {gain:g}")
axes[0].set(xlabel="exponent number", ylabel="exponent per step, untrained", ylim=(-4, 0.6))
for max_iter, color, marker in ((0, "#0072B2", "o"), (300, "#D55E00", "s")):
    style = {"color": color, "marker": marker, "label": "trained" if max_iter else "untrained"}
    largest = {gain: found[gain, max_iter].max() for gain in GAINS}
    plot_range(pd.DataFrame(largest).T, ax=axes[1], **style)
    dimension = {gain: found[gain, max_iter].apply(kaplan_yorke_dimension) for gain in GAINS}
    plot_range(pd.DataFrame(dimension).T, ax=axes[2], **style)
axes[1].set(xlabel="initial gain g", xticks=GAINS, ylabel="largest exponent per step")
axes[2].set(xlabel="initial gain g", xticks=GAINS, ylabel="Kaplan\N{EN DASH}Yorke dimension")
for ax, letter in zip(axes, "abc", strict=True):
    ax.set_title(letter, loc="left", fontweight="bold")
    ax.legend(frameon=False)
for ax in axes[:2]:
    ax.axhline(0, color="0.6", linewidth=0.8)
plt.show()

# %%
# The task's input holds back chaos: untrained, the largest exponent is above zero at a gain of 3
# in all seeds, at 2 in two of three, at 1.5 in one. Training brings gain 2 below zero in all
# seeds; from 1 to 2 it ends between -0.17 and 0.03 per step. At 0.5 these 300 updates change
# little, and at 3 chaos stays. Larger gains spread the spectrum: more directions grow, and the
# others die faster. All this is said of trials of 45 steps, not of an infinite time.

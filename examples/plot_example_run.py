"""
A network from plain torch, with its folder of checkpoints
==========================================================

A GRU was trained in plain torch on noisy batches, and its state_dicts were saved. Nothing is
trained here: the checkpoints are read and analysed on noise-free trials.
"""

import matplotlib.pyplot as plt
import pandas as pd

from kpflow_sklearn import KPFlowAnalyzer, SavedTraining
from kpflow_sklearn.datasets import load_example_run, make_memory_pro
from kpflow_sklearn.plotting import OPERATOR_STYLE, CollapseDisplay, plot_range

run = load_example_run()
print(run.description)
print(run.module)
print("...", run.checkpoints[-1].rpartition("/")[-1])

# %%
# `SavedTraining(module, "folder/*.pt")` reads a whole folder; here, every third of the 40 files is
# enough. `verify` checks the identities behind the numbers on this network.
saved = SavedTraining(run.module, run.checkpoints[::3])
analyzer = KPFlowAnalyzer(saved, axes=("time",), random_state=0).fit(run.X, run.y)
print(analyzer.verify(run.X, run.y).to_string())

# %%
# The same network is analysed at four checkpoints on three draws of trials with as much noise as
# in training.
few = SavedTraining(run.module, run.checkpoints[::13])
noisy = []
for seed in range(3):
    X, y = make_memory_pro(
        16, stimulus=15, memory=15, response=15, noise_std=0.3, evenly_spaced=True,
        random_state=seed,
    )  # fmt: skip
    on_noise = KPFlowAnalyzer(few, n_components=1, axes=("time",), random_state=0).fit(X, y)
    noisy.append(on_noise.bottleneck_.set_index("iteration"))

# %%
# **a** Loss on the noise-free trials. **b** Ranks on the noise-free trials; bars are 95% intervals
# where a rank is estimated. **c** Ranks on the noisy trials: medians over the three draws, with
# bands for their range.
figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
CollapseDisplay.from_estimator(analyzer, quantity="rank", ax=axes[1]).plot_loss(ax=axes[0])
ranks = pd.concat(noisy, axis=1)
for name, style in OPERATOR_STYLE.items():
    plot_range(ranks[f"{name}_rank"], ax=axes[2], **style)
axes[2].set_xscale("symlog", linthresh=1)
axes[2].set_xticks([0, 1, 10, 100], ["0", "1", "10", "100"])
axes[2].set(ylabel=axes[1].get_ylabel(), xlabel="iteration", xlim=axes[1].get_xlim())
for ax in axes[1:]:
    ax.set(yscale="linear", ylim=(0, 46))
for ax, words in zip(axes, ("a", "b  noise-free trials", "c  noisy trials"), strict=True):
    ax.set_title(words, loc="left", fontweight="bold")
plt.show()

# %%
# On noise-free trials K has a rank of 3 throughout and is the bottleneck, even after the rank of P
# has fallen from about 40 to 12 as the task was learned. On noisy trials K has a rank of 11 to 15,
# because the noise of each trial is a separate time course on which the weights can act. P would
# then be the bottleneck at the end. This is a property of the noise, which is why operators are
# compared over training, and between networks, on noise-free trials. These are results of one
# network; see the other examples for ranges over seeds.

"""
A task from NeuroGym
====================

Trials of a NeuroGym task have unequal lengths and one class per step. They are returned as padded
arrays with a mask; padding does not affect any result.

This script is not run for the gallery, because NeuroGym requires an older NumPy than this package
is tested with. Run it in a separate environment: ``pip install 'kpflow-sklearn[neurogym,plot]'``.
"""

import matplotlib.pyplot as plt
import numpy as np

from kpflow_sklearn import KPFlowAnalyzer, RecurrentTrainer
from kpflow_sklearn.datasets import fetch_neurogym
from kpflow_sklearn.plotting import CollapseDisplay, TrajectoryDisplay

# Stimuli of 500 to 1500 ms in steps of 100 ms, after 300 ms of fixation.
timing = {"fixation": 300, "stimulus": ("choice", [500, 1000, 1500]), "decision": 300}
task = {"dt": 100, "timing": timing}
X, y, mask = fetch_neurogym("PerceptualDecisionMaking-v0", 512, random_state=0, task_params=task)
print(f"{len(X)} trials of {mask.sum(1).min()} to {mask.sum(1).max()} steps")

# The decision takes only a few steps of each trial, which therefore have a larger weight.
weight = np.where(y > 0, 5.0, 1.0)
trainer = RecurrentTrainer(
    "gru", hidden_size=32, learning_rate=1e-2, max_iter=300, batch_size=64, dtype="float32",
    dt=0.1, random_state=0,
)  # fmt: skip
analyzer = KPFlowAnalyzer(trainer, analysis_trials=32, axes=("time",), random_state=0)
analyzer.fit(X, y, mask=mask, loss_weight=weight)
X_new, y_new, new = fetch_neurogym(
    "PerceptualDecisionMaking-v0", 200, random_state=1, task_params=task
)
right = analyzer.predict(X_new, mask=new) == y_new
print(f"accuracy at the decision {right[new & (y_new > 0)].mean():.2f}")

# %%
# **a** Ranks on the time axis over training; bars are 95% intervals. **b** States on 64 new
# trials, coloured by the correct choice.
figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
CollapseDisplay.from_estimator(analyzer, quantity="rank", ax=axes[0])
TrajectoryDisplay.from_estimator(
    analyzer, X_new[:64], mask=new[:64], color_by=y_new[:64].max(1), label="choice", ax=axes[1]
)
figure.axes[-1].set_yticks([1, 2])
for ax, letter in zip(axes, "ab", strict=True):
    ax.set_title(letter, loc="left", fontweight="bold")
plt.show()

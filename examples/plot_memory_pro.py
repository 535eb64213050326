"""
Which operator limits learning: K or P?
=======================================

Train a GRU on the Memory-Pro task and draw what K, P and their product, the tangent kernel PKP*,
did over training.
"""

import matplotlib.pyplot as plt

from kpflow_sklearn import KPFlowAnalyzer, RecurrentTrainer
from kpflow_sklearn.datasets import make_memory_pro
from kpflow_sklearn.plotting import CollapseDisplay, TrajectoryDisplay

periods = {"stimulus": 20, "memory": 20, "response": 20}
X, y = make_memory_pro(256, **periods, noise_std=0.1, random_state=0)
X_clean, y_clean, angles = make_memory_pro(32, **periods, evenly_spaced=True, return_stimuli=True)

trainer = RecurrentTrainer(
    "gru", hidden_size=64, learning_rate=1e-2, grad_clip=1.0, max_iter=300, dtype="float32"
)
analyzer = KPFlowAnalyzer(trainer, random_state=0, verbose=True)
analyzer.fit(X, y, X_analysis=X_clean, y_analysis=y_clean)
print(analyzer.bottleneck_)

CollapseDisplay.from_estimator(analyzer, quantity="rank")
TrajectoryDisplay.from_estimator(
    analyzer, X_clean, color_by=angles, cyclic=True, label="stimulus angle"
)
plt.show()

"""
Which layer of a network learns?
================================

Train a multilayer perceptron with a fixed readout on the diabetes data by gradient descent, take
its kernel apart by layers, and predict training: from the fields alone for one hidden layer, from
the kernel for three.
"""

import matplotlib.pyplot as plt
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import scale

from kpflow_sklearn import FeedForwardTrainer, GramFlowAnalyzer
from kpflow_sklearn.plotting import GramDisplay

X, y = load_diabetes(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(scale(X), scale(y), random_state=0)

trainer = FeedForwardTrainer((64, 64, 64), learning_rate=0.03, max_iter=300, random_state=0)
deep = GramFlowAnalyzer(trainer, random_state=0).fit(X_train, y_train)
columns = ["trace_share", "decay_share", "loss_change", "gate_flips", "gram_effective_dimension"]
print(deep.layer_table_[columns].round(3).to_string())
print(f"\ntest R^2 {deep.score(X_test, y_test):.3f}, predicted by {deep.prediction_}")

# One hidden layer: the same training, and the test outputs, without a weight.
flat = GramFlowAnalyzer(random_state=0).fit(X_train, y_train)
simulation = flat.simulate(flat.n_iter_, X_test)
error = abs(simulation.outputs_new[0] - flat.predict(X_test)).max()
print(f"\none hidden layer: {simulation.flips.sum()} gate flips, test outputs within {error:.0e}")

GramDisplay.from_estimator(deep)
GramDisplay.from_estimator(flat)
plt.show()

"""
Sequential digits in a pipeline with a classifier
=================================================

A GRU reads digits row by row. Its states, projected on the directions in which training can move
them, go to a classifier. The network is trained, searched, inspected and saved like any pipeline.
"""

import tempfile

import joblib
import matplotlib.pyplot as plt
import pandas as pd
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline

from kpflow_sklearn import KPFlowAnalyzer, RecurrentTrainer
from kpflow_sklearn.plotting import SpectrumDisplay
from kpflow_sklearn.preprocessing import SequenceScaler

digits = load_digits()
X_train, X_test, y_train, y_test = train_test_split(
    digits.images, digits.target, stratify=digits.target, random_state=0
)
trainer = RecurrentTrainer(
    "gru", hidden_size=32, max_iter=200, batch_size=64, learning_rate=1e-2, snapshots=1,
    dtype="float32", random_state=0,
)  # fmt: skip
pipeline = make_pipeline(
    SequenceScaler(),
    KPFlowAnalyzer(trainer, axes=("hidden",), random_state=0),
    LogisticRegression(max_iter=1000),
)
gain, size = "kpflowanalyzer__trainer__init_scale", "kpflowanalyzer__n_components"
search = GridSearchCV(pipeline, {gain: [0.5, 1.5], size: [2, 4, 8]}, cv=3).fit(X_train, y_train)
print(search.best_params_)
print(f"accuracy on {len(y_test)} test digits {search.score(X_test, y_test):.3f}")

# %%
# **a** Accuracy in cross-validation: mean and range of three folds. **b** The share of each
# direction of the states in the trace of the operators, for the selected network; the components
# are those of PKP*. **c** Test digits along the first two components.
figure, axes = plt.subplots(1, 3, figsize=(13, 4), layout="constrained")
scores = pd.DataFrame(search.cv_results_)
folds = scores.filter(regex=r"^split\d_test_score$")
by_gain = scores.groupby(f"param_{gain}")
for (g, rows), color, marker in zip(by_gain, ("#0072B2", "#E69F00"), "os", strict=True):
    mean, each = rows["mean_test_score"], folds.loc[rows.index]
    reach = [mean - each.min(axis=1), each.max(axis=1) - mean]
    style = {"color": color, "marker": marker, "capsize": 3, "label": f"gain {g:g}"}
    axes[0].errorbar(rows[f"param_{size}"], mean, reach, **style)
axes[0].set(xlabel="number of components", ylabel="accuracy", xticks=[2, 4, 8])
axes[0].legend(loc="lower right", frameon=False)
analyzer = search.best_estimator_["kpflowanalyzer"]
SpectrumDisplay.from_estimator(analyzer, axis="hidden", ax=axes[1])
states = search.best_estimator_[:-1].transform(X_test)
for digit in range(10):
    x, y = states[y_test == digit, :2].T
    color = plt.get_cmap("viridis")(digit / 10)
    axes[2].scatter(x, y, s=45, color=color, marker=f"${digit}$", linewidths=0.3)
axes[2].set(xlabel="component 1 of the states", ylabel="component 2 of the states")
for ax, letter in zip(axes, "abc", strict=True):
    ax.set_title(letter, loc="left", fontweight="bold")
plt.show()

# %%
# Eight directions are nearly enough to distinguish the digits; the effect of the gain is within
# the spread of the folds. The fitted pipeline is saved like any other.
with tempfile.TemporaryDirectory() as folder:
    joblib.dump(search.best_estimator_, f"{folder}/digits.joblib")
    kept = joblib.load(f"{folder}/digits.joblib")
print((kept.predict(X_test) == search.predict(X_test)).all())

"""The whole workflow in a pipeline: train, search, inspect, compare and save.

A GRU learns to classify digits that it reads row by row. Its states, projected on the directions
in which training can move them, go to a classifier.
"""

import joblib
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline

from kpflow_sklearn import KPFlowAnalyzer, RecurrentTrainer
from kpflow_sklearn.plotting import BottleneckDisplay, SpectrumDisplay
from kpflow_sklearn.preprocessing import SequenceScaler

digits = load_digits()
X_train, X_test, y_train, y_test = train_test_split(
    digits.images, digits.target, stratify=digits.target, random_state=0
)
trainer = RecurrentTrainer("gru", hidden_size=32, max_iter=300, learning_rate=1e-2, random_state=0)
pipeline = make_pipeline(
    SequenceScaler(),
    KPFlowAnalyzer(trainer, n_components=16, axes=("time",), random_state=0),
    LogisticRegression(max_iter=1000),
)
search = GridSearchCV(pipeline, {"kpflowanalyzer__trainer__init_scale": [0.5, 1.5]}, cv=2)
search.fit(X_train, y_train)
print(f"best gain {search.best_params_}, test accuracy {search.score(X_test, y_test):.2f}")

analyzer = search.best_estimator_["kpflowanalyzer"]
ranks = analyzer.results_.query("quantity == 'rank' and axis == 'time'")
print(ranks.pivot(index="iteration", columns="operator", values="value").astype(int))
BottleneckDisplay.from_estimator(analyzer).figure_.savefig("bottleneck.png")
SpectrumDisplay.from_estimator(analyzer).figure_.savefig("spectrum.png")
joblib.dump(search.best_estimator_, "digits.joblib")

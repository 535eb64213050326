"""Estimators in the style of scikit-learn that explain how gradient descent shapes networks."""

from kpflow_sklearn import datasets as datasets
from kpflow_sklearn._common.public import public_names
from kpflow_sklearn._common.version import __version__ as __version__
from kpflow_sklearn.analyzers import GramFlowAnalyzer, KPFlowAnalyzer, TaskAlignmentAnalyzer
from kpflow_sklearn.exceptions import CheckpointError, UnsupportedNetworkError
from kpflow_sklearn.operators import Linearization, linearize
from kpflow_sklearn.reporting import report
from kpflow_sklearn.runs import compare, sweep
from kpflow_sklearn.training import FeedForwardTrainer, RecurrentTrainer, SavedTraining

__all__ = [
    "CheckpointError",
    "FeedForwardTrainer",
    "GramFlowAnalyzer",
    "KPFlowAnalyzer",
    "Linearization",
    "RecurrentTrainer",
    "SavedTraining",
    "TaskAlignmentAnalyzer",
    "UnsupportedNetworkError",
    "compare",
    "linearize",
    "report",
    "sweep",
]

_SHOWN = ["cells", "datasets", "exceptions", "lyapunov", "operators", "plotting"]
_SHOWN += ["preprocessing", "results", "spectra", "__version__"]
__dir__ = public_names([*__all__, *_SHOWN])

"""scikit-learn style estimators that explain how gradient descent shapes networks."""

from kpflow_sklearn.analyzers import GramFlowAnalyzer, KPFlowAnalyzer, TaskAlignmentAnalyzer
from kpflow_sklearn.exceptions import CheckpointError, UnsupportedNetworkError
from kpflow_sklearn.operators import Linearization, linearize
from kpflow_sklearn.reporting import report
from kpflow_sklearn.runs import compare, sweep
from kpflow_sklearn.training import FeedForwardTrainer, RecurrentTrainer, SavedTraining

__version__ = "0.1.0"

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

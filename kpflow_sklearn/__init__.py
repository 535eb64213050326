"""scikit-learn style estimators that explain how gradient descent shapes networks."""

from kpflow_sklearn.analyzer import KPFlowAnalyzer
from kpflow_sklearn.checkpoints import SavedTraining
from kpflow_sklearn.compare import compare
from kpflow_sklearn.exceptions import CheckpointError, UnsupportedNetworkError
from kpflow_sklearn.feedforward_training import FeedForwardTrainer
from kpflow_sklearn.gram_analyzer import GramFlowAnalyzer
from kpflow_sklearn.linearization import Linearization, linearize
from kpflow_sklearn.report import report
from kpflow_sklearn.sweep import sweep
from kpflow_sklearn.task_analyzer import TaskAlignmentAnalyzer
from kpflow_sklearn.training import RecurrentTrainer

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

"""scikit-learn style estimators that explain how gradient descent shapes recurrent networks."""

from kpflow_sklearn.analyzer import KPFlowAnalyzer
from kpflow_sklearn.checkpoints import SavedTraining
from kpflow_sklearn.exceptions import CheckpointError, UnsupportedNetworkError
from kpflow_sklearn.linearization import Linearization, linearize
from kpflow_sklearn.task_analyzer import TaskAlignmentAnalyzer
from kpflow_sklearn.training import RecurrentTrainer

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "KPFlowAnalyzer",
    "Linearization",
    "RecurrentTrainer",
    "SavedTraining",
    "TaskAlignmentAnalyzer",
    "UnsupportedNetworkError",
    "linearize",
]

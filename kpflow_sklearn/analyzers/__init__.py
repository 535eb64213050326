"""The three estimators that explain a training: one folder each.

``kpflow`` measures K, P and PKP* over training, ``alignment`` what sub-tasks do to each other,
``gram`` the layerwise kernels of feed-forward networks. Shared by them: ``_base``, the fitting of
the trainer; ``_trials``, the analysed trials; ``_verification``, the identities checked on the
user's network.
"""

from kpflow_sklearn.analyzers.alignment import TaskAlignmentAnalyzer
from kpflow_sklearn.analyzers.gram import GramFlowAnalyzer
from kpflow_sklearn.analyzers.kpflow import KPFlowAnalyzer

__all__ = ["GramFlowAnalyzer", "KPFlowAnalyzer", "TaskAlignmentAnalyzer"]

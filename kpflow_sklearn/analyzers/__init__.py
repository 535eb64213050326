"""The three estimators that explain how a network was trained, with one folder each.

``kpflow`` measures K, P and PKP* over training, ``alignment`` compares sub-tasks, and ``gram``
measures the layerwise kernels of feed-forward networks. All three share ``_base``, which fits the
trainer, and ``_forecast``, which predicts how long the analysis takes. The first two share their
base class in ``_recurrent``, and the choice of the analysed trials in ``_trials`` and
``_analysis_set``. ``_verification`` checks the identities behind the analysis on a given network.
"""

from kpflow_sklearn.analyzers.alignment import TaskAlignmentAnalyzer
from kpflow_sklearn.analyzers.gram import GramFlowAnalyzer
from kpflow_sklearn.analyzers.kpflow import KPFlowAnalyzer

__all__ = ["GramFlowAnalyzer", "KPFlowAnalyzer", "TaskAlignmentAnalyzer"]

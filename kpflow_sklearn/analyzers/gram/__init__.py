"""How the layers of a feed-forward network learn: GramFlowAnalyzer.

``_analyzer`` is the estimator. ``_snapshot`` analyses one snapshot, ``_course`` the sequence of
snapshots, and ``_modes`` the leading eigenvectors of the kernel. ``_prediction`` predicts the loss
curve, and ``_verification`` checks the identities.
"""

from kpflow_sklearn.analyzers.gram._analyzer import GramFlowAnalyzer

__all__ = ["GramFlowAnalyzer"]

"""How the layers of a feed-forward network learn: GramFlowAnalyzer.

``_analyzer`` is the estimator, ``_snapshot`` analyses one snapshot, ``_course`` all of them,
``_modes`` finds the modes of the kernel, ``_prediction`` predicts the loss curve, ``_tables``
makes the tables, ``_verification`` checks the identities.
"""

from kpflow_sklearn.analyzers.gram._analyzer import GramFlowAnalyzer

__all__ = ["GramFlowAnalyzer"]

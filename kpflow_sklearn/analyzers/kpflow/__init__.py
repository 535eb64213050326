"""Ranks and dimensions of K, P and PKP* over training: KPFlowAnalyzer.

``_analyzer`` is the estimator, ``_snapshot`` analyses one snapshot, ``_weight_maps`` makes the
table of weight maps, and ``_agreement`` compares PKP* with PP*. ``_planned`` forecasts the time
and memory of the analysis.
"""

from kpflow_sklearn.analyzers.kpflow._analyzer import KPFlowAnalyzer

__all__ = ["KPFlowAnalyzer"]

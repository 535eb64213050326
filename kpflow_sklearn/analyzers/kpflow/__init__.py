"""Ranks and dimensions of K, P and PKP* over training: KPFlowAnalyzer.

``_analyzer`` is the estimator, ``_snapshot`` analyses one snapshot, ``_weight_maps`` compares the
weight maps, ``_agreement`` compares the predicted with the real change of the states.
"""

from kpflow_sklearn.analyzers.kpflow._analyzer import KPFlowAnalyzer

__all__ = ["KPFlowAnalyzer"]

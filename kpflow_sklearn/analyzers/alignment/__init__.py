"""Which sub-tasks share a subspace, which interfere, and when: TaskAlignmentAnalyzer.

``_analyzer`` is the estimator, ``_sub_tasks`` the sub-tasks (their trials and targets),
``_task_flow`` what each task's error does to all, ``_similarity`` cosines and overlaps,
``_grouping`` groups of tasks, ``_history`` alignment over training, ``_rows`` the rows of
``results_``, ``_verification`` its identities.
"""

from kpflow_sklearn.analyzers.alignment._analyzer import TaskAlignmentAnalyzer
from kpflow_sklearn.analyzers.alignment._grouping import describe_groups, margin

__all__ = ["TaskAlignmentAnalyzer", "describe_groups", "margin"]

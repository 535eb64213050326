"""Which sub-tasks share a subspace, which interfere, and when: TaskAlignmentAnalyzer.

``_analyzer`` holds the estimator, ``_sub_tasks`` checks labels and divides the trials by them,
``_task_flow`` measures what the error of each task does to all at one snapshot, with the cosines
and overlaps of ``_similarity``, ``_grouping`` forms groups of tasks, ``_history`` describes the
alignment over training, and ``_verification`` checks the identities.
"""

from kpflow_sklearn.analyzers.alignment._analyzer import TaskAlignmentAnalyzer
from kpflow_sklearn.analyzers.alignment._grouping import describe_groups, margin

__all__ = ["TaskAlignmentAnalyzer", "describe_groups", "margin"]

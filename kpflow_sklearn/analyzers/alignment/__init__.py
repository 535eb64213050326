"""Which sub-tasks share a subspace, which interfere, and when: TaskAlignmentAnalyzer.

``_analyzer`` is the estimator, and ``_sub_tasks`` divides the trials by their labels.
``_task_flow`` measures, at one snapshot, how the error of each task changes the states of all
tasks; ``_similarity`` compares these changes. ``_grouping`` forms groups of tasks, ``_history``
describes the alignment over training, and ``_verification`` checks the identities.
"""

from kpflow_sklearn.analyzers.alignment._analyzer import TaskAlignmentAnalyzer
from kpflow_sklearn.analyzers.alignment._grouping import describe_groups, margin

__all__ = ["TaskAlignmentAnalyzer", "describe_groups", "margin"]

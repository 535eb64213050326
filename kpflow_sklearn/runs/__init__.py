"""Many runs at once.

``_sweep`` fits an analyzer over settings and seeds, ``_sweep_cache`` keeps its finished cells,
``_compare`` compares the operators of networks by their ``_overlap``.
"""

from kpflow_sklearn.runs._compare import compare
from kpflow_sklearn.runs._sweep import sweep

__all__ = ["compare", "sweep"]

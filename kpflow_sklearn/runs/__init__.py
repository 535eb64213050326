"""Many runs at once: `sweep` over settings and seeds, and `compare` between networks.

``_sweep`` fits an analyzer to every cell of a grid, and ``_sweep_cache`` keeps finished cells on
disk. ``_compare`` tabulates how similar the operators of networks are, from their Grams over
trials and time steps (``_trial_time_gram``).
"""

from kpflow_sklearn.runs._compare import compare
from kpflow_sklearn.runs._sweep import sweep

__all__ = ["compare", "sweep"]

"""Choose evenly spaced indices."""

from __future__ import annotations

import numpy as np


def evenly_spaced(n: int, at_most: int) -> np.ndarray:
    """Return up to ``at_most`` indices below n, evenly spaced from the first to the last."""
    return np.linspace(0, n - 1, min(n, at_most)).round().astype(int)

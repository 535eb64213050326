"""A value, its standard error, and why it is missing."""

from __future__ import annotations

from typing import NamedTuple

ZERO = "the operator is zero"
NOISY = "the estimate of tr G^2 is not positive; take more probes"
OVERFLOW = "the numbers overflow"


class Estimate(NamedTuple):
    """A number and its standard error (0 if the number is exact).

    A number that could not be had is NaN with ``reason`` saying why.
    """

    value: float
    std_error: float = 0.0
    reason: str = ""

    @classmethod
    def missing(cls, reason: str) -> Estimate:
        """Return the mark of a number that could not be had."""
        return cls(float("nan"), float("nan"), reason)

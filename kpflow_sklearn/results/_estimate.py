"""A value, its standard error, the method behind it, and the reason where it is missing."""

from __future__ import annotations

from typing import NamedTuple

#: The operators in the order of tables and figures.
OPERATORS = ("K", "P", "PKP")
ZERO = "the operator is zero"
NOISY = "the estimate of tr G^2 is not positive; take more probes"
OVERFLOW = "the numbers overflow"


class Estimate(NamedTuple):
    """A number with its standard error, 0 if it is exact.

    A missing number is NaN, and ``reason`` says why it is missing.

    Attributes
    ----------
    value, std_error : float
        The number and its standard error.
    reason : str
        Why the number is missing; empty if it is not.
    method : {"exact", "counted", "interval", "randomized"}
        "exact" up to rounding; "counted" if interpolated between counts of eigenvalues; "interval"
        if only bounds are known, with the value in their middle and value +- 1.96 std_error as the
        bounds; "randomized" if estimated by random vectors.
    bounds : tuple of float or None
        Lower and upper bound, if they were computed in addition to the error. They are proved if
        the method is "counted". Otherwise, as far as they depend on random vectors, they hold with
        a probability of 95%.
    """

    value: float
    std_error: float = 0.0
    reason: str = ""
    method: str = "exact"
    bounds: tuple[float, float] | None = None

    @property
    def interval(self) -> tuple[float, float]:
        """The bounds, or value -+ 1.96 std_error if there are none."""
        reach = 1.96 * self.std_error
        return self.bounds or (self.value - reach, self.value + reach)

    @classmethod
    def missing(cls, reason: str, method: str = "exact") -> Estimate:
        """Return a missing estimate."""
        return cls(float("nan"), float("nan"), reason, method)

"""Check the argument from which the operators of a network are made."""

from __future__ import annotations

from typing import Any

from kpflow_sklearn.networks.tangents import NetworkTangent


def check_tangent(tangent: Any) -> None:
    """Check that ``tangent`` is a linearized network."""
    if not isinstance(tangent, NetworkTangent):
        raise TypeError(
            "tangent must be a NetworkTangent, such as linearize(...).tangent, got a "
            f"{type(tangent).__name__}."
        )

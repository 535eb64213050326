"""What the operators of a network are made of, checked."""

from __future__ import annotations

from typing import Any

from kpflow_sklearn.networks.tangents import NetworkTangent


def check_tangent(tangent: Any) -> None:
    """Refuse what is no linearized network, before its shape is asked for."""
    if not isinstance(tangent, NetworkTangent):
        raise TypeError(
            f"tangent must be a NetworkTangent, as of linearize(...).tangent, got a "
            f"{type(tangent).__name__}."
        )

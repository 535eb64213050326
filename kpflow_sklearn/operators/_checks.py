"""Check the linearized network from which operators are made."""

from __future__ import annotations

from typing import Any

from kpflow_sklearn.exceptions import UnsupportedNetworkError
from kpflow_sklearn.networks.tangents import NetworkTangent, UserTangent


def check_tangent(tangent: Any) -> None:
    """Check that ``tangent`` is a linearized network."""
    if not isinstance(tangent, NetworkTangent):
        raise TypeError(
            "tangent must be a NetworkTangent, such as linearize(...).tangent, got a "
            f"{type(tangent).__name__}."
        )


def refuse_undefined(tangent: NetworkTangent) -> None:
    """Refuse a user's step whose derivative is NaN although its value is finite.

    Parameters
    ----------
    tangent : NetworkTangent
        The linearized network, whose states are finite.

    Raises
    ------
    UnsupportedNetworkError
        If a derivative that K or P contains is NaN.
    """
    for layer in tangent.layers:
        undefined = isinstance(layer, UserTangent) and layer.undefined_by(
            tangent.learn_initial_state
        )
        if undefined:
            raise UnsupportedNetworkError(
                f"the derivative of the network's step with respect to {undefined} is NaN, "
                "although the step itself is finite, so that K and P would be NaN. Roots, norms, "
                "logarithms and quotients have no derivative where their argument is zero, which "
                "torch.where does not hide: add a small number inside the root, for example "
                "torch.sqrt(s + 1e-12), or give an initial_state other than zero."
            )

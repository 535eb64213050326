"""A module made elsewhere, recognised as step, readout and initial state."""

from __future__ import annotations

from typing import Any

from torch import nn

from kpflow_sklearn.cells import make_cell
from kpflow_sklearn.exceptions import UnsupportedNetworkError
from kpflow_sklearn.layers import MappedLayer
from kpflow_sklearn.network import RecurrentNetwork


def recognise_network(
    module: nn.Module, recurrent: str | None = None, readout: str | None = None
) -> RecurrentNetwork:
    """View a module made elsewhere as step, readout and initial state; nothing is copied.

    Parameters
    ----------
    module : Module
        Holds one ``torch.nn.RNN``, ``GRU`` or ``LSTM`` and one ``torch.nn.Linear`` readout.
    recurrent, readout : str, optional
        Names of the two submodules, where they cannot be told.

    Returns
    -------
    RecurrentNetwork
        Shares the module's parameters; z_0 = 0, as torch has it.

    Raises
    ------
    UnsupportedNetworkError
        If the parts cannot be told, or are of a kind that the analysis cannot take.
    """
    if isinstance(module, RecurrentNetwork):
        return module
    core = _find(module, nn.RNNBase, "recurrent", recurrent)
    _refuse_unsupported(core)
    name = core.mode.lower().removeprefix("rnn_")
    linear = _find(module, nn.Linear, "readout", readout, in_features=core.hidden_size)
    if readout is None:
        _refuse_other_parts(module, core, linear)
    cell = make_cell(name)
    layers = [MappedLayer(cell, core, k) for k in range(core.num_layers)]
    weight = core.weight_hh_l0
    z0 = weight.new_zeros(sum(y.n_states for y in layers)).detach()
    return RecurrentNetwork(core, layers, linear, z0)


def _find(
    module: nn.Module, kind: type, role: str, name: str | None, in_features: int | None = None
) -> Any:
    modules = dict(module.named_modules())
    if name is not None:
        if name not in modules:
            known = ", ".join(repr(n) for n in modules if n)
            raise UnsupportedNetworkError(
                f"{role}={name!r} is no submodule of {type(module).__name__}; it has {known}."
            )
        found = {name: modules[name]}
    else:
        found = {n: m for n, m in modules.items() if isinstance(m, kind)}
        if in_features is not None:
            found = {n: m for n, m in found.items() if m.in_features == in_features}
    kinds = "torch.nn.RNN, GRU or LSTM" if kind is nn.RNNBase else "torch.nn.Linear"
    first = next(iter(found.values()), None)
    fits = isinstance(first, kind) and in_features in (None, getattr(first, "in_features", None))
    if len(found) != 1 or not fits:
        raise UnsupportedNetworkError(
            f"{role}: expected exactly one {kinds} in {type(module).__name__}"
            f"{'' if in_features is None else f' with in_features={in_features}'}, found "
            f"{', '.join(map(repr, found)) or 'none'}; give its name as {role}='...'."
        )
    return first


def _refuse_other_parts(module: nn.Module, core: nn.Module, readout: nn.Module) -> None:
    """Refuse a module with further parameters, which the analysis would silently leave out."""
    known = {id(p) for part in (core, readout) for p in part.parameters()}
    others = [name for name, p in module.named_parameters() if id(p) not in known]
    if others:
        raise UnsupportedNetworkError(
            f"{type(module).__name__} has further parameters, {', '.join(others[:4])}, that are "
            "neither of its recurrent part nor of its readout. If X goes straight into the "
            "recurrent part and its states straight into the readout, say so by giving "
            "readout='...'."
        )


def _refuse_unsupported(core: nn.RNNBase) -> None:
    for condition, what, remedy in (
        (core.bidirectional, "bidirectional=True", "its states depend on later inputs"),
        (core.proj_size > 0, f"proj_size={core.proj_size}", "train without a projection"),
        (core.dropout > 0 and core.training, f"dropout={core.dropout}", "call module.eval()"),
    ):
        if condition:
            raise UnsupportedNetworkError(
                f"a {type(core).__name__} with {what} cannot be analysed: {remedy}."
            )

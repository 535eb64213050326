"""Refuse parameters that the step shares with other parts, or that share memory."""

from __future__ import annotations

from collections.abc import Collection
from itertools import combinations

import torch
from torch import Tensor, nn

from kpflow_sklearn._common.modules import named_once, parameters_of
from kpflow_sklearn.exceptions import UnsupportedNetworkError
from kpflow_sklearn.networks._encoders import FED_BACK, TWO_USES
from kpflow_sklearn.networks.agreement._parameter_use import ParameterUse


def refuse_shared(original: nn.Module, use: ParameterUse) -> None:
    """Refuse parameters that train in two places, of which the analysis sees one.

    Parameters
    ----------
    original : Module
        The user's network, not a copy, which does not share memory as its original does.
    use : ParameterUse
        What its parts depend on.

    Raises
    ------
    UnsupportedNetworkError
        If a parameter in theta belongs both to the step and to the encoder or readout, or is z_0
        too; or if two parameters share memory.
    """
    parts = {"encoder": use.encoder, "step": use.step, "readout": use.readout,
             "initial state": use.start}  # fmt: skip
    for (first, ours), (second, theirs) in combinations(parts.items(), 2):
        shared = ours & theirs & use.theta
        if shared:
            places = f"the {first} and the {second}"
            _refuse(original, shared, places, use.theta - shared)
    refuse_same_memory(original, use.recognised, use.trained)


def refuse_only_shared(module: nn.Module, use: ParameterUse) -> None:
    """Refuse a network whose step has parameters that train only where it shares them.

    Parameters
    ----------
    module : Module
        The user's network.
    use : ParameterUse
        What its parts depend on.

    Raises
    ------
    UnsupportedNetworkError
        If a parameter in theta belongs to the readout or the encoder too.
    """
    for part, names in (("readout", use.readout), ("encoder", use.encoder)):
        shared = sorted(names & use.theta)
        if shared:
            raise UnsupportedNetworkError(
                f"the step and the {part} of {type(module).__name__} share {', '.join(shared)}, "
                "and no other parameter of the step trains. A gradient step moves what is shared "
                "by the sum of its gradients in both places, but the flow PKP* Err contains only "
                "the part through the step. Analyse a network that is trained with separate "
                "parameters, or let other parameters of the step train and name them in "
                f"parameters=[...].{f' {FED_BACK}' if part == 'readout' else ''}"
            )


def refuse_same_memory(
    original: nn.Module, names: Collection[str], trained: Collection[str]
) -> None:
    """Refuse different parameters with values at the same address, which a copy separates.

    Parameters
    ----------
    original : Module
        The user's network, not a copy.
    names, trained : collection of str
        The parameters that the analysis uses, and those that train.

    Raises
    ------
    UnsupportedNetworkError
        If one of them that trains shares memory with another one.
    """
    storages: dict[int, list[tuple[str, nn.Parameter]]] = {}
    for name, p in named_once(original).items():
        if name in names and p.numel() and not p.is_meta and p.layout == torch.strided:
            storages.setdefault(p.untyped_storage().data_ptr(), []).append((name, p))
    for named in storages.values():
        for (name, p), (other, q) in combinations(named, 2):
            if (name in trained or other in trained) and _overlap(p, q):
                raise UnsupportedNetworkError(
                    f"the parameters {name} and {other} of {type(original).__name__} lie in the "
                    "same memory: an update of one changes the other, but the analysis treats "
                    "them as two. Analyse a network that is trained with separate parameters."
                )


def _refuse(original: nn.Module, names: set[str], places: str, others: set[str]) -> None:
    identities = {id(p) for n, p in parameters_of(original).items() if n in names}
    every = [n for n, p in parameters_of(original).items() if id(p) in identities]
    remedy = "Analyse a network that is trained with separate parameters"
    if others:
        remedy += (
            f", or give SavedTraining(..., parameters={sorted(others)}): the flow is then that of "
            "a training in which the shared ones are held fixed"
        )
    uses = {"the encoder and the step": TWO_USES, "the step and the readout": FED_BACK}
    raise UnsupportedNetworkError(
        f"{places} share {', '.join(every)} of {type(original).__name__}. A gradient step moves "
        "them by the sum of their gradients in all places, but the flow PKP* Err contains only "
        "the part through the step, so it would differ from that of the training. "
        f"{remedy}. {uses.get(places, '')}".rstrip()
    )


def _overlap(p: Tensor, q: Tensor) -> bool:
    """Tell whether two tensors of one storage have values at the same address."""
    return bool(torch.isin(_addresses(p), _addresses(q)).any())


def _addresses(p: Tensor) -> Tensor:
    offsets = torch.tensor([p.data_ptr()])
    for size, stride in zip(p.shape, p.stride(), strict=True):
        offsets = (offsets[:, None] + torch.arange(size) * stride * p.element_size()).flatten()
    return offsets

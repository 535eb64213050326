"""The weight-map table: how each map's activity and sensitivity bound the rank of its K_j."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch
from torch import Tensor

from kpflow_sklearn.networks.tangents import MapBlock
from kpflow_sklearn.operators import ParameterOperator
from kpflow_sklearn.results import with_whole_numbers
from kpflow_sklearn.spectra import (
    OperatorSpectra,
    map_blocks,
    parameter_gram,
    spectrum_of_eigenvalues,
    spectrum_of_gram,
)


def weight_map_table(spectra: OperatorSpectra, rank_threshold: float) -> pd.DataFrame:
    """Return the dimensions of u_j, S_j and K_j for each weight map of K, with bounds.

    Exact ranks satisfy rank K_j,i <= rank u_j for each unit i, and
    rank tr_H K_j <= rank u_j * rank S_j. On the time axis, which also sums over trials, the second
    bound is larger by a factor of the number of trials. Ranks at a threshold need not satisfy
    these bounds if S varies. The rank of K_j,i at a threshold is bounded by the least r for which
    the r leading directions of u_j hold the share ``threshold`` of sum S_i^2 |u_j|^2.

    Parameters
    ----------
    spectra : OperatorSpectra
        Spectra of K. The table is empty if K contains terms that are not weight maps.
    rank_threshold : float
        Share of the trace that defines a rank.

    Returns
    -------
    DataFrame
        One row per weight map, with columns map, u_effective_dimension, u_rank, u_exact_rank,
        S_effective_dimension, S_rank, S_exact_rank, K_time_effective_dimension, K_time_rank,
        K_time_rank_bound (of the exact rank), K_unit_rank (the largest over units) and
        K_unit_rank_bound.
    """
    if map_blocks(spectra.op) is None:
        return pd.DataFrame()
    unit_ranks = _unit_ranks(spectra, rank_threshold)
    parts = spectra.op.components.items()  # type: ignore[attr-defined]
    rows = [
        _row(name, part, unit_ranks[name], rank_threshold, spectra.memory.amount)
        for name, part in parts
    ]
    table = pd.DataFrame(rows)
    ranks = [column for column in table if "rank" in str(column)]
    return table.assign(**with_whole_numbers(table[ranks]))


def _unit_ranks(spectra: OperatorSpectra, threshold: float) -> dict[str, int]:
    """Return, for each map, the largest rank of K_j,i over units i."""
    ranks: dict[str, int] = {}
    for name, of_units in spectra.units.eigenvalues_of_maps():
        for values in of_units.flip(1).clamp(min=0).cpu().numpy():
            rank = spectrum_of_eigenvalues(values).rank(threshold)
            ranks[name] = max(ranks.get(name, 0), 0 if rank.reason else int(rank.value))
    return ranks


def _row(
    name: str, op: ParameterOperator, unit_rank: int, rank_threshold: float, memory: int
) -> dict[str, Any]:
    block: MapBlock = op.jacobian.blocks[0].block
    n_trials, n_timesteps, _ = op.in_shape
    # U_j^T U_j, (F, F), of the activity u_j divided by its largest entry.
    u_gram = block.activity_gram(block.largest_activity())
    # S_j^T S_j, summed over the steps: (H, H), or (2H, 2H) for the h and c of an LSTM.
    steps = (step.flatten(1).double() for step in block.sensitivity)
    s_gram: Any = sum(s.mT @ s for s in steps)
    activity, sensitivity = spectrum_of_gram(u_gram), spectrum_of_gram(s_gram)
    # K_j on the time axis, (T, T).
    time = spectrum_of_gram(parameter_gram(op, "time", memory))
    u_exact, s_exact = _exact_rank(u_gram), _exact_rank(s_gram)
    return {
        "map": name,
        "u_effective_dimension": activity.effective_dimension.value,
        "u_rank": activity.rank(rank_threshold).value,
        "u_exact_rank": u_exact,
        "S_effective_dimension": sensitivity.effective_dimension.value,
        "S_rank": sensitivity.rank(rank_threshold).value,
        "S_exact_rank": s_exact,
        "K_time_effective_dimension": time.effective_dimension.value,
        "K_time_rank": time.rank(rank_threshold).value,
        "K_time_rank_bound": min(n_trials * u_exact * s_exact, n_timesteps),
        "K_unit_rank": unit_rank,
        "K_unit_rank_bound": _unit_bound(u_gram, block, rank_threshold),
    }


def _exact_rank(gram: Tensor) -> int:
    """Return the numerical rank of a Gram, to the rounding of float32 activity."""
    values = torch.linalg.eigvalsh(gram)
    return int((values > 1e-12 * len(gram) * values[-1].clamp(min=0)).sum())


def _unit_bound(u_gram: Tensor, block: MapBlock, threshold: float) -> int:
    """Return the largest bound, over units i, of the rank of K_j,i at a threshold."""
    # Columns v_1, v_2, ...: principal directions of u_j by decreasing eigenvalue, (F, F).
    basis = torch.linalg.eigh(u_gram).eigenvectors.flip(1)
    unit = block.largest_activity()
    # held_ik = sum_bt S_i^2 (u . v_k)^2, (H, F), summed step by step from u (B, F), S (B, 1, H);
    # the second axis of S has two entries for an LSTM, of h and c.
    held = u_gram.new_zeros(block.n_units, block.n_columns)
    for u, s in zip(block.features, block.sensitivity, strict=True):
        held += s.double().square().sum(1).mT @ (u.double() / unit @ basis).square()
    # Least r for which v_1 .. v_r hold the share `threshold` of sum_bt S_i^2 |u|^2.
    held = held.cumsum(1)
    bounds = (held < (threshold - 1e-12) * held[:, -1:]).sum(1) + 1
    is_alive = held[:, -1] > 0
    return int(bounds[is_alive].max()) if bool(is_alive.any()) else 0

"""Forecast the time and memory of the analysis of all snapshots from the first snapshot."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from kpflow_sklearn._common.memory import free_memory
from kpflow_sklearn.analyzers._forecast import (
    FASTER,
    Forecast,
    in_words,
    seconds_of,
    slow_path,
)
from kpflow_sklearn.analyzers.kpflow._snapshot import SnapshotAnalysis, SpectralSettings
from kpflow_sklearn.lyapunov import N_FOLLOWED
from kpflow_sklearn.operators import Linearization
from kpflow_sklearn.spectra import Operations, OperatorSpectra, planned_operations

#: Numbers of products for the leading eigenfunctions of an operator, and for the agreements.
_N_MODES, _N_AGREEMENTS = 40, 20
#: Typical share of the planned operations that is carried out, because most estimates end early.
_SHARE_DONE = 0.5
#: Arrays of the size of the states that a snapshot holds beside its derivatives.
_N_SIGNALS = 8


def forecast(
    snapshot: SnapshotAnalysis,
    spectra: dict[str, OperatorSpectra],
    settings: SpectralSettings,
    n_snapshots: int,
    n_components: int,
    analyses: Sequence[str],
) -> Forecast:
    """Forecast the analysis of all snapshots from the sizes and a measurement.

    Parameters
    ----------
    snapshot : SnapshotAnalysis
        The first snapshot.
    spectra : dict of str to OperatorSpectra
        Spectra of the first snapshot; none of them has been computed yet.
    settings : SpectralSettings
        The settings.
    n_snapshots, n_components : int
        Number of snapshots, and of eigenfunctions of each operator.
    analyses : sequence of str
        What is computed.

    Returns
    -------
    Forecast
        The forecast.
    """
    lin = snapshot.linearization
    n_trials, n_timesteps, n_states = lin.states.shape
    product = 8.0 * n_trials * n_timesteps * lin.tangent.n_weights
    # PKP*Err of every snapshot is computed in any case.
    total = Operations(n_snapshots * product * (_N_AGREEMENTS if "signals" in analyses else 1))
    for name in settings.operators if "spectra" in analyses else ():
        each = planned_operations(spectra[name], settings.axes)
        total = total.plus(Operations(n_snapshots * each.products, n_snapshots * each.matrices))
    if "lyapunov" in analyses:
        # J Q, (H, H), at every step of the trials that are followed, and the QR of some steps.
        growth = 6.0 * min(n_trials, N_FOLLOWED) * n_timesteps * n_states**3
        total = total.plus(Operations(matrices=growth))
    if "modes" in analyses:
        total = total.plus(Operations(_N_MODES * product * len(settings.operators)))
    seconds = _SHARE_DONE * seconds_of(total, lin)
    sizes = [(n_trials, "trials"), (n_timesteps, "steps"), (n_states, "units")]
    faster = f'{FASTER}, or axes=("time",)' if "all" in settings.axes else FASTER
    n_vectors = max(each.first_probes for each in spectra.values())
    n_bytes = _memory(lin, settings, n_components, n_vectors)
    return Forecast(in_words(n_snapshots, sizes), seconds, n_bytes, slow_path(lin), faster)


def _memory(
    lin: Linearization, settings: SpectralSettings, n_components: int, n_vectors: int
) -> float:
    """Return the bytes of the derivatives, signals, random vectors and eigenfunctions."""
    array = lin.states.numel() * lin.states.element_size()
    limit = settings.memory_limit or free_memory(lin.states.device) // 4
    vectors = min(float(limit), 4.0 * n_vectors * array)
    kept = (_N_SIGNALS + n_components * len(settings.operators)) * array
    held = {t.data_ptr(): t.numel() * t.element_size() for t in _tensors(lin.tangent.layers)}
    return sum(held.values()) + kept + vectors


def _tensors(layers: Iterable[Any]) -> Iterable[Tensor]:
    """Yield the tensors that linearized layers hold as attributes."""
    for layer in layers:
        for value in vars(layer).values():
            parts = value if isinstance(value, (list, tuple)) else [value]
            yield from (part for part in parts if isinstance(part, Tensor))

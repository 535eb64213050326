"""Contenders timed in turns: A B C A B C ..."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median

#: A contender whose warm-up takes longer than this, in seconds, is timed twice only; of one that
#: takes longer than the second limit, the warm-up is the measurement.
SLOW, VERY_SLOW = 20.0, 100.0


def alternate(
    runs: Mapping[str, Callable[[], object]],
    repeats: int,
    inspect: Callable[[str, object], None] | None = None,
) -> dict[str, list[float]]:
    """Return the seconds of every contender, run ``repeats`` times in turns after a warm-up.

    ``inspect`` is called with the name and the result of each warm-up.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    turns = {}
    for name, run in runs.items():
        seconds, result = _timed(run)
        if inspect is not None:
            inspect(name, result)
        del result  # May be large, and the next one needs the room.
        turns[name] = repeats if seconds <= SLOW else min(2, repeats)
        if seconds > VERY_SLOW:
            turns[name], times[name] = 0, [seconds]
    for turn in range(repeats):
        for name, run in runs.items():
            if turn < turns[name]:
                times[name].append(_timed(run)[0])
    return times


def _timed(run: Callable[[], object]) -> tuple[float, object]:
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def medians(times: Mapping[str, list[float]]) -> dict[str, float]:
    """Return the median time of each contender."""
    return {name: median(seconds) for name, seconds in times.items()}


def milliseconds(seconds: list[float]) -> str:
    """Return a median with its range."""
    low, middle, high = (1e3 * v for v in (min(seconds), median(seconds), max(seconds)))
    return f"{middle:.4g} ({low:.4g}-{high:.4g})"

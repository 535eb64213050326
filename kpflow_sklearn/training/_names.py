"""Read the number of parameter updates in the names of checkpoints."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from kpflow_sklearn.exceptions import CheckpointError

#: Numbers that count no updates: decimals, powers of ten, thousands, dates and times.
_NOT_COUNTS = re.compile(
    r"""
      \d+(?:\.\d+)+                                 # 0.25 and versions
    | \d+(?:\.\d+)?e[+-]?\d+(?![a-z\d])             # 1e3
    | \d+(?:k|m|b)(?![a-z\d])                       # 10k
    | (?<!\d)\d{1,3}(?:[_,]000)+(?!\d)              # 1_000
    | (?<!\d)(?:19|20)\d\d([-_.]?)(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12]\d|3[01])(?!\d)  # a date
      (?:[-_T ]?\d\d([-_:.h]?)\d\d\2\d\d(?!\d))?    # and its time
    | (?<!\d)1\d{9}(?:\d{3})?(?!\d)                 # seconds since 1970
    """,
    re.IGNORECASE | re.VERBOSE,
)
#: A number behind a word.
_WORD_AND_NUMBER = re.compile(r"([a-z]+)[^a-z\d]{0,2}(\d+)", re.IGNORECASE)
#: Ends of words whose numbers measure something, and words whose numbers label something.
_MEASURES = ("loss", "acc", "accuracy", "err", "error", "score", "mse", "mae", "nll", "auc", "ppl",
             "perplexity", "reward", "metric")  # fmt: skip
_LABELS = ("seed", "fold", "run", "trial", "rank", "gpu", "lr", "wd", "bs", "hidden", "units")


def sort_key(path: str) -> tuple[list[float], str]:
    """Return the numbers in a path, for sorting; decimals and powers of ten are one number."""
    return [float(n) for n in re.findall(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?", path, re.I)], path


def numbers_in_names(paths: Sequence[Path]) -> list[int] | None:
    """Return the one number in which the names differ; None if there is nothing to order.

    Parameters
    ----------
    paths : sequence of Path
        The files.

    Returns
    -------
    list of int or None
        One number per file.

    Raises
    ------
    CheckpointError
        If the names differ in more than one number, or in one that is not a count.
    """
    if len(paths) < 2:
        numbers = _counts(paths[0].stem) if paths else []
        return [int(numbers[0])] if len(numbers) == 1 and numbers[0] is not None else None
    by_text = {re.sub(r"\d+", "#", str(path)): str(path) for path in paths}
    if len(by_text) > 1:
        first, second = list(by_text.values())[:2]
        raise CheckpointError(
            "the names of the checkpoints must differ only in one number, by which they are "
            f"ordered; {first!r} and {second!r} differ in more. Narrow the pattern, or give the "
            "files as a list with iterations=[...]."
        )
    names = ", ".join(repr(path.name) for path in paths[:3])
    table = [re.findall(r"\d+", str(path)) for path in paths]
    columns = zip(*table, strict=True)
    varying = [k for k, column in enumerate(columns) if len(set(map(int, column))) > 1]
    if len(varying) != 1:
        raise CheckpointError(
            f"{len(varying)} numbers vary in the names of the checkpoints ({names}, ...), so the "
            "number of parameter updates cannot be read from them. Give iterations=[...], one "
            f"for each of the {len(paths)} files: in the order of the list, or, for a pattern, "
            "sorted by the numbers in the names."
        )
    counts = [_counts(str(path))[varying[0]] for path in paths]
    if None in counts:
        raise CheckpointError(
            f"the number that varies in the names of the checkpoints ({names}, ...) does not "
            "count parameter updates: it is a decimal or abbreviated number, a date, or the value "
            "of a word such as 'loss' or 'seed'. Give the files as a list in the order of "
            f"training with iterations=[...], one for each of the {len(paths)} files."
        )
    return [count for count in counts if count is not None]


def _counts(text: str) -> list[int | None]:
    """Return the numbers in a text, with None for those that are not counts."""
    excluded = [match.span() for match in _NOT_COUNTS.finditer(text)]
    for match in _WORD_AND_NUMBER.finditer(text):
        word = match[1].lower()
        if word.endswith(_MEASURES) or word in _LABELS:
            excluded.append(match.span(2))
    return [
        None if any(a <= m.start() < b for a, b in excluded) else int(m[0])
        for m in re.finditer(r"\d+", text)
    ]

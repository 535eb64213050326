"""What ``dir`` shows of a module: its public names."""

from __future__ import annotations

from collections.abc import Callable, Iterable


def public_names(names: Iterable[str]) -> Callable[[], list[str]]:
    """Return a module's ``__dir__`` that lists these names only, so that completion offers them.

    A face re-exports for other folders more than users are meant to see.
    """
    listed = sorted(names)
    return lambda: list(listed)

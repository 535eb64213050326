"""Limit what ``dir`` lists of a module to its public names."""

from __future__ import annotations

from collections.abc import Callable, Iterable


def public_names(names: Iterable[str]) -> Callable[[], list[str]]:
    """Return a ``__dir__`` for a module that lists these names only, for completion.

    The ``__init__.py`` of a folder also re-exports names that only other folders need.
    """
    listed = sorted(names)
    return lambda: list(listed)

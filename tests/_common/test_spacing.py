"""Evenly spaced choices."""

from __future__ import annotations

import pytest

from kpflow_sklearn._common.spacing import evenly_spaced


@pytest.mark.parametrize(
    "n, at_most, expected",
    [(3, 5, [0, 1, 2]), (10, 4, [0, 3, 6, 9]), (9, 4, [0, 3, 5, 8]), (9, 1, [0]), (0, 4, [])],
)
def test_indices_run_from_the_first_to_the_last(n, at_most, expected):
    assert evenly_spaced(n, at_most).tolist() == expected

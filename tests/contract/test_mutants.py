"""Broken formulas are seen: each of `tests/tools/mutants` makes a test fail."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import kpflow_sklearn
from tests.tools.mutants.__main__ import is_killed
from tests.tools.mutants.formulas import MUTANTS

PACKAGE = Path(kpflow_sklearn.__file__).parent


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_every_formula_stands_once_where_it_is_broken(mutant):
    assert (PACKAGE / mutant.file).read_text(encoding="utf-8").count(mutant.right) == 1
    assert mutant.right != mutant.wrong


def test_a_broken_formula_is_killed_and_a_sound_one_survives():
    first = MUTANTS[0]
    killed, by = is_killed(first)
    assert killed and by.startswith("FAILED tests/")
    sound = replace(first, wrong=f"{first.right}  ", tests=("results/test_results",))
    assert is_killed(sound) == (False, "")


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS[1:], ids=lambda m: m.name)
def test_every_broken_formula_is_killed(mutant):
    assert is_killed(mutant)[0]

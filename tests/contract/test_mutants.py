"""Broken formulas are noticed: each of `tests/tools/mutants` makes a test fail."""

from __future__ import annotations

from pathlib import Path

import pytest

import kpflow_sklearn
from tests.tools.mutants.__main__ import is_killed
from tests.tools.mutants.formulas import MUTANTS

PACKAGE = Path(kpflow_sklearn.__file__).parent
TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_every_formula_stands_once_where_it_is_broken(mutant):
    assert (PACKAGE / mutant.file).read_text(encoding="utf-8").count(mutant.right) == 1
    assert mutant.right != mutant.wrong
    assert mutant.tests and all((TESTS / f"{name}.py").exists() for name in mutant.tests)


@pytest.mark.slow
def test_a_broken_formula_is_killed():
    killed, by = is_killed(MUTANTS[0]._replace(tests=MUTANTS[0].tests[:1]))
    assert killed and by.startswith("FAILED tests/")


@pytest.mark.slow
def test_a_sound_formula_survives():
    right = MUTANTS[0].right
    sound = MUTANTS[0]._replace(wrong=f"{right}  ", tests=("results/test_results",))
    assert is_killed(sound) == (False, "")


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_every_broken_formula_is_killed(mutant):
    assert is_killed(mutant)[0]

"""Bad input gives a right answer or one clear error, for every public parameter."""

from __future__ import annotations

import re
import time
import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import NotFittedError

from tests.tools.bad_input.entries import MAKERS, data
from tests.tools.bad_input.judge import judge
from tests.tools.bad_input.public import EXEMPT, public_callables
from tests.tools.bad_input.registry import cases, entries, good_answer, missing, sample


def faults(chosen) -> list[str]:
    """Return the faults of some cases."""
    verdicts = [(case, case.run()) for case in chosen]
    return [f"{case.name}: {v.fault}" for case, v in verdicts if not v.is_right]


def test_every_public_parameter_is_tried_or_exempt_for_a_reason():
    assert missing() == []
    assert all(len(reason) > 10 for reason in EXEMPT.values())


def test_the_registry_names_nothing_that_is_not_public():
    assert {entry.callable for entry in entries().values()} <= public_callables().keys()


def test_a_sample_of_every_parameter():
    assert faults(sample(1)) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", entries())
def test_every_value(name):
    good_answer(name)
    assert faults(case for case in cases() if case.entry.name == name) == []


METHODS = ("predict", "transform", "score", "trajectories", "verify", "get_feature_names_out")


@pytest.mark.parametrize("kind", MAKERS)
def test_before_the_fit_every_method_says_so(kind):
    X = data()["X"][:, 0] if kind in ("FeedForwardTrainer", "GramFlowAnalyzer") else data()["X"]
    for method in METHODS:
        estimator = MAKERS[kind]()
        if hasattr(estimator, method):
            given = () if method == "get_feature_names_out" else (X,)
            given += (data()["y"],) if method in ("score", "verify") else ()
            with pytest.raises(NotFittedError, match=kind):
                getattr(estimator, method)(*given)


# ----------------------------------------------------------------------- the judge sees faults


def names_nothing(a):
    raise ValueError("something is wrong, got nonsense")


def says_nothing(a):
    raise ValueError("a is wrong")


def speaks_of_tensors(a):
    raise ValueError("a: mat1 and mat2 shapes cannot be multiplied, got 3")


def raises_torch(a):
    return torch.ones(2) @ torch.ones(3)


def changes(a):
    a += 1
    return 0.0


def warns(a):
    warnings.warn("surprise", UserWarning, stacklevel=1)
    return 0.0


JUDGED = {
    "no name": (names_nothing, "error", "does not name a"),
    "not what came": (says_nothing, "error", "does not describe the value"),
    "of the inside": (speaks_of_tensors, "error", "inside of a library"),
    "torch's own": (raises_torch, "error", "not a clear error"),
    "no error": (lambda a: 1.0, "error", "accepted a meaningless value"),
    "NaN": (lambda a: float("nan"), "either", "not finite"),
    "another answer": (lambda a: 2.0, "same", "not \\[1.\\]"),
    "changed input": (changes, "either", "changed its argument a"),
    "refused": (names_nothing, "same", "refused a valid value"),
    "a warning": (warns, "either", "warned: UserWarning: surprise"),
}


@pytest.mark.parametrize("name", JUDGED)
def test_the_judge_sees(name):
    call, fate, fault = JUDGED[name]
    options = {"expected": lambda: {"": 1.0}, "tolerance": 1e-9, "warns": ""}
    verdict = judge(call, {"a": np.zeros(3)}, "a", names="a", fate=fate, **options)
    assert not verdict.is_right
    assert re.search(fault, verdict.fault), verdict.fault


def test_the_judge_ends_what_hangs(monkeypatch):
    monkeypatch.setattr("tests.tools.bad_input.judge.TIME_LIMIT", 0.05)
    options = {"names": "a", "fate": "either", "expected": dict, "tolerance": 0.0, "warns": ""}
    verdict = judge(lambda a: time.sleep(5), {"a": 0}, "a", **options)
    assert verdict.outcome == "hang"

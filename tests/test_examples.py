"""The examples, in a reduced form."""

from __future__ import annotations

import runpy
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt

EXAMPLES = Path(__file__).parents[1] / "examples"
matplotlib.use("agg")


def run_reduced(name: str, *replaced: tuple[str, str]) -> dict:
    """Run an example with some of its settings replaced."""
    source = (EXAMPLES / name).read_text(encoding="utf-8")
    for old, new in replaced:
        assert old in source, f"{name} holds no {old!r}"
        source = source.replace(old, new)
    scope: dict = {"__name__": "example"}
    exec(compile(source, name, "exec"), scope)
    plt.close("all")
    return scope


def test_workflow(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = ("hidden_size=32, max_iter=300", "hidden_size=8, max_iter=40, snapshots=3")
    run_reduced("workflow.py", small)
    assert {p.name for p in tmp_path.iterdir()} == {
        "bottleneck.png", "spectrum.png", "digits.joblib",
    }  # fmt: skip
    assert "test accuracy" in capsys.readouterr().out
    assert len((EXAMPLES / "workflow.py").read_text().splitlines()) < 40


def test_gram_flow(capsys):
    scope = run_reduced(
        "gram_flow.py",
        ("(64, 64, 64), learning_rate=0.03, max_iter=300", "(8, 8), max_iter=5"),
        ("GramFlowAnalyzer(random_state=0)", "GramFlowAnalyzer(FeedForwardTrainer(max_iter=5))"),
        ("plt.show()", ""),
    )
    assert scope["error"] < 1e-12
    assert "decay_share" in capsys.readouterr().out


def test_task_alignment():
    scope = runpy.run_path(str(EXAMPLES / "task_alignment.py"))
    row = scope["run"](0, 25)
    assert row["seed"] == 0 and row["state"] in (0, 25)
    assert {f"call: {kind}" for kind in ("update", "flow", "gradient", "state")} <= set(row)
    for value in (row["call: update"], row["call: flow"]):
        assert value.split()[0] in ("right", "wrong")

"""The examples, in a reduced form."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
GALLERY = sorted(path.name for path in EXAMPLES.glob("plot_*.py")) + ["neurogym_task.py"]
matplotlib.use("agg")


def run_reduced(name: str, *replaced: tuple[str, str]) -> dict:
    """Run an example with some of its settings replaced; return its names, and "figures_"."""
    source = (EXAMPLES / name).read_text(encoding="utf-8").replace("plt.show()", "")
    for old, new in replaced:
        assert old in source, f"{name} holds no {old!r}"
        source = source.replace(old, new)
    scope: dict = {"__name__": "example"}
    try:
        exec(compile(source, name, "exec"), scope)
        scope["figures_"] = [plt.figure(number) for number in plt.get_fignums()]
        for figure in scope["figures_"]:
            figure.draw_without_rendering()
    finally:
        plt.close("all")
    return scope


def panels(figure) -> list:
    """Return the axes of a figure except colour bars."""
    return [ax for ax in figure.axes if ax.get_label() != "<colorbar>"]


@pytest.mark.parametrize("name", GALLERY)
def test_gallery_scripts_have_a_title_and_are_short(name):
    lines = (EXAMPLES / name).read_text(encoding="utf-8").splitlines()
    assert lines[0] == '"""' and lines[2] == "=" * len(lines[1]) and lines[3] == ""
    assert len(lines) < 80


PERIODS = (
    '{"stimulus": 10, "memory": 10, "response": 10}',
    "dict(stimulus=3, memory=2, response=2)",
)

FEW_DIGITS = [(name, f"{name}[:200]") for name in ("digits.images", "digits.target")]


def test_memory_pro():
    scope = run_reduced(
        "plot_memory_pro.py", PERIODS, ("range(1, 31)", "range(1, 8)"),
        ("hidden_size=48", "hidden_size=6"), ("in range(3)", "in range(2)"),
        ("max_iter=500, snapshots=7", "max_iter=4, snapshots=2"),
    )  # fmt: skip
    over_training, before_and_after = scope["figures_"]
    for ax in panels(over_training):
        assert [len(line.get_xdata()) for line in ax.lines] == [2] * len(ax.lines)
    assert [len(ax.lines) for ax in over_training.axes] == [1, 3, 2]
    assert len(panels(before_and_after)) == 4


def test_gain(capsys):
    scope = run_reduced(
        "plot_gain.py", PERIODS, ("[0.5, 1.0, 1.5, 2.0], 3", "[0.5, 2.0], 2"),
        ("hidden_size=32", "hidden_size=6"),
        ("learning_rate=2e-3", "learning_rate=1.0"),  # Ranks then differ after two updates.
        ("max_iter=300, snapshots=[0, 50, 300]", "max_iter=2, snapshots=[0, 1, 2]"),
        ("(50,", "(1,"), ("(300,", "(2,"), ("(0, 300)", "(0, 2)"),
    )  # fmt: skip
    (figure,) = scope["figures_"]
    assert [len(ax.lines) for ax in figure.axes] == [3, 3, 3]
    ranks = []
    for ax, iteration in zip(figure.axes[1:], (0, 2), strict=True):
        table = scope["over_gain"]("K", "rank", iteration)
        ranks.append(ax.lines[0].get_ydata().tolist())
        assert table.shape == (2, 2) and ranks[-1] == table.median(axis=1).tolist()
    assert ranks[0] != ranks[1]
    assert " to " in capsys.readouterr().out


@pytest.mark.slow
def test_the_gallery_shows_leads_as_they_are(capsys):
    scope = run_reduced(
        "plot_task_alignment.py", ("5, 300, 20", "5, 2, 1"), ("hidden_size=32", "hidden_size=4"),
        ("make_multitask(8,", "make_multitask(2,"), ("make_multitask(256,", "make_multitask(8,"),
    )  # fmt: skip
    (figure,) = scope["figures_"]
    histories = panels(figure)[1:]
    for run, ax in zip(scope["runs"], histories, strict=True):
        labels = ax.get_legend_handles_labels()[1]
        assert f"states, from iteration {run.transition_}" in labels
        assert any(label.startswith("operators, from") for label in labels) == (
            run.lead_ is not None
        )
    assert "chance" in capsys.readouterr().out


def test_gru_weight_maps():
    scope = run_reduced(
        "plot_gru_weight_maps.py", PERIODS, ("N_SEEDS = 5", "N_SEEDS = 2"),
        ("hidden_size=24", "hidden_size=5"), ("weight_maps(seed, 300)", "weight_maps(seed, 3)"),
    )  # fmt: skip
    for maps in (scope["untrained"], scope["trained"]):
        assert maps["share"].sum().tolist() == pytest.approx([1, 1], rel=1e-5)
        assert (maps["K_unit_rank"].to_numpy() <= maps["K_unit_rank_bound"].to_numpy()).all()
    assert [len(ax.containers) for ax in scope["figures_"][0].axes] == [2, 3, 3]


def test_lyapunov():
    scope = run_reduced(
        "plot_lyapunov.py",
        ("15, ", "4, "), ("15}", "4}"),
        ("[0.5, 1.0, 1.5, 2.0, 3.0], 3, 32", "[0.5, 3.0], 2, 6"), ("300", "2"),
    )  # fmt: skip
    (figure,) = scope["figures_"]
    spectrum = figure.axes[0].lines[0].get_ydata()
    assert len(spectrum) == 6 and (spectrum[1:] <= spectrum[:-1]).all()
    low_gain, high_gain = figure.axes[1].lines[0].get_ydata()
    assert low_gain < high_gain


@pytest.mark.slow
def test_example_run(capsys):
    scope = run_reduced(
        "plot_example_run.py", ("range(3)", "range(2)"),
        ("checkpoints[::3]", "checkpoints[-1:]"), ("checkpoints[::13]", "checkpoints[-1:]"),
    )  # fmt: skip
    assert "step_600.pt" in capsys.readouterr().out
    noise_free, noisy = scope["analyzer"].bottleneck_["K_rank"].iloc[-1], scope["ranks"]["K_rank"]
    assert (2 * noise_free < noisy.iloc[-1]).all()  # As the script says of noise.


@pytest.mark.slow
def test_digits_pipeline(capsys):
    scope = run_reduced(
        "plot_digits_pipeline.py", *FEW_DIGITS, ("max_iter=200", "max_iter=4"),
        ("hidden_size=32", "hidden_size=8"), ("size: [2, 4, 8]}, cv=3", "size: [2]}, cv=2"),
    )  # fmt: skip
    assert capsys.readouterr().out.splitlines()[-1] == "True"
    assert len(scope["figures_"][0].axes[2].collections) == 10


def test_the_whole_workflow_in_less_than_40_lines(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = ("hidden_size=32, max_iter=300", "hidden_size=8, max_iter=4, snapshots=2")
    few = ('axes=("time",)', 'axes=("time",), analysis_trials=8')
    run_reduced("workflow.py", *FEW_DIGITS, small, few, ("[0.5, 1.5]", "[1.5]"))
    assert {p.name for p in tmp_path.iterdir()} == {
        "bottleneck.png", "spectrum.png", "digits.joblib",
    }  # fmt: skip
    assert "test accuracy" in capsys.readouterr().out
    assert len((EXAMPLES / "workflow.py").read_text().splitlines()) < 40


def test_gram_flow(capsys):
    scope = run_reduced(
        "plot_gram_flow.py",
        ("(64, 64, 64), learning_rate=0.03, max_iter=300", "(8, 8, 8), max_iter=5"),
        ("[0, 300]", "[0, 5]"), ("N_SEEDS = 5", "N_SEEDS = 2"),
        ("GramFlowAnalyzer(random_state=0).fit",
         "GramFlowAnalyzer(FeedForwardTrainer(max_iter=5)).fit"),
    )  # fmt: skip
    assert scope["error"] < 1e-12
    assert scope["shares"].T.groupby(level="layer").size().tolist() == [2, 2, 2]
    assert "decay_share" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore")  # NeuroGym's own.
def test_neurogym_task(capsys):
    pytest.importorskip("neurogym")
    run_reduced(
        "neurogym_task.py", ("512", "8"), ("200", "8"), ("hidden_size=32", "hidden_size=4"),
        ("max_iter=300", "max_iter=3, snapshots=2"),
    )  # fmt: skip
    assert "accuracy" in capsys.readouterr().out


def test_task_alignment():
    scope = run_reduced(
        "task_alignment.py", ("EVERY, N_PERMUTATIONS = 32", "EVERY, N_PERMUTATIONS = 4"),
        ("hidden_size=64", "hidden_size=8"),
    )  # fmt: skip
    row = scope["run"](0, 25)
    assert row["seed"] == 0 and row["state"] in (0, 25)
    assert {f"call: {kind}" for kind in ("update", "flow", "gradient", "state")} <= set(row)
    for value in (row["call: update"], row["call: flow"]):
        assert value.split()[0] in ("right", "wrong")

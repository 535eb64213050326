"""The command: what it prints and writes, and how it refuses bad options and files."""

from __future__ import annotations

import errno
import io
import re
from contextlib import redirect_stdout

import numpy as np
import pytest

from kpflow_sklearn import RecurrentTrainer, TaskAlignmentAnalyzer
from kpflow_sklearn._cli import _main as command
from kpflow_sklearn._cli._main import main
from kpflow_sklearn._cli._options import make_parser
from kpflow_sklearn._cli._tasks import load_file, load_task
from kpflow_sklearn.analyzers.alignment import margin
from kpflow_sklearn.reporting import matrices_in_print, read_alignment_in_words
from kpflow_sklearn.results import read_results, select
from tests.tools.pages import FoundPage, content_of

QUICK = ["--hidden-size", "6", "--max-iter", "4", "--snapshots", "2"]


def run(tmp_path, *options):
    return main([*options, *QUICK, "--out", str(tmp_path / "out")])


def small_file(tmp_path, *, with_y=True):
    X = np.random.default_rng(0).standard_normal((12, 6, 2))
    y = {"y": np.arange(12) % 3} if with_y else {}
    np.savez(tmp_path / "trials.npz", X=X, **y)
    return "--data", str(tmp_path / "trials.npz")


@pytest.fixture(scope="module")
def of_file(tmp_path_factory):
    """Return what the command prints, in one line, the table that it writes, and its options."""
    folder, printed = tmp_path_factory.mktemp("of_file"), io.StringIO()
    X = np.random.default_rng(0).standard_normal((12, 6, 2))
    np.savez(folder / "trials.npz", X=X, y=X.cumsum(1))
    options = ("--data", str(folder / "trials.npz"), "--seed", "5", "--cell", "tanh")
    with redirect_stdout(printed):
        assert run(folder, *options) == 0
    assert (folder / "out" / "figure.png").read_bytes().startswith(b"\x89PNG")
    table = read_results(folder / "out" / "results.csv")
    return " ".join(printed.getvalue().split()), table, options


def test_the_table_and_the_words_agree_with_the_results(of_file):
    printed, results, _ = of_file
    for heading in ("loss", "rank K", "eff. dim. P", "rank PKP*", "narrower"):
        assert heading in printed
    loss = select(results, "network", "loss")["value"]
    assert list(loss.index) == [0, 4]
    assert f"from {loss[0]:.3g} to {loss[4]:.3g}" in printed
    k = sorted({int(r) for r in select(results, "K", "rank", "time")["value"]})
    assert f"is {k[0]} for K" in printed or f"is {k[0]} to {k[-1]} for K" in printed


def test_provenance_and_training_are_written(of_file):
    printed, results, _ = of_file
    about = results.attrs
    assert about["seed"] == "5" and about["dtype"] == "float32"
    assert about["torch"].startswith("2.") and "--hidden-size 6" in about["command"]
    words = "4 updates by adam on the mean squared error (every step), learning rate 0.01"
    assert words in printed and "tanh network, 6 units on " in printed
    assert about["training"].startswith(words) and "hidden_size=6" in about["network"]


@pytest.fixture
def undrawn(monkeypatch):
    """Write figures without drawing them, where a test is about the other files."""
    monkeypatch.setattr(command, "_save", lambda figure, path: path.write_bytes(b"\x89PNG"))


def test_same_seed_same_numbers(of_file, undrawn, tmp_path):
    assert run(tmp_path, *of_file[2]) == 0
    again = read_results(tmp_path / "out" / "results.csv")
    np.testing.assert_array_equal(again["value"], of_file[1]["value"])


@pytest.fixture
def figures(monkeypatch):
    """Collect the figures that the command writes."""
    from matplotlib.figure import Figure

    written, save = [], Figure.savefig

    def record(self, *args, **options):
        written.append(self)
        save(self, *args, **options)

    monkeypatch.setattr(Figure, "savefig", record)
    return written


def check_figure(figure, n_panels, n_bars):
    """Check that panels have letters, and that all axes have labels."""
    bars = [ax for ax in figure.axes if ax.get_label() == "<colorbar>"]
    panels = [ax for ax in figure.axes if ax not in bars]
    assert (len(panels), len(bars)) == (n_panels, n_bars)
    assert [ax.get_title(loc="left") for ax in panels] == list("abcd"[:n_panels])
    assert all(bar.get_ylabel() for bar in bars)
    assert all(ax.get_xlabel() and ax.get_ylabel() for ax in panels)


@pytest.mark.slow
@pytest.mark.parametrize("task, n_bars", [("memory_pro", 1), ("flip_flop", 0), ("digits", 1)])
def test_other_tasks_of_one_kind_of_trial(task, n_bars, tmp_path, figures):
    assert run(tmp_path, "--task", task) == 0
    assert len(select(read_results(tmp_path / "out" / "results.csv"), "network", "loss")) == 2
    check_figure(*figures, 4, n_bars)


def check_alignment(tmp_path, printed):
    """Check that matrices and words agree with the written table."""
    results = read_results(tmp_path / "out" / "results.csv")
    last = results[results["iteration"] == 4]
    for kind in ("interference", "gradient", "flow", "update", "state"):
        assert re.search(rf"^{kind}( \(second moments\))?$", printed, flags=re.M)
    for value in last.loc[last["quantity"] == "flow", "value"]:
        assert f"{value:+.2f}" in printed
    losses = last[last["quantity"] == "loss"].set_index("task")["value"]
    assert f"{losses.max():.3g} for {losses.idxmax()}, the worst" in printed
    assert (tmp_path / "out" / "figure.png").read_bytes().startswith(b"\x89PNG")
    return results


def test_sub_tasks_are_aligned(tmp_path, capsys, figures):
    assert run(tmp_path, "--task", "multitask") == 0
    printed = capsys.readouterr().out
    results = check_alignment(tmp_path, printed)
    assert set(results["task"]) == {"MemoryPro", "MemoryAnti", "DelayPro", "DelayAnti"}
    assert "the tasks fall into" in printed
    assert "The states show these groups for good from iteration" in printed
    check_figure(*figures, 3, 2)


@pytest.mark.usefixtures("undrawn")
def test_sub_tasks_of_a_file_are_aligned(tmp_path, capsys):
    rng = np.random.default_rng(0)
    X, tasks = rng.standard_normal((12, 6, 2)), np.repeat(["a", "b"], 6)
    np.savez(tmp_path / "trials.npz", X=X, y=X.cumsum(1), tasks=tasks)
    assert run(tmp_path, "--data", str(tmp_path / "trials.npz")) == 0
    check_alignment(tmp_path, capsys.readouterr().out)


@pytest.mark.usefixtures("undrawn")
def test_a_file_may_have_no_y(tmp_path):
    assert run(tmp_path, *small_file(tmp_path, with_y=False)) == 0
    assert (tmp_path / "out" / "figure.png").exists()


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("absent.npz", None, "absent.npz does not exist"),
        ("text.npz", b"not an archive", "is not an .npz file of plain arrays"),
        ("other.npz", {"Z": np.zeros(3)}, "must contain an array X, but contains Z"),
        ("flat.npz", {"X": np.zeros(3)}, r"X must have shape \(n_trials, n_timesteps"),
        ("scalar.npz", {"X": np.array(1.0)}, "X: Input should have at least 1 dimension"),
        (
            "labels.npz",
            {"X": np.zeros((4, 3, 1)), "conditions": np.arange(4)},
            "contains conditions, .* but not tasks",
        ),
        ("nan.npz", {"X": np.full((2, 3, 1), np.nan)}, "Input X contains NaN"),
        ("short.npz", {"X": np.zeros((4, 3, 1)), "y": np.zeros(3)}, "y has 3 trials and X has 4"),
    ],
)
def test_a_bad_file_is_one_line_and_exit_code_2(name, content, message, tmp_path, capsys):
    path = tmp_path / name
    if isinstance(content, dict):
        np.savez(path, **content)
    elif content is not None:
        path.write_bytes(content)
    assert run(tmp_path, "--data", str(path)) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("python -m kpflow_sklearn: error: ")
    assert re.search(message, lines[0])


@pytest.mark.parametrize(
    "options, message",
    [
        (["--cell", "perceptron"], "argument --cell: invalid choice: 'perceptron'"),
        (["--hidden-size", "0"], "argument --hidden-size: must be at least 1, got 0"),
        (["--init-scale", "nan"], "argument --init-scale: must be a finite number"),
        (["--threads", "0"], "argument --threads: must be at least 1, got 0"),
        (["--seed", "-1"], "argument --seed: must not be negative, got -1"),
        (["--max-iter", "some"], "argument --max-iter: invalid"),
        (["--task", "digits", "--data", "x.npz"], "not allowed with argument"),
        (["--unknown"], "unrecognized arguments: --unknown"),
    ],
)
def test_bad_options_exit_with_2_and_no_traceback(options, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(options)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize("name", ["results.csv", "figure.png", "report.html"])
def test_a_folder_in_place_of_a_file_is_named_before_the_training(name, tmp_path, capsys):
    (tmp_path / "out" / name).mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RecurrentTrainer, "fit", lambda *args, **options: 1 / 0)
        assert run(tmp_path, "--report") == 2
    assert f"{name} is a folder; remove it" in capsys.readouterr().err


def test_a_write_protected_file_is_named_before_the_training(tmp_path, capsys, monkeypatch):
    (tmp_path / "results.csv").write_text("earlier")
    monkeypatch.setattr("os.access", lambda *args: False)  # Root may write to any file.
    monkeypatch.setattr(RecurrentTrainer, "fit", lambda *args, **options: 1 / 0)
    assert main(["--task", "memory_pro", "--out", str(tmp_path)]) == 2
    assert "results.csv is write-protected; choose another --out" in capsys.readouterr().err


def test_an_out_that_takes_no_files_is_named_before_the_training(tmp_path, capsys, monkeypatch):
    def refuse(**options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(command, "TemporaryFile", refuse)
    assert run(tmp_path) == 2
    out = tmp_path / "out"
    assert f"--out: cannot write to {out} (Permission denied)" in capsys.readouterr().err
    assert not list(out.iterdir())


@pytest.mark.parametrize(
    ("how", "code", "message"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            2,
            "error: [Errno 28] cannot be",
        ),
        (MemoryError("memory ran out: lower this"), 2, "error: memory ran out: lower this"),
        (KeyboardInterrupt(), 130, "interrupted; files not yet written are unchanged"),
    ],
)
def test_what_fails_at_the_end_is_one_line_and_leaves_earlier_files(
    how, code, message, tmp_path, capsys, monkeypatch
):
    def fail(*args):
        raise how

    (tmp_path / "out").mkdir()
    for name in ("results.csv", "figure.png"):
        (tmp_path / "out" / name).write_text("earlier")
    monkeypatch.setattr("os.fsync", fail)
    assert run(tmp_path, *small_file(tmp_path)) == code
    assert message in capsys.readouterr().err.splitlines()[-1]
    written = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert written == {"results.csv": "earlier", "figure.png": "earlier"}


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    for option in (
        "task",
        "data",
        "cell",
        "hidden-size",
        "max-iter",
        "snapshots",
        "threads",
        "report",
    ):
        assert f"--{option}" in printed


@pytest.mark.parametrize(
    "given, snapshots",
    [((), [*range(0, 501, 10)]), (("--snapshots", "4"), [0, 167, 333, 500]),
     (("--snapshots", "1"), 1)],
)  # fmt: skip
def test_snapshots_of_sub_tasks_are_evenly_spaced(given, snapshots):
    options = make_parser().parse_args(["--task", "multitask", *given])
    assert command._trainer(load_task("multitask", 0), options).snapshots == snapshots


def words_of(**options):
    trainer = RecurrentTrainer(hidden_size=4, max_iter=4, snapshots=2, random_state=0)
    rng = np.random.default_rng(0)
    X = rng.standard_normal((12, 6, 2))
    y = X.cumsum(1)[..., [0, 1, 0, 1]] * [1, 1, -1, 0.5]
    analyzer = TaskAlignmentAnalyzer(trainer, random_state=0, **options).fit(X, y)
    return analyzer, read_alignment_in_words(analyzer)


def test_words_of_outputs_name_the_margin_of_their_groups():
    analyzer, words = words_of(n_groups=2)
    last = analyzer.cumulative_alignment_["update"].loc[4].to_numpy()
    assert f"between groups = {margin(last, analyzer.groups_.to_numpy()):+.2f}" in words
    assert "The states show" not in words


def test_words_without_gradients_or_conflicts():
    analyzer, _ = words_of()
    history = analyzer.alignment_history_
    history["gradient"] = history["gradient"] * np.nan
    assert "No sub-task has a gradient." in read_alignment_in_words(analyzer)
    history["gradient"] = history["gradient"].fillna(-0.04)
    assert "below -0.05 (the smallest is -0.04)" in read_alignment_in_words(analyzer)


def test_words_say_where_a_transition_is_at_the_edge():
    analyzer, _ = words_of(n_groups=2)
    for iteration, where in ((0, "(the first snapshot)"), (4, "at the last snapshot only")):
        analyzer.transition_, analyzer.lead_ = iteration, None
        assert where in read_alignment_in_words(analyzer)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("is_file", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_report_says_what_the_command_prints(is_file, tmp_path, capsys):
    options = small_file(tmp_path) if is_file else ("--task", "multitask")
    assert run(tmp_path, *options, "--report") == 0
    printed = " ".join(capsys.readouterr().out.split())
    out = tmp_path / "out"
    assert printed.endswith(f"wrote {out}/results.csv, {out}/figure.png and {out}/report.html")
    page = FoundPage((out / "report.html").read_text("utf-8"))
    assert page.title == f"GRU, 6 units on {options[1]}"
    reading = page.text[page.text.index("From iteration 0") :]
    assert re.split(r" (Over training Spectra|Alignment Groups)", reading)[0] in printed
    assert page.tables["Identities"].words("passed").count("yes") >= 8
    assert "State trajectories" in page.text and "Not drawn" not in page.text
    (saved,) = [content_of(link)[1] for link in page.links if link.startswith("data:text/csv")]
    assert saved == (out / "results.csv").read_bytes()
    command = dict(page.tables["Versions and origin"].texts)["command"]
    assert command.startswith(f"python -m kpflow_sklearn {' '.join(options)} --report")


@pytest.mark.usefixtures("undrawn")
def test_an_earlier_run_is_replaced_with_notice(tmp_path, capsys):
    out, file = tmp_path / "out", small_file(tmp_path)
    seen = ""
    for replaced in ("", "; results.csv and figure.png from an earlier run will be replaced"):
        assert run(tmp_path, *file, "--seed", f"{len(replaced)}") == 0
        first = capsys.readouterr().out.splitlines()[0]
        assert first == f"results will be written to {out}{replaced}"
        assert (out / "results.csv").read_text() != seen
        seen = (out / "results.csv").read_text()
    assert not (out / "report.html").exists()


@pytest.mark.usefixtures("undrawn")
def test_masks_and_weights_of_a_file_are_used_and_other_arrays_refused(tmp_path, capsys):
    rng = np.random.default_rng(0)
    X, steps = rng.standard_normal((12, 6, 2)), rng.integers(2, 7, 12)
    mask = np.arange(6) < steps[:, None]
    arrays = {"y": X.cumsum(1), "mask": mask, "loss_weight": mask * 2.0}
    tables = []
    for padding in (0.0, 50.0):
        padded = np.where(mask[..., None], X, padding)
        np.savez(tmp_path / "trials.npz", X=padded, **arrays)
        assert run(tmp_path, "--data", str(tmp_path / "trials.npz")) == 0
        tables.append(read_results(tmp_path / "out" / "results.csv"))
    np.testing.assert_array_equal(*(table["value"] for table in tables))
    capsys.readouterr()
    np.savez(tmp_path / "trials.npz", X=X, lengths=steps)
    assert run(tmp_path, "--data", str(tmp_path / "trials.npz")) == 2
    assert (
        "contains unknown arrays: lengths; the arrays may be X, y, mask" in capsys.readouterr().err
    )


def test_second_moments_are_named_in_print():
    trainer = RecurrentTrainer(hidden_size=4, max_iter=4, snapshots=2, random_state=0)
    X = np.random.default_rng(0).standard_normal((12, 6, 2))
    analyzer = TaskAlignmentAnalyzer(trainer, random_state=0).fit(X, X, tasks=["a", "b", "c"] * 4)
    printed = matrices_in_print(analyzer)
    assert "update (second moments)" in printed and "flow\n" in printed


def test_trajectories_are_coloured_by_what_means_something(tmp_path):
    flip_flop = load_task("flip_flop", 0)
    held, y = flip_flop.color_by, flip_flop.y_analysis
    assert held.shape == y.shape[:2] and len(np.unique(held)) <= 8
    for b, t in ((0, 0), (3, 10), (31, 59)):
        signs = {-1: "\N{MINUS SIGN}", 0: "0", 1: "+"}
        assert held[b, t] == "".join(signs[int(bit)] for bit in np.sign(y[b, t]))
    X = np.zeros((3, 2, 1))
    for y, label in (
        (np.array(["a", "b", "a"]), "y"),
        (np.array([[0, 1]] * 3), "y"),
        (np.zeros((3, 2, 1)), ""),
    ):
        np.savez(tmp_path / "trials.npz", X=X, y=y)
        task = load_file(str(tmp_path / "trials.npz"))
        assert task.color_label == label
        if label:
            np.testing.assert_array_equal(task.color_by, y)
        else:
            assert task.color_by is None  # Then the display colours by the step.


@pytest.mark.usefixtures("undrawn")
def test_masked_steps_are_not_drawn(tmp_path, monkeypatch):
    shown = {}
    monkeypatch.setattr(
        "kpflow_sklearn.plotting.TrajectoryDisplay.from_estimator",
        lambda analyzer, X, *, mask, ax, **options: shown.update(X=X, mask=mask),
    )
    rng = np.random.default_rng(0)
    mask = np.arange(5) < np.array([5, 3, 4, 2])[:, None]
    arrays = {"X": rng.standard_normal((4, 5, 2)), "y": np.array([0, 1, 0, 1]), "mask": mask}
    np.savez(tmp_path / "trials.npz", **arrays)
    run(tmp_path, "--data", str(tmp_path / "trials.npz"), "--max-iter", "2")
    np.testing.assert_array_equal(shown["mask"], mask)
    np.testing.assert_array_equal(shown["X"], arrays["X"])


@pytest.mark.parametrize("options, n_threads", [([], 1), (["--threads", "3"], 3)], ids=str)
def test_the_command_uses_its_own_number_of_threads(options, n_threads, monkeypatch, tmp_path):
    import torch

    used = []

    def fit(*args):
        used.append(torch.get_num_threads())
        raise ValueError("nothing more to see")

    monkeypatch.setattr(command, "_fit", fit)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert run(tmp_path, *options) == 2 and used == [n_threads]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)

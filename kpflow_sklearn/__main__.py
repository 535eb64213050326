"""The command: train a recurrent network on a task or a file and show what K and P did."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kpflow_sklearn import KPFlowAnalyzer, RecurrentTrainer, TaskAlignmentAnalyzer
from kpflow_sklearn._alignment_reading import matrices_in_print, read_alignment_in_words
from kpflow_sklearn._reading import read_in_words, table_of
from kpflow_sklearn._tasks import Task, load_file, load_task
from kpflow_sklearn.cells import CELL_NAMES
from kpflow_sklearn.results import provenance, write_results

TASKS = ("memory_pro", "flip_flop", "multitask", "digits")
N_DRAWN = 64
#: States of training that are analysed; groups of tasks come and go faster than dimensions.
N_SNAPSHOTS, N_ALIGNMENT_SNAPSHOTS = 8, 51


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m kpflow_sklearn",
        description="Train a recurrent network on a task and show what the parameter operator K "
        "and the flow propagator P did over training: a table, a reading of it in words, "
        "results.csv and figure.png. Of several sub-tasks (multitask, or a file with an array "
        "tasks): which of them share a subspace, and which interfere.",
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--task",
        choices=TASKS,
        default="memory_pro",
        help="what to train on (default: %(default)s)",
    )
    source.add_argument(
        "--data",
        metavar="FILE.npz",
        help="train on your own trials instead: arrays X (trials, steps, features) and y; "
        "optionally tasks and conditions, a label a trial each",
    )
    parser.add_argument(
        "--cell", choices=CELL_NAMES, default="gru", help="the network (default: %(default)s)"
    )
    parser.add_argument(
        "--hidden-size", type=_positive, default=64, metavar="N", help="units (default: 64)"
    )
    parser.add_argument(
        "--init-scale",
        type=_gain,
        default=1.0,
        metavar="G",
        help="gain of the initial recurrent weights, about their spectral radius (default: 1)",
    )
    parser.add_argument(
        "--max-iter", type=_count, metavar="N", help="parameter updates (default: the task's)"
    )
    parser.add_argument(
        "--snapshots",
        type=_positive,
        metavar="N",
        help=f"how many states of training to analyse (default: {N_SNAPSHOTS}, log-spaced; of "
        f"sub-tasks {N_ALIGNMENT_SNAPSHOTS}, evenly spaced)",
    )
    parser.add_argument(
        "--seed", type=_count, default=0, metavar="N", help="of everything random (default: 0)"
    )
    parser.add_argument(
        "--out",
        default="kpflow_results",
        metavar="DIR",
        help="folder for results.csv and figure.png (default: %(default)s)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 2 for bad options or files."""
    parser = make_parser()
    options = parser.parse_args(argv)
    try:
        task = load_file(options.data) if options.data else load_task(options.task, options.seed)
        folder = Path(options.out)
        folder.mkdir(parents=True, exist_ok=True)
        run = _analyse if task.tasks is None else _align
        analyzer = run(task, options)
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: error: {_first_line(error)}", file=sys.stderr)
        return 2
    if task.tasks is None:
        _print_reading(analyzer, options)
    else:
        _print_alignment(analyzer, options)
    about = provenance(
        command=" ".join(["python -m kpflow_sklearn", *(sys.argv[1:] if argv is None else argv)]),
        seed=options.seed,
        dtype=str(analyzer.network_.dtype).removeprefix("torch."),
    )
    write_results(analyzer.results_, folder / "results.csv", about)
    written = [folder / "results.csv"]
    if _matplotlib_is_here():
        path = folder / "figure.png"
        _draw(analyzer, task, path) if task.tasks is None else _draw_alignment(analyzer, path)
        written.append(folder / "figure.png")
    else:
        print("no figure: matplotlib is not installed (pip install 'kpflow-sklearn[plot]')")
    print("wrote " + " and ".join(map(str, written)))
    return 0


def _trainer(task: Task, options: argparse.Namespace) -> RecurrentTrainer:
    max_iter = task.max_iter if options.max_iter is None else options.max_iter
    snapshots: Any = options.snapshots or N_SNAPSHOTS
    if task.tasks is not None:
        count = options.snapshots or N_ALIGNMENT_SNAPSHOTS
        snapshots = np.unique(np.linspace(0, max_iter, count).astype(int)).tolist()
    return RecurrentTrainer(
        options.cell,
        hidden_size=options.hidden_size,
        init_scale=options.init_scale,
        dt=1.0,
        tau=5.0 if options.cell.startswith("leaky") else 1.0,
        max_iter=max_iter,
        batch_size=64,
        learning_rate=1e-2,
        grad_clip=1.0,
        snapshots=snapshots,
        dtype="float32",
        random_state=options.seed,
        verbose=True,
    )


def _analyse(task: Task, options: argparse.Namespace) -> KPFlowAnalyzer:
    trainer = _trainer(task, options)
    analyzer = KPFlowAnalyzer(trainer, random_state=options.seed, verbose=True)
    return analyzer.fit(task.X, task.y, X_analysis=task.X_analysis, y_analysis=task.y_analysis)


def _align(task: Task, options: argparse.Namespace) -> TaskAlignmentAnalyzer:
    trainer = _trainer(task, options)
    analyzer = TaskAlignmentAnalyzer(trainer, random_state=options.seed, verbose=True)
    return analyzer.fit(
        task.X,
        task.y,
        tasks=task.tasks,
        conditions=task.conditions,
        X_analysis=task.X_analysis,
        y_analysis=task.y_analysis,
    )


def _print_alignment(analyzer: TaskAlignmentAnalyzer, options: argparse.Namespace) -> None:
    print(
        f"\n{options.cell.upper()}, {options.hidden_size} units, {options.data or options.task}; "
        f"alignment of {len(analyzer.tasks_)} sub-tasks at iteration "
        f"{analyzer.snapshots_[-1].iteration}\n"
    )
    print(matrices_in_print(analyzer))
    print(f"\n{read_alignment_in_words(analyzer)}\n")


def _print_reading(analyzer: KPFlowAnalyzer, options: argparse.Namespace) -> None:
    n_trials, n_timesteps, n_states = analyzer.eigenfunctions_["P"].shape[1:]
    what = options.data or options.task
    print(
        f"\n{options.cell.upper()}, {options.hidden_size} units, {what}; {n_trials} analysis "
        f"trials of {n_timesteps} steps; ranks at {analyzer.rank_threshold:.0%} of the trace and "
        "effective dimensions on the time axis (± standard error where estimated)\n"
    )
    table = table_of(analyzer.results_, analyzer.bottleneck_)
    print(table.to_string(justify="right"))
    words = read_in_words(
        analyzer.results_,
        analyzer.bottleneck_,
        analyzer.signal_dimensions_,
        n_timesteps=n_timesteps,
        n_states=n_states,
        rank_threshold=analyzer.rank_threshold,
    )
    print(f"\n{words}\n")


def _draw(analyzer: KPFlowAnalyzer, task: Task, path: Path) -> None:
    """Write the figure: loss, dimensions over training, and state trajectories."""
    from matplotlib.figure import Figure

    from kpflow_sklearn.plotting import CollapseDisplay, TrajectoryDisplay

    figure = Figure(figsize=(13, 3.8), layout="constrained")
    axes = figure.subplots(1, 3, width_ratios=[1, 1, 1.25])
    collapse = CollapseDisplay(analyzer.results_, rank_threshold=analyzer.rank_threshold)
    collapse.plot_loss(ax=axes[0])
    collapse.plot(ax=axes[1])
    some = np.linspace(0, len(task.drawn) - 1, min(N_DRAWN, len(task.drawn))).astype(int)
    X = np.asarray(task.drawn)[some]
    TrajectoryDisplay.from_estimator(
        analyzer,
        X,
        color_by=None if task.color_by is None else np.asarray(task.color_by)[some],
        cyclic=task.cyclic,
        label=task.color_label,
        ax=axes[2],
    )
    for ax, letter in zip(axes, "abc", strict=True):
        ax.set_title(letter, loc="left", fontweight="bold")
    figure.savefig(path, dpi=150)


def _draw_alignment(analyzer: TaskAlignmentAnalyzer, path: Path) -> None:
    """Write the figure: interference, final states, and the groups over training."""
    from matplotlib.figure import Figure

    from kpflow_sklearn.plotting import AlignmentDisplay

    has_margin = analyzer.grouping_history_["margin"].notna().any()
    figure = Figure(figsize=(15, 4.8), layout="constrained")
    axes = figure.subplots(1, 3 if has_margin else 2)
    display = AlignmentDisplay.from_estimator(analyzer, kind="gradient", ax=axes[0])
    last = "state" if "state" in analyzer.alignment_matrices_ else "update"
    display.plot(kind=last, ax=axes[1])
    if has_margin:
        display.plot_history(ax=axes[2])
    figure.savefig(path, dpi=150)


def _matplotlib_is_here() -> bool:
    from importlib.util import find_spec

    return find_spec("matplotlib") is not None


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must not be negative, got {text}")
    return value


def _gain(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a finite number of at least 0, got {text}")
    return value


if __name__ == "__main__":
    sys.exit(main())

"""The command: train a recurrent network on a task or a file and show what K and P did."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kpflow_sklearn import (
    KPFlowAnalyzer,
    RecurrentTrainer,
    TaskAlignmentAnalyzer,
)
from kpflow_sklearn._alignment_reading import matrices_in_print, read_alignment_in_words
from kpflow_sklearn._options import N_ALIGNMENT_SNAPSHOTS, N_SNAPSHOTS, make_parser
from kpflow_sklearn._reading import read_in_words, table_of
from kpflow_sklearn._tasks import Task, load_file, load_task
from kpflow_sklearn.results import provenance, write_results

N_DRAWN = 64


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
        training=_training_in_words(analyzer),
        network=repr(analyzer.trainer_),
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
    return analyzer.fit(
        task.X,
        task.y,
        mask=task.mask,
        loss_weight=task.loss_weight,
        X_analysis=task.X_analysis,
        y_analysis=task.y_analysis,
    )


def _align(task: Task, options: argparse.Namespace) -> TaskAlignmentAnalyzer:
    trainer = _trainer(task, options)
    analyzer = TaskAlignmentAnalyzer(trainer, random_state=options.seed, verbose=True)
    return analyzer.fit(
        task.X,
        task.y,
        tasks=task.tasks,
        conditions=task.conditions,
        mask=task.mask,
        loss_weight=task.loss_weight,
        X_analysis=task.X_analysis,
        y_analysis=task.y_analysis,
    )


def _training_in_words(analyzer: Any) -> str:
    """Say what was minimised, and how."""
    trainer = analyzer.trainer_
    loss = {"mse": "mean squared error", "cross_entropy": "cross entropy"}
    form = trainer.encoder_.form_.replace("_", " ")
    return (
        f"{analyzer.n_iter_} updates by {trainer.optimizer} on the "
        f"{loss[trainer.objective_.loss]} ({form}), learning rate {trainer.learning_rate:g}, "
        f"batches of {trainer.batch_size}"
    )


def _print_alignment(analyzer: TaskAlignmentAnalyzer, options: argparse.Namespace) -> None:
    print(
        f"\n{options.cell.upper()}, {options.hidden_size} units, {options.data or options.task}; "
        f"{_training_in_words(analyzer)}\n\n{read_alignment_in_words(analyzer)}\n\nThe matrices "
        f"at iteration {analyzer.snapshots_[-1].iteration}: row i is acted on, column j acts.\n"
    )
    print(matrices_in_print(analyzer) + "\n")


def _print_reading(analyzer: KPFlowAnalyzer, options: argparse.Namespace) -> None:
    n_trials, n_timesteps, n_states = analyzer.eigenfunctions_["P"].shape[1:]
    what = options.data or options.task
    print(
        f"\n{options.cell.upper()}, {options.hidden_size} units, {what}; {n_trials} analysis "
        f"trials of {n_timesteps} steps\n{_training_in_words(analyzer)}\nranks at "
        f"{analyzer.rank_threshold:.0%} of the trace and effective dimensions on the time axis "
        "(± standard error where estimated)\n"
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


if __name__ == "__main__":
    sys.exit(main())

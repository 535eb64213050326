"""The command: train a recurrent network on a task or a file, and show K and P over training."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np

from kpflow_sklearn._cli._options import N_ALIGNMENT_SNAPSHOTS, N_SNAPSHOTS, make_parser
from kpflow_sklearn._cli._tasks import Task, load_file, load_task
from kpflow_sklearn._common.files import write_whole
from kpflow_sklearn._common.spacing import evenly_spaced
from kpflow_sklearn._common.threads import threads
from kpflow_sklearn.analyzers import KPFlowAnalyzer, TaskAlignmentAnalyzer
from kpflow_sklearn.plotting import N_DRAWN, matplotlib_is_here
from kpflow_sklearn.reporting import (
    matrices_in_print,
    network_in_words,
    provenance_of,
    read_alignment_in_words,
    read_analysis_in_words,
    report,
    table_of,
    training_in_words,
)
from kpflow_sklearn.results import write_results
from kpflow_sklearn.training import RecurrentTrainer


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    The exit code is 0 on success, 2 for invalid options or files and if memory or disk space
    runs out, and 130 after an interruption.
    """
    parser = make_parser()
    options = parser.parse_args(argv)
    try:
        task = load_file(options.data) if options.data else load_task(options.task, options.seed)
        files = _prepare(options)
        command = " ".join(["python -m kpflow_sklearn", *(sys.argv[1:] if argv is None else argv)])
        with threads(options.threads):
            analyzer = _fit(task, options)
            print_results = _print_kpflow if task.tasks is None else _print_alignment
            print_results(analyzer, options)
            _write(analyzer, task, files, options, command)
    except (ValueError, TypeError, OSError, MemoryError) as error:
        print(f"{parser.prog}: error: {_first_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted; files not yet written are unchanged", file=sys.stderr)
        return 130
    return 0


def _prepare(options: argparse.Namespace) -> dict[str, Path]:
    """Return the paths to write to, and print them before training starts."""
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    files = {"results": folder / "results.csv"}
    if matplotlib_is_here():
        files["figure"] = folder / "figure.png"
    if options.report:
        files["report"] = folder / "report.html"
    _check_writable(folder, files)
    earlier = [path.name for path in files.values() if path.exists()]
    replaced = f"; {_listed(earlier)} from an earlier run will be replaced" if earlier else ""
    print(f"results will be written to {folder}{replaced}", flush=True)
    return files


def _check_writable(folder: Path, files: dict[str, Path]) -> None:
    """Check before training that the files can be written after it."""
    for path in files.values():
        if path.is_dir():
            raise ValueError(f"--out: {path} is a folder; remove it or choose another --out")
        if path.exists() and not os.access(path, os.W_OK):
            raise ValueError(f"--out: {path} is write-protected; choose another --out")
    try:
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"--out: cannot write to {folder} ({error.strerror})") from error


def _write(
    analyzer: Any, task: Task, files: dict[str, Path], options: argparse.Namespace, command: str
) -> None:
    """Write the files and print their paths."""
    about = {"command": command}
    write_results(analyzer.results_, files["results"], provenance_of(analyzer, **about))
    if "figure" in files:
        draw = _draw_kpflow if task.tasks is None else _draw_alignment
        draw(analyzer, task, files["figure"])
    else:
        print("no figure: matplotlib is not installed (pip install 'kpflow-sklearn[plot]')")
    if "report" in files:
        report(
            analyzer,
            files["report"],
            task.drawn,
            task.y if task.X_analysis is None else task.y_analysis,
            mask=task.mask,
            loss_weight=task.loss_weight,
            tasks=task.tasks,
            color_by=task.color_by,
            cyclic=task.cyclic,
            color_label=task.color_label,
            title=_title(analyzer, options),
            about=about,
        )
    print(f"wrote {_listed([str(path) for path in files.values()])}")


def _listed(names: Sequence[str]) -> str:
    """Return names as "a", "a and b", or "a, b and c"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _fit(task: Task, options: argparse.Namespace) -> Any:
    """Train and analyse a network: the alignment of sub-tasks if it has any, else K and P."""
    trainer = _trainer(task, options)
    names = ("mask", "loss_weight", "X_analysis", "y_analysis")
    given = {name: getattr(task, name) for name in names}
    if task.tasks is None:
        analyzer: Any = KPFlowAnalyzer(trainer, random_state=options.seed, verbose=True)
    else:
        analyzer = TaskAlignmentAnalyzer(trainer, random_state=options.seed, verbose=True)
        given |= {"tasks": task.tasks, "conditions": task.conditions}
    return analyzer.fit(task.X, task.y, **given)


def _trainer(task: Task, options: argparse.Namespace) -> RecurrentTrainer:
    max_iter = task.max_iter if options.max_iter is None else options.max_iter
    snapshots: Any = options.snapshots or N_SNAPSHOTS
    if task.tasks is not None:
        count = options.snapshots or N_ALIGNMENT_SNAPSHOTS
        # A single snapshot is the last one, as for a trainer.
        snapshots = evenly_spaced(max_iter + 1, count).tolist() if count > 1 else 1
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


def _title(analyzer: Any, options: argparse.Namespace) -> str:
    return f"{network_in_words(analyzer)} on {options.data or options.task}"


def _print_alignment(analyzer: TaskAlignmentAnalyzer, options: argparse.Namespace) -> None:
    print(
        f"\n{_title(analyzer, options)}; {training_in_words(analyzer)}\n\n"
        f"{read_alignment_in_words(analyzer)}\n\n"
        f"Matrices at iteration {analyzer.snapshots_[-1].iteration}; in interference, gradient "
        "and flow, the error of task j (column) acts on task i (row).\n\n"
        f"{matrices_in_print(analyzer)}\n"
    )


def _print_kpflow(analyzer: KPFlowAnalyzer, options: argparse.Namespace) -> None:
    n_trials, n_timesteps, _ = analyzer.eigenfunctions_["P"].shape[1:]
    table = table_of(analyzer.results_, analyzer.bottleneck_)
    print(
        f"\n{_title(analyzer, options)}; {n_trials} analysis trials of {n_timesteps} steps\n"
        f"{training_in_words(analyzer)}\n"
        f"Ranks at {analyzer.rank_threshold:.0%} of the trace and effective dimensions (eff. "
        "dim.) are on the time axis, ± standard error where estimated.\nnarrower: the operator, "
        "K or P, with the smaller rank; ratio: the larger of these ranks over the smaller\n"
        "flow agr.: cosine of -PKP* Err with the change of the states by the next update\n\n"
        f"{table.to_string(justify='right')}\n\n{read_analysis_in_words(analyzer)}\n"
    )


def _draw_kpflow(analyzer: KPFlowAnalyzer, task: Task, path: Path) -> None:
    """Write the figure: loss, ranks and dimensions over training, and state trajectories."""
    from matplotlib.figure import Figure

    from kpflow_sklearn.plotting import BottleneckDisplay, CollapseDisplay, TrajectoryDisplay

    figure = Figure(figsize=(10, 7), layout="constrained")
    axes = figure.subplots(2, 2).ravel()
    collapse = CollapseDisplay(analyzer.results_, rank_threshold=analyzer.rank_threshold)
    collapse.plot_loss(ax=axes[0])
    BottleneckDisplay.from_estimator(analyzer, ax=axes[1])
    collapse.plot(ax=axes[2])
    some = evenly_spaced(len(task.drawn), N_DRAWN)
    TrajectoryDisplay.from_estimator(
        analyzer,
        np.asarray(task.drawn)[some],
        mask=None if task.drawn_mask is None else np.asarray(task.drawn_mask)[some],
        color_by=None if task.color_by is None else np.asarray(task.color_by)[some],
        cyclic=task.cyclic,
        label=task.color_label,
        ax=axes[3],
    )
    _letter(axes)
    _save(figure, path)


def _draw_alignment(analyzer: TaskAlignmentAnalyzer, task: Task, path: Path) -> None:
    """Write the figure: gradients and final states of sub-tasks, and groups over training."""
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
    _letter(axes)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    """Write a figure with an atomic replacement of an earlier file."""
    content = io.BytesIO()
    figure.savefig(content, dpi=150)
    write_whole(path, content.getvalue())


def _letter(axes: Any) -> None:
    """Label the panels a, b, c and d."""
    for ax, letter in zip(axes, "abcd", strict=False):
        # To the left of any text above the panel.
        ax.set_title(letter, loc="left", fontweight="bold", x=-0.1)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__

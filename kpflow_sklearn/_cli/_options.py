"""The options of the command line."""

from __future__ import annotations

import argparse

from kpflow_sklearn._common.version import __version__
from kpflow_sklearn.cells import CELL_NAMES

TASKS = ("memory_pro", "flip_flop", "multitask", "digits")
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
    parser.add_argument("--version", action="version", version=f"kpflow_sklearn {__version__}")
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
        help="train on your own trials instead: arrays X (trials, steps, features) and y (values "
        "(trials, steps, outputs), or a class a trial or step as integers; without y the next "
        "input is predicted); optionally mask and loss_weight (trials, steps), and tasks and "
        "conditions, a label a trial each",
    )
    parser.add_argument(
        "--cell", choices=CELL_NAMES, default="gru", help="the network (default: %(default)s)"
    )
    parser.add_argument(
        "--hidden-size", type=positive_integer, default=64, metavar="N", help="units (default: 64)"
    )
    parser.add_argument(
        "--init-scale",
        type=gain,
        default=1.0,
        metavar="G",
        help="gain of the initial recurrent weights, about their spectral radius (default: 1)",
    )
    parser.add_argument(
        "--max-iter", type=count, metavar="N", help="parameter updates (default: the task's)"
    )
    parser.add_argument(
        "--snapshots",
        type=positive_integer,
        metavar="N",
        help=f"how many states of training to analyse (default: {N_SNAPSHOTS}, log-spaced; of "
        f"sub-tasks {N_ALIGNMENT_SNAPSHOTS}, evenly spaced)",
    )
    parser.add_argument(
        "--seed", type=count, default=0, metavar="N", help="of everything random (default: 0)"
    )
    parser.add_argument(
        "--out",
        default="kpflow_results",
        metavar="DIR",
        help="folder for results.csv and figure.png, which replace those of an earlier run "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--report",
        action="store_true",
        help="also write report.html there: all figures, tables, checks and settings on one page",
    )
    return parser


def positive_integer(text: str) -> int:
    """Read an option that must be 1 or more."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value


def count(text: str) -> int:
    """Read an option that must not be negative."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must not be negative, got {text}")
    return value


def gain(text: str) -> float:
    """Read an option that must be a finite number of at least 0."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a finite number of at least 0, got {text}")
    return value

"""The options of the command line."""

from __future__ import annotations

import argparse
from typing import Any

from kpflow_sklearn._common.version import __version__
from kpflow_sklearn.cells import CELL_NAMES

TASKS = ("memory_pro", "flip_flop", "multitask", "digits")
#: Numbers of snapshots; groups of sub-tasks change faster than dimensions.
N_SNAPSHOTS, N_ALIGNMENT_SNAPSHOTS = 8, 51

PURPOSE = (
    "Train a recurrent network on a task and show how the parameter operator K and the flow "
    "propagator P change over training, as a table, a summary in words, results.csv and "
    "figure.png. For several sub-tasks (--task multitask, or a file with an array tasks), show "
    "which of them share a subspace and which interfere."
)


def positive_integer(text: str) -> int:
    """Read an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value


def count(text: str) -> int:
    """Read an integer of at least 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must not be negative, got {text}")
    return value


def gain(text: str) -> float:
    """Read a finite number of at least 0."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a finite number of at least 0, got {text}")
    return value


#: The options for the source of the trials, of which at most one may be given.
SOURCES: dict[str, dict[str, Any]] = {
    "--task": {
        "choices": TASKS,
        "default": "memory_pro",
        "help": "the built-in task to train on (default: %(default)s)",
    },
    "--data": {
        "metavar": "FILE.npz",
        "help": "train on your own trials instead: arrays X (trials, steps, features) and y "
        "(values (trials, steps, outputs), or one integer class per trial or step; without y, the "
        "network predicts its next input); optionally mask and loss_weight (trials, steps), and "
        "tasks and conditions, one label per trial",
    },
}

OPTIONS: dict[str, dict[str, Any]] = {
    "--cell": {
        "choices": CELL_NAMES,
        "default": "gru",
        "help": "the type of network (default: %(default)s)",
    },
    "--hidden-size": {
        "type": positive_integer,
        "default": 64,
        "metavar": "N",
        "help": "number of hidden units (default: %(default)s)",
    },
    "--init-scale": {
        "type": gain,
        "default": 1.0,
        "metavar": "G",
        "help": "gain of the initial recurrent weights, approximately their spectral radius "
        "(default: 1)",
    },
    "--max-iter": {
        "type": count,
        "metavar": "N",
        "help": "number of parameter updates (the default depends on the task)",
    },
    "--snapshots": {
        "type": positive_integer,
        "metavar": "N",
        "help": f"number of snapshots to analyse (default: {N_SNAPSHOTS}, log-spaced; "
        f"{N_ALIGNMENT_SNAPSHOTS}, evenly spaced, for sub-tasks)",
    },
    "--seed": {
        "type": count,
        "default": 0,
        "metavar": "N",
        "help": "seed of all random numbers (default: %(default)s)",
    },
    "--threads": {
        "type": positive_integer,
        "default": 1,
        "metavar": "N",
        "help": "number of CPU threads (default: %(default)s, the fastest for small networks)",
    },
    "--out": {
        "default": "kpflow_results",
        "metavar": "DIR",
        "help": "folder for results.csv and figure.png, which replace those of an earlier run "
        "(default: %(default)s)",
    },
    "--report": {
        "action": "store_true",
        "help": "also write report.html, one page with all figures, tables, checks and settings",
    },
}


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m kpflow_sklearn", description=PURPOSE)
    parser.add_argument("--version", action="version", version=f"kpflow_sklearn {__version__}")
    source = parser.add_mutually_exclusive_group()
    for name, settings in SOURCES.items():
        source.add_argument(name, **settings)
    for name, settings in OPTIONS.items():
        parser.add_argument(name, **settings)
    return parser

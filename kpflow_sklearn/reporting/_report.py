"""The function `report`: a fitted analyzer as one self-contained page of HTML."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.utils.validation import check_is_fitted

from kpflow_sklearn._common.arrays import as_array
from kpflow_sklearn._common.checks import check_flag, check_word
from kpflow_sklearn._common.files import write_whole
from kpflow_sklearn._common.version import __version__
from kpflow_sklearn.analyzers.alignment import TaskAlignmentAnalyzer
from kpflow_sklearn.analyzers.gram import GramFlowAnalyzer
from kpflow_sklearn.analyzers.kpflow import KPFlowAnalyzer
from kpflow_sklearn.plotting import matplotlib_is_here
from kpflow_sklearn.reporting import _alignment, _gram, _kpflow
from kpflow_sklearn.reporting._origin import common_facts
from kpflow_sklearn.reporting._pictures import data_uri
from kpflow_sklearn.reporting._reading_training import (
    loss_in_words,
    network_in_words,
    provenance_of,
)
from kpflow_sklearn.reporting._tables import from_frame
from kpflow_sklearn.reporting._templates import render_page
from kpflow_sklearn.reporting._trajectories import choose_colors, draw_trajectories
from kpflow_sklearn.results import to_csv

MOST_CSV = 4_000_000  # Bytes of results_ that a page may hold.

#: The template of each kind of analyzer, the kind in words, and the function of its facts.
_KINDS: dict[type, tuple[str, str, Callable[[Any], dict[str, Any]]]] = {
    KPFlowAnalyzer: ("kpflow.html", "KPFlow", _kpflow.facts),
    TaskAlignmentAnalyzer: ("alignment.html", "Task alignment", _alignment.facts),
    GramFlowAnalyzer: ("gram.html", "Gram flow", _gram.facts),
}


def report(
    analyzer: Any,
    path: str | PathLike,
    X: ArrayLike | None = None,
    y: ArrayLike | None = None,
    *,
    mask: ArrayLike | None = None,
    loss_weight: ArrayLike | None = None,
    tasks: ArrayLike | None = None,
    color_by: ArrayLike | None = None,
    cyclic: bool = False,
    color_label: str = "",
    title: str | None = None,
    about: Mapping[str, str] | None = None,
) -> Path:
    """Write a fitted analyzer as one self-contained page of HTML, for a colleague or a record.

    The page holds a reading in words, figures, tables, settings, versions and ``results_`` as a
    CSV file to save. It loads nothing and runs no script.

    Parameters
    ----------
    analyzer : KPFlowAnalyzer, TaskAlignmentAnalyzer or GramFlowAnalyzer
        Fitted.
    path : str or path-like
        The file to write, in a folder that exists. An existing file is replaced.
    X : array-like of shape (n_trials, n_timesteps, n_features), optional
        Trials (rows, for a feed-forward network) on which the network is scored and verified by
        ``analyzer.verify``; the state trajectories of at most 64 of them are drawn. Without
        trials, the page says that this was not done.
    y : array-like, optional
        Their targets, as in the analyzer's ``fit``.
    mask : array-like of bool, shape (n_trials, n_timesteps), optional
        Valid steps of X.
    loss_weight : array-like of shape (n_trials, n_timesteps[, n_outputs]), optional
        Weight w >= 0 of each step in the loss, and in the score.
    tasks : array-like of shape (n_trials,), optional
        The sub-task of each trial of X. The identities of a `TaskAlignmentAnalyzer` that concern
        sub-tasks are then verified too.
    color_by : array-like of shape (n_trials,) or (n_trials, n_timesteps), optional
        Values that colour the trajectories, as in `TrajectoryDisplay`. The default is the tasks,
        else y if it has one value per trial or step, else the step.
    cyclic : bool, default=False
        Whether the values of ``color_by`` are angles in radians.
    color_label : str, default=""
        Name of the values of ``color_by``.
    title : str, optional
        Heading of the page. The default names the network.
    about : mapping of str to str, optional
        Further entries of the provenance, for example the name of the data.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    NotFittedError
        If the analyzer is not fitted.
    FileNotFoundError
        If the folder of ``path`` does not exist; nothing is computed then.
    TypeError
        If ``analyzer`` is not an analyzer.
    ValueError
        If ``path`` is a folder, or X, y and the options for them do not fit the analyzer.

    Examples
    --------
    >>> import tempfile
    >>> from kpflow_sklearn import KPFlowAnalyzer, RecurrentTrainer, report
    >>> from kpflow_sklearn.datasets import make_memory_pro
    >>> X, y = make_memory_pro(4, stimulus=2, memory=2, response=2, evenly_spaced=True)
    >>> trainer = RecurrentTrainer("tanh", hidden_size=4, max_iter=3, snapshots=2)
    >>> analyzer = KPFlowAnalyzer(trainer, random_state=0).fit(X, y)
    >>> report(analyzer, tempfile.mkdtemp() + "/memory.html", X, y).name
    'memory.html'
    """
    template, subject, facts = _kind_of(analyzer)
    check_is_fitted(analyzer, "results_")
    if isinstance(analyzer, KPFlowAnalyzer):
        _kpflow.refuse_incomplete(analyzer)
    file = _checked_path(path)
    _check_words(cyclic, color_label, title, about)
    options = {"mask": mask, "loss_weight": loss_weight}
    _check_given(analyzer, X, y=y, tasks=tasks, color_by=color_by, **options)
    if not hasattr(X, "columns"):
        X = None if X is None else as_array(X, "X")
    score, checks = _judge(analyzer, X, y, tasks, **options)
    colors = choose_colors((color_by, cyclic, color_label), tasks, y)
    is_recurrent = not isinstance(analyzer, GramFlowAnalyzer)
    origin = provenance_of(analyzer, **(about or {}))
    page = render_page(
        template,
        analyzer=analyzer,
        subject=subject,
        title=f"{subject}: {network_in_words(analyzer)}" if title is None else title,
        score=score,
        score_name=_score_name(analyzer, loss_weight),
        checks=checks,
        identities=None if checks is None else from_frame("Identities", checks),
        trajectories=draw_trajectories(analyzer, X, mask, *colors) if is_recurrent else "",
        has_figures=matplotlib_is_here(),
        software=f"kpflow_sklearn {__version__}",
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        results=_embedded(to_csv(analyzer.results_, origin)),
        **common_facts(analyzer, origin),
        **facts(analyzer),
    )
    write_whole(file, page)
    return file


def _score_name(analyzer: Any, loss_weight: ArrayLike | None) -> str:
    kind = "Accuracy" if hasattr(analyzer, "classes_") else "R²"
    objective = getattr(analyzer.trainer_, "objective_", None)
    if objective is not None and callable(objective.loss):
        kind = f"Minus the mean of the {loss_in_words(objective.loss)}"
    return kind if loss_weight is None else f"{kind}, weighted by loss_weight,"


def _embedded(text: str) -> str:
    """Return a CSV file as a data URI, or an empty string if it is too large."""
    content = text.encode("utf-8")
    return data_uri(content, "text/csv;charset=utf-8") if len(content) <= MOST_CSV else ""


def _kind_of(analyzer: Any) -> tuple[str, str, Callable[[Any], dict[str, Any]]]:
    for kind, named in _KINDS.items():
        if isinstance(analyzer, kind):
            return named
    names = ", ".join(kind.__name__ for kind in _KINDS)
    raise TypeError(
        f"analyzer must be one of {names}, got {type(analyzer).__name__}; pass the fitted "
        "step of a pipeline or a search."
    )


def _checked_path(path: str | PathLike) -> Path:
    if not isinstance(path, str | PathLike):
        raise TypeError(f"path must be a str or a path-like, got {path!r}.")
    file = Path(path)
    if file.is_dir():
        raise ValueError(
            f"path must name a file, for example out.html, but {str(file)!r} is a folder."
        )
    if not file.parent.is_dir():
        raise FileNotFoundError(
            f"path={str(file)!r}: the folder {str(file.parent)!r} does not exist; create it first."
        )
    return file


def _check_words(cyclic: bool, color_label: str, title: str | None, about: Any) -> None:
    check_flag(cyclic, "cyclic")
    check_word(color_label, "color_label")
    check_word("" if title is None else title, "title")
    if about is not None and not isinstance(about, Mapping):
        raise TypeError(f"about must be a mapping of names to words, got {about!r}.")


def _check_given(analyzer: Any, X: Any, **others: Any) -> None:
    """Check that X is given if its options are, and that they suit the kind of network."""
    given = [name for name, value in others.items() if value is not None]
    if X is None and given:
        raise ValueError(f"{given[0]} was given without X.")
    for name in (name for name in ("tasks", "color_by") if name in given):
        shape, n_trials = np.shape(others[name]), len(as_array(X, "X"))
        if shape[:1] != (n_trials,):
            raise ValueError(
                f"{name} must have one value for each of the {n_trials} trials of X, got shape "
                f"{shape}."
            )
    if isinstance(analyzer, GramFlowAnalyzer):
        if given and given != ["y"]:
            raise ValueError(f"{given[-1]} is only for recurrent networks; leave it out.")
        if X is not None and not given:
            raise ValueError("y is required with X for a feed-forward network.")


def _judge(
    analyzer: Any,
    X: ArrayLike | None,
    y: ArrayLike | None,
    tasks: ArrayLike | None,
    **options: ArrayLike | None,
) -> tuple[float | None, pd.DataFrame | None]:
    """Return the network's score on the given trials, and the checks of the identities."""
    if X is None:
        return None, None
    if isinstance(analyzer, GramFlowAnalyzer):
        return analyzer.score(X, y), analyzer.verify(X, y)  # type: ignore[arg-type]
    labels = {"tasks": tasks} if isinstance(analyzer, TaskAlignmentAnalyzer) else {}
    checks = analyzer.verify(X, y, **labels, **options)
    return analyzer.score(X, y, **options), checks

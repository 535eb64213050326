"""Report the progress of a fit to scikit-learn's callbacks (version 1.9 or later)."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from tqdm.auto import tqdm

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stub for scikit-learn < 1.9."""

    def with_callbacks(method: Any) -> Any:
        """Return the method unchanged."""
        return method


def warn_caller(message: str, category: type[Warning]) -> None:
    """Issue a warning that points to the line of user code that called the package.

    The frames of the package, and those with which scikit-learn wraps methods, are skipped.
    """
    frame, level = inspect.currentframe(), 1
    while frame is not None and f"{frame.f_globals.get('__name__')}.".startswith(
        ("kpflow_sklearn.", "sklearn.callback.", "sklearn.utils._set_output.")
    ):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


class FitTask(AbstractContextManager):
    """A task of a fit, whose beginning and end are reported to the estimator's callbacks.

    The end of a task that raises an error is not reported. Without callbacks, nothing is.

    Parameters
    ----------
    estimator : estimator
        The estimator that performs the task.
    context : CallbackContext, optional
        scikit-learn's record of the task. None if no callbacks are registered.
    **about
        Values that callbacks can request: X, y, reconstruction_attributes.
    """

    def __init__(self, estimator: Any, context: Any = None, **about: Any) -> None:
        self.estimator, self.context, self.about = estimator, context, about
        #: Whether a callback asked, when the task ended, to skip the remaining tasks of its kind.
        self.stops = False

    @classmethod
    def root(cls, estimator: Any, n_parts: int = 0, **about: Any) -> FitTask:
        """Return the task of a whole ``fit``, with at most ``n_parts`` parts."""
        if not hasattr(estimator, "_skl_callbacks"):
            return cls(estimator)
        return cls(estimator, estimator._init_callback_context(max_subtasks=n_parts), **about)

    def part(self, name: str, n_parts: int = 0, **about: Any) -> FitTask:
        """Return the next part of this task, which has at most ``n_parts`` parts itself."""
        if self.context is None:
            return FitTask(self.estimator)
        context = self.context.subcontext(task_name=name, max_subtasks=n_parts)
        return FitTask(self.estimator, context, **about)

    def analysis(self, snapshots: Sequence, *, verbose: int | bool) -> Iterator:
        """Yield the snapshots to analyse, each as a part of the task "analysis".

        Callbacks cannot stop the analysis, because a part of the snapshots would not describe the
        training.
        """
        with self.part("analysis", len(snapshots)) as whole:
            for snapshot in tqdm(snapshots, disable=not verbose, desc="analysis"):
                with whole.part("snapshot"):
                    yield snapshot

    def handed_to(self, estimator: Any) -> AbstractContextManager:
        """Return the context in which the fit of another estimator counts as this task."""
        if self.context is None or not isinstance(estimator, CallbackSupportMixin):
            return nullcontext()
        return self.context.propagate_callback_context(estimator)

    def __enter__(self) -> FitTask:
        if self.context is not None:
            self.context.call_on_fit_task_begin(estimator=self.estimator, **self.about)
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if self.context is not None and kind is None:
            end = self.context.call_on_fit_task_end
            self.stops = bool(end(estimator=self.estimator, **self.about))

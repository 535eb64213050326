"""What a fit tells scikit-learn's callbacks, which exist from its version 1.9 on."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from tqdm import tqdm

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands for scikit-learn's, which versions before 1.9 do not have."""

    def with_callbacks(method: Any) -> Any:
        """Return the method as it is."""
        return method


def warn_caller(message: str, category: type[Warning]) -> None:
    """Warn at the line that called the package, however many frames lie between.

    Beside the package's own, `with_callbacks` puts one there.
    """
    frame, level = inspect.currentframe(), 1
    while frame is not None and f"{frame.f_globals.get('__name__')}.".startswith(
        ("kpflow_sklearn.", "sklearn.callback.")
    ):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


class FitTask(AbstractContextManager):
    """A task of a fit, told to the estimator's callbacks as it begins and ends.

    A task that raises does not end. Where an estimator has no callbacks, nothing is recorded.

    Parameters
    ----------
    estimator : estimator
        Whose task it is.
    context : CallbackContext, optional
        scikit-learn's record of it; None if nobody listens.
    **about
        What callbacks may ask for: X, y, reconstruction_attributes.
    """

    def __init__(self, estimator: Any, context: Any = None, **about: Any) -> None:
        self.estimator, self.context, self.about = estimator, context, about
        #: Whether a callback asked, at its end, that no further task like it begins.
        self.stops = False

    @classmethod
    def root(cls, estimator: Any, n_parts: int = 0, **about: Any) -> FitTask:
        """Return the task of a whole ``fit``, of at most ``n_parts`` parts."""
        if not hasattr(estimator, "_skl_callbacks"):
            return cls(estimator)
        return cls(estimator, estimator._init_callback_context(max_subtasks=n_parts), **about)

    def part(self, name: str, n_parts: int = 0, **about: Any) -> FitTask:
        """Return the next part of this task, itself of at most ``n_parts`` parts."""
        if self.context is None:
            return FitTask(self.estimator)
        context = self.context.subcontext(task_name=name, max_subtasks=n_parts)
        return FitTask(self.estimator, context, **about)

    def analysis(self, snapshots: Sequence, *, verbose: int | bool) -> Iterator:
        """Yield snapshots to analyse: together a part of this task, each a part of that.

        All of them, whatever callbacks ask: an analysis that ends early describes no training.
        """
        with self.part("analysis", len(snapshots)) as whole:
            for snapshot in tqdm(snapshots, disable=not verbose, desc="analysis"):
                with whole.part("snapshot"):
                    yield snapshot

    def handed_to(self, estimator: Any) -> AbstractContextManager:
        """Return the context in which fitting another estimator is this task."""
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

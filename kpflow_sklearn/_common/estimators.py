"""What all estimators share: pickles without devices, links to the documentation, trials."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache, wraps
from importlib.metadata import PackageNotFoundError, metadata
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags

from kpflow_sklearn._common.callbacks import CallbackSupportMixin
from kpflow_sklearn._common.checks import check_estimator_sequences, check_mask
from kpflow_sklearn._common.tensors import to_cpu


@cache
def documentation_url() -> str:
    """Return the address named "Documentation" in the installed package's metadata, or ""."""
    try:
        urls = metadata("kpflow-sklearn").get_all("Project-URL") or []
    except PackageNotFoundError:
        return ""
    named = dict(url.split(", ", 1) for url in urls if ", " in url)
    return named.get("Documentation", "").rstrip("/")


def undone_if_it_fails(method: Callable) -> Callable:
    """Let a method that raises leave its estimator as it was: no mix with an earlier fit.

    What attributes refer to is not copied: the method sets new ones, and changes none in place.
    """

    @wraps(method)
    def whole_or_undone(self: Any, *args: Any, **options: Any) -> Any:
        before = dict(vars(self))
        try:
            return method(self, *args, **options)
        except BaseException:  # An interruption leaves as little behind as an error.
            vars(self).clear()
            vars(self).update(before)
            raise

    return whole_or_undone


class Estimator(BaseEstimator):
    """Base of all estimators of the package."""

    _doc_link_module = "kpflow_sklearn"

    def _get_doc_link(self) -> str:
        """Return the page that the HTML repr links to: none without a published site."""
        return super()._get_doc_link() if documentation_url() else ""

    @property
    def _doc_link_template(self) -> str:
        return documentation_url() + "/reference/generated/{name}.html"

    def _doc_link_url_param_generator(self) -> dict[str, str]:
        """Return the estimator's public name, under which Sphinx writes its page."""
        kind = type(self)
        public = "kpflow_sklearn"
        if kind.__module__.endswith(".preprocessing"):
            public = kind.__module__
        return {"name": f"{public}.{kind.__name__}"}

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to pickle: a user's own modules and tensors go by the CPU."""
        own = self.get_params(deep=False)
        state = super().__getstate__()
        return {name: to_cpu(value) if name in own else value for name, value in state.items()}

    def _stand_in(self) -> Self:
        """Return one with the same attributes, on which a check may set some without harm."""
        other = object.__new__(type(self))
        other.__dict__.update(vars(self))
        return other

    def _forget_fit(self) -> None:
        """Drop what an earlier fit found, but for the form of X, which is the present one.

        What was there before the first of them stays: a subclass may have set it.
        """
        present = {name for name in vars(self) if name.endswith("_")}
        of_X = {"n_features_in_", "feature_names_in_"}
        for name in present - of_X - getattr(self, "_before_fits", present):
            delattr(self, name)
        if not hasattr(self, "_before_fits"):
            self._before_fits = frozenset(present)


class NetworkSource(CallbackSupportMixin, Estimator):
    """Base of what trains or loads a network: its states over training, also while it trains."""

    network_: Any

    def network_at(self, snapshot: Any) -> Any:
        """Return a copy of the network as it was at ``snapshot``.

        Parameters
        ----------
        snapshot : Snapshot
            One of ``snapshots_``.

        Returns
        -------
        Module
            An independent network.

        Examples
        --------
        >>> import numpy as np
        >>> from kpflow_sklearn import FeedForwardTrainer
        >>> X = np.linspace(-1, 1, 12).reshape(6, 2)
        >>> trainer = FeedForwardTrainer((4,), max_iter=2, random_state=0).fit(X, X[:, 0] ** 2)
        >>> trainer.network_at(trainer.snapshots_[0]).n_outputs  # As it was before training.
        1
        """
        network = copy.deepcopy(self.network_)
        network.load_state_dict(snapshot.state)
        return network

    def _so_far(self) -> dict[str, Any]:
        """Return what an estimator that predicts as if training ended now would have."""
        return {"network_": copy.deepcopy(self.network_).eval()}


class SequenceEstimator(Estimator):
    """Base of the estimators that take trials, (n_trials, n_timesteps, n_features)."""

    n_features_in_: int

    def __sklearn_tags__(self) -> Tags:
        """Return the tags: single steps (2-D) and sequences (3-D) are both taken."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.three_d_array = True
        tags.target_tags.required = False
        return tags

    def _check_trials(
        self, X: ArrayLike, mask: ArrayLike | None = None, *, reset: bool = False
    ) -> tuple[np.ndarray, np.ndarray | None, bool]:
        """Return X as trials, the mask, and whether X held single steps (2-D).

        The one place in which an estimator reads X: a subclass may read it in another way.
        """
        trials, single_step = check_estimator_sequences(self, X, reset=reset)
        return trials, check_mask(mask, trials), single_step


class SequenceTransformer(TransformerMixin, SequenceEstimator):
    """Base of the transformers of trials, whose masks go to `fit` and `transform` both."""

    def fit_transform(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        *,
        mask: ArrayLike | None = None,
        **fit_params: Any,
    ) -> np.ndarray:
        """Fit, then transform the same trials.

        Parameters
        ----------
        X : array-like of shape (n_trials, n_timesteps, n_features)
            Trials; 2-D X are trials of one step.
        y : array-like, optional
            Targets, in the forms that `fit` takes.
        mask : array-like of bool, shape (n_trials, n_timesteps), optional
            Valid steps, a prefix of each trial.
        **fit_params
            The other arguments of `fit`, if it has any.

        Returns
        -------
        ndarray
            As from `transform`.

        Raises
        ------
        ValueError
            If a parameter or an array is not as described; the message names it.

        Examples
        --------
        >>> import numpy as np
        >>> from kpflow_sklearn.preprocessing import SequenceVectorizer
        >>> SequenceVectorizer().fit_transform(np.arange(12.0).reshape(2, 3, 2)).shape
        (2, 6)
        """
        return self.fit(X, y, mask=mask, **fit_params).transform(X, mask=mask)

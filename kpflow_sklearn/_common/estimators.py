"""Base classes of all estimators: pickling, links to the documentation, checks of trials."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from functools import cache, wraps
from importlib.metadata import PackageNotFoundError, metadata
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils import Tags
from torch import nn

from kpflow_sklearn._common.brief import brief
from kpflow_sklearn._common.callbacks import warn_caller
from kpflow_sklearn._common.checks import check_estimator_sequences, check_mask, ends_constant
from kpflow_sklearn._common.modules import tensors_of
from kpflow_sklearn._common.tensors import copy_module, copy_value, to_cpu, with_gradients


@cache
def documentation_url() -> str:
    """Return the "Documentation" address in the metadata of the installed package, or ""."""
    try:
        urls = metadata("kpflow-sklearn").get_all("Project-URL") or []
    except PackageNotFoundError:
        return ""
    named = dict(url.split(", ", 1) for url in urls if ", " in url)
    return named.get("Documentation", "").rstrip("/")


@cache
def _set_by_fit(kind: type) -> frozenset[str]:
    """Return the fitted attributes that a class and its bases document or annotate."""
    names = {"n_features_in_", "feature_names_in_"}
    for base in kind.__mro__:
        names.update(name for name in vars(base).get("__annotations__", {}) if name.endswith("_"))
        text = inspect.cleandoc(base.__doc__ or "")
        _, _, section = text.partition("\nAttributes\n----------\n")
        for line in re.findall(r"^(\w[\w, ]*) : ", section.split("\n\n")[0], re.MULTILINE):
            names.update(line.split(", "))
    return frozenset(names)


def undone_if_it_fails(method: Callable) -> Callable:
    """Restore the estimator's attributes if the method raises an error.

    The values of the attributes are not copied, so the method must not change them in place.
    """

    @wraps(method)
    def whole_or_undone(self: Any, *args: Any, **options: Any) -> Any:
        before = dict(vars(self))
        try:
            return method(self, *args, **options)
        except BaseException:  # Interruptions too, such as KeyboardInterrupt.
            vars(self).clear()
            vars(self).update(before)
            raise

    return whole_or_undone


class Estimator(BaseEstimator):
    """Base of all estimators of the package."""

    _doc_link_module = "kpflow_sklearn"

    def __init_subclass__(cls, **options: Any) -> None:
        """Let all public methods compute derivatives, whatever the caller's mode of autograd."""
        super().__init_subclass__(**options)
        for name, member in list(vars(cls).items()):
            if inspect.isfunction(member) and not name.startswith("_"):
                setattr(cls, name, with_gradients(member))

    def __getattr__(self, name: str) -> Any:
        """Raise a clear error for a fitted attribute if `fit` has not been called.

        Raises
        ------
        NotFittedError
            If the class documents the attribute and nothing has been fitted.
        AttributeError
            In all other cases.
        """
        if name.endswith("_") and name in _set_by_fit(type(self)):  # type: ignore[arg-type]
            present = vars(self).keys() - {"n_features_in_", "feature_names_in_"}
            if not any(v.endswith("_") and not v.startswith("_") for v in present):
                raise NotFittedError(
                    f"This {type(self).__name__} instance is not fitted yet. Call 'fit' with "
                    f"appropriate arguments before using this estimator: {name} is set by fit."
                )
        return object.__getattribute__(self, name)  # Raises Python's own error.

    def __repr__(self, N_CHAR_MAX: int = 700) -> str:  # noqa: N803
        """Return the parameters that differ from their defaults, without whole networks."""
        return BaseEstimator.__repr__(brief(self), N_CHAR_MAX)

    def _get_doc_link(self) -> str:
        """Return the page that the HTML repr links to, or "" if no site is published."""
        return super()._get_doc_link() if documentation_url() else ""

    @property
    def _doc_link_template(self) -> str:
        return documentation_url() + "/reference/generated/{name}.html"

    def _doc_link_url_param_generator(self) -> dict[str, str]:
        """Return the public name of the estimator, which is the name of its page."""
        kind = type(self)
        is_transformer = kind.__module__.endswith(".preprocessing")
        public = kind.__module__ if is_transformer else "kpflow_sklearn"
        return {"name": f"{public}.{kind.__name__}"}

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to pickle, with modules and tensors among the parameters on the CPU."""
        params = self.get_params(deep=False)
        state = dict(super().__getstate__())
        modules = {n: v for n, v in params.items() if n in state and isinstance(v, nn.Module)}
        for name in params.keys() & state.keys() - modules.keys():
            state[name] = to_cpu(state[name])
        # The modules are copied because `copy_module` replaces what cannot be pickled, such as a
        # lock. The copies share a memo, because one module may be a part of another.
        every = (tensor for module in modules.values() for tensor in tensors_of(module))
        memo = {id(t): to_cpu(t) for t in every if t.device.type != "cpu"}
        return state | {name: copy_module(v, memo) for name, v in modules.items()}

    def __sklearn_clone__(self) -> Self:
        """Return an unfitted estimator with the same parameters, as `sklearn.base.clone` does.

        Modules are kept as they are: a copy would lack their gradient hooks and shared memory,
        which `fit` looks for. Every `fit` copies a module before it uses it.
        """
        params = self.get_params(deep=False)
        kept = {name: v for name, v in params.items() if isinstance(v, nn.Module)}
        # Of state_dicts, deepcopy cannot copy sparse tensors.
        states = {name: v for name, v in params.items() if _holds_mappings(v)}
        kept |= {name: copy_value(v, {}, name) for name, v in states.items()}
        if not kept:
            return super().__sklearn_clone__()
        others = self._stand_in()
        for name in kept:
            setattr(others, name, None)
        return super(Estimator, others).__sklearn_clone__().set_params(**kept)

    def _stand_in(self) -> Self:
        """Return a shallow copy, on which a check may set attributes."""
        other = object.__new__(type(self))
        other.__dict__.update(vars(self))
        return other

    def _forget_fit(self) -> None:
        """Delete fitted attributes, keeping n_features_in_ and feature names.

        Attributes that existed before the first fit are kept: a subclass may have set them.
        """
        present = {name for name in vars(self) if name.endswith("_")}
        features = {"n_features_in_", "feature_names_in_"}
        for name in present - features - getattr(self, "_before_fits", present):
            delattr(self, name)
        if not hasattr(self, "_before_fits"):
            self._before_fits = frozenset(present)


def _holds_mappings(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and any(isinstance(v, Mapping) for v in value)


class SequenceEstimator(Estimator):
    """Base of the estimators of trials (n_trials, n_timesteps, n_features)."""

    n_features_in_: int

    #: Whether the mask of the last `fit` marked padded steps.
    _fitted_with_padding = False

    def __sklearn_tags__(self) -> Tags:
        """Return the tags, which allow single steps (2-D) and sequences (3-D)."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = True
        tags.input_tags.three_d_array = True
        tags.target_tags.required = False
        return tags

    def _check_trials(
        self, X: ArrayLike, mask: ArrayLike | None = None, *, reset: bool = False
    ) -> tuple[np.ndarray, np.ndarray | None, bool]:
        """Return X as trials, the mask, and whether X contained single steps (2-D).

        All methods read X here, so that a subclass can read it differently.
        """
        trials, single_step = check_estimator_sequences(self, X, reset=reset)
        return trials, check_mask(mask, trials), single_step

    def _remember_padding(self, mask: np.ndarray | None) -> None:
        """Record whether `fit` was given a mask that marks padded steps."""
        self._fitted_with_padding = mask is not None and not mask.all()

    def _warn_if_padded(self, trials: np.ndarray, mask: np.ndarray | None) -> None:
        """Warn that `fit` had a mask and this call has none, if X ends in constant steps."""
        if mask is None and self._fitted_with_padding and ends_constant(trials):
            self._warn_without_mask(mask)

    def _warn_without_mask(self, mask: np.ndarray | None) -> None:
        """Warn that `fit` had a mask and this call has none."""
        if mask is None and self._fitted_with_padding:
            advice = routing_advice("mask", "fit", "score", "predict", "transform")
            warn_caller(
                "fit was given a mask, but this call was given none, so it reads padded steps as "
                f"data. Give the mask of X, all True if it has no padding. {advice}",
                UserWarning,
            )


def routing_advice(name: str, *methods: str) -> str:
    """Return how searches and pipelines pass an argument to these methods of an estimator."""
    calls = ", ".join(f"set_{method}_request({name}=True)" for method in methods)
    return (
        "For searches and pipelines, call sklearn.set_config(enable_metadata_routing=True) and, "
        f"on the inner estimator, whichever of these methods it has: {calls}."
    )


class SequenceTransformer(TransformerMixin, SequenceEstimator):
    """Base of the transformers of trials, with a mask for both `fit` and `transform`."""

    def fit_transform(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        *,
        mask: ArrayLike | None = None,
        **fit_params: Any,
    ) -> np.ndarray:
        """Fit to trials, then transform them.

        Parameters
        ----------
        X : array-like of shape (n_trials, n_timesteps, n_features)
            Trials. A 2-D X is read as trials of one step.
        y : array-like, optional
            Targets, in the forms that `fit` accepts.
        mask : array-like of bool, shape (n_trials, n_timesteps), optional
            Valid steps, a prefix of each trial.
        **fit_params
            Further arguments of `fit`.

        Returns
        -------
        ndarray
            The result of `transform`.

        Raises
        ------
        ValueError
            If a parameter or an array is invalid. The message names it.

        Examples
        --------
        >>> import numpy as np
        >>> from kpflow_sklearn.preprocessing import SequenceVectorizer
        >>> SequenceVectorizer().fit_transform(np.arange(12.0).reshape(2, 3, 2)).shape
        (2, 6)
        """
        return self.fit(X, y, mask=mask, **fit_params).transform(X, mask=mask)

"""Targets in any of the forms of y, converted to a value and a weight for every step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils import column_or_1d

from kpflow_sklearn._common.arrays import as_array, check_numbers, check_squares, naming
from kpflow_sklearn._common.callbacks import warn_caller
from kpflow_sklearn._common.checks import check_choice, last_valid_step

LOSSES = ("auto", "mse", "cross_entropy")


@dataclass(frozen=True)
class Targets:
    """The values that the loss compares the outputs with, and their weights, step by step.

    Attributes
    ----------
    values : ndarray
        (n_trials, n_timesteps, n_outputs) floats for mse, (n_trials, n_timesteps) class indices
        for cross_entropy; for a user's loss floats or integers, (n_trials, n_timesteps[, ...]).
    weight : ndarray of shape (n_trials, n_timesteps) or (n_trials, n_timesteps, n_outputs)
        w >= 0; zero where there is no target.
    """

    values: np.ndarray
    weight: np.ndarray

    def __getitem__(self, trials: np.ndarray) -> Targets:
        return Targets(self.values[trials], self.weight[trials])


class TargetEncoder:
    """Learn the form of y, and convert between that form and `Targets`.

    ======================================== ====================================================
    y                                        meaning
    ======================================== ====================================================
    (n_trials, n_timesteps, n_outputs)       a target value at every step
    (n_trials, n_timesteps) integers, 3-D X  a class at every step
    (n_trials,)                              one value (floats) or class at the last valid step
    (n_trials, n_outputs), 2-D X             values at the single step
    None                                     the next input; for single steps, the input itself
    ======================================== ====================================================

    The loss is (1/N) sum_bt w_bt l_bt over the N valid steps. If the form has fewer than N
    targets (the last step, the next input), their weight is N over their number, so that the loss
    is the mean over the targets.

    Parameters
    ----------
    loss : {"auto", "mse", "cross_entropy"}
        The loss; "auto" is cross_entropy for classes and mse for values. A user's loss has an
        encoder of its own, `UserTargetEncoder`.
    """

    classes_: np.ndarray | None

    def __init__(self, loss: Any = "auto") -> None:
        self.loss = loss

    def fit(
        self,
        X: np.ndarray,
        y: ArrayLike | None,
        *,
        mask: np.ndarray | None = None,
        single_step: bool = False,
    ) -> TargetEncoder:
        """Learn the form of y for trials ``X`` (n_trials, n_timesteps, n_features)."""
        self.classes_ = None
        if y is None:
            self.form_, self.n_outputs_ = "next_input", X.shape[2]
        else:
            y = self._check_shape(X, y, single_step)
            self.n_dims_ = y.ndim
            self.form_ = "last_step" if y.ndim == 1 or single_step else "every_step"
        self._learn(y, mask)
        return self

    def _learn(self, y: np.ndarray | None, mask: np.ndarray | None) -> None:
        """Choose the loss for y of this form; set the number of outputs and the classes."""
        check_choice(self.loss, "loss", LOSSES)
        if y is None:
            if self.loss == "cross_entropy":
                raise ValueError(
                    "loss='cross_entropy' needs y, got None: fit requires y to be passed, but the "
                    "target y is None."
                )
            self.loss_ = "mse"
            return
        is_per_step = y.ndim == 2 and self.form_ == "every_step"
        self.loss_ = self.loss
        if self.loss == "auto":
            is_class = (y.ndim == 1 or is_per_step) and y.dtype.kind not in "fc"
            self.loss_ = "cross_entropy" if is_class else "mse"
        if self.loss_ == "cross_entropy":
            self._learn_classes(y, mask)
        elif is_per_step:
            raise ValueError(
                f"loss='mse' needs y of shape (n_trials,) or (n_trials, n_timesteps, n_outputs), "
                f"got shape {y.shape}."
            )
        else:
            self._numeric(y)
            self.n_outputs_ = 1 if y.ndim == 1 else y.shape[-1]

    @property
    def has_loss_per_output(self) -> bool:
        """Whether the loss is a mean over the outputs, which then have losses of their own."""
        return bool(self.loss_ == "mse")

    def _learn_classes(self, y: np.ndarray, mask: np.ndarray | None) -> None:
        if y.ndim == 3:
            raise ValueError(
                "loss='cross_entropy' needs y of shape (n_trials,) or (n_trials, n_timesteps), "
                f"got shape {y.shape}."
            )
        if y.dtype.kind in "fc" and (y != np.round(y)).any():
            raise ValueError(
                "loss='cross_entropy' needs class labels in y, got continuous values: Unknown "
                "label type: continuous."
            )
        # The padding may hold any value, which is not a class.
        classes = np.unique(y if mask is None or y.ndim == 1 else y[mask])
        self.classes_, self.n_outputs_ = classes, len(classes)

    def match_outputs(self, n_outputs: int) -> None:
        """Match the classes to the outputs of a network, which may have more outputs.

        Integer labels below ``n_outputs`` are indices of outputs. Other labels must be as many as
        the outputs, and stand for them in sorted order.
        """
        if self.classes_ is not None and self.n_outputs_ <= n_outputs:
            indices = np.arange(n_outputs)
            if self.classes_.dtype.kind in "iu" and np.isin(self.classes_, indices).all():
                self.classes_, self.n_outputs_ = indices, n_outputs
            elif self.n_outputs_ < n_outputs:
                raise ValueError(
                    f"y has {self.n_outputs_} classes and the readout {n_outputs} outputs: "
                    f"give labels 0..{n_outputs - 1}, which assign each class to its output."
                )
        if self.n_outputs_ != n_outputs:
            advice = ""
            if self.classes_ is not None and n_outputs == 1:
                advice = (
                    " For a single logit, give the loss that the network was trained on as a "
                    "function loss(outputs, y), for example the binary cross entropy of "
                    "outputs[..., 0] and y."
                )
            raise ValueError(
                f"y needs {self.n_outputs_} outputs, but the readout has {n_outputs}.{advice}"
            )

    def _check_shape(
        self, X: np.ndarray, values: ArrayLike, single_step: bool, name: str = "y"
    ) -> np.ndarray:
        y = as_labels(values, name)
        if y.ndim <= 1 or (y.ndim == 2 and y.shape[1] == 1 and single_step):
            with naming(name):
                y = column_or_1d(y, warn=True)
        y = self._as_numbers(y, name)
        if len(y) != len(X):
            raise ValueError(
                f"{name} has {len(y)} trials and X has {len(X)}: Found input variables with "
                f"inconsistent numbers of samples: [{len(X)}, {len(y)}]."
                + _steps_first_advice(X, len(y), name)
            )
        steps = X.shape[1]
        if y.ndim == 3 and y.shape[1] == steps and y.shape[2]:
            return y
        if y.ndim == 1 or (y.ndim == 2 and single_step):
            return y
        if y.ndim == 2 and y.shape[1] == steps and self._has_steps_alone(y):
            return y
        hint = (
            f" For one value per step, give {name}[:, :, None]."
            if y.ndim == 2 and y.shape[1] == steps
            else ""
        )
        raise ValueError(
            f"{name} must have shape ({len(X)}, {steps}, n_outputs), or ({len(X)}, {steps}) with "
            f"integer classes, or ({len(X)},), got {y.dtype} values of shape {y.shape}.{hint}"
        )

    def _as_numbers(self, y: np.ndarray, name: str) -> np.ndarray:
        """Return values as finite floats; labels as they are."""
        is_numeric = y.dtype.kind in "fc" or (y.ndim == 3 and y.dtype.kind not in "OSU")
        return check_numbers(y, name) if is_numeric else y

    @staticmethod
    def _has_steps_alone(y: np.ndarray) -> bool:
        """Return whether y may have the shape (n_trials, n_timesteps): if it holds classes."""
        return y.dtype.kind in "iub"

    def _numeric(self, y: np.ndarray, name: str = "y") -> np.ndarray:
        if y.dtype.kind in "OSU":
            raise ValueError(
                f"loss='mse' needs numbers in {name}, got dtype {y.dtype}; use "
                "loss='cross_entropy' for labels."
            )
        return y.astype(np.float64)

    def encode(
        self,
        X: np.ndarray,
        y: ArrayLike | None,
        *,
        mask: np.ndarray | None = None,
        loss_weight: ArrayLike | None = None,
        single_step: bool = False,
        name: str = "y",
    ) -> Targets:
        """Return the targets of every step; errors call y ``name``."""
        n_trials, n_steps = X.shape[:2]
        valid = np.ones((n_trials, n_steps), bool) if mask is None else mask
        if self.form_ == "next_input":
            if y is not None:
                raise ValueError(
                    f"{name} must be None, as it was on fit (the next input is predicted), got a "
                    f"{type(y).__name__}."
                )
            values, has_target = _next_input(X, valid)
        else:
            if y is None:
                raise ValueError(f"{name} is needed, got None.")
            y = self._check_shape(X, y, single_step, name)
            if y.ndim != self.n_dims_:
                raise ValueError(
                    f"{name} must have {self.n_dims_} dimensions as on fit, got {y.ndim}."
                )
            values = self._to_values(y, valid, name)
            has_target = valid
            if self.form_ == "last_step":
                values = np.repeat(values[:, None], n_steps, axis=1)
                has_target = np.zeros_like(valid)
                has_target[np.arange(n_trials), last_valid_step(mask, X)] = True
        weight = has_target.astype(X.dtype) * (valid.sum() / has_target.sum())
        if loss_weight is not None:
            n_losses = self.n_outputs_ if self.has_loss_per_output else None
            extra = _check_loss_weight(loss_weight, X, n_losses)
            weight = weight * extra if extra.ndim == 2 else weight[..., None] * extra
            if not weight.any():
                raise ValueError(
                    "loss_weight must have at least one positive entry where there is a target, "
                    "got zeros on all targets."
                )
        weight = weight.astype(X.dtype)
        is_given = has_target if self.form_ == "next_input" else valid
        return Targets(self._bounded(values, is_given, weight, X.dtype, name), weight)

    def _bounded(
        self, values: np.ndarray, valid: np.ndarray, weight: np.ndarray, dtype: Any, name: str
    ) -> np.ndarray:
        """Return values in the dtype of X, zero where their weight is zero; classes as they are.

        A value of weight zero may be any number, for example 1e20 for a gap, and its square may
        overflow.
        """
        if self.classes_ is not None:
            return values
        by_output = weight if weight.ndim == 3 else weight[..., None]
        return narrowed(np.where(by_output > 0, values, 0), dtype, name)

    def _to_values(self, y: np.ndarray, valid: np.ndarray, name: str) -> np.ndarray:
        if self.classes_ is None:
            values = self._numeric(y, name)
            values = values[:, None] if values.ndim == 1 else values
            if values.shape[-1] != self.n_outputs_:
                raise ValueError(
                    f"{name} must have {self.n_outputs_} outputs as on fit, got "
                    f"{values.shape[-1]}."
                )
            return values
        if y.ndim == 2 and y.shape == valid.shape:
            y = np.where(valid, y, self.classes_[0])
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise ValueError(
                f"{name} holds labels that were not seen on fit: {unknown[:5].tolist()}."
            )
        return np.searchsorted(self.classes_, y)

    def decode(self, outputs: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
        """Convert outputs (n_trials, n_timesteps, n_outputs) to the form of y."""
        if self.form_ == "last_step":
            outputs = outputs[np.arange(len(outputs)), last_valid_step(mask, outputs)]
        if self.classes_ is not None:
            return self.classes_[outputs.argmax(axis=-1)]
        return outputs[:, 0] if self.form_ == "last_step" and self.n_dims_ == 1 else outputs

    def _without_new_labels(
        self, y: ArrayLike | None, mask: np.ndarray | None
    ) -> tuple[ArrayLike | None, np.ndarray | None]:
        """Replace labels that were not seen on fit by any class; return where they were."""
        if self.classes_ is None or y is None:
            return y, None
        labels = as_labels(y, "y")
        is_new = ~np.isin(labels, self.classes_)
        if mask is not None and mask.shape == labels.shape:
            is_new &= mask  # The padding may hold any value.
        are_comparable = (labels.dtype.kind in "OSU") == (self.classes_.dtype.kind in "OSU")
        if not is_new.any() or not are_comparable:
            return y, None
        advice = (
            'StratifiedKFold(3) puts each class into each fold. With loss="cross_entropy", cv=3 '
            'does so too; with loss="auto", it is not known before fit that y holds classes.'
            if self.loss == "auto"
            else "StratifiedKFold puts each class into each fold."
        )
        warn_caller(
            f"y holds labels that were not seen on fit, {np.unique(labels[is_new])[:5].tolist()}, "
            f"which count as misses. {advice}",
            UserWarning,
        )
        return np.where(is_new, self.classes_[0], labels), is_new

    def score(
        self,
        X: np.ndarray,
        y: ArrayLike | None,
        outputs: np.ndarray,
        *,
        mask: np.ndarray | None,
        loss_weight: ArrayLike | None = None,
        single_step: bool = False,
    ) -> float:
        """Return the weighted accuracy for classes, and the weighted R^2 for values.

        With weights w_bt[o] >= 0, the R^2 of output o is
        1 - sum_bt w_bt[o] (y_bt[o] - yhat_bt[o])^2 / sum_bt w_bt[o] (y_bt[o] - m[o])^2, where m[o]
        is the weighted mean of y[o]. The score is its mean over the outputs that have a positive
        weight. The accuracy is sum_bt w_bt [right_bt] / sum_bt w_bt. Labels that were not seen on
        fit count as misses, with a warning.
        """
        y, is_new = self._without_new_labels(y, mask)
        targets = self.encode(X, y, mask=mask, loss_weight=loss_weight, single_step=single_step)
        largest = targets.weight if targets.weight.ndim == 2 else targets.weight.max(axis=-1)
        counts = largest > 0
        truth, answers = targets.values[counts], outputs[counts]
        weight = targets.weight[counts] / targets.weight.max()
        if self.classes_ is not None:
            if is_new is not None:
                is_missed = np.broadcast_to(is_new.reshape(len(X), -1), counts.shape)
                truth = np.where(is_missed[counts], -1, truth)
            right = accuracy_score(truth, answers.argmax(axis=-1), sample_weight=weight)
            return float(right)
        check_squares(truth, answers)
        if weight.ndim == 1:
            return float(r2_score(truth, answers, sample_weight=weight))
        return _mean_r2(truth, answers, weight)


def _mean_r2(truth: np.ndarray, answers: np.ndarray, weight: np.ndarray) -> float:
    """Return the mean R^2 of the outputs, the last axis, each on its steps of positive weight."""
    scores = []
    for y, prediction, w in zip(truth.T, answers.T, weight.T, strict=True):
        counts = w > 0
        if counts.any():
            scores.append(r2_score(y[counts], prediction[counts], sample_weight=w[counts]))
    return float(np.mean(scores))


def as_labels(values: ArrayLike, name: str) -> np.ndarray:
    """Return labels or numbers as an array of numbers only, or of strings only.

    NumPy would convert a list of strings and numbers, or one with gaps, to strings or objects.
    """
    array = as_array(values, name)
    if array.dtype.kind in "US" and not hasattr(values, "dtype"):
        array = np.asarray(values, dtype=object)
    if array.dtype != object:
        return array
    if all(isinstance(value, str) for value in array.flat):
        return array
    if all(isinstance(value, (int, float, complex, np.number, np.bool_)) for value in array.flat):
        return np.array(array.tolist()).reshape(array.shape)
    kinds = ", ".join(sorted({type(value).__name__ for value in array.flat}))
    raise ValueError(f"{name} must hold only numbers or only strings, without gaps, got {kinds}.")


def _steps_first_advice(X: np.ndarray, n_targets: int, name: str) -> str:
    """Return advice for X whose second axis, not its first, has as many entries as y."""
    if X.shape[1] != n_targets:
        return ""
    return (
        f" The second axis of X has {n_targets}, as many as {name}: if X has its steps first, "
        "give kpflow_sklearn.datasets.trials_first(X)."
    )


def narrowed(values: np.ndarray, dtype: Any, name: str) -> np.ndarray:
    """Convert values to the dtype of X; raise a ValueError if they are out of its range."""
    with np.errstate(over="ignore"):
        narrow = values.astype(dtype)
    if not np.isfinite(narrow).all():
        raise ValueError(
            f"{name} must be within the range of {dtype}, the dtype of X, got values up to "
            f"{abs(values).max():.3g}; scale {name} down or give X as float64."
        )
    return narrow


def _next_input(X: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the next input and where it is valid; for single steps, the input itself."""
    if X.shape[1] == 1:
        return X.copy(), valid
    values = np.concatenate([X[:, 1:], np.zeros_like(X[:, :1])], axis=1)
    has_target = np.concatenate([valid[:, 1:], np.zeros_like(valid[:, :1])], axis=1)
    if not has_target.any():
        raise ValueError("y=None predicts the next input, but mask leaves one step per trial.")
    return values, has_target


def _check_loss_weight(loss_weight: ArrayLike, X: np.ndarray, n_losses: int | None) -> np.ndarray:
    """Return weights of the steps, or of the losses of each step's outputs if it has them."""
    weight = check_numbers(loss_weight, "loss_weight", dtype=np.float64)
    shapes = [X.shape[:2]] if n_losses is None else [X.shape[:2], (*X.shape[:2], n_losses)]
    if weight.shape not in shapes:
        advice = ""
        if n_losses is None and weight.ndim == 3:
            advice = (
                " This loss is one number per step: weigh the outputs inside a function given as "
                "loss, and the steps by loss_weight."
            )
        raise ValueError(
            f"loss_weight must have shape {' or '.join(map(str, shapes))}, got "
            f"{weight.shape}.{advice}"
        )
    if (weight < 0).any() or not (weight > 0).any():
        raise ValueError(
            "loss_weight must be non-negative with at least one positive entry, got values from "
            f"{weight.min():g} to {weight.max():g}."
        )
    return weight

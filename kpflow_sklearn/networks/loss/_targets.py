"""Targets in any of the forms of y, converted to a value and a weight for every step."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import column_or_1d

from kpflow_sklearn._common.arrays import check_numbers, naming
from kpflow_sklearn._common.checks import check_choice, last_valid_step
from kpflow_sklearn.networks.loss._target_scores import (
    weighted_accuracy,
    weighted_r2,
    without_new_labels,
)
from kpflow_sklearn.networks.loss._target_values import (
    Targets,
    as_floats,
    as_labels,
    check_loss_weight,
    classes_in,
    narrowed,
    next_input,
    refuse_ignored,
    shape_advice,
    steps_first_advice,
)

LOSSES = ("auto", "mse", "cross_entropy")


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
            self.classes_ = classes_in(y, mask)
            self.n_outputs_ = len(self.classes_)
        elif is_per_step:
            raise ValueError(
                f"loss='mse' needs y of shape (n_trials,) or (n_trials, n_timesteps, n_outputs), "
                f"got shape {y.shape}."
            )
        else:
            as_floats(y, "y")
            self.n_outputs_ = 1 if y.ndim == 1 else y.shape[-1]

    @property
    def has_loss_per_output(self) -> bool:
        """Whether the loss is a mean over the outputs, which then have losses of their own."""
        return bool(self.loss_ == "mse")

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
                + steps_first_advice(X, len(y), name)
            )
        steps = X.shape[1]
        if y.ndim == 3 and y.shape[1] == steps and y.shape[2]:
            return y
        if y.ndim == 1 or (y.ndim == 2 and single_step):
            return y
        if y.ndim == 2 and y.shape[1] == steps and self._has_steps_alone(y):
            return y
        raise ValueError(
            f"{name} must have shape ({len(X)}, {steps}, n_outputs), or ({len(X)}, {steps}) with "
            f"integer classes, or ({len(X)},), got {y.dtype} values of shape {y.shape}."
            + shape_advice(y, X, name)
        )

    def _as_numbers(self, y: np.ndarray, name: str) -> np.ndarray:
        """Return values as finite floats; labels as they are."""
        is_numeric = y.dtype.kind in "fc" or (y.ndim == 3 and y.dtype.kind not in "OSU")
        return check_numbers(y, name) if is_numeric else y

    @staticmethod
    def _has_steps_alone(y: np.ndarray) -> bool:
        """Return whether y may have the shape (n_trials, n_timesteps): if it holds classes."""
        return y.dtype.kind in "iub"

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
        valid = np.ones(X.shape[:2], bool) if mask is None else mask
        values, has_target = self._read(X, y, valid, single_step, name)
        weight = has_target.astype(X.dtype) * (valid.sum() / has_target.sum())
        if loss_weight is not None:
            n_losses = self.n_outputs_ if self.has_loss_per_output else None
            extra = check_loss_weight(loss_weight, X, n_losses)
            weight = weight * extra if extra.ndim == 2 else weight[..., None] * extra
            if not weight.any():
                raise ValueError(
                    "loss_weight must have at least one positive entry where there is a target, "
                    "got zeros on all targets."
                )
        weight = weight.astype(X.dtype)
        is_given = has_target if self.form_ == "next_input" else valid
        return Targets(self._bounded(values, is_given, weight, X.dtype, name), weight)

    def _read(
        self, X: np.ndarray, y: ArrayLike | None, valid: np.ndarray, single_step: bool, name: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the values or classes of every step, and which steps have a target."""
        if self.form_ == "next_input":
            if y is not None:
                raise ValueError(
                    f"{name} must be None, as it was on fit (the next input is predicted), got a "
                    f"{type(y).__name__}."
                )
            return next_input(X, valid)
        if y is None:
            raise ValueError(f"{name} is needed, got None.")
        y = self._check_shape(X, y, single_step, name)
        if y.ndim != self.n_dims_:
            raise ValueError(
                f"{name} must have {self.n_dims_} dimensions as on fit, got {y.ndim}."
            )
        values = self._to_values(y, valid, name)
        if self.form_ == "every_step":
            return values, valid
        has_target = np.zeros_like(valid)
        has_target[np.arange(len(X)), last_valid_step(valid, X)] = True
        return np.repeat(values[:, None], X.shape[1], axis=1), has_target

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
            values = as_floats(y, name)
            values = values[:, None] if values.ndim == 1 else values
            if values.shape[-1] != self.n_outputs_:
                raise ValueError(
                    f"{name} must have {self.n_outputs_} outputs as on fit, got "
                    f"{values.shape[-1]}."
                )
            return values
        refuse_ignored(y, valid, name)
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
        is_new = None
        if self.classes_ is not None and y is not None:
            y, is_new = without_new_labels(y, mask, self.classes_, self.loss)
        targets = self.encode(X, y, mask=mask, loss_weight=loss_weight, single_step=single_step)
        if self.classes_ is None:
            return weighted_r2(targets, outputs)
        return weighted_accuracy(targets, outputs, is_new)

"""Targets in the forms users give them, brought to one: a value and a weight for every step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils import column_or_1d

from kpflow_sklearn._common.arrays import as_array, check_numbers, check_squares, naming
from kpflow_sklearn._common.checks import check_choice, last_valid_step

LOSSES = ("auto", "mse", "cross_entropy")


@dataclass(frozen=True)
class Targets:
    """What the loss compares with, step by step.

    Attributes
    ----------
    values : ndarray
        (n_trials, n_timesteps, n_outputs) floats for mse, (n_trials, n_timesteps) class indices
        for cross_entropy.
    weight : ndarray of shape (n_trials, n_timesteps) or (n_trials, n_timesteps, n_outputs)
        w >= 0; zero where nothing is asked.
    """

    values: np.ndarray
    weight: np.ndarray

    def __getitem__(self, trials: np.ndarray) -> Targets:
        return Targets(self.values[trials], self.weight[trials])


class TargetEncoder:
    """Learns which form y has and translates between that form and `Targets`.

    ======================================== ====================================================
    y                                        meaning
    ======================================== ====================================================
    (n_trials, n_timesteps, n_outputs)       a target value at every step
    (n_trials, n_timesteps) integers, 3-D X  a class at every step
    (n_trials,)                              one value (floats) or class at the last valid step
    (n_trials, n_outputs), 2-D X             values at the single step
    None                                     the next input; of single steps, the input itself
    ======================================== ====================================================

    The loss is (1/N) sum_bt w_bt l_bt over the N valid steps. Where the form asks for fewer than
    N targets (the last step, the next input), their weight is N over their number, so that the
    loss is the mean over the targets there are.

    Parameters
    ----------
    loss : {"auto", "mse", "cross_entropy"}
        "auto" takes cross_entropy for classes and mse for values.
    """

    classes_: np.ndarray | None

    def __init__(self, loss: str = "auto") -> None:
        self.loss = loss

    def fit(
        self,
        X: np.ndarray,
        y: ArrayLike | None,
        *,
        mask: np.ndarray | None = None,
        single_step: bool = False,
    ) -> TargetEncoder:
        """Learn the form of ``y`` for trials ``X`` (n_trials, n_timesteps, n_features)."""
        check_choice(self.loss, "loss", LOSSES)
        self.classes_ = None
        if y is None:
            if self.loss == "cross_entropy":
                raise ValueError("loss='cross_entropy' needs y, got None.")
            self.form_, self.loss_, self.n_outputs_ = "next_input", "mse", X.shape[2]
            return self
        y = self._check_shape(X, y, single_step)
        self.n_dims_ = y.ndim
        self.form_ = "last_step" if y.ndim == 1 or single_step else "every_step"
        a_class_each = y.ndim == 1 or (y.ndim == 2 and not single_step)
        self.loss_ = self.loss
        if self.loss == "auto":
            self.loss_ = "cross_entropy" if a_class_each and y.dtype.kind not in "fc" else "mse"
        if self.loss_ == "cross_entropy":
            self._learn_classes(y, mask)
        elif y.ndim == 2 and not single_step:
            raise ValueError(
                f"loss='mse' needs y of shape (n_trials,) or (n_trials, n_timesteps, n_outputs), "
                f"got shape {y.shape}."
            )
        else:
            self._numeric(y)
            self.n_outputs_ = 1 if y.ndim == 1 else y.shape[-1]
        return self

    def _learn_classes(self, y: np.ndarray, mask: np.ndarray | None) -> None:
        if y.ndim == 3:
            raise ValueError(
                "loss='cross_entropy' needs y of shape (n_trials,) or (n_trials, n_timesteps), "
                f"got shape {y.shape}."
            )
        if y.dtype.kind in "fc" and (y != np.round(y)).any():
            raise ValueError(
                "loss='cross_entropy' needs class labels in y, got continuous values."
            )
        # Whatever fills the padding is no class.
        classes = np.unique(y if mask is None or y.ndim == 1 else y[mask])
        self.classes_, self.n_outputs_ = classes, len(classes)

    def match_outputs(self, n_outputs: int) -> None:
        """Hold the form learnt against a network of ``n_outputs``, which may know more classes.

        Integer labels below ``n_outputs`` name an output each; other labels must be as many as
        the outputs, and are taken in sorted order.
        """
        if self.classes_ is not None and self.n_outputs_ <= n_outputs:
            known = np.arange(n_outputs)
            if self.classes_.dtype.kind in "iu" and np.isin(self.classes_, known).all():
                self.classes_, self.n_outputs_ = known, n_outputs
            elif self.n_outputs_ < n_outputs:
                raise ValueError(
                    f"y has {self.n_outputs_} classes and the readout {n_outputs} outputs: give "
                    f"labels 0..{n_outputs - 1}, so that it is clear which output is which."
                )
        if self.n_outputs_ != n_outputs:
            raise ValueError(
                f"y asks for {self.n_outputs_} outputs, but the readout has {n_outputs}."
            )

    def _check_shape(
        self, X: np.ndarray, values: ArrayLike, single_step: bool, name: str = "y"
    ) -> np.ndarray:
        y = as_labels(values, name)
        if y.ndim <= 1 or (y.ndim == 2 and y.shape[1] == 1 and single_step):
            with naming(name):
                y = column_or_1d(y, warn=True)
        if y.dtype.kind in "fc" or (y.ndim == 3 and y.dtype.kind not in "OSU"):
            y = check_numbers(y, name)
        if len(y) != len(X):
            raise ValueError(
                f"{name} has {len(y)} trials and X has {len(X)}: Found input variables with "
                f"inconsistent numbers of samples: [{len(X)}, {len(y)}]."
            )
        steps = X.shape[1]
        if y.ndim == 3 and y.shape[1] == steps and y.shape[2]:
            return y
        if y.ndim == 1 or (y.ndim == 2 and single_step):
            return y
        if y.ndim == 2 and y.shape[1] == steps and y.dtype.kind in "iub":
            return y
        hint = (
            f" For one value a step, give {name}[:, :, None]."
            if y.ndim == 2 and y.shape[1] == steps
            else ""
        )
        raise ValueError(
            f"{name} must have shape ({len(X)}, {steps}, n_outputs), or ({len(X)}, {steps}) with "
            f"integer classes, or ({len(X)},), got {y.dtype} values of shape {y.shape}.{hint}"
        )

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
        """Return the targets of every step, in the form learnt by `fit`, y ``name`` in errors."""
        n_trials, n_steps = X.shape[:2]
        valid = np.ones((n_trials, n_steps), bool) if mask is None else mask
        if self.form_ == "next_input":
            if y is not None:
                raise ValueError(
                    f"{name} must be None, as it was on fit (the next input is predicted), got a "
                    f"{type(y).__name__}."
                )
            values, asked = _next_input(X, valid)
        else:
            if y is None:
                raise ValueError(f"{name} is needed, got None.")
            y = self._check_shape(X, y, single_step, name)
            if y.ndim != self.n_dims_:
                raise ValueError(
                    f"{name} must have {self.n_dims_} dimensions as on fit, got {y.ndim}."
                )
            values = self._to_values(y, valid, name)
            asked = valid
            if self.form_ == "last_step":
                values = np.repeat(values[:, None], n_steps, axis=1)
                asked = np.zeros_like(valid)
                asked[np.arange(n_trials), last_valid_step(mask, X)] = True
        weight = asked.astype(X.dtype) * (valid.sum() / asked.sum())
        if loss_weight is not None:
            extra = _check_loss_weight(loss_weight, X, self.n_outputs_, self.loss_)
            weight = weight * extra if extra.ndim == 2 else weight[..., None] * extra
            if not weight.any():
                raise ValueError(
                    "loss_weight must have at least one positive entry where a target is asked "
                    "for, got zeros on all of them."
                )
        weight = weight.astype(X.dtype)
        if self.classes_ is None:
            # What costs nothing may be any number, 1e20 for a gap say, whose square may overflow.
            costs = weight if weight.ndim == 3 else weight[..., None]
            values = _narrowed(np.where(costs > 0, values, 0), X.dtype, name)
        return Targets(values, weight)

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
        """Turn the network's outputs (n_trials, n_timesteps, n_outputs) into the form of y."""
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
        single_step: bool = False,
    ) -> float:
        """Return accuracy for classes and R^2 (mean over outputs) for values, where asked."""
        targets = self.encode(X, y, mask=mask, single_step=single_step)
        asked = targets.weight > 0
        truth = targets.values[asked]
        if self.classes_ is not None:
            return float(accuracy_score(truth, outputs[asked].argmax(axis=-1)))
        check_squares(truth, outputs[asked])
        return float(r2_score(truth, outputs[asked]))


def as_labels(values: ArrayLike, name: str) -> np.ndarray:
    """Return labels or numbers as an array of numbers alone, or of strings alone.

    NumPy would turn a list of strings and numbers, or with gaps, into strings or objects.
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
    raise ValueError(
        f"{name} must hold numbers alone or strings alone, without gaps, got {kinds}."
    )


def _narrowed(values: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        narrow = values.astype(dtype)
    if not np.isfinite(narrow).all():
        raise ValueError(
            f"{name} must be numbers that {dtype}, the dtype of X, can hold, got values up to "
            f"{abs(values).max():.3g}; scale {name} down or give X as float64."
        )
    return narrow


def _next_input(X: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Targets are the next valid input; trials of a single step reconstruct it."""
    if X.shape[1] == 1:
        return X.copy(), valid
    values = np.concatenate([X[:, 1:], np.zeros_like(X[:, :1])], axis=1)
    asked = np.concatenate([valid[:, 1:], np.zeros_like(valid[:, :1])], axis=1)
    if not asked.any():
        raise ValueError("y=None predicts the next input, but mask leaves one step per trial.")
    return values, asked


def _check_loss_weight(
    loss_weight: ArrayLike, X: np.ndarray, n_outputs: int, loss: str
) -> np.ndarray:
    weight = check_numbers(loss_weight, "loss_weight", dtype=np.float64)
    shapes = [X.shape[:2]] if loss == "cross_entropy" else [X.shape[:2], (*X.shape[:2], n_outputs)]
    if weight.shape not in shapes:
        raise ValueError(
            f"loss_weight must have shape {' or '.join(map(str, shapes))}, got {weight.shape}."
        )
    if (weight < 0).any() or not (weight > 0).any():
        raise ValueError(
            "loss_weight must be non-negative with at least one positive entry, got values from "
            f"{weight.min():g} to {weight.max():g}."
        )
    return weight

"""Targets of a user's loss, which are passed on as they are given."""

from __future__ import annotations

from typing import Any

import numpy as np

from kpflow_sklearn._common.arrays import check_numbers
from kpflow_sklearn._common.checks import last_valid_step
from kpflow_sklearn._common.fingerprints import name_of
from kpflow_sklearn.networks.loss._target_values import narrowed
from kpflow_sklearn.networks.loss._targets import LOSSES, TargetEncoder
from kpflow_sklearn.networks.loss._user_loss import Loss


def target_encoder(loss: Loss) -> TargetEncoder:
    """Return the encoder of targets for a loss, by its name or as a function of the user.

    Raises ValueError if the loss is neither.
    """
    if isinstance(loss, str) and loss in LOSSES:
        return TargetEncoder(loss)
    if not callable(loss) or isinstance(loss, type):
        instead = ""
        if isinstance(loss, type):
            instead = f", for example an instance {loss.__name__}(...) if that is one"
        raise ValueError(
            f"loss must be one of {', '.join(map(repr, LOSSES))} or a function loss(outputs, y) "
            f"that returns one number per trial and step, got {loss!r}; give a name or a "
            f"function{instead}."
        )
    return UserTargetEncoder(loss)


class UserTargetEncoder(TargetEncoder):
    """Pass y on to a user's loss as it is given, with the weight of every step.

    Floats stay floats and integers int64; no classes are learned. One value per trial is repeated
    at every step, and only the last valid step has a weight. Values on masked steps are zero.

    Parameters
    ----------
    loss : callable
        The function loss(outputs, y).
    """

    def _learn(self, y: np.ndarray | None, mask: np.ndarray | None) -> None:
        self.loss_ = self.loss
        if y is not None:
            self._shape_per_step = self._per_step(y)
            self.n_outputs_ = self._shape_per_step[0] if self._shape_per_step else 1

    def _per_step(self, y: np.ndarray) -> tuple[int, ...]:
        """Return the axis of outputs beside those of trials and steps; () if there is none."""
        return y.shape[1:] if self.form_ == "last_step" else y.shape[2:]

    def match_outputs(self, n_outputs: int) -> None:
        """Take the number of outputs of a network, whatever the shape of y."""
        self.n_outputs_ = n_outputs

    @staticmethod
    def _has_steps_alone(y: np.ndarray) -> bool:
        return True

    def _as_numbers(self, y: np.ndarray, name: str) -> np.ndarray:
        if y.dtype.kind in "OSU":
            raise ValueError(
                f"{name} must hold numbers, because loss={name_of(self.loss)} receives it as a "
                f"tensor, got dtype {y.dtype}; give labels as integers 0, 1, ..."
            )
        return y.astype(np.int64) if y.dtype.kind in "iub" else check_numbers(y, name)

    def _to_values(self, y: np.ndarray, valid: np.ndarray, name: str) -> np.ndarray:
        per_step = self._per_step(y)
        if per_step != self._shape_per_step:
            raise ValueError(
                f"{name} must have {self._shape_per_step[0]} values per step as on fit, got "
                f"{per_step[0]}."
            )
        return y

    def _bounded(
        self, values: np.ndarray, valid: np.ndarray, weight: np.ndarray, dtype: Any, name: str
    ) -> np.ndarray:
        """Return values in the dtype of X or int64, zero on masked steps."""
        values = np.where(valid.reshape(*valid.shape, *[1] * (values.ndim - 2)), values, 0)
        return values if values.dtype.kind == "i" else narrowed(values, dtype, name)

    def decode(self, outputs: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
        """Return the outputs of every step or, if y has one value per trial, of the last one."""
        if self.form_ == "last_step":
            return outputs[np.arange(len(outputs)), last_valid_step(mask, outputs)]
        return outputs

"""Turn what an analyzer is given as its ``trainer`` into a trainer to fit."""

from __future__ import annotations

from typing import Any

from sklearn.base import clone, is_classifier
from torch import nn

from kpflow_sklearn.training._feedforward_model import FeedForwardModel
from kpflow_sklearn.training._feedforward_saved import SavedFeedForward
from kpflow_sklearn.training._feedforward_trainer import FeedForwardTrainer
from kpflow_sklearn.training._recurrent_model import RecurrentModel
from kpflow_sklearn.training._recurrent_saved import SavedTraining
from kpflow_sklearn.training._recurrent_trainer import RecurrentTrainer


def as_trainer(trainer: Any, *, random_state: int, verbose: bool | int) -> Any:
    """Return an unfitted trainer for the parameter ``trainer`` of a recurrent analyzer.

    A trainer is cloned, and its ``random_state`` is set if it is None. A module becomes
    ``SavedTraining(module)``, and None a GRU of 64 units.
    """
    if trainer is None:
        return RecurrentTrainer(random_state=random_state, verbose=verbose)
    if isinstance(trainer, nn.Module):
        return SavedTraining(trainer)
    return _fresh(trainer, RecurrentModel, random_state)


def as_feedforward_trainer(trainer: Any, *, random_state: int, verbose: bool | int) -> Any:
    """Return an unfitted trainer for the parameter ``trainer`` of `GramFlowAnalyzer`.

    A trainer is cloned, and its ``random_state`` is set if it is None. A module or a
    `SavedTraining` becomes a `SavedFeedForward`, and None one hidden layer of 64 units.
    """
    if trainer is None:
        return FeedForwardTrainer((64,), random_state=random_state, verbose=verbose)
    if isinstance(trainer, nn.Module):
        return SavedFeedForward(trainer)
    if isinstance(trainer, SavedTraining):
        return _feedforward_of(trainer)
    return _fresh(trainer, FeedForwardModel, random_state)


def is_classifying(trainer: Any) -> bool:
    """Tell whether a recurrent trainer, possibly frozen, is a classifier for scikit-learn."""
    model = getattr(trainer, "estimator", trainer)
    return isinstance(model, RecurrentModel) and is_classifier(model)


def _fresh(trainer: Any, kind: type, random_state: int) -> Any:
    """Return a clone of a trainer, possibly frozen, whose ``random_state`` is set."""
    if not isinstance(getattr(trainer, "estimator", trainer), kind):
        expected = "RecurrentTrainer" if kind is RecurrentModel else "FeedForwardTrainer"
        raise ValueError(
            f"trainer must be a {expected}, a SavedTraining, a FrozenEstimator of one, a "
            f"torch.nn.Module or None, got {trainer!r}."
        )
    fresh = clone(trainer)
    if "random_state" in fresh.get_params(deep=False) and fresh.random_state is None:
        fresh.set_params(random_state=random_state)
    return fresh


def _feedforward_of(saved: SavedTraining) -> SavedFeedForward:
    """Return the feed-forward form of a `SavedTraining`."""
    for name in ("recurrent", "step", "readout", "encoder", "initial_state", "parameters"):
        if getattr(saved, name) is not None:
            raise ValueError(
                f"{name} must be None for a feed-forward network, whose last Linear is the "
                f"readout, got {getattr(saved, name)!r}."
            )
    if saved.loss not in ("auto", "mse"):
        raise ValueError(
            f"loss must be 'mse' or 'auto' for a feed-forward network, got {saved.loss!r}: the "
            "equations of the kernel are those of a quadratic loss."
        )
    return SavedFeedForward(saved.network, saved.checkpoints, iterations=saved.iterations)

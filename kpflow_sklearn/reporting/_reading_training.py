"""A network and its training in words: its kind, what was minimised, and how."""

from __future__ import annotations

from typing import Any

from kpflow_sklearn._common.fingerprints import name_of
from kpflow_sklearn.results import provenance

_LOSS_NAMES = {"mse": "mean squared error", "cross_entropy": "cross entropy"}


def source_of(analyzer: Any) -> Any:
    """Return the trainer of a fitted analyzer, taken out of its FrozenEstimator.

    Parameters
    ----------
    analyzer : estimator
        A fitted analyzer.

    Returns
    -------
    estimator
        The trainer, or the `SavedTraining` in its place.
    """
    return getattr(analyzer.trainer_, "estimator", analyzer.trainer_)


def network_in_words(analyzer: Any) -> str:
    """Describe the kind of network that was analysed.

    Parameters
    ----------
    analyzer : estimator
        A fitted analyzer.

    Returns
    -------
    str
        Half a sentence.
    """
    trainer = source_of(analyzer)
    if hasattr(trainer, "hidden_sizes"):
        sizes = ", ".join(map(str, trainer.hidden_sizes))
        return f"multilayer perceptron ({trainer.activation}), hidden layers of {sizes} units"
    if not hasattr(trainer, "cell"):
        return f"{type(trainer.network).__name__}, trained elsewhere"
    cell = _name(trainer.cell)
    layers = f"{trainer.n_layers} layers of " if trainer.n_layers > 1 else ""
    kind = cell.upper() if cell in ("gru", "lstm") else f"{cell} network"
    return f"{kind}, {layers}{trainer.hidden_size} units"


def training_in_words(analyzer: Any) -> str:
    """Describe what was minimised, and how.

    Parameters
    ----------
    analyzer : estimator
        A fitted analyzer.

    Returns
    -------
    str
        Half a sentence.
    """
    trainer, loss = source_of(analyzer), "quadratic loss"
    if hasattr(trainer, "target_encoder_"):
        form = trainer.target_encoder_.form_.replace("_", " ")
        loss = f"{loss_in_words(trainer.objective_.loss)} ({form})"
    if not hasattr(trainer, "optimizer"):
        iterations = [snapshot.iteration for snapshot in analyzer.snapshots_]
        states = f"one saved state, at iteration {iterations[0]}"
        if len(iterations) > 1:
            ends = f"{iterations[0]} to {iterations[-1]}"
            states = f"{len(iterations)} saved states, iterations {ends}"
        return f"{states}; evaluated by the {loss}"
    batches = "full batches" if trainer.batch_size is None else f"batches of {trainer.batch_size}"
    stopped = ", interrupted" if getattr(trainer, "interrupted_", False) else ""
    return (
        f"{analyzer.n_iter_} updates by {_name(trainer.optimizer)} on the {loss}, learning rate "
        f"{trainer.learning_rate:g}, {batches}{stopped}"
    )


def loss_in_words(loss: Any) -> str:
    """Return the name of a loss, or that of a user's function.

    Parameters
    ----------
    loss : str or callable
        The loss of a trainer's objective.

    Returns
    -------
    str
        Words to follow "the".
    """
    return f"loss {name_of(loss)}" if callable(loss) else _LOSS_NAMES[loss]


def _name(what: Any) -> str:
    """Return the name of a class, a function or an object that builds cells."""
    return what if isinstance(what, str) else name_of(what)


def provenance_of(analyzer: Any, **extra: Any) -> dict[str, str]:
    """Return the origin of a table's numbers, to be written with it.

    Parameters
    ----------
    analyzer : estimator
        A fitted analyzer.
    **extra
        Further entries, for example the command.

    Returns
    -------
    dict of str to str
        Versions, network, training, seed and dtype.
    """
    return provenance(
        training=training_in_words(analyzer),
        network=repr(analyzer.trainer_),
        seed=analyzer.random_state,
        dtype=str(analyzer.network_.dtype).removeprefix("torch."),
        **extra,
    )

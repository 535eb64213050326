"""Rank on the time axis of untrained networks against the gain of their recurrent weights."""

import matplotlib.pyplot as plt
import numpy as np

from kpflow_sklearn import RecurrentTrainer, linearize
from kpflow_sklearn.datasets._memory_pro import make_memory_pro
from kpflow_sklearn.spectra._functions import rank

GAINS = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
SEEDS = range(5)
LOOKS = {"K": ("#0072B2", "o-"), "P": ("#D55E00", "s--"), "PKP": ("#009E73", "^:")}


def ranks(gain: float, seed: int, X: np.ndarray, y: np.ndarray) -> list[float]:
    """Return the ranks of K, P and PKP* of one network."""
    trainer = RecurrentTrainer(
        "tanh", hidden_size=32, init_scale=gain, max_iter=0, snapshots=1, random_state=seed
    )
    lin = linearize(trainer.fit(X, y).network_, X)
    return [rank(getattr(lin, name), "time", random_state=seed).value for name in LOOKS]


def draw() -> None:
    """Draw the median and range over seeds."""
    X, y = make_memory_pro(12, stimulus=12, memory=12, response=12, evenly_spaced=True)
    rank_table = np.array([[ranks(gain, seed, X, y) for seed in SEEDS] for gain in GAINS])
    _, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
    for k, (name, (color, style)) in enumerate(LOOKS.items()):
        values = rank_table[:, :, k]
        ax.plot(
            GAINS, np.median(values, axis=1), style, color=color, label=name.replace("PKP", "PKP*")
        )
        ax.fill_between(
            GAINS, values.min(axis=1), values.max(axis=1), color=color, alpha=0.2, lw=0
        )
    ax.set(
        xlabel="gain of the recurrent weights", ylabel="95% rank on the time axis", ylim=(0, None)
    )
    ax.axhline(X.shape[1], color="0.7", lw=0.8)
    ax.text(GAINS[-1], X.shape[1], "number of steps", ha="right", va="bottom", size=8, color="0.4")
    ax.legend(frameon=False)


draw()

"""The matrices of P, K and PKP* of a small network, and their time-axis eigenvalues."""

import matplotlib.pyplot as plt
import numpy as np

from kpflow_sklearn import RecurrentTrainer, linearize
from kpflow_sklearn.spectra._functions import spectrum

N_TRIALS, N_STEPS, N_UNITS = 3, 12, 5
LABELS = {"P": "P", "K": "K", "PKP": "PKP*"}


def small_network() -> tuple[object, np.ndarray]:
    """Return an untrained tanh network and smooth inputs."""
    phase = np.arange(N_TRIALS)[:, None] + 0.4 * np.arange(N_STEPS)
    X = np.stack([np.sin(phase), np.cos(phase)], axis=-1)
    trainer = RecurrentTrainer(
        "tanh", hidden_size=N_UNITS, init_scale=0.9, max_iter=0, snapshots=1, random_state=1
    )
    return trainer.fit(X).network_, X


def draw_matrix(ax: plt.Axes, matrix: np.ndarray, title: str, blocks: int, words: str) -> None:
    """Draw a matrix with lines between its blocks. Values near zero are white."""
    limit = np.quantile(np.abs(matrix), 0.99)
    ax.imshow(matrix, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    for k in range(1, blocks):
        edge = k * len(matrix) / blocks - 0.5
        ax.axhline(edge, color="0.6", lw=0.5)
        ax.axvline(edge, color="0.6", lw=0.5)
    ax.set(title=title, xticks=[], yticks=[], xlabel=words)


def draw() -> None:
    """Draw the three matrices, K ordered by units, and the eigenvalues."""
    network, X = small_network()
    lin = linearize(network, X)
    figure = plt.figure(figsize=(9, 6), layout="constrained")
    axes = [figure.add_subplot(2, 3, k) for k in (1, 2, 3, 4)] + [figure.add_subplot(2, 3, (5, 6))]
    for ax, name in zip(axes[:3], LABELS, strict=True):
        dense = getattr(lin, name).to_dense().numpy()
        draw_matrix(ax, dense, LABELS[name], N_TRIALS, "trials × steps × units")
    K = lin.K.to_dense().numpy()
    by_unit = np.arange(len(K)).reshape(N_TRIALS * N_STEPS, N_UNITS).T.ravel()
    draw_matrix(
        axes[3], K[np.ix_(by_unit, by_unit)], "K, by units", N_UNITS, "units × trials × steps"
    )
    for name, style in zip(LABELS, ("o-", "s--", "^:"), strict=True):
        time_spectrum = spectrum(getattr(lin, name), "time")
        share = time_spectrum.eigenvalues / time_spectrum.trace.value
        axes[4].semilogy(np.arange(1, N_STEPS + 1), share, style, ms=3.5, label=LABELS[name])
    axes[4].set(
        title="time axis", xlabel="eigenvalue", ylabel="share of the trace", ylim=(1e-6, 2)
    )
    axes[4].legend(frameon=False)


draw()

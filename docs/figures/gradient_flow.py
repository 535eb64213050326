"""Schematic of one step of gradient descent: from the error to the change of the states."""

import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

# Each quantity: its formula, its description, and the space that contains it.
STAGES = [
    ("Err", "error of each state", "trajectories"),
    ("P* Err", "adjoint: the error,\ncarried back in time", "trajectories"),
    (
        "Δθ = −η J$_θ$* P* Err",
        "change of the weights,\nshared by all steps",
        "parameters",
    ),
    ("J$_θ$ Δθ = −η K P* Err", "forcing: the push of Δθ\nat each step", "trajectories"),
    ("ΔZ = −η P K P* Err", "change of the states:\nthe push, carried forward", "trajectories"),
]
ARROWS = ["P*", "J$_θ$*", "J$_θ$", "P"]
COLORS = {"trajectories": "#dbe9f6", "parameters": "#fde3c8"}
WIDTH, HEIGHT, STEP = 2.9, 1.3, 3.65


def draw() -> None:
    """Draw the chain. K spans the two arrows through the parameters."""
    figure, ax = plt.subplots(figsize=(12, 2.3))
    for k, (title, words, space) in enumerate(STAGES):
        box = FancyBboxPatch(
            (k * STEP, 0), WIDTH, HEIGHT, boxstyle="round,pad=0.05", fc=COLORS[space], ec="0.4"
        )
        ax.add_patch(box)
        middle = k * STEP + WIDTH / 2
        ax.text(middle, 0.92, title, ha="center", va="center", weight="bold", size=10)
        ax.text(middle, 0.37, words, ha="center", va="center", size=8)
    for k, name in enumerate(ARROWS):
        start, end = k * STEP + WIDTH + 0.08, (k + 1) * STEP - 0.08
        ax.add_patch(
            FancyArrowPatch((start, 0.62), (end, 0.62), arrowstyle="-|>", mutation_scale=12)
        )
        ax.text((start + end) / 2, 0.78, name, ha="center", size=10)
    left, right = STEP + WIDTH, 3 * STEP
    ax.plot([left, left, right, right], [1.45, 1.6, 1.6, 1.45], color="0.3", lw=1)
    ax.text(
        (left + right) / 2,
        1.68,
        "K = J$_θ$ J$_θ$*: the pushes that training can make",
        ha="center",
        size=10,
    )
    ax.text(0, -0.42, "blue: one value per trial, step and unit", size=8.5, color="0.3")
    ax.text(2 * STEP, -0.42, "orange: one value per parameter", size=8.5, color="0.3")
    ax.set(xlim=(-0.2, 4 * STEP + WIDTH + 0.2), ylim=(-0.6, 2.05), aspect="equal")
    ax.axis("off")


draw()

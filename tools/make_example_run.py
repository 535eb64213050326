"""Train the network of `load_example_run` in plain torch and write its checkpoints.

A GRU learns Memory-Pro from fresh noisy trials, with Adam and clipped gradients. Training uses
float64 and the files are float32, so that every machine writes the same numbers.

    python tools/make_example_run.py
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import nn

from kpflow_sklearn.datasets._example_run import FOLDER, PERIODS, ExampleNetwork
from kpflow_sklearn.datasets._memory_pro import make_memory_pro

LAST = 600
BATCH = 32
NOISE = 0.3
KEPT = set(np.unique(np.geomspace(1, LAST + 1, 48).round().astype(int) - 1))


def train(folder: Path) -> None:
    """Write the state_dict ``step_<iteration>.pt`` before each iteration in ``KEPT``."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    network = ExampleNetwork().double()
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    random = np.random.RandomState(0)
    for iteration in range(LAST + 1):
        if iteration in KEPT:
            state = {name: value.float() for name, value in network.state_dict().items()}
            torch.save(state, folder / f"step_{iteration}.pt")
        X, y = make_memory_pro(BATCH, noise_std=NOISE, random_state=random, **PERIODS)
        loss = nn.functional.mse_loss(network(torch.from_numpy(X)), torch.from_numpy(y))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER)
    train(parser.parse_args().folder)

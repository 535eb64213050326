"""A run that plain torch trained, with its folder of checkpoints: what people bring along."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from sklearn.utils import Bunch
from torch import Tensor, nn

from kpflow_sklearn._common.random import isolated_torch_seed
from kpflow_sklearn.datasets._memory_pro import make_memory_pro

#: Written by tools/make_example_run.py.
FOLDER = Path(__file__).parent / "example_run"
PERIODS = {"stimulus": 15, "memory": 15, "response": 15}
N_STIMULI = 16

DESCRIPTION = """\
A GRU of 16 units with a linear readout, trained in plain torch on Memory-Pro (15 steps a period):
600 updates by Adam (learning rate 0.005), gradients clipped at norm 1, each on 32 fresh trials
with input noise of standard deviation 0.3. One seed. Checkpoint step_n.pt is the state_dict after
n updates. X and y are 16 noise-free trials at evenly spaced angles. The files are written by
tools/make_example_run.py in the package's repository.
"""


class ExampleNetwork(nn.Module):
    """A GRU with a linear readout, as people write it."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(3, 16, batch_first=True)
        self.readout = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs at all steps, (n_trials, n_timesteps, 3)."""
        states, _ = self.rnn(x)
        return self.readout(states)


def load_example_run() -> Bunch:
    """Load a network trained in plain torch, with its checkpoints over training.

    The network learned Memory-Pro from noisy batches; the trials that come with it are noise-free.

    Returns
    -------
    Bunch
        With the attributes

        - X : ndarray of shape (16, 45, 3), float64, the inputs of `make_memory_pro`, noise-free
        - y : ndarray of shape (16, 45, 3), float64, its targets
        - angles : ndarray of shape (16,), the stimulus of each trial, in radians
        - module : torch.nn.Module, the network before training
        - checkpoints : list of str, paths of state_dicts of the whole module, as ``torch.save``
          wrote them, in order of training
        - iterations : list of int, parameter updates before each checkpoint
        - description : str, how it was trained

    See Also
    --------
    kpflow_sklearn.SavedTraining : Takes module and checkpoints to an analyzer.

    Examples
    --------
    >>> from kpflow_sklearn import KPFlowAnalyzer, SavedTraining
    >>> from kpflow_sklearn.datasets import load_example_run
    >>> run = load_example_run()
    >>> len(run.checkpoints), run.iterations[-1]
    (40, 600)
    >>> saved = SavedTraining(run.module, [run.checkpoints[0], run.checkpoints[-1]])
    >>> analyzer = KPFlowAnalyzer(saved, operators=["K"], axes=["time"]).fit(run.X, run.y)
    >>> analyzer.results_.query("quantity == 'loss'")["value"].round(3).tolist()
    [0.284, 0.005]
    """
    paths = {int(re.findall(r"\d+", path.stem)[0]): str(path) for path in FOLDER.glob("*.pt")}
    iterations = sorted(paths)
    checkpoints = [paths[iteration] for iteration in iterations]
    with isolated_torch_seed(1):  # Torch draws weights, which the next line overwrites.
        module = ExampleNetwork()
    module.load_state_dict(torch.load(checkpoints[0], weights_only=True))
    X, y, angles = make_memory_pro(N_STIMULI, **PERIODS, evenly_spaced=True, return_stimuli=True)
    return Bunch(
        X=X,
        y=y,
        angles=angles,
        module=module,
        checkpoints=checkpoints,
        iterations=iterations,
        description=DESCRIPTION,
    )

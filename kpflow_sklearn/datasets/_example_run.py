"""An example of a network trained in plain torch, with its folder of checkpoints."""

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
A GRU of 16 units with a linear readout, trained in plain torch on Memory-Pro with 15 steps per
period. Adam (learning rate 0.005, gradients clipped at norm 1) made 600 updates, each on 32 new
trials with input noise of standard deviation 0.3, from one seed. Checkpoint step_n.pt is the
state_dict after n updates. X and y are 16 noise-free trials at evenly spaced angles. The files are
written by tools/make_example_run.py in the package's repository.
"""


class ExampleNetwork(nn.Module):
    """A GRU with a linear readout, in plain torch."""

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

    The network was trained on noisy batches of Memory-Pro. The trials returned with it are
    noise-free.

    Returns
    -------
    Bunch
        The run, with the attributes

        - X : ndarray of shape (16, 45, 3), float64, the inputs of `make_memory_pro`
        - y : ndarray of shape (16, 45, 3), float64, its targets
        - angles : ndarray of shape (16,), the stimulus of each trial, in radians
        - module : torch.nn.Module, the network before training
        - checkpoints : list of str, paths of the state_dicts of the module, written by
          ``torch.save``, in the order of training
        - iterations : list of int, number of parameter updates before each checkpoint
        - description : str, how the network was trained

    See Also
    --------
    kpflow_sklearn.SavedTraining : Passes the module and its checkpoints to an analyzer.

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
    with isolated_torch_seed(1):  # torch draws weights, which are overwritten below.
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

"""The run that ships with the package is what its script makes, and an analyzer takes it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from kpflow_sklearn import SavedTraining
from kpflow_sklearn.datasets import load_example_run

SCRIPT = Path(__file__).parents[2] / "tools" / "make_example_run.py"


def state_of(path):
    return torch.load(path, weights_only=True)


def test_every_checkpoint_fits_and_the_last_one_has_learned():
    run = load_example_run()
    assert len(run.checkpoints) == len(run.iterations) == 40
    assert [Path(path).stem for path in run.checkpoints] == [f"step_{i}" for i in run.iterations]
    assert sum(Path(path).stat().st_size for path in run.checkpoints) < 300_000
    saved = SavedTraining(run.module, run.checkpoints).fit(run.X, run.y)
    assert [s.iteration for s in saved.snapshots_] == run.iterations
    assert np.mean((saved.predict(run.X) - run.y) ** 2) < 0.01


def test_the_module_is_the_untrained_one_and_no_random_number_is_drawn():
    before = torch.get_rng_state()
    run = load_example_run()
    assert torch.equal(torch.get_rng_state(), before)
    state, first = run.module.state_dict(), state_of(run.checkpoints[0])
    assert state.keys() == first.keys()
    assert all(torch.equal(state[name], first[name]) for name in first)
    assert not torch.equal(
        first["readout.weight"], state_of(run.checkpoints[-1])["readout.weight"]
    )


def test_its_trials_are_noise_free():
    run = load_example_run()
    assert run.X.shape == run.y.shape == (16, 45, 3)
    np.testing.assert_array_equal(run.X[:, :15, 1], np.cos(run.angles)[:, None].repeat(15, axis=1))
    assert not run.X[:, 15:, 1:].any()


@pytest.mark.slow
def test_the_script_makes_these_files(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parents[1])}
    subprocess.run([sys.executable, SCRIPT, tmp_path], check=True, env=environment)
    run = load_example_run()
    assert {p.name for p in tmp_path.iterdir()} == {Path(path).name for path in run.checkpoints}
    for path in run.checkpoints:
        made, shipped = state_of(tmp_path / Path(path).name), state_of(path)
        # The files round to float32. Rounding in float64 grows to 1e-14 during training.
        torch.testing.assert_close(made, shipped, rtol=2**-23, atol=1e-12)

"""Warnings about data whose axes are not (n_trials, n_timesteps, n_features)."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from kpflow_sklearn import KPFlowAnalyzer, RecurrentTrainer, SavedTraining
from kpflow_sklearn.datasets import trials_first

rng = np.random.default_rng(0)
X = rng.standard_normal((30, 20, 3))
NOISE = rng.standard_normal((30, 20, 2))
SHORT = np.arange(20) < rng.permutation(np.arange(30) % 20 + 1)[:, None]
LONGEST_FIRST = np.arange(20) < np.sort(np.arange(30) % 20 + 1)[::-1, None]


class Net(nn.Module):
    """A network of torch's parts, or with a step of its own, of either layout."""

    def __init__(self, batch_first=False, turns=False, last=False):
        super().__init__()
        self.rnn = nn.GRU(3, 4, batch_first=batch_first)
        self.out = nn.Linear(4, 2)
        self.turns, self.last = turns, last

    def forward(self, x):
        states = self.rnn(x.transpose(0, 1) if self.turns else x)[0]
        if self.last:
            return self.out(states[:, -1] if self.rnn.batch_first else states[-1])
        outputs = self.out(states)
        return outputs.transpose(0, 1) if self.turns else outputs


class Stepwise(nn.Module):
    def __init__(self, steps_axis):
        super().__init__()
        self.cell, self.out, self.steps_axis = nn.GRUCell(3, 4), nn.Linear(4, 2), steps_axis

    def forward(self, x):
        h, outputs = x.new_zeros(x.shape[1 - self.steps_axis], 4), []
        for x_t in x.unbind(self.steps_axis):
            h = self.cell(x_t, h)
            outputs.append(self.out(h))
        return torch.stack(outputs, self.steps_axis)


def made(make, *args, **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make(*args, **options).double()


def parts():
    return nn.ModuleDict({"rnn": nn.GRU(3, 4), "out": nn.Linear(4, 2)})


def own_outputs(net):
    """Return the outputs of a network that takes steps first, as targets with steps first."""
    core, out = (net["rnn"], net["out"]) if isinstance(net, nn.ModuleDict) else (net.rnn, net.out)
    with torch.no_grad():
        return out(core(torch.as_tensor(X))[0]).numpy()


steps_first = made(Net)
loose = made(parts)
CLASSES = rng.integers(0, 2, 30)
# What is given to fit, the parameters, and whether a warning is due.
CASES = {
    "untrained, steps first": (steps_first, (X, NOISE), {}, True),
    "confirmed": (steps_first, (X, NOISE), {"layout": "trials_first"}, False),
    "y fits steps first": (steps_first, (X, own_outputs(steps_first)), {}, True),
    "y fits trials first": (steps_first, trials_first(X, own_outputs(steps_first)), {}, False),
    "a label per trial": (steps_first, (X, CLASSES), {}, False),
    "a label per trial or step": (steps_first, (X[:20], CLASSES[:20]), {}, True),
    "a mask of trials": (steps_first, (X, NOISE, SHORT), {}, False),
    "a mask that fits both": (steps_first, (X, NOISE, LONGEST_FIRST), {}, True),
    "batch_first": (made(Net, batch_first=True), (X, NOISE), {}, False),
    "turned in forward": (made(Net, turns=True), (X, NOISE), {}, False),
    "the last step": (made(Net, last=True), (X[:20], CLASSES[:20]), {}, True),
    "the last step, trials first": (
        made(Net, batch_first=True, last=True), (X[:20], CLASSES[:20]), {}, False,
    ),
    "a step of its own": (made(Stepwise, 0), (X, NOISE), {"step": "cell"}, True),
    "a step, trials first": (made(Stepwise, 1), (X, NOISE), {"step": "cell"}, False),
    "without forward": (loose, (X, NOISE), {}, False),
    "without forward, y fits steps first": (loose, (X, own_outputs(loose)), {}, True),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_steps_first_is_suspected_only_without_evidence(case):
    network, (inputs, y, *mask), options, is_due = CASES[case]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        SavedTraining(network, **options).fit(inputs, y, mask=mask[0] if mask else None)
    assert ["trials_first(X)" in str(w.message) for w in caught] == [True] * is_due
    assert all('layout="trials_first"' in str(w.message) for w in caught)
    assert all(w.filename == __file__ for w in caught)
    if "y fits steps first" in case:
        assert "clearly better if the first axis is time" in str(caught[0].message)


def test_an_analyzer_passes_the_warning_on():
    with pytest.warns(UserWarning, match="30 trials of 20 steps, but Net takes steps first"):
        KPFlowAnalyzer(steps_first, axes=("time",), random_state=0, n_components=2).fit(X, NOISE)


def test_a_negative_loss_says_nothing_about_the_layout():
    # A share of a negative number is larger than it.
    saved = SavedTraining(steps_first, loss=lambda o, y: ((o - y) ** 2).mean(-1) - 9)
    with pytest.warns(UserWarning, match="takes steps first"):
        saved.fit(X, NOISE)


waves = np.sin(np.arange(40) / 3 + rng.uniform(0, 6, (12, 1, 1))) + np.zeros((12, 6, 1))
waves = waves * rng.standard_normal((12, 6, 1))
one_hot = np.eye(40)[rng.integers(0, 40, (12, 6))]
bumps = np.exp(np.cos(np.arange(40) / 40 * 2 * np.pi - rng.uniform(0, 6, (12, 1, 1))))
NOT_TIME = {
    "noise": rng.standard_normal((12, 6, 40)), "one-hot": one_hot, "zeros": np.zeros((12, 6, 40)),
    "a bump for 6 steps": bumps + 0.05 * rng.standard_normal((12, 6, 40)),
    "waves over the steps": waves.transpose(0, 2, 1),
}  # fmt: skip


@pytest.mark.parametrize("shown", [waves, waves[:, :1]])
def test_channels_first_are_suspected(shown):
    trainer = RecurrentTrainer(hidden_size=2, max_iter=1, random_state=0)
    with pytest.warns(UserWarning, match=r"trials_first.*|X.transpose\(0, 2, 1\)"):
        trainer.fit(shown, CLASSES[:12])


@pytest.mark.parametrize("name", NOT_TIME)
def test_features_are_not_taken_for_time(name):
    RecurrentTrainer(hidden_size=2, max_iter=1, random_state=0).fit(NOT_TIME[name], CLASSES[:12])


def test_ragged_lists_of_channels_name_pad_sequences():
    ragged = [[np.zeros(3), np.zeros(3)], [np.zeros(4), np.zeros(4)]]
    with pytest.raises(ValueError, match="entries of unequal length.*pad_sequences"):
        RecurrentTrainer(max_iter=1).fit(ragged, [0.0, 1.0])


def test_errors_of_shape_tell_how_to_turn_the_data():
    network = made(Net, batch_first=True)
    with pytest.raises(ValueError, match=r"network takes 3. The second axis .*X.transpose\(0, 2"):
        SavedTraining(network).fit(X.transpose(0, 2, 1), CLASSES)
    with pytest.raises(
        ValueError, match=r"y has 30 trials and X has 20.*give .*trials_first\(X\)"
    ):
        SavedTraining(network).fit(X.transpose(1, 0, 2), CLASSES)

"""Fitted estimators as pickles: without devices, in any dtype; and skops."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
import skops.io
import torch
from sklearn.base import clone
from torch._subclasses.fake_tensor import FakeTensorMode

from kpflow_sklearn import (
    FeedForwardTrainer,
    GramFlowAnalyzer,
    KPFlowAnalyzer,
    RecurrentTrainer,
    SavedTraining,
    TaskAlignmentAnalyzer,
)
from tests.tools.devices import devices_in

X = np.random.default_rng(0).standard_normal((8, 4, 2))
Y = X.cumsum(1)
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def trainer(**options) -> RecurrentTrainer:
    """Return a small trainer with a seed."""
    given = {"hidden_size": 3, "max_iter": 5, "snapshots": 2, "random_state": 0, **options}
    return RecurrentTrainer(**given)


def on_gpu(module: torch.nn.Module) -> torch.nn.Module:
    """Move a module to a GPU that does not exist: its tensors name it, without numbers."""
    for part in module.modules():
        for name, p in part.named_parameters(recurse=False):
            setattr(part, name, torch.nn.Parameter(torch.empty_like(p, device="cuda")))
        for name, b in part.named_buffers(recurse=False):
            part.register_buffer(name, torch.empty_like(b, device="cuda"))
    return module


@pytest.fixture
def gpu():
    with warnings.catch_warnings(), FakeTensorMode(allow_non_fake_inputs=True):
        warnings.filterwarnings("ignore", "PyTorch was compiled without cuDNN")
        yield


def user_module() -> torch.nn.ModuleDict:
    parts = {"rnn": torch.nn.GRU(2, 3), "out": torch.nn.Linear(3, 2)}
    return torch.nn.ModuleDict(parts).double()


FITTED = {
    "trainer": lambda: trainer(learn_initial_state=True, cell="lstm", n_layers=2).fit(X, Y),
    "user's cell": lambda: trainer(cell=torch.nn.GRUCell).fit(X, Y),
    "saved": lambda: SavedTraining(user_module()).fit(X, Y),
    "kpflow": lambda: KPFlowAnalyzer(trainer(), random_state=0).fit(X, Y),
    "alignment": lambda: TaskAlignmentAnalyzer(trainer(), random_state=0).fit(X, Y),
}


@pytest.mark.parametrize("name", FITTED)
def test_pickles_hold_no_device_but_the_cpu(name, request):
    estimator = FITTED[name]()
    request.getfixturevalue("gpu")
    on_gpu(estimator.network_)
    state = estimator.network_.state_dict()
    assert {p.device.type for p in state.values()} == {"cuda"}
    assert devices_in(estimator) == {"cpu"}
    # Pickling moved nothing, and the layers still read the same weights.
    assert {p.device.type for p in estimator.network_.state_dict().values()} == {"cuda"}


def test_modules_and_states_given_as_parameters_are_pickled_on_the_cpu(request):
    module = user_module()
    request.getfixturevalue("gpu")
    on_gpu(module)
    saved = SavedTraining(
        module, [module.state_dict()], initial_state=torch.zeros(3, device="cuda")
    )
    for estimator in (saved, KPFlowAnalyzer(module), KPFlowAnalyzer(saved)):
        assert devices_in(estimator) == {"cpu"}
    assert saved.network is module and next(module.parameters()).device.type == "cuda"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_copy_shares_its_network_among_its_parts(dtype):
    analyzer = KPFlowAnalyzer(trainer(dtype=dtype), random_state=0).fit(X, Y)
    loaded = pickle.loads(pickle.dumps(analyzer))
    assert loaded.network_.dtype == getattr(torch, dtype)
    assert loaded.network_ is loaded.trainer_.network_
    assert loaded.network_.layers[0].module is loaded.network_.recurrent
    np.testing.assert_array_equal(loaded.predict(X), analyzer.predict(X))
    np.testing.assert_array_equal(loaded.transform(X), analyzer.transform(X))


@NO_GPU
def test_a_network_trained_on_a_gpu_predicts_here_but_does_not_train():
    fitted = trainer(warm_start=True).fit(X, Y)
    expected = fitted.predict(X)
    fitted.set_params(device="cuda")  # As if it had been trained there.
    loaded = pickle.loads(pickle.dumps(fitted))
    assert loaded.device == "cuda"
    np.testing.assert_array_equal(loaded.predict(X), expected)
    for estimator in (loaded, KPFlowAnalyzer(clone(loaded))):
        with pytest.raises(ValueError, match="device='cuda' is not available on this machine"):
            estimator.fit(X, Y)


def test_an_unknown_device_is_refused():
    with pytest.raises(ValueError, match="device must be a device of torch, got 'gpu'"):
        trainer(device="gpu").fit(X, Y)


# ------------------------------------------------------------------------------------- skops


def test_skops_takes_unfitted_estimators_without_networks():
    # docs/howto/keeping.md names the alternatives for fitted estimators.
    feedforward = FeedForwardTrainer((3,), max_iter=2, snapshots=1)
    for estimator in (KPFlowAnalyzer(trainer()), GramFlowAnalyzer(feedforward)):
        data = skops.io.dumps(estimator)
        loaded = skops.io.loads(data, trusted=skops.io.get_untrusted_types(data=data))
        assert loaded.trainer.get_params() == estimator.trainer.get_params()
    with pytest.raises(RuntimeError, match="Cannot directly construct TensorBase"):
        skops.io.dumps(trainer().fit(X, Y))


def test_a_network_is_kept_as_a_state_dict(tmp_path):
    """The way that the documentation names for shared files: nothing in them is executed."""
    fitted = trainer().fit(X, Y)
    parts = {"recurrent": torch.nn.GRU(2, 3), "readout": torch.nn.Linear(3, 2)}
    module = torch.nn.ModuleDict(parts).double()
    state = {k: v for k, v in fitted.network_.state_dict().items() if k != "initial_state"}
    torch.save(state, tmp_path / "network_5.pt")
    loaded = SavedTraining(module, tmp_path / "network_5.pt").fit(X, Y)
    np.testing.assert_allclose(loaded.predict(X), fitted.predict(X), rtol=1e-12, atol=1e-14)

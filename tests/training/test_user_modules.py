"""Modules of users that define methods of torch anew, or keep what cannot be copied."""

from __future__ import annotations

import pickle
import threading
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import nn

from kpflow_sklearn import (
    FeedForwardTrainer,
    GramFlowAnalyzer,
    KPFlowAnalyzer,
    RecurrentTrainer,
    SavedTraining,
    TaskAlignmentAnalyzer,
    UnsupportedNetworkError,
    linearize,
    sweep,
)

X = np.random.default_rng(0).standard_normal((6, 5, 2))
Y = X.cumsum(1)[..., :1]
ROWS, Z = X[:, 0], Y[:, 0, 0]

#: Methods of torch.nn.Module that the classes of users define anew.
REPLACED = (
    "train", "eval", "state_dict", "load_state_dict", "parameters", "modules", "children",
    "buffers", "to", "cpu", "float", "double", "zero_grad", "requires_grad_", "apply",
)  # fmt: skip


def replaced(module: nn.Module) -> nn.Module:
    """Let these methods of all parts of a module fail if they are called."""

    def other(self, epochs, data):
        raise AssertionError("a method of the user ran")

    for part in [*module.modules()]:
        kind = type(part)
        part.__class__ = type(kind.__name__, (kind,), dict.fromkeys(REPLACED, other))
    return module


class Network(nn.Module):
    """A cell with its own loop, or a stack of torch's."""

    def __init__(self, core: nn.Module, readout: nn.Module) -> None:
        super().__init__()
        self.core, self.out = core, readout

    def step(self, x, h):
        return self.core(x, h)

    def forward(self, x):
        if isinstance(self.core, nn.RNNBase):
            return self.out(self.core(x)[0])
        h, outputs = x.new_zeros(len(x), 4), []
        for x_t in x.unbind(1):
            h = self.step(x_t, h)
            outputs.append(self.out(h))
        return torch.stack(outputs, 1)


def network(whole=Network, gru=nn.GRU, linear=nn.Linear) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        options = {} if issubclass(gru, nn.GRUCell) else {"batch_first": True}
        return nn.Module.double(whole(gru(2, 4, **options), linear(4, 1)))


def analyzer_of(module: nn.Module, step: str | None = None) -> KPFlowAnalyzer:
    """Return the fitted analysis of two checkpoints."""
    state = nn.Module.state_dict(network(gru=nn.GRUCell if step else nn.GRU))
    states = [{k: v * scale for k, v in state.items()} for scale in (0.5, 1.0)]
    saved = SavedTraining(module, states, step=step)
    return KPFlowAnalyzer(saved, axes=("time",), random_state=0).fit(X[:2, :3], Y[:2, :3])


def values(module: nn.Module, step: str | None = None) -> np.ndarray:
    return analyzer_of(module, step).results_["value"].to_numpy(float)


@pytest.mark.parametrize("step", [None, "core", "step"])
def test_methods_that_users_define_anew_are_not_called(step):
    gru = nn.GRUCell if step else nn.GRU
    module = replaced(network(gru=gru))
    np.testing.assert_array_equal(values(module, step), values(network(gru=gru), step))


@pytest.mark.parametrize("step", [None, pytest.param("step", marks=pytest.mark.slow)])
def test_verify_does_not_call_them_either(step):
    analyzer = analyzer_of(replaced(network(gru=nn.GRUCell if step else nn.GRU)), step)
    assert analyzer.verify(X[:2, :3], Y[:2, :3]).passed.all()


def test_linearize_does_not_call_them_either():
    states = linearize(replaced(network()), X).states
    np.testing.assert_array_equal(states, linearize(network(), X).states)


def test_methods_of_cells_and_perceptrons_are_not_called():
    options = dict(hidden_size=4, max_iter=2, random_state=0)
    curves = [
        RecurrentTrainer(cell, **options).fit(X, Y).loss_curve_
        for cell in (nn.GRUCell, lambda *sizes: replaced(nn.GRUCell(*sizes)))
    ]
    np.testing.assert_array_equal(*curves)
    module = replaced(nn.Sequential()).append(nn.Linear(2, 3)).append(nn.Tanh())
    analyzer = GramFlowAnalyzer(module.append(nn.Linear(3, 1)), random_state=0)
    assert analyzer.fit(ROWS, Z).n_iter_ == 0


def test_entries_of_a_state_dict_may_be_other_than_tensors():
    class Keeps(Network):
        gain = 1.0

        def get_extra_state(self):
            return {"gain": self.gain}

        def set_extra_state(self, state):
            self.gain = state["gain"]

    states = [network(Keeps).state_dict() | {"_extra_state": {"gain": g}} for g in (1.0, 2.0)]
    assert SavedTraining(network(Keeps), states).fit(X, Y).n_iter_ == 1


# ------------------------------------------------------------------------------- what modules keep


def keeping(**attributes: object) -> nn.Module:
    module = network()
    module.__dict__.update(attributes)
    return module


def graph() -> torch.Tensor:
    return torch.ones(2, requires_grad=True) * 2


KEPT = {
    "a hidden state": lambda: {"hidden": graph()},
    "losses": lambda: {"history": {"loss": [graph().sum(), 0.5]}},
    "a lock": lambda: {"lock": threading.Lock()},
    "a lock deep inside": lambda: {"log": [{"writer": (threading.Lock(), "w")}]},
    "a generator": lambda: {"batches": (i for i in range(3))},
    "a file": lambda: {"file": open(__file__)},  # noqa: SIM115
}


@pytest.mark.parametrize("kind", KEPT)
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_attributes_that_cannot_be_copied_are_left_out(kind):
    module = keeping(**KEPT[kind]())
    before = dict(vars(module))
    np.testing.assert_array_equal(values(module), values(network()))
    assert vars(module) == before  # The user's module keeps them.
    np.testing.assert_array_equal(linearize(module, X).states, linearize(network(), X).states)
    for trainer in (module, SavedTraining(module)):
        analyzer = clone(KPFlowAnalyzer(trainer, axes=("time",), random_state=0)).fit(X, Y)
        again = pickle.loads(pickle.dumps(KPFlowAnalyzer(trainer, axes=("time",))))
        assert again.fit(X, Y).k_rank_ == pickle.loads(pickle.dumps(analyzer)).k_rank_


def test_a_sweep_over_a_network_that_keeps_a_graph():
    analyzer = KPFlowAnalyzer(SavedTraining(keeping(hidden=graph())), axes=("time",))
    assert set(sweep(analyzer, {"rank_threshold": [0.9]}, X, Y)["error"].dropna()) <= {""}


def test_a_step_that_needs_what_was_left_out_names_it():
    class Draws(Network):
        def step(self, x, h):
            return self.core(x, h) + next(self.draws)

    module = network(Draws, nn.GRUCell)
    module.draws = (0.0 for _ in range(10**6))
    message = r"computes with Draws.draws, a generator, which cannot be copied"
    with pytest.raises(UnsupportedNetworkError, match=message):
        SavedTraining(module, step="step").fit(X, Y)
    assert list(zip(range(3), module.draws, strict=False)) == [(0, 0.0), (1, 0.0), (2, 0.0)]


def test_a_submodule_that_refuses_to_be_copied_is_named():
    class Refuses(nn.Linear):
        def __deepcopy__(self, memo):
            raise TypeError("not me")

    with pytest.raises(ValueError, match=r"Network.out, a Refuses, cannot be copied \(not me\)"):
        SavedTraining(network(linear=Refuses)).fit(X, Y)


def test_a_clone_keeps_the_metadata_requests():
    import sklearn

    with sklearn.config_context(enable_metadata_routing=True):
        saved = SavedTraining(network()).set_fit_request(mask=True)
        assert clone(saved).get_metadata_routing().fit.requests["mask"] is True


# ----------------------------------------------------------------------------- modes of autograd


def saved_cell() -> SavedTraining:
    return SavedTraining(network(gru=nn.GRUCell), step="core")


def analysed(analyzer, X, Y, **options) -> np.ndarray:
    fitted = analyzer.fit(X, Y, **options)
    verified = fitted.verify(X, Y, **options)
    return np.append(fitted.results_["value"].to_numpy(float), verified.error)


def linearized() -> np.ndarray:
    lin = linearize(network(), X)
    return (lin.PKP @ lin.error(Y)).numpy()


SMALL = dict(max_iter=2, random_state=0)
COMPUTED = {
    "RecurrentTrainer": lambda: RecurrentTrainer(hidden_size=3, **SMALL).fit(X, Y).loss_curve_,
    "FeedForwardTrainer": lambda: FeedForwardTrainer((3,), **SMALL).fit(ROWS, Z).loss_curve_,
    "a cell": lambda: analysed(
        KPFlowAnalyzer(saved_cell(), axes=("time",), random_state=0), X[:1, :2], Y[:1, :2]),
    "KPFlowAnalyzer": lambda: analysed(
        KPFlowAnalyzer(network(), axes=("time",), random_state=0), X, Y),
    "TaskAlignmentAnalyzer": lambda: analysed(
        TaskAlignmentAnalyzer(SavedTraining(network()), random_state=0), X, Y, tasks=[0, 1] * 3),
    "GramFlowAnalyzer": lambda: analysed(
        GramFlowAnalyzer(FeedForwardTrainer((3,), **SMALL), random_state=0), ROWS, Z),
    "linearize": linearized,
}  # fmt: skip


def autocast():
    return torch.autocast("cpu", dtype=torch.bfloat16)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, autocast])
@pytest.mark.parametrize(
    "name", [pytest.param(k, marks=pytest.mark.slow if k == "a cell" else ()) for k in COMPUTED]
)
def test_the_callers_mode_of_autograd_changes_nothing(name, mode):
    expected = COMPUTED[name]()
    with mode():
        actual = COMPUTED[name]()
        assert torch.is_grad_enabled() == torch.is_autocast_enabled("cpu") == (mode is autocast)
    np.testing.assert_array_equal(actual, expected)


def test_operators_serve_in_another_mode_than_they_were_made_in():
    lin = linearize(network(), X)
    expected = lin.PKP @ lin.states
    with torch.inference_mode(), autocast():
        made_here = linearize(network(), X)
        q = lin.states.clone()
        torch.testing.assert_close(lin.PKP.apply_(q.clone()), expected, rtol=0, atol=0)
        torch.testing.assert_close(lin.PKP @ q, expected, rtol=0, atol=0)
    torch.testing.assert_close(made_here.PKP @ lin.states, expected, rtol=0, atol=0)


# ------------------------------------------------------------------------ steps of unusual modules


class Scalar(nn.Module):
    """A cell with a time constant, a parameter without axes."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.tau = nn.RNNCell(2, 4), nn.Parameter(torch.tensor(0.5))

    def forward(self, x, h):
        return (1 - self.tau) * h + self.tau * self.inner(x, h)


def compiled(module: nn.Module) -> nn.Module:
    return torch.compile(module, backend="eager")


def test_a_parameter_without_axes_is_verified():
    torch.manual_seed(0)
    module = Network(Scalar(), nn.Linear(4, 1))
    saved = SavedTraining(module, step="core", initial_state=torch.zeros(4))
    analyzer = KPFlowAnalyzer(saved, axes=("time",), random_state=0).fit(X, Y)
    assert analyzer.verify(X, Y)["passed"].all()
    jacobian = linearize(analyzer.network_, X).J_theta
    named = jacobian.to_parameters(torch.ones(jacobian.shape[1]))
    assert {tuple(v.shape) for k, v in named.items() if k.endswith("tau")} == {()}


def test_a_part_that_is_compiled_is_analysed_without_compilation():
    plain = network(gru=nn.GRUCell)
    module = Network(compiled(plain.core), plain.out)
    expected = SavedTraining(plain, step="core").fit(X, Y)
    checkpoints = [plain.state_dict(), module.state_dict()]
    for given in (None, checkpoints):
        saved = SavedTraining(module, given, step="core", parameters=["core.weight_*"]).fit(X, Y)
        np.testing.assert_array_equal(saved.predict(X), expected.predict(X))
    plain.core.weight_hh.register_hook(lambda gradient: 0 * gradient)
    with pytest.warns(UserWarning, match="gradient hooks on core.weight_hh of Network"):
        SavedTraining(module, step="core").fit(X, Y)
    trainers = (
        RecurrentTrainer(cell, hidden_size=3, **SMALL).fit(X, Y)
        for cell in (nn.GRUCell, lambda *sizes: compiled(nn.GRUCell(*sizes)))
    )
    np.testing.assert_array_equal(*(trainer.loss_curve_ for trainer in trainers))


def test_a_module_of_torch_jit_is_refused_by_name():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.script(nn.Linear(3, 1))
    for module, message in (
        (scripted, "the network is a Recursive"),
        (Network(nn.GRU(2, 3), scripted), "out.* is a Recursive"),
    ):
        with pytest.raises(UnsupportedNetworkError, match=f"{message}.*torch.jit.script"):
            SavedTraining(module).fit(X, Y)

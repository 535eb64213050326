"""Hostile networks, which cannot be analysed or only just, and hostile checkpoints."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from tests.tools.bad_input.entries import FOLDER, Network, network, perceptron
from tests.tools.bad_input.hostile import Hostile, made, plain
from tests.tools.bad_input.settings import Anything

OVERFLOW = "overflow"
NOT_MODULES = (3, "gru", True, [], {}, Anything(), nn.GRU, int, print, nn)

Maker = Callable[[object], nn.Module]


def changed(make: Callable[[], nn.Module], change: Callable[[dict], object]) -> Maker:
    """Return a maker of the network after a change of its weights, given by name."""

    def build(_: object) -> nn.Module:
        module = make()
        with torch.no_grad():
            change(dict(module.named_parameters()))
        return module

    return build


def not_finite(make: Callable[[], nn.Module], *names: str) -> dict[str, Maker]:
    """Return makers of the network with a single NaN or infinity in one of its weights."""

    def put(name: str, value: float) -> Maker:
        return changed(make, lambda weights: weights[name].view(-1)[:1].fill_(value))

    return {f"{v} in {name}": put(name, v) for v in (np.nan, np.inf) for name in names}


def scaled(make: Callable[[], nn.Module], factor: float) -> Maker:
    """Return a maker of the network with all weights multiplied."""
    return changed(make, lambda weights: [p.mul_(factor) for p in weights.values()])


def parts(n_features: int, n_outputs: int) -> nn.Module:
    """Return a network of a recurrent part and a readout."""
    rnn, out = nn.GRU(n_features, 3), nn.Linear(3, n_outputs)
    return nn.ModuleDict({"rnn": rnn, "out": out}).double()


def relu() -> nn.Module:
    return Network(lambda *a, **k: nn.RNN(*a, nonlinearity="relu", **k)).double()


def modules() -> list[Hostile]:
    """Return recurrent networks."""
    both_ways = lambda *a, **k: nn.GRU(*a, bidirectional=True, **k)  # noqa: E731
    names = ("rnn.weight_hh_l0", "rnn.bias_ih_l0", "out.weight", "out.bias")
    return [
        *made("answer", {
            "zero weights": scaled(network, 0.0), "tiny weights": scaled(network, 1e-30),
            "LSTM": lambda _: network(nn.LSTM), "float32": lambda _: network().float(),
            "RNN of two layers": lambda _: network(nn.RNN, n_layers=2),
        }),
        *made("either", {"huge weights": scaled(network, 1e30),
                         "bfloat16": lambda _: network().bfloat16()}),
        *made("either", {"states near overflow": scaled(relu, 1e60)}, warns=OVERFLOW),
        *made("error", {"states that overflow": scaled(relu, 1e200)}, warns=OVERFLOW),
        *made("error", {"lazy": lambda _: nn.LazyLinear(3)}, warns="Lazy"),
        *made("error", {
            **not_finite(network, *names),
            "float16": lambda _: network().half(), "in no memory": lambda _: network().to("meta"),
            "both directions": lambda _: Network(both_ways).double(),
            "nothing trains": lambda _: network().requires_grad_(False),
            "no readout": lambda _: nn.GRU(2, 3), "no recurrent part": lambda _: nn.Linear(2, 3),
            "empty": lambda _: nn.Sequential(), "identity": lambda _: nn.Identity(),
            "other features": lambda _: parts(5, 2), "other outputs": lambda _: parts(2, 7),
        }),
        *plain("error", *NOT_MODULES),
    ]  # fmt: skip


def perceptrons() -> list[Hostile]:
    """Return feed-forward networks."""
    return [
        *made("answer", {"zero weights": scaled(perceptron, 0.0),
                         "tiny weights": scaled(perceptron, 1e-30)}),
        *made("either", {"float16": lambda _: perceptron().half()}),
        *made("either", {"huge weights": scaled(perceptron, 1e30),
                         "outputs that overflow": scaled(perceptron, 1e200)}, warns=OVERFLOW),
        *made("error", {
            **not_finite(perceptron, "0.weight", "0.bias", "2.weight"),
            "in no memory": lambda _: perceptron().to("meta"), "recurrent": lambda _: network(),
            "empty": lambda _: nn.Sequential(),
            "no hidden layer": lambda _: nn.Sequential(nn.Linear(2, 1)),
            "convolution": lambda _: nn.Sequential(nn.Conv1d(2, 3, 1)),
            "other features": lambda _: nn.Sequential(
                nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 1)).double(),
        }),
    ]  # fmt: skip


def fails(*_: object) -> None:
    """Raise, as code of a user may."""
    raise RuntimeError("of the user's own")


def steps() -> list[Hostile]:
    """Return values of ``step``."""

    def half(net, x, h):
        return h[:, :1]

    def makes_nan(net, x, h):
        return h * float("nan") + x.sum() * 0 + net.rnn.bias_hh_l0.sum() * 0

    return plain(
        "error", "", "no such", "rnn", "out", 3, 0.5, True, [], {}, b"rnn", Anything(), int, print,
        half, fails, makes_nan, lambda: None, lambda net, x, h: None, lambda net, x, h: h,
    )  # fmt: skip


def parts_given(role: str) -> list[Hostile]:
    """Return values of ``readout`` or ``encoder``."""

    def makes_nan(net, z):
        return (net.out(z) if reads else z) * float("nan")

    reads = role == "readout"
    good = ["out", lambda net, z: net.out(z)] if reads else [nn.Identity(), lambda net, x: x]
    return [
        *plain("answer", *good),
        *plain("error", "", "no such", 3, 0.5, True, [], {}, b"out", Anything(), "out.x", ("a",),
               int, print, nn.Linear, fails, makes_nan, lambda: None, lambda net: net,
               lambda net, z: None, lambda net, z: z[:, 0], lambda net, z: z.flatten(),
               lambda net, z: z.detach().numpy(), lambda net, z: z * 0 + torch.randn_like(z),
               nn.Linear(7, 7).double(), nn.Linear(3, 2), nn.GRU(3, 3).double(), nn.LazyLinear(3)),
    ]  # fmt: skip


def checkpoints() -> list[Hostile]:
    """Return states over training."""
    good, other = network().state_dict(), nn.Linear(2, 2).state_dict()
    short = {k: v for k, v in good.items() if k != "out.bias"}
    broken = {**good, "out.bias": good["out.bias"] * np.nan}
    endless = {**good, "rnn.bias_hh_l0": good["rnn.bias_hh_l0"] + np.inf}
    text, half, whole = (FOLDER / name for name in ("text.pt", "half.pt", "whole_7.pt"))
    text.write_text("not a checkpoint")
    torch.save(good, whole)
    half.write_bytes(whole.read_bytes()[:200])
    return [
        *plain("answer", None, [good], (good, good), whole, str(whole), [whole],
               str(FOLDER / "who*.pt"), [{k: v.float() for k, v in good.items()}],
               [{"state_dict": good}], [{k: v.numpy() for k, v in good.items()}]),
        *plain("error", 3, 0.5, True, [], (), "", "no such.pt", [3], [None], [[]], [{}], {}, good,
               [other], [short], [broken], [endless], [good, broken], Anything(), b"x", text, half,
               [text], FOLDER, [FOLDER], "no*such", [network()], network(),
               [dict.fromkeys(good, "a")],
               [{k: v.to("meta") for k, v in good.items()}]),
    ]  # fmt: skip

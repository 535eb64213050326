"""Networks of other people that cannot be analysed, or only just, and their checkpoints."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from tests.tools.bad_input.entries import FOLDER, Network, network, perceptron
from tests.tools.bad_input.hostile import Hostile, plain
from tests.tools.bad_input.settings import Anything

NOT_MODULES = (3, "gru", True, [], {}, Anything(), nn.GRU, int, print, nn)


def changed(
    make: Callable[[], nn.Module], name: str, value: float
) -> Callable[[object], nn.Module]:
    """Return a maker of the network with one weight set."""

    def build(_: object) -> nn.Module:
        module = make()
        with torch.no_grad():
            dict(module.named_parameters())[name].view(-1)[0] = value
        return module

    return build


def scaled(make: Callable[[], nn.Module], factor: float) -> Callable[[object], nn.Module]:
    """Return a maker of the network with all weights multiplied."""

    def build(_: object) -> nn.Module:
        module = make()
        with torch.no_grad():
            for p in module.parameters():
                p.mul_(factor)
        return module

    return build


def modules() -> list[Hostile]:
    """Recurrent networks."""
    relu = lambda: Network(lambda *a, **k: nn.RNN(*a, nonlinearity="relu", **k)).double()  # noqa: E731
    overflow = "overflow"
    both_ways = lambda *a, **k: nn.GRU(*a, bidirectional=True, **k)  # noqa: E731
    return [
        *(Hostile(f"{v} in {n}", changed(network, n, v), "error") for v in (np.nan, np.inf)
          for n in ("rnn.weight_hh_l0", "rnn.bias_ih_l0", "out.weight", "out.bias")),
        Hostile("zero weights", scaled(network, 0.0), "answer"),
        Hostile("huge weights", scaled(network, 1e30), "either"),
        Hostile("tiny weights", scaled(network, 1e-30), "answer"),
        Hostile("states that overflow", scaled(relu, 1e200), "error", warns=overflow),
        Hostile("states near overflow", scaled(relu, 1e60), "either", warns=overflow),
        Hostile("LSTM", lambda _: network(nn.LSTM), "answer"),
        Hostile("RNN of two layers", lambda _: network(nn.RNN, n_layers=2), "answer"),
        Hostile("float32", lambda _: network().float(), "answer"),
        Hostile("float16", lambda _: network().half(), "error"),
        Hostile("bfloat16", lambda _: network().bfloat16(), "either"),
        Hostile("in no memory", lambda _: network().to("meta"), "error"),
        Hostile("both directions", lambda _: Network(both_ways).double(), "error"),
        Hostile("nothing trains", lambda _: network().requires_grad_(False), "error"),
        Hostile("no readout", lambda _: nn.GRU(2, 3), "error"),
        Hostile("no recurrent part", lambda _: nn.Linear(2, 3), "error"),
        Hostile("empty", lambda _: nn.Sequential(), "error"),
        Hostile("identity", lambda _: nn.Identity(), "error"),
        Hostile("lazy", lambda _: nn.LazyLinear(3), "error", warns="Lazy"),
        Hostile("other features", lambda _: nn.ModuleDict(
            {"rnn": nn.GRU(5, 3), "out": nn.Linear(3, 2)}).double(), "error"),
        Hostile("other outputs", lambda _: nn.ModuleDict(
            {"rnn": nn.GRU(2, 3), "out": nn.Linear(3, 7)}).double(), "error"),
        *plain("error", *NOT_MODULES),
    ]  # fmt: skip


def perceptrons() -> list[Hostile]:
    """Feed-forward networks."""
    return [
        *(Hostile(f"{v} in {n}", changed(perceptron, n, v), "error")
          for v in (np.nan, np.inf) for n in ("0.weight", "0.bias", "2.weight")),
        Hostile("zero weights", scaled(perceptron, 0.0), "answer"),
        Hostile("huge weights", scaled(perceptron, 1e30), "either", warns="overflow"),
        Hostile("tiny weights", scaled(perceptron, 1e-30), "answer"),
        Hostile("outputs that overflow", scaled(perceptron, 1e200), "either", warns="overflow"),
        Hostile("float16", lambda _: perceptron().half(), "either"),
        Hostile("in no memory", lambda _: perceptron().to("meta"), "error"),
        Hostile("empty", lambda _: nn.Sequential(), "error"),
        Hostile("no hidden layer", lambda _: nn.Sequential(nn.Linear(2, 1)), "error"),
        Hostile("convolution", lambda _: nn.Sequential(nn.Conv1d(2, 3, 1)), "error"),
        Hostile("other features", lambda _: nn.Sequential(
            nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 1)).double(), "error"),
        Hostile("recurrent", lambda _: network(), "error"),
    ]  # fmt: skip


def steps() -> list[Hostile]:
    """Return what is named as the step."""

    def half(net, x, h):
        return h[:, :1]

    def fails(net, x, h):
        raise RuntimeError("of the user's own")

    def makes_nan(net, x, h):
        return h * float("nan") + x.sum() * 0 + net.rnn.bias_hh_l0.sum() * 0

    return plain(
        "error", "", "no such", "rnn", "out", 3, 0.5, True, [], {}, b"rnn", Anything(), int, print,
        half, fails, makes_nan, lambda: None, lambda net, x, h: None, lambda net, x, h: h,
    )  # fmt: skip


def checkpoints() -> list[Hostile]:
    """States over training."""
    good, other = network().state_dict(), nn.Linear(2, 2).state_dict()
    short = {k: v for k, v in good.items() if k != "out.bias"}
    broken = {**good, "out.bias": good["out.bias"] * np.nan}
    endless = {**good, "rnn.bias_hh_l0": good["rnn.bias_hh_l0"] + np.inf}
    text, half = FOLDER / "text.pt", FOLDER / "half.pt"
    text.write_text("not a checkpoint")
    torch.save(good, half)
    half.write_bytes(half.read_bytes()[:200])
    whole = FOLDER / "whole_7.pt"
    torch.save(good, whole)
    return [
        *plain(
            "answer",
            None,
            [good],
            (good, good),
            whole,
            str(whole),
            [whole],
            str(FOLDER / "who*.pt"),
        ),
        *plain("answer", [{k: v.float() for k, v in good.items()}], [{"state_dict": good}]),
        *plain("error", 3, 0.5, True, [], (), "", "no such.pt", [3], [None], [[]], [{}], {}, good),
        *plain("error", [other], [short], [broken], [endless], [good, broken], Anything(), b"x"),
        *plain("error", text, half, [text], FOLDER, [FOLDER], "no*such", [network()], network()),
        *plain("error", [{k: v.numpy() for k, v in good.items()}], [{k: "a" for k in good}]),
        *plain("error", [{k: v.to("meta") for k, v in good.items()}]),
    ]

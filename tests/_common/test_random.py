"""Seeded blocks: the numbers drawn inside, and the generators afterwards."""

from __future__ import annotations

import pytest
import torch

from kpflow_sklearn._common.random import isolated_torch_seed


class Gpus:
    """Two GPUs as far as their generators go; a state is what was last seeded."""

    def __init__(self, initialized: bool) -> None:
        self.initialized, self.states = initialized, [7, 8]

    def is_initialized(self) -> bool:
        return self.initialized

    def device_count(self) -> int:
        return len(self.states)

    def manual_seed_all(self, seed: int) -> None:
        self.states = [seed] * len(self.states)

    def get_rng_state(self, device: int) -> int:
        return self.states[device]

    def set_rng_state(self, state: int, device: int) -> None:
        self.states[device] = state


@pytest.mark.parametrize("initialized", [False, True])
def test_the_generators_of_all_devices_are_seeded_and_restored(initialized, monkeypatch):
    gpus = Gpus(initialized)
    for name in ("is_initialized", "device_count", "manual_seed_all", "get_rng_state",
                 "set_rng_state"):  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, getattr(gpus, name))
    before = torch.get_rng_state()
    with isolated_torch_seed(3):
        # A GPU that is not in use yet must not be seeded: nothing would restore it.
        assert gpus.states == ([3, 3] if initialized else [7, 8])
        drawn = torch.rand(4)
    assert torch.equal(torch.get_rng_state(), before) and gpus.states == [7, 8]
    assert torch.equal(drawn, torch.rand(4, generator=torch.Generator().manual_seed(3)))

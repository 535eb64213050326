"""The devices that a pickle names."""

from __future__ import annotations

import io
import pickle

import torch


class DeviceReader(pickle.Pickler):
    """Record the devices of tensors instead of pickling them."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO())
        self.devices = []

    def reducer_override(self, obj):
        if isinstance(obj, torch.Tensor):
            self.devices.append(obj.device.type)
            return str, ()
        return NotImplemented


def devices_in(value) -> set[str]:
    """Return the devices of all tensors that a pickle of ``value`` would hold."""
    reader = DeviceReader()
    reader.dump(value)
    assert reader.devices
    return set(reader.devices)

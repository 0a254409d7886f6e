"""Devices and precisions: picked, or refused with the words that are allowed."""

import pytest
import torch

from dllm_core.compute import devices
from dllm_core.compute.devices import pick_device, pick_dtype


def test_devices_are_picked_or_refused():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type in ("cpu", "cuda", "mps")
    cpu = torch.device("cpu")
    assert pick_dtype("auto", cpu) == pick_dtype("auto", cpu, devices.WIDE - 1) == "float32"
    assert pick_dtype("bfloat16", torch.device("cpu")) == "bfloat16"
    for call, message in (
        (lambda: pick_device("gpu"), "device='gpu'.*auto, cpu, cuda, mps"),
        (lambda: pick_dtype("float16", torch.device("cpu")), "dtype='float16'.*bfloat16"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device='cuda'.*device='auto' or 'cpu'"):
            pick_device("cuda")


@pytest.mark.parametrize("units", [False, True])
def test_bfloat16_on_a_cpu_needs_a_wide_model_and_bfloat16_units(units, monkeypatch):
    monkeypatch.setattr(devices, "bfloat16_units", lambda: units)
    assert pick_dtype("auto", torch.device("cpu"), devices.WIDE) == ("bfloat16" if units else "float32")
    assert pick_dtype("float32", torch.device("cpu"), devices.WIDE) == "float32"

"""The device a model runs on and its precision, by the words "auto", "cpu", "cuda", "mps", "float32" and "bfloat16"."""

import contextlib
import os
import platform
import re
from pathlib import Path

import torch

from dllm_core.compute.cpu import bfloat16_units, keep_memory

DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = ("auto", "float32", "bfloat16")
WIDE = 128  # hidden size from which bfloat16 was measured to be faster on a CPU with units for it


def pick_device(name: str = "auto") -> torch.device:
    """The device of that name; "auto" is CUDA, else Apple's MPS, else the CPU.

    On a CPU the process also keeps the memory that it frees from then on (`cpu.keep_memory`). Raises ValueError for
    another word, or for a device that this machine or this build of torch does not have.
    """
    device_type = name.partition(":")[0]
    if device_type not in DEVICES:
        raise ValueError(f"device={name!r}: must be one of {', '.join(DEVICES)} (or one GPU of several, as in cuda:1)")
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device_type == "auto":
        device_type = name = next(word for word, is_available in available.items() if is_available)
    if device_type == "cpu":
        keep_memory()
    if not available[device_type]:
        raise ValueError(f"device={name!r}: torch {torch.__version__} finds none here; use device='auto' or 'cpu'")
    device = torch.device(name)
    if device_type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device={name!r}: there are {torch.cuda.device_count()} CUDA devices, numbered from 0")
    if device_type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # graphs and streams are created on the current device
    return device


def pick_dtype(name: str, device: torch.device, width: int = 0) -> str:
    """The precision of training's matrix products, "float32" or "bfloat16" (weights stay float32). width: the model's
    hidden size.

    "auto" is bfloat16 on CUDA devices with units for it, and on CPUs with units for it where the model is `WIDE` enough
    for its products to dominate (training records in BENCHMARKS.md); else float32. Raises ValueError for another word, or
    for bfloat16 on a CUDA device without units for it.
    """
    if name not in DTYPES:
        raise ValueError(f"dtype={name!r}: must be one of {', '.join(DTYPES)}")
    cuda_units = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if name == "auto":
        is_faster = cuda_units or (device.type == "cpu" and width >= WIDE and bfloat16_units())
        return "bfloat16" if is_faster else "float32"
    if name == "bfloat16" and device.type == "cuda" and not cuda_units:
        raise ValueError(f"dtype='bfloat16': {torch.cuda.get_device_name(device)} cannot; use dtype='float32'")
    return name


def machine(device: torch.device) -> str:
    """The machine that a time was measured on: the GPU's name, or the processor's with the cores of this process."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):  # only Linux has this file
        if model := re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text()):
            name = model[1]
    return f"{device.type}: {name}, {cores()} cores"


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

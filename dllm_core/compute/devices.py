"""Where a model runs and in which precision: the words of the notebooks' `device` and `dtype` parameters."""

import contextlib
import os
import platform
import re
from pathlib import Path

import torch

from dllm_core.compute.cpu import bfloat16_units, keep_memory

DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = ("auto", "float32", "bfloat16")
WIDE = 128  # hidden size from which bfloat16 was seen to pay on a CPU with units for it; narrower models are not measured


def pick_device(name: str = "auto") -> torch.device:
    """The device that `name` means; "auto": CUDA, else Apple's MPS, else the CPU.

    On a CPU the process also keeps the memory it frees from now on (`cpu.keep_memory`). Raises ValueError for another
    word, or a device that this machine or this build of torch does not have.
    """
    kind = name.partition(":")[0]
    if kind not in DEVICES:
        raise ValueError(f"device={name!r}: must be one of {', '.join(DEVICES)} (or one GPU of several, as in cuda:1)")
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if kind == "auto":
        kind = name = next(word for word in ("cuda", "mps", "cpu") if there[word])
    if kind == "cpu":
        keep_memory()
    if not there[kind]:
        raise ValueError(f"device={name!r}: torch {torch.__version__} finds none here; use device='auto' or 'cpu'")
    device = torch.device(name)
    if kind == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device={name!r}: there are {torch.cuda.device_count()} CUDA devices, numbered from 0")
    if kind == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # graphs and streams are made on the current one
    return device


def pick_dtype(name: str, device: torch.device, width: int = 0) -> str:
    """The precision of training's matrix products, "float32" or "bfloat16" (weights stay float32). width: the model's
    hidden size.

    "auto": bfloat16 on CUDA devices made for it, and on CPUs with units for it where the model is `WIDE` enough for the
    products to outweigh the rest (the training records of RESULTS.md); float32 elsewhere.
    Raises ValueError for another word, or bfloat16 where the device cannot.
    """
    if name not in DTYPES:
        raise ValueError(f"dtype={name!r}: must be one of {', '.join(DTYPES)}")
    able = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if name == "auto":
        return "bfloat16" if able or device.type == "cpu" and width >= WIDE and bfloat16_units() else "float32"
    if name == "bfloat16" and device.type == "cuda" and not able:
        raise ValueError(f"dtype='bfloat16': {torch.cuda.get_device_name(device)} cannot; use dtype='float32'")
    return name


def machine(device: torch.device) -> str:
    """What a time was measured on: the card's name, or the processor's and how many cores this process may use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):  # Linux tells the model here alone
        if found := re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text()):
            name = found[1]
    return f"{device.type}: {name}, {cores()} cores"


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

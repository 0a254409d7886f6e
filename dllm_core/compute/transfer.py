"""Asynchronous copies between the host and a CUDA device; synchronous copies on other devices.

A copy is asynchronous only from and to pinned memory. PyTorch reuses such memory once the device has finished with it
(https://docs.pytorch.org/tutorials/intermediate/pinmem_nonblock.html).
"""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Copy a tensor of any shape to `device`. From the host to a CUDA device the copy is asynchronous, through pinned
    memory. To other devices it is synchronous, because PyTorch may free the source of an asynchronous copy too early
    (https://github.com/pytorch/pytorch/issues/139550)."""
    if tensor.device.type == "cpu" and torch.device(device).type == "cuda":
        return tensor.contiguous().pin_memory().to(device, non_blocking=True)  # an expanded tensor cannot be pinned
    return tensor.to(device)


class Fetched:
    """An asynchronous copy of numbers [n] to the host. `read` waits for this copy, but not for work queued after it."""

    def __init__(self, values: Tensor):
        self._values, self._copied = values, None
        if values.is_cuda:
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._copied = torch.cuda.current_stream(values.device).record_event()

    def read(self) -> list[float]:
        """Wait for the copy and return the numbers."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._values.tolist()

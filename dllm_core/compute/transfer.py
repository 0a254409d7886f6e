"""Copies between the host and a CUDA device that neither waits for; plain copies on other devices.

A copy is asynchronous only from and to pinned memory. PyTorch keeps such memory and reuses it once the device is done
with it (https://docs.pytorch.org/tutorials/intermediate/pinmem_nonblock.html).
"""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor, of any shape, on `device`; to a CUDA device through pinned memory. Other devices are waited for,
    because nothing keeps a copy's source until they have read it (https://github.com/pytorch/pytorch/issues/139550)."""
    if tensor.device.type == "cpu" and torch.device(device).type == "cuda":
        return tensor.contiguous().pin_memory().to(device, non_blocking=True)  # an expanded tensor cannot be pinned
    return tensor.to(device)


class Fetched:
    """Numbers [n] on their way from the device to the host: `read` waits for them, not for work queued after them."""

    def __init__(self, values: Tensor):
        self._values, self._copied = values, None
        if values.is_cuda:
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._copied = torch.cuda.current_stream(values.device).record_event()

    def read(self) -> list[float]:
        """The numbers, as soon as they are on the host."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._values.tolist()

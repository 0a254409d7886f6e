"""What goes between the host and a CUDA device without either waiting for the other; elsewhere these are plain copies.

Only from and to pinned memory is a copy asynchronous; PyTorch keeps such memory and gives it out again once the device
is done with it (https://docs.pytorch.org/tutorials/intermediate/pinmem_nonblock.html).
"""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """The tensor, of any shape, on `device`: to a CUDA device by way of pinned memory. Others are waited for: nothing keeps a copy's source
    for them until it is read (https://github.com/pytorch/pytorch/issues/139550)."""
    if tensor.device.type == "cpu" and torch.device(device).type == "cuda":
        # an expanded one cannot be pinned as it is
        return tensor.contiguous().pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class Fetched:
    """Numbers [n] of the device on their way to the host: `read` waits for them, not for what was begun after them."""

    def __init__(self, values: Tensor):
        self._values, self._arrived = values, None
        if values.is_cuda:
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._arrived = torch.cuda.current_stream(values.device).record_event()

    def read(self) -> list[float]:
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._values.tolist()

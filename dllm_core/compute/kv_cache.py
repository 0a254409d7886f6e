"""Keys and values of finished positions, so that decoding computes them once."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dllm_core.config import ModelConfig


@dataclass
class KVCache:
    """Keys and values, one slot per absolute position and a last slot for those of padding; allocated once."""

    keys: list[Tensor]  # per layer [B, kv heads, length + 1, head_dim]
    values: list[Tensor]  # likewise
    row: Tensor  # [B, 1] int64, 0..B−1

    @classmethod
    def empty(cls, config: ModelConfig, batch: int, length: int, device=None, dtype=torch.float32) -> "KVCache":
        shape = (batch, config.num_key_value_heads, length + 1, config.head_dim)
        layers = range(config.num_hidden_layers)
        keys, values = ([torch.zeros(shape, device=device, dtype=dtype) for _ in layers] for _ in "kv")
        return cls(keys, values, torch.arange(batch, device=device)[:, None])

    def write(self, layer: int, key: Tensor, value: Tensor, slots: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Store key, value [B, H, W, D] at `slots` [B, W]; return those of positions 0..length−1."""
        for stored, new in ((self.keys[layer], key), (self.values[layer], value)):
            stored.transpose(1, 2)[self.row, slots] = new.transpose(1, 2)
        return self.keys[layer][:, :, :length], self.values[layer][:, :, :length]

    def keep(self, rows: Tensor) -> "KVCache":
        """The cache of the rows (bool [B], True stays)."""
        keys = [stored[rows] for stored in self.keys]
        values = [stored[rows] for stored in self.values]
        return KVCache(keys, values, self.row[: len(keys[0])])

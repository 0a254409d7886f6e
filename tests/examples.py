"""Examples whose tokens tell them apart, and the equality of two batches of them."""

import numpy as np
import torch
from small import EOS, PAD

from dllm_core.data.batches import Batch
from dllm_core.data.token_cache import TokenDataset

IDS = {"pad_token_id": PAD, "eos_token_id": EOS}


def examples(count: int = 50, seed: int = 0, longest: int = 20) -> TokenDataset:
    """Example i: a prompt of two tokens, an answer of i's own token number, eos. Token numbers tell examples apart."""
    lengths = np.random.default_rng(seed).integers(1, longest - 2, count)
    return TokenDataset.of(
        [[10, 11, *[100 + i] * n, EOS] for i, n in enumerate(lengths)],
        [[False, False, *[True] * (n + 1)] for n in lengths],
        **IDS,
    )


def equal(first: Batch, second: Batch) -> bool:
    parts = ("tokens", "document", "position", "scored")
    return all(torch.equal(getattr(first, part), getattr(second, part)) for part in parts)

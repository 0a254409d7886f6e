"""The picture of the cache: what it says is computed and read is what the decoders compute and read."""

import numpy as np
import pytest
import traces
from small import MASK, checkpoint_of, tiny

from dllm_core.config import DecodeConfig
from dllm_core.samplers import decode
from dllm_core.show import cache
from dllm_core.trace import Trace


class Watched:
    """A model that notes of each call which positions it computes and which keys it sees."""

    def __init__(self, model):
        self.model, self.config, self.device, self.lm_head = model, model.config, model.device, model.lm_head
        self.logits, self.computed, self.seen = model.logits, [], []

    def __call__(self, tokens, position, mask, *others, **named):
        self.computed.append(set(position[0].tolist()))
        self.seen.append(set(mask[0].any(dim=0).nonzero()[:, 0].tolist()))
        return self.model(tokens, position, mask, *others, **named)


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("style", ["ar", "llada1", "llada2"])
def test_it_shows_what_is_computed_and_what_is_read(style, use_cache):
    """A prompt that ends inside the second block of 4, and an answer through the fourth."""
    prompt, options = [1, 3, 4, 5, 6, 7], {"block_length": 4, "threshold": 0.3} if style == "llada2" else {}
    config = DecodeConfig(style, 10, use_cache=use_cache, eos_early_stop=False, **options)
    model = Watched(tiny())
    steps = list(decode(checkpoint_of(model), [prompt], config))
    trace = Trace(style, prompt, prompt + [MASK] * 10, MASK, 2, steps, config.to_dict())
    work = cache.cache_work(trace)
    assert work.shape == (len(model.computed), 16)
    for row, computed, seen in zip(work, model.computed, model.seen, strict=True):
        assert set(np.flatnonzero(row >= cache.STORED)) == computed
        assert set(np.flatnonzero(row == cache.READ)) == seen - computed
        assert set(np.flatnonzero(row != cache.UNSEEN)) == seen | computed
    stored = (work == cache.STORED).sum(axis=0)
    assert stored.max() == (use_cache and style != "llada1")  # at most once, and never in LLaDA 1


def test_what_is_stored_is_what_the_next_forward_pass_reads():
    work = cache.cache_work(traces.llada2())  # blocks [0, 4) once and [4, 8) three times
    assert work.tolist() == [[3] * 4 + [0] * 4, [2] * 4 + [3] * 4, [1] * 4 + [3] * 4, [1] * 4 + [3] * 4]


def test_the_picture_counts():
    picture = cache.cache_picture([make() for make in traces.ALL], most=2)
    assert traces.is_png(picture) and len(picture.figure.axes) == 3
    assert "AR: 3 forward passes, 4 positions computed; LLaDA 1: 2 forward passes, 12" in repr(picture)
    assert "(the first 2 shown)" in picture.figure.axes[0].get_title(loc="left")
    with pytest.raises(ValueError, match="empty"):
        cache.cache_picture([])

"""A model's forwards replayed from CUDA graphs, so that a small model is not bound by launching its kernels.

A decoder repeats few shapes. Made static (the window's own, and keys up to the cache's end, the rest masked), the whole
forward is one launch: `decode(Replayed(model), ...)`. Elsewhere than on CUDA nothing is captured and the static shapes
are run as they are, which is how the tests see that they change nothing.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from dllm_core.model import KVCache, Transformer

MOST = 8  # shapes of caches whose graphs are kept; each holds its memory


class Replayed:
    """Stands where a Transformer stands in decoding; gives the same hidden states. Not for training.

    The first forward of a shape runs as it is (a prompt's comes once), the second is captured. A later decoding's cache
    of the same shape takes the place of the one that was captured, so that nothing is captured twice: run one decoding
    after another, not two at a time. What was captured for the `MOST` last shapes of caches is kept.
    """

    def __init__(self, model: Transformer):
        self.model, self.config, self.device = model, model.config, model.device
        self.lm_head, self.logits = model.lm_head, model.logits
        self.cache, self.captured, self.known = None, {}, {}  # known: shape of a cache → (cache, what was captured)

    def __call__(
        self, tokens: Tensor, position: Tensor, mask: Tensor, cache: KVCache | None = None,
        slots: Tensor | None = None, read: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:  # fmt: skip
        """As `Transformer.forward`; [n, D] of the elements `read`, or all states [B, S, D]."""
        if cache is not self.cache:
            self.adopt(cache)
        shape = tuple(tokens.shape)
        if shape not in self.captured:
            self.captured[shape] = None
            return self.model(tokens, position, mask, cache, slots, read=read)
        if cache is not None:
            mask = F.pad(mask, (0, cache.keys[0].shape[2] - 1 - mask.shape[-1]))
        inputs = [tokens, position, mask, position if slots is None else slots]
        if self.captured[shape] is None:
            self.captured[shape] = Capture(self.model, cache, inputs)
        hidden = self.captured[shape].run(inputs)
        return hidden.clone() if read is None else hidden[read]  # copies: the next run writes over it

    def adopt(self, cache: KVCache | None) -> None:
        """Make this the cache in use; where one of its shape is known, it gets that one's memory, its content kept."""
        shape = None if cache is None else tuple(cache.keys[0].shape)
        kept, captured = self.known.pop(shape, (cache, {}))
        if kept is not cache:
            for own, new in zip([*kept.keys, *kept.values], [*cache.keys, *cache.values], strict=True):
                own.copy_(new)
            cache.keys[:], cache.values[:] = kept.keys, kept.values
        self.cache, self.captured = cache, captured
        self.known[shape] = (kept, captured)
        while len(self.known) > MOST:
            del self.known[next(iter(self.known))]


class Capture:
    """One forward of fixed shapes. inputs: tokens, position [B, S], mask [B, S, K], slots [B, S]."""

    def __init__(self, model: Transformer, cache: KVCache | None, inputs: list[Tensor]):
        self.inputs = [tensor.clone() for tensor in inputs]
        tokens, position, mask, slots = self.inputs
        self.forward = lambda: model(tokens, position, mask, cache, slots)
        self.graph = None
        if tokens.device.type == "cuda":
            # once on a side stream, so that libraries take their workspaces before the capture
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self.forward()
            torch.cuda.current_stream().wait_stream(stream)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.hidden = self.forward()

    def run(self, inputs: list[Tensor]) -> Tensor:
        """Hidden states [B, S, D], valid until the next run."""
        for kept, new in zip(self.inputs, inputs, strict=True):
            kept.copy_(new)
        if self.graph is None:
            return self.forward()
        self.graph.replay()
        return self.hidden

"""A model's forwards replayed from CUDA graphs, so that a small model is not bound by launching its kernels.

A decoder repeats few shapes. Made static (the window's own, and keys up to the cache's end, the rest masked), the whole
forward is one launch. `decode` takes its model from `for_inference`, which on CUDA gives a `GraphedModel`. Elsewhere nothing is
captured and a `GraphedModel` runs the static shapes as they are, which is how the tests see that they change nothing.
"""

import contextlib
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dllm_core.compute.prepacked import prepacked

GRAPHS = ("cuda",)  # types of devices that replay
MOST = 8  # shapes of caches whose graphs are kept, and of windows of each; a graph holds memory
FEW = 4096  # tokens up to which a forward is captured: above, the work takes longer than the launches
BEFORE = 2  # forwards of a shape that run as they are: to capture costs about two, so little is lost where no more come
_idle = weakref.WeakKeyDictionary()  # model → [(where its weights lay, what was captured)], each in no decoding's hands
_refused = weakref.WeakSet()  # models of which nothing could be captured


@contextlib.contextmanager
def for_inference(model) -> Iterator:
    """The form of a Transformer that decodes fastest: replayed from graphs on `GRAPHS`, with prepacked weights on a CPU.
    Under autocast the model itself, whose casts belong to neither."""
    if torch.is_autocast_enabled(model.device.type):
        yield model
    elif model.device.type in GRAPHS and model not in _refused:
        with replayed(model) as made:
            yield made
    else:
        yield prepacked(model) if model.device.type == "cpu" else model


@contextlib.contextmanager
def replayed(model: nn.Module) -> Iterator["GraphedModel"]:
    """A `GraphedModel` with what earlier decodings of the model captured; no two decodings at a time hold the same."""
    weights = [parameter.data_ptr() for parameter in model.parameters()]  # graphs read them where they lay
    idle = _idle.setdefault(model, [])
    idle[:] = [(lay, known) for lay, known in idle if lay == weights]
    made = GraphedModel(model, idle.pop()[1] if idle else None)
    try:
        yield made
    finally:  # also of a decoding that was stopped
        if made.failed:
            _refused.add(model)
        else:  # a cache that no graph uses is let go
            idle.append((weights, {shape: kept for shape, kept in made.known.items() if kept.captures}))


def cache_length(needed: int, most: int, device: torch.device) -> int:
    """Positions of a cache for `trim_unscored` of at most `most`: where graphs are replayed in multiples of 64, so that later
    decodings find graphs of their shape."""
    return min(-(-needed // 64) * 64, most) if device.type in GRAPHS else needed


class GraphedModel:
    """Stands where a Transformer stands in decoding; gives the same hidden states. Not for training.

    The first forwards of a shape run as they are (a prompt's comes once), the next is captured, unless it is of more than
    `FEW` tokens. Where capturing fails it says so and goes on as the Transformer does. A later decoding's cache
    of the same shape takes the place of the one that was captured, so that nothing is captured twice: run one decoding
    after another, not two at a time. What was captured for the `MOST` last shapes of caches is kept.
    """

    def __init__(self, model: nn.Module, known: dict | None = None):
        self.model, self.config, self.device = model, model.config, model.device
        self.lm_head, self.logits = model.lm_head, model.logits
        self.known: dict[tuple | None, Kept] = {} if known is None else known  # by the shape of the cache
        self.cache, self.kept, self.failed = None, None, False
        self.pool = torch.cuda.graph_pool_handle() if self.device.type == "cuda" else None  # outputs are copied: one for all

    def __call__(
        self, tokens: Tensor, position: Tensor, mask: Tensor, cache=None,
        slots: Tensor | None = None, read: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:  # fmt: skip
        """As `Transformer.forward`; [n, D] of the elements `read`, or all states [B, S, D]."""
        if self.kept is None or cache is not self.cache:
            self.adopt(cache)
        shape, captures = tuple(tokens.shape), self.kept.captures
        plainly = partial(self.model, tokens, position, mask, cache, slots, read=read)
        self.kept.runs[shape] += 1
        if self.failed or tokens.numel() > FEW or self.kept.runs[shape] <= BEFORE:
            return plainly()
        if cache is not None:
            mask = F.pad(mask, (0, cache.keys[0].shape[2] - 1 - mask.shape[-1]))
        inputs = [tokens, position, mask, position if slots is None else slots]
        try:
            capture = captures.pop(shape, None) or Capture(self.model, self.kept.cache, inputs, self.pool)
        except RuntimeError as error:
            self.failed = True
            warnings.warn(f"decoding goes on without CUDA graphs, slower: {error}", stacklevel=2)
            return plainly()
        captures[shape] = capture  # the last used stands last
        if len(captures) > MOST:
            oldest = next(iter(captures))
            del captures[oldest], self.kept.runs[oldest]
        hidden = capture.run(inputs)
        return hidden.clone() if read is None else hidden[read]  # copies: the next run writes over it

    def adopt(self, cache) -> None:
        """Make this the cache in use; where one of its shape is known, it gets that one's memory, its content kept."""
        shape = None if cache is None else tuple(cache.keys[0].shape)
        self.cache, self.kept = cache, self.known.pop(shape, None) or Kept(cache)
        if self.kept.cache is not cache:
            theirs = [*self.kept.cache.keys, *self.kept.cache.values]
            for own, new in zip(theirs, [*cache.keys, *cache.values], strict=True):
                own.copy_(new)
            cache.keys[:], cache.values[:] = self.kept.cache.keys, self.kept.cache.values
        self.known[shape] = self.kept
        while len(self.known) > MOST:
            del self.known[next(iter(self.known))]


@dataclass
class Kept:
    """What is known of caches of one shape: the one whose memory the captures use, by the shape of a window how many
    forwards there were, and what was captured."""

    cache: object | None
    runs: Counter = field(default_factory=Counter)
    captures: dict = field(default_factory=dict)


class Capture:
    """One forward of fixed shapes. inputs: tokens, position [B, S], mask [B, S, K], slots [B, S]. cache: one that lives as
    long as this does. Raises RuntimeError where CUDA refuses."""

    def __init__(self, model: nn.Module, cache, inputs: list[Tensor], pool=None):
        self.inputs = [tensor.clone() for tensor in inputs]
        tokens, position, mask, slots = self.inputs
        self.forward, self.graph = partial(model, tokens, position, mask, cache, slots), None
        if tokens.device.type == "cuda":
            self.graph, self.hidden = captured(self.forward, tokens.device, pool)
            self.forward = None  # which would keep the model alive

    def run(self, inputs: list[Tensor]) -> Tensor:
        """Hidden states [B, S, D], valid until the next run."""
        for kept, new in zip(self.inputs, inputs, strict=True):
            kept.copy_(new)
        if self.graph is None:
            return self.forward()
        self.graph.replay()
        return self.hidden


def captured(function: Callable, device: torch.device, pool=None) -> tuple[torch.cuda.CUDAGraph, object]:
    """(graph, what the function gave) of a function that launches the same kernels in every call; run once before, so
    that libraries have their workspaces. pool: memory that it may share with other graphs."""
    stream, graph, before = torch.cuda.Stream(device), torch.cuda.CUDAGraph(), torch.cuda.current_stream(device)
    try:
        with torch.cuda.device(device):
            stream.wait_stream(before)
            with torch.cuda.stream(stream):
                function()
            before.wait_stream(stream)
            with torch.cuda.graph(graph, pool=pool, stream=stream):
                given = function()
        return graph, given
    except RuntimeError:
        torch.cuda.set_stream(before)  # a capture that failed leaves its own
        raise

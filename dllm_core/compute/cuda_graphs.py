"""A model's forwards replayed from CUDA graphs, so that launching kernels does not dominate a small model's time.

A decoder repeats a few shapes. With static shapes (the window as it is, keys up to the cache's end with those beyond
masked) a whole forward is one launch. On other devices nothing is captured and a `GraphedModel` runs the same static
shapes directly; the tests use that to show that they change nothing.
"""

import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dllm_core.compute.kv_cache import KVCache
from dllm_core.compute.prepacked import prepacked

GRAPH_DEVICES = ("cuda",)  # types of devices with graphs
MAX_SHAPES = 8  # shapes of caches, and windows of each, whose graphs are kept; a graph takes memory
MAX_TOKENS = 4096  # the most tokens of a forward that is captured; larger ones take longer than their launches
WARMUP = 2  # forwards of a shape before it is captured: a capture costs about two, wasted where no more come
_idle = weakref.WeakKeyDictionary()  # model → [(addresses of its weights, captures)], of decodings that have ended
_refused = weakref.WeakSet()  # models whose capture failed


def for_inference(model: nn.Module) -> AbstractContextManager:
    """The form of a Transformer that decodes fastest: replayed from graphs on `GRAPH_DEVICES`, with prepacked weights
    on a CPU. Under autocast it is the model itself, whose casts neither form has."""
    if torch.is_autocast_enabled(model.device.type):
        return nullcontext(model)
    if model.device.type in GRAPH_DEVICES and model not in _refused:
        return graphed(model)
    return nullcontext(prepacked(model) if model.device.type == "cpu" else model)


@contextmanager
def graphed(model: nn.Module) -> Iterator["GraphedModel"]:
    """A `GraphedModel` with the captures of the model's earlier decodings; no two decodings at a time share them."""
    addresses = [parameter.data_ptr() for parameter in model.parameters()]  # graphs read the weights there
    idle = _idle.setdefault(model, [])
    idle[:] = [(known, captures) for known, captures in idle if known == addresses]
    graphed_model = GraphedModel(model, idle.pop()[1] if idle else None)
    try:
        yield graphed_model
    finally:  # also of a decoding that was stopped
        if graphed_model.failed:
            _refused.add(model)
        else:  # a cache that no graph reads is freed
            used = {shape: of_cache for shape, of_cache in graphed_model.by_cache.items() if of_cache.captures}
            idle.append((addresses, used))


def cache_length(needed: int, most: int, device: torch.device) -> int:
    """Positions of a cache that holds `needed`, at most `most`: a multiple of 64 where graphs are used, so that later
    decodings find graphs of the same shape."""
    return min(-(-needed // 64) * 64, most) if device.type in GRAPH_DEVICES else needed


class GraphedModel:
    """Takes a Transformer's place in decoding and returns the same hidden states. Not for training.

    The first `WARMUP` forwards of a shape run directly (a prompt's comes once), the next is captured, unless it has
    more than `MAX_TOKENS` tokens. If a capture fails there is a warning, and all forwards run directly. A later
    decoding's cache moves into the memory of the captured one of its shape, so that no shape is captured twice: one
    decoding at a time.
    """

    def __init__(self, model: nn.Module, by_cache: dict | None = None):
        self.model, self.config, self.device = model, model.config, model.device
        self.lm_head, self.logits = model.lm_head, model.logits
        self.by_cache: dict[tuple | None, CacheCaptures] = by_cache or {}  # by the shape of the cache
        self.cache, self.current, self.failed = None, None, False
        # outputs are copied, so all graphs may share one pool of memory
        self.pool = torch.cuda.graph_pool_handle() if self.device.type == "cuda" else None

    def __call__(
        self, tokens: Tensor, position: Tensor, mask: Tensor, cache: KVCache | None = None, slots: Tensor | None = None,
        read: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:  # fmt: skip
        """As `Transformer.forward`: [n, D] of the elements `read`, or all states [B, S, D]."""
        if self.current is None or cache is not self.cache:
            self.use_cache(cache)
        shape, captures = tuple(tokens.shape), self.current.captures
        run_directly = partial(self.model, tokens, position, mask, cache, slots, read=read)
        self.current.forwards[shape] += 1
        if self.failed or tokens.numel() > MAX_TOKENS or self.current.forwards[shape] <= WARMUP:
            return run_directly()
        if cache is not None:
            mask = F.pad(mask, (0, cache.keys[0].shape[2] - 1 - mask.shape[-1]))
        inputs = [tokens, position, mask, position if slots is None else slots]
        try:
            capture = captures.pop(shape, None) or Capture(self.model, self.current.cache, inputs, self.pool)
        except RuntimeError as error:
            self.failed = True
            warnings.warn(f"decoding goes on without CUDA graphs, slower: {error}", stacklevel=2)
            return run_directly()
        captures[shape] = capture  # the last used is the last of the dict
        if len(captures) > MAX_SHAPES:
            oldest = next(iter(captures))
            del captures[oldest], self.current.forwards[oldest]
        hidden = capture.run(inputs)
        return hidden.clone() if read is None else hidden[read]  # a copy: the next run overwrites it

    def use_cache(self, cache: KVCache | None) -> None:
        """Make this cache the current one; it moves, content included, into the memory of a known one of its shape."""
        shape = None if cache is None else tuple(cache.keys[0].shape)
        self.cache, self.current = cache, self.by_cache.pop(shape, None) or CacheCaptures(cache)
        captured_cache = self.current.cache
        if captured_cache is not cache:
            captured_tensors = [*captured_cache.keys, *captured_cache.values]
            for captured, new in zip(captured_tensors, [*cache.keys, *cache.values], strict=True):
                captured.copy_(new)
            cache.keys[:], cache.values[:] = captured_cache.keys, captured_cache.values
        self.by_cache[shape] = self.current
        while len(self.by_cache) > MAX_SHAPES:
            del self.by_cache[next(iter(self.by_cache))]


@dataclass
class CacheCaptures:
    """What is kept of one shape of caches."""

    cache: KVCache | None  # whose memory the captures use
    forwards: Counter = field(default_factory=Counter)  # by the window's shape, their number
    captures: dict[tuple, "Capture"] = field(default_factory=dict)  # by the window's shape


class Capture:
    """One forward of fixed shapes. inputs: tokens, position [B, S], mask [B, S, K], slots [B, S]. cache: must live as
    long as the capture. Raises RuntimeError where CUDA refuses."""

    def __init__(self, model: nn.Module, cache: KVCache | None, inputs: list[Tensor], pool=None):
        self.inputs = [tensor.clone() for tensor in inputs]
        tokens, position, mask, slots = self.inputs
        self.forward, self.graph = partial(model, tokens, position, mask, cache, slots), None
        if tokens.device.type == "cuda":
            self.graph, self.hidden = capture_graph(self.forward, tokens.device, pool)
            self.forward = None  # it would keep the model alive

    def run(self, inputs: list[Tensor]) -> Tensor:
        """Hidden states [B, S, D], valid until the next run."""
        for captured, new in zip(self.inputs, inputs, strict=True):
            captured.copy_(new)
        if self.graph is None:
            return self.forward()
        self.graph.replay()
        return self.hidden


def capture_graph(function: Callable, device: torch.device, pool=None) -> tuple[torch.cuda.CUDAGraph, object]:
    """(graph, result) of a function that launches the same kernels in every call. It is called once before, so that
    libraries allocate their workspaces. pool: memory that the graph may share with others."""
    stream, graph, before = torch.cuda.Stream(device), torch.cuda.CUDAGraph(), torch.cuda.current_stream(device)
    try:
        with torch.cuda.device(device):
            stream.wait_stream(before)
            with torch.cuda.stream(stream):
                function()
            before.wait_stream(stream)
            with torch.cuda.graph(graph, pool=pool, stream=stream):
                result = function()
        return graph, result
    except RuntimeError:
        torch.cuda.set_stream(before)  # a failed capture leaves its own stream current
        raise

"""Any causal language model of transformers, driven by this project's decoders: 4D masks, its own attention, our cache.

    model = AutoModelForCausalLM.from_pretrained(folder)  # experts, half-rotary, YaRN, …: whatever it computes
    checkpoint = wrap(model, tokenizer, CheckpointInfo("llada2", block_size=32))
    traces = generate(checkpoint, prompts, DecodeConfig("llada2", block_length=32))

A model of `Transformer`'s layout is opened by `load_checkpoint`, which is faster and trains.
"""

import functools
import inspect
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor

from dllm_core.checkpoints.formats import LoadedCheckpoint
from dllm_core.common.errors import RunError
from dllm_core.compute.kv_cache import KVCache
from dllm_core.config import CheckpointInfo

# What a model's own code raises for a mask or a cache that it does not know.
UNABLE = (ValueError, TypeError, AssertionError, AttributeError, IndexError, NotImplementedError, RuntimeError)
TOLERANCE = 1e-3  # of the greatest logit: float32 under another mask differs by 1e-6, a mask that is ignored by far more


def wrap(model, tokenizer, info: CheckpointInfo) -> LoadedCheckpoint:
    """A checkpoint that `decode`, `generate` and `infill` take. model: of transformers, with its weights, any precision.

    Raises RunError, which names what stands against it, for a model whose layers see a window or keep a state instead of
    keys and values, and for one that does not honour the mask and the positions that it is given: each is tried.
    """
    try:
        wrapped = WrappedModel(model)
        wrapped.check()
    except RunError:
        raise
    except UNABLE as error:
        raise RunError(f"{type(model).__name__}: cannot be driven with a mask and positions: {error}") from error
    return LoadedCheckpoint(wrapped, info, tokenizer, Path(model.name_or_path))


@functools.cache
def slots_class() -> type:
    """The class of our cache as transformers' layers see it: what they compute goes to `slots` [B, S], and they attend to
    the first `length` positions."""
    from transformers.cache_utils import DynamicCache  # whose import takes a second

    class Slots(DynamicCache):
        def __init__(self, cache: KVCache, slots: Tensor, length: int):
            super().__init__()
            self.cache, self.slots, self.length = cache, slots, length

        def update(self, key: Tensor, value: Tensor, layer: int, *args, **options) -> tuple[Tensor, Tensor]:
            return self.cache.write(layer, key, value, self.slots, self.length)

    return Slots


class WrappedModel:
    """Takes a `Transformer`'s place in decoding. Its "hidden states" are the logits, for what stands between them
    differs from model to model."""

    def __init__(self, model):
        self.model, self.device, self.lm_head = model.eval(), model.device, model.get_output_embeddings()
        text = model.config.get_text_config()
        self.name, windows = type(model).__name__, _windows(text)
        if windows:
            raise RunError(f"{self.name}: {windows}: layers that do not see all positions, whatever the mask says")
        self.selects = "logits_to_keep" in inspect.signature(model.forward).parameters
        keys = self._shape_of_keys()
        self.has_cache, self.takes_4d = keys is not None, True
        most = getattr(text, "max_position_embeddings", None) or 2**31 - 1
        _, heads, _, size = keys or (1, 1, 1, 2)
        heads = {"num_key_value_heads": heads, "head_dim": size, "num_hidden_layers": text.num_hidden_layers}
        self.config = SimpleNamespace(vocab_size=text.vocab_size, max_position_embeddings=most, **heads)

    @torch.inference_mode()
    def __call__(
        self, tokens: Tensor, position: Tensor, mask: Tensor, cache: KVCache | None = None, slots: Tensor | None = None,
        read: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:  # fmt: skip
        """tokens, position [B, S], mask [B, S, K] bool as for `Transformer` → logits [B, S, V], or [n, V] at `read`."""
        if not self.has_cache and mask.shape[-1] > mask.shape[-2]:
            raise RunError(f"{self.name}: keeps no keys and values: decode with use_cache=False")
        options = {"use_cache": cache is not None and self.has_cache}
        if options["use_cache"]:
            options["past_key_values"] = slots_class()(cache, position if slots is None else slots, mask.shape[-1])
        columns = None
        if read is not None and self.selects:  # of a large vocabulary only the columns that are read
            columns, at = read[1].unique(return_inverse=True)
            options["logits_to_keep"] = columns
        output = self.model(input_ids=tokens, position_ids=position, attention_mask=self._in_its_form(mask), **options)
        return output.logits if read is None else output.logits[read[0], read[1] if columns is None else at]

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden

    def _in_its_form(self, mask: Tensor) -> Tensor:
        """The mask as the model takes it: [B, 1, S, K] to add to the scores, or [B, K] for full attention alone."""
        if self.takes_4d:
            lowest = torch.finfo(self.model.dtype).min
            return torch.zeros(mask.shape, dtype=self.model.dtype, device=mask.device).masked_fill_(~mask, lowest)[:, None]
        if not mask.equal(mask[:, :1].expand_as(mask)):
            raise RunError(f"{self.name}: takes no 4D mask, so it has full attention alone: decode it as 'llada1'")
        return mask[:, 0].long()

    @torch.inference_mode()
    def _shape_of_keys(self) -> torch.Size | None:
        """[1, H, 1, D] of every layer's keys and values; None for a model that keeps none, as LLaDA-MoE. Raises RunError
        where layers keep something else."""
        token = torch.zeros(1, 1, dtype=torch.long, device=self.device)
        try:
            past = self.model(input_ids=token, use_cache=True).past_key_values
        except UNABLE:
            return None
        stored = [(type(layer).__name__, layer.keys, layer.values) for layer in getattr(past, "layers", ())]
        shapes = {(kind, keys.shape, values.shape) for kind, keys, values in stored}
        if len(shapes) != 1 or any(kind != "DynamicLayer" or keys != values for kind, keys, values in shapes):
            kinds = ", ".join(sorted({kind for kind, *_ in shapes})) or type(past).__name__
            raise RunError(f"{self.name}: its cache ({kinds}) is not one of equally shaped keys and values")
        return stored[0][1].shape

    def check(self) -> None:
        """Raise RunError unless the model by itself computes what it computes under a causal or an open mask, and the
        mask and the positions matter."""
        tokens = torch.arange(1, 7, device=self.device)[None] % self.config.vocab_size
        position = torch.arange(6, device=self.device)[None]
        opened = torch.ones(1, 6, 6, dtype=torch.bool, device=self.device)
        with torch.inference_mode():
            own = self.model(input_ids=tokens, use_cache=False).logits.float()
        try:
            causal = self(tokens, position, opened.tril()).float()
        except UNABLE:  # LLaDA-MoE takes a mask [B, K] alone
            self.takes_4d = False
            causal = self(tokens, position, opened & (position != 5)).float()
        full, spread = self(tokens, position, opened).float(), self(tokens, 2 * position, opened).float()
        differs = min(float((own - logits).abs().max()) for logits in (causal, full))
        if self.model.dtype == torch.float32 and not differs <= TOLERANCE * float(own.abs().max()):
            raise RunError(f"{self.name}: with a mask it computes something else than by itself (by {differs:.2g})")
        if causal.equal(full):
            raise RunError(f"{self.name}: ignores the mask (attention_mask) that it is given")
        if spread.equal(full):
            raise RunError(f"{self.name}: ignores the positions (position_ids) that it is given")


def _windows(text) -> str:
    """The field of a config that says that layers attend to a window only; "" where none does."""
    kinds = set(getattr(text, "layer_types", None) or ()) - {"full_attention"}
    window = getattr(text, "sliding_window", None) if getattr(text, "use_sliding_window", True) else None
    return f"layer_types with {', '.join(sorted(kinds))}" if kinds else f"sliding_window={window}" if window else ""

"""What decoding is compared with: other libraries and the matmuls alone; and the oracle that equalizes acceptance.

The code of Hugging Face and diffusers is imported by the functions that use it.
"""

import time
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from dllm_core.checkpoints.hf_config import hf_config
from dllm_core.compute.cpu import onednn_matmul
from dllm_core.compute.cuda_graphs import capture_graph
from dllm_core.config import CheckpointInfo
from dllm_core.model import Transformer


class Oracle:
    """A model with a prescribed acceptance: after each real forward it overwrites the logits, so that exactly `accept` of
    the block's masked positions have a probability near 1 and the others 1 / V.

    It replaces a Transformer; all rows must be at the same step. A fixed random order of the block's positions
    says which are accepted. Their tokens are the model's own most likely ones (`own_tokens`), so that equal outputs
    mean equal logits; or scripted ones, for bfloat16, where rounding depends on a matmul's shape.
    seconds: spent on this, to be subtracted; inside: seconds in the real forwards; calls: the shapes of the forwards.
    """

    def __init__(self, model, block_size: int, accept: int, mask_token_id: int, own_tokens: bool):
        self.model, self.block_size, self.accept = model, block_size, accept
        self.mask_token_id, self.own_tokens = mask_token_id, own_tokens
        self.config, self.device, self.lm_head = model.config, model.device, model.lm_head
        self.rank = torch.randperm(block_size, generator=torch.Generator().manual_seed(0)).to(self.device)
        self.reset()

    def reset(self) -> None:
        self.seconds, self.inside, self.calls = 0.0, 0.0, []

    def __call__(self, tokens, position, mask, cache=None, slots=None, read=None) -> Tensor:
        began = self.clock()
        self.inputs = tokens, position, read
        hidden = self.model(tokens, position, mask, cache=cache, slots=slots, read=read)
        self.inside += self.clock() - began
        count = tokens.numel() if read is None else len(read[0])
        self.calls.append((*tokens.shape, mask.shape[-1], count))
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        began = self.clock()
        logits = self.model.logits(hidden)
        real = self.clock()
        self.overwrite(logits.view(-1, logits.shape[-1]))
        self.inside += real - began
        self.seconds += self.clock() - real
        return logits

    def clock(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def overwrite(self, logits: Tensor) -> None:
        """Overwrite in place the logits [n, V] of the elements that are read, in row order."""
        tokens, position, read = self.inputs
        rows, columns = torch.ones_like(tokens).nonzero(as_tuple=True) if read is None else read
        # 1. the masked positions of the current block, the last one of the window
        masked = tokens[rows, columns] == self.mask_token_id
        masked &= columns >= tokens.shape[1] - self.block_size
        remaining = int(masked.sum()) // len(tokens)
        # 2. the next `accept` of them in the oracle's order: those before are committed
        index = masked.nonzero()[:, 0]
        masked_position = position[rows[index], columns[index]]
        chosen = self.rank[masked_position % self.block_size] < self.block_size - remaining + self.accept
        # 3. their tokens
        if self.own_tokens:
            real = logits[index]
            real[:, self.mask_token_id] = -torch.inf
            token = real.argmax(dim=-1)
        else:
            token = (masked_position * 31 + rows[index] * 17) % (logits.shape[-1] - 1)
        logits[index] = 0
        logits[index[chosen], token[chosen]] = 30


class Matmuls:
    """The matrix products of forwards of these shapes, in the same order, and nothing else: a lower bound of the time.
    Each runs in the faster library, and from prepacked weights where the model's are, as in the model.

    calls: (rows, window, keys, elements read) of each forward, as `Oracle.calls`.
    """

    def __init__(self, model: Transformer, calls: list[tuple[int, int, int, int]]):
        self.model, self.calls, self.graph = model, calls, None
        self.inputs = {call: self._inputs(*call) for call in set(calls)}
        if model.device.type == "cuda":  # one launch for all of them: no launch of a forward counts
            self.graph, _ = capture_graph(self.run, model.device)

    def _inputs(self, batch: int, width: int, keys: int, read: int) -> dict[str, Tensor]:
        config, weight = self.model.config, self.model.lm_head.weight
        heads, size = config.num_key_value_heads, config.head_dim
        shared = config.num_attention_heads // heads  # query heads per key head: their rows are stacked
        shapes = {
            "x": (batch * width, config.hidden_size), "y": (batch * width, config.num_attention_heads * size),
            "h": (batch * width, config.intermediate_size), "q": (batch, heads, shared * width, size),
            "p": (batch, heads, shared * width, keys), "k": (batch, heads, keys, size),
        }  # fmt: skip
        return {name: torch.randn(shape, dtype=weight.dtype, device=weight.device) for name, shape in shapes.items()}

    def __call__(self) -> None:
        self.run() if self.graph is None else self.graph.replay()

    @torch.inference_mode()
    def run(self) -> None:
        layers = self.model.model.layers
        for call in self.calls:
            inputs, read = self.inputs[call], call[-1]
            x, y, h = inputs["x"], inputs["y"], inputs["h"]
            with onednn_matmul(*x.shape, x.device):
                for layer in layers:
                    attention, mlp = layer.self_attn, layer.mlp
                    for project in (attention.q_proj, attention.k_proj, attention.v_proj):
                        project.forward(x)
                    inputs["q"] @ inputs["k"].transpose(-1, -2)
                    inputs["p"] @ inputs["k"]
                    if layer is layers[-1]:  # an element that is not read needs its keys and values alone
                        x, y, h = x[:read], y[:read], h[:read]
                    attention.o_proj.forward(y)
                    mlp.gate_proj.forward(x)
                    mlp.up_proj.forward(x)
                    mlp.down_proj.forward(h)
            with onednn_matmul(read, x.shape[1], x.device):
                self.model.lm_head.forward(x)


def hugging_face(model: Transformer):
    """transformers' Qwen3ForCausalLM with the weights and the dtype of `model`."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    fields = hf_config(model.config, CheckpointInfo("ar"))
    fields["rope_parameters"] = {"rope_type": "default", "rope_theta": model.config.rope_theta}
    qwen3 = Qwen3ForCausalLM(Qwen3Config(**fields)).to(model.device, model.lm_head.weight.dtype).eval()
    qwen3.load_state_dict(model.state_dict())
    qwen3.generation_config.eos_token_id = None  # it never stops early, like the other jobs
    qwen3.generation_config.pad_token_id = 0
    return qwen3


class ForPipeline(nn.Module):
    """A model behind the interface that diffusers' pipeline calls: ids and positions [B, S] → `.logits` [B, S, V]."""

    def __init__(self, model, block_size: int):
        super().__init__()
        self.model, self.block_size, self.device = model, block_size, model.device

    def forward(self, input_ids, attention_mask, position_ids) -> SimpleNamespace:
        block = position_ids // self.block_size
        hidden = self.model(input_ids, position_ids, block[:, None, :] <= block[:, :, None])
        return SimpleNamespace(logits=self.model.logits(hidden))


def diffusers_pipeline(model, block_size: int):
    """diffusers' LLaDA2 pipeline around a model (`Oracle` or `Transformer`). Raises ImportError that says what to install
    where diffusers is missing, or older than 0.42."""
    try:
        from diffusers import BlockRefinementScheduler, LLaDA2Pipeline
    except ImportError as error:
        raise ImportError("diffusers' LLaDA2 pipeline is not installed: pip install 'diffusers>=0.42'") from error
    pipeline = LLaDA2Pipeline(ForPipeline(model, block_size), BlockRefinementScheduler(block_length=block_size))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline

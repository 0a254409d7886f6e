"""What a training and a decoding compute: positions and floating-point operations, by one formula for all styles."""

from dataclasses import dataclass

from dllm_core.config import ModelConfig
from dllm_core.patterns import AttentionPattern


@dataclass(frozen=True)
class Work:
    """positions: elements of the network's input, clean halves and noisy views included; flops: model FLOP."""

    positions: int = 0
    flops: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.positions + other.positions, self.flops + other.flops)


def training_work(config: ModelConfig, pattern: AttentionPattern, predicted: int, noisy_only: bool = False) -> Work:
    """The work of one training forward with its backward pass (after Kaplan et al., arXiv 2001.08361, §2.1).

    6 FLOP for each weight of a matrix and each state that it multiplies: 2 forward, 4 backward. In the last layer only
    what is needed counts: keys and values of all elements; queries of all, or of the noisy ones; output projection, MLP
    and head of the states read. Attention: 12 FLOP for each query, key and number of a head, over all pairs of a row
    but those of closed quadrants: of a block diffusion each view with the clean half and itself, the clean half with
    itself. Closed pairs within them count, as in a dense product; norms, embedding, softmax and the optimizer do not.

    pattern: of the [B, S] elements; predicted: states read, for a logit each; noisy_only: none of them is of the clean
    half (`compute.forward.predict`).
    """
    batch, length = pattern.view.shape
    noisy = int((pattern.view[0] > 0).sum())
    clean, size = length - noisy, noisy // pattern.views
    # 1. weights of a layer's matrices
    hidden, per_head = config.hidden_size, config.hidden_size * config.head_dim
    query, key_value = per_head * config.num_attention_heads, 2 * per_head * config.num_key_value_heads
    output, mlp = query, 3 * hidden * config.intermediate_size
    # 2. weight × state products of all layers but the last, of the last, of the head
    elements, asking, layers = batch * length, batch * (noisy if noisy_only else length), config.num_hidden_layers - 1
    products = layers * elements * (query + key_value + output + mlp)
    products += elements * key_value + asking * query + predicted * (output + mlp + hidden * config.vocab_size)
    # 3. pairs of a query and a key
    of_noisy, of_clean = pattern.views * size * (clean + size), clean * clean
    pairs = batch * (layers * (of_noisy + of_clean) + of_noisy + (0 if noisy_only else of_clean))
    return Work(elements, 6.0 * products + 12.0 * pairs * config.num_attention_heads * config.head_dim)


def decoding_flops(model, positions: int, predictions: int) -> float:
    """2 FLOP for each weight of a matrix and each state of a Transformer that it multiplies, as in `training_work` without
    attention. positions: run through the network in all forward passes; predictions: states read, for a logit each."""
    size = lambda part: sum(weight.numel() for weight in part.parameters() if weight.ndim == 2)
    last = model.model.layers[-1]
    where_read = size(last.self_attn.o_proj) + size(last.mlp)
    everywhere = size(model.model.layers) - where_read
    return 2.0 * (everywhere * positions + (where_read + size(model.lm_head)) * predictions)

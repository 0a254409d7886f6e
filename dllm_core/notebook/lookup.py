"""How a model looks a value up in its prompt: how much each attention head of it attends to the place where it stands."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dllm_core import patterns
from dllm_core.checkpoints.formats import LoadedCheckpoint
from dllm_core.compute.cpu import rotate
from dllm_core.data.roles import template_end
from dllm_core.notebook.asking import prompt_ids
from dllm_core.notebook.grading import Question

CONDITIONS = {  # masked is the value's first token; of its block → whether the token at `offset` from it is, too
    "key visible": lambda offset: offset == 0,
    "key visible, the rest masked": lambda offset: offset >= 0,
    "key masked": lambda offset: offset <= 0,  # with all that stands before it in the block
}


@dataclass(frozen=True)
class Lookup:
    """A question whose answer repeats a value of the prompt. tokens: prompt and answer through its end; start: where the
    answer begins; target: the value's first token in the answer; source: the same in the prompt."""

    tokens: tuple[int, ...]
    start: int
    target: int
    source: int


def lookups(loaded: LoadedCheckpoint, questions: Iterable[Question]) -> list[Lookup]:
    """The questions whose answer ends with a value of the prompt behind its key, as 小雨43分 does: the last stretch of
    the answer that stands in the prompt pair by pair, and in it the first pair that stands there only once. Of 小雨, which
    is also asked for, and 雨4 it is the second, and the value begins with its 4."""
    found, tokenizer = [], loaded.tokenizer
    end = tokenizer.convert_tokens_to_ids(template_end(tokenizer) or tokenizer.eos_token)
    for question in questions:
        prompt = prompt_ids(tokenizer, question.prompt, chat=True)
        answer = tokenizer.encode(question.answer, add_special_tokens=False)
        tokens, pairs = [*prompt, *answer, end], list(itertools.pairwise(prompt))
        pair_at = lambda i, tokens=tokens: (tokens[i - 1], tokens[i])
        last = len(tokens) - 3  # before the full stop and the end
        shared = [i for i in range(len(prompt) + 1, last + 1) if pair_at(i) in pairs]
        shared = [i for i in shared if all(k in shared for k in range(i, shared[-1]))]
        is_word = lambda i, tokens=tokens: tokenizer.decode([tokens[i]]).strip().isalnum()
        once = [i for i in shared if pairs.count(pair_at(i)) == 1 and is_word(i - 1) and is_word(i)]
        if once:
            found.append(Lookup(tuple(tokens), len(prompt), once[0], pairs.index(pair_at(once[0])) + 1))
    return found


@dataclass(frozen=True)
class Reading:
    """attention: [layers, heads], the mean weight that the predicting element gives to the value in the prompt;
    right: the mean probability of the right token."""

    attention: Tensor
    right: float


@torch.inference_mode()
def read(loaded: LoadedCheckpoint, found: Sequence[Lookup], masks=None) -> Reading:
    """What a checkpoint attends to where it predicts a value. masks: of `CONDITIONS`, which tokens of the answer are
    masked (None: AR, which sees the tokens before alone)."""
    model, info, weights, chances = loaded.model, loaded.info, [], []
    for case in found:
        # 1. the tokens as decoding sees them: through the block that holds the value, some of them masked
        size = info.block_size or len(case.tokens)
        offset = -case.start % size if info.grid == "answer" else 0
        begin = (case.target + offset) // size * size - offset  # of the value's block
        end = case.target + 1 if masks is None else min(len(case.tokens), begin + size)
        tokens = torch.tensor([case.tokens[:end]], device=model.device)
        first = max(case.start, begin)  # earlier blocks are written
        for i in range(first, end) if masks else ():
            if masks(i - case.target):
                tokens[0, i] = loaded.tokenizer.mask_token_id
        document, position = torch.zeros_like(tokens), torch.arange(end, device=model.device)[None]
        if masks is None:
            pattern = patterns.causal(document, position)
        else:
            pattern = patterns.block_causal(document, position, size, info.label_shift, offset)
        # 2. the element that predicts the value, its attention and its distribution
        element = int(pattern.predicted_at[0, 0, case.target])
        hidden, of_layers = attention_weights(model, tokens, position, pattern.mask())
        weights.append(of_layers[:, :, element, case.source])
        chances.append(float(model.logits(hidden[0, element]).softmax(dim=-1)[case.tokens[case.target]]))
    return Reading(torch.stack(weights).mean(dim=0), sum(chances) / len(chances))


def attention_weights(model, tokens: Tensor, position: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """(hidden states [1, S, D], attention weights [layers, heads, S, S]) of one row. mask: [1, S, S] bool."""
    inputs: list[Tensor] = []
    hooks = [layer.input_layernorm.register_forward_hook(lambda _, __, x: inputs.append(x)) for layer in model.model.layers]
    try:
        hidden = model(tokens, position, mask)
    finally:
        for hook in hooks:
            hook.remove()
    rope, weights = (model.rope_cos[position][:, None], model.rope_sin[position][:, None]), []
    for layer, x in zip(model.model.layers, inputs, strict=True):
        attention = layer.self_attn
        q, k = attention.split_heads(attention.q_proj(x)), attention.split_heads(attention.k_proj(x))
        q, k = rotate(attention.q_norm(q), *rope), rotate(attention.k_norm(k), *rope)
        k = k.repeat_interleave(attention.heads // attention.kv_heads, dim=1)
        scores = (q @ k.mT) * attention.head_dim**-0.5
        weights.append(scores.masked_fill(~mask[:, None], -torch.inf).softmax(dim=-1)[0])
    return hidden, torch.stack(weights)

"""From a text to an answer: the tokens of a prompt, a text with gaps, the decodings of many prompts."""

import itertools
import re
from collections.abc import Sequence

from dllm_core.checkpoints.formats import LoadedCheckpoint
from dllm_core.common.text import safe
from dllm_core.config import DecodeConfig
from dllm_core.data.chat import chat_prompt
from dllm_core.data.tokenizer import encode_text
from dllm_core.samplers import generate
from dllm_core.trace import Trace

Prompt = str | Sequence[int]  # a text, or token ids with the chat template already around them


def prompt_ids(tokenizer, prompt: Prompt, chat: bool) -> list[int]:
    """Token ids of a prompt: a text goes through the chat template, or begins a document (bos, then the text) where
    `chat` is False; token ids are returned as they are."""
    if not isinstance(prompt, str):
        return list(prompt)
    if chat:
        return chat_prompt(tokenizer, prompt)
    return [tokenizer.bos_token_id, *encode_text(tokenizer, prompt).ids]


def mask_gaps(tokenizer, text: str) -> tuple[list[int], list[int]]:
    """(token ids with masks in the gaps, true token ids) of a text whose gaps stand in double brackets: "今天[[天气]]很好".

    The text is tokenized whole, and a token is masked where its characters overlap a gap. Tokenizing the pieces
    separately would give other tokens than training saw. Raises ValueError for a text without a gap, with an empty one,
    or with a bracket that is not closed.
    """
    parts = re.split(r"(?s)\[\[(.+?)\]\]", text)  # before a gap, in it, after it, …
    plain = "".join(parts)
    if len(parts) == 1 or "[[" in plain or "]]" in plain:
        raise ValueError(f"{safe(text, 200)!r}: mark each gap with double brackets around what it hides, as in 今天[[天气]]很好")
    ends = list(itertools.accumulate(map(len, parts)))
    gaps = list(zip(ends[0::2], ends[1::2]))
    encoded = encode_text(tokenizer, plain, "gaps")
    true, masked = encoded.ids, []
    for token, (start, end) in zip(true, encoded.offsets, strict=True):
        in_gap = any(start < gap_end and end > gap_start for gap_start, gap_end in gaps)
        masked.append(tokenizer.mask_token_id if in_gap else token)
    return masked, true


def generate_answers(
    loaded: LoadedCheckpoint, prompts: Sequence[Prompt], config: DecodeConfig, batch_size: int | None = None
) -> list[Trace]:
    """The traces of a checkpoint's answers, in the order of `prompts`: an SFT checkpoint answers through the chat
    template, a base checkpoint continues the text.

    batch_size: decode so many prompts at a time, those of like lengths together; None: all at once. The greedy answer to
    a prompt does not depend on it.
    """
    token_ids = [prompt_ids(loaded.tokenizer, prompt, loaded.info.chat) for prompt in prompts]
    order = list(range(len(prompts)))
    if batch_size:
        order.sort(key=lambda i: len(token_ids[i]))
    size = batch_size or max(len(prompts), 1)
    traces: dict[int, Trace] = {}
    for start in range(0, len(order), size):
        batch = order[start : start + size]
        traces.update(zip(batch, generate(loaded, [token_ids[i] for i in batch], config), strict=True))
    return [traces[i] for i in range(len(prompts))]

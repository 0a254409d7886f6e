"""From a text to an answer: the tokens of a prompt, a text with gaps, the decodings of many prompts."""

import re
from collections.abc import Sequence

from dllm_core.checkpoints.formats import LoadedCheckpoint
from dllm_core.common.text import safe
from dllm_core.config import DecodeConfig
from dllm_core.data.chat import chat_prompt
from dllm_core.data.tokenizer import encode_text
from dllm_core.samplers import generate
from dllm_core.trace import Trace

GAP = re.compile("(_{2,}|＿{2,})")
EXAMPLES = ("你是谁？", "你会做什么？", "把748从小到大排列。", "Reverse this: road pen cup box")  # of the embedded corpus
Prompt = str | Sequence[int]  # a text, or token ids with the chat template already around them


def prompt_ids(tokenizer, prompt: Prompt, chat: bool) -> list[int]:
    """Token ids of a prompt: a text goes through the chat template, or begins a document (bos, then the text) where
    `chat` is False; token ids are returned as they are."""
    if not isinstance(prompt, str):
        return list(prompt)
    if chat:
        return chat_prompt(tokenizer, prompt)
    return [tokenizer.bos_token_id, *encode_text(tokenizer, prompt).ids]


def mask_gaps(tokenizer, text: str) -> list[int]:
    """Token ids of a text whose gaps are two or more underscores, one for each masked token: "床前____光".

    The text between gaps is tokenized in pieces: the masked words are unknown. Raises ValueError without a gap.
    """
    if not GAP.search(text):
        raise ValueError("gaps: the text has none; write two or more underscores, one for each masked token")
    token_ids: list[int] = []
    for i, piece in enumerate(GAP.split(text)):
        if i % 2:  # a gap; the pieces of text come before and after it
            token_ids += [tokenizer.mask_token_id] * len(piece)
        else:
            token_ids += encode_text(tokenizer, piece, "gaps").ids
    return token_ids


def prompt_notes(loaded: LoadedCheckpoint, text: str, more_tokens: int = 0) -> list[str]:
    """What a person should know of a text before a model reads it, a sentence each: it is blank, has characters that the
    tokenizer does not know, or is, with `more_tokens` of the answer, longer than the texts of the training."""
    unknown, notes = _unknown_characters(loaded.tokenizer, text), []
    if not text.strip():
        notes.append("the text is blank, and training had no blank one")
    if unknown:
        shown = " ".join(map(safe, unknown[:20])) + (" …" if len(unknown) > 20 else "")
        notes.append(f"{len(unknown)} character{'s' * (len(unknown) > 1)} unknown to this model: {shown}")
    if notes and (known := [example for example in EXAMPLES if not _unknown_characters(loaded.tokenizer, example)]):
        notes.append(f"texts that it knows: {'   '.join(known)}")
    length = len(prompt_ids(loaded.tokenizer, text, loaded.info.chat)) + more_tokens
    trained = max((entry.get("seq_len") or 0 for entry in loaded.trained), default=0)
    if trained and length > trained:
        notes.append(f"longer than it was trained for: {length} tokens with the answer, trained on at most {trained}")
    return notes


def _unknown_characters(tokenizer, text: str) -> list[str]:
    """The distinct characters of `text` that become the tokenizer's unknown token, in their order."""
    encoding = encode_text(tokenizer, text)
    pieces = zip(encoding.ids, encoding.offsets, strict=True)
    return list(dict.fromkeys("".join(text[start:end] for token, (start, end) in pieces if token == tokenizer.unk_token_id)))


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

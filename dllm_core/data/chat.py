"""Conversations as tokens, with the same boundary between prompt and answer as in generation."""

from itertools import groupby
from os.path import commonprefix
from typing import NamedTuple

from dllm_core.common.errors import DataError
from dllm_core.data.tokenizer import backend, require_chat_template


class Piece(NamedTuple):
    """An answer and the text before it. conversation: its number. scored: whether the answer is not blank."""

    conversation: int
    prompt: str
    answer: str
    scored: bool


def chat_prompt(tokenizer, messages: str | list[dict]) -> list[int]:
    """Tokens of a prompt, including the generation prompt that precedes the assistant's answer.

    messages: a user's text, or `[{"role", "content"}, …]`. Raises DataError when the tokenizer has no chat template.
    """
    require_chat_template(tokenizer)
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return backend(tokenizer).encode(text, add_special_tokens=False).ids


def encode_conversations(
    tokenizer, conversations: list[list[dict]], max_length: int, turns: str, locations: list[str]
) -> tuple[list[list[int]], list[list[bool]], list[int], dict[str, int]]:
    """(ids, scored, number of the conversation), a list each with one entry per example, and the counts.

    turns, max_length and counts: see `jsonl.chat_documents`. locations: "file:line" of each conversation, for errors.
    """
    require_chat_template(tokenizer)

    # 1. Render every answer's prompt, and the prompt with its answer, as text; (c, i) is turn i of conversation c.
    answers = [
        (c, i) for c, turns_of in enumerate(conversations) for i, turn in enumerate(turns_of) if turn["role"] == "assistant"
    ]
    prompts = _render(tokenizer, [conversations[c][:i] for c, i in answers], True, locations)
    with_answers = _render(tokenizer, [conversations[c][: i + 1] for c, i in answers], False, locations)

    # 2. Split each into a piece: the prompt's text (for a later turn only the new part) and the answer's text.
    pieces: list[Piece] = []
    earlier = ""
    for (c, i), prompt, full in zip(answers, prompts, with_answers):
        prompt, answer = _split_at_answer(tokenizer, conversations[c][:i], prompt, full, locations[c])
        new = prompt
        if turns == "all" and pieces and pieces[-1].conversation == c:
            if not prompt.startswith(earlier):
                raise DataError(
                    f'{locations[c]}: the chat template rewrites earlier turns when later ones follow; use turns="each"'
                )
            new = prompt[len(earlier) :]
        earlier = prompt + answer
        pieces.append(Piece(c, new, answer, scored=bool(conversations[c][i]["content"].strip())))

    # 3. Tokenize prompts and answers separately, so that no token spans the boundary.
    encode = backend(tokenizer).encode_batch_fast
    prompt_ids = [e.ids for e in encode([piece.prompt for piece in pieces], add_special_tokens=False)]
    answer_ids = [e.ids for e in encode([piece.answer for piece in pieces], add_special_tokens=False)]

    # 4. Join the pieces of an example, cut it at max_length, and keep it if a scored token is left.
    ids, scored, origin = [], [], []
    counts = {"cut": 0, "dropped": 0, "blank": 0}
    for _, example in groupby(range(len(pieces)), lambda k: pieces[k].conversation if turns == "all" else k):
        tokens, marks = [], []
        for k in example:
            tokens += prompt_ids[k] + answer_ids[k]
            marks += [False] * len(prompt_ids[k]) + [pieces[k].scored] * len(answer_ids[k])
        if not any(marks):
            counts["blank"] += 1
        elif not any(marks[:max_length]):
            counts["dropped"] += 1
        else:
            counts["cut"] += len(tokens) > max_length
            ids.append(tokens[:max_length])
            scored.append(marks[:max_length])
            origin.append(pieces[k].conversation)
    return ids, scored, origin, counts


def _render(tokenizer, conversations: list[list[dict]], for_generation: bool, locations: list[str]) -> list[str]:
    try:
        return tokenizer.apply_chat_template(conversations, tokenize=False, add_generation_prompt=for_generation)
    except Exception as error:  # a template may raise anything, for example on a system turn
        raise DataError(f"{locations[0]} or one of the next lines: the chat template refuses it: {error}") from error


def _split_at_answer(tokenizer, turns: list[dict], prompt: str, full: str, location: str) -> tuple[str, str]:
    """(prompt, answer through eos) as text. prompt: the turns before the answer, rendered for generation; full: all turns."""
    if not full.startswith(prompt):
        # The generation prompt ends with something that this answer lacks, such as an empty thought.
        shared = commonprefix([prompt, full])
        if not shared.startswith(tokenizer.apply_chat_template(turns, tokenize=False)):
            raise DataError(f"{location}: the chat template shows earlier turns differently once an answer follows")
        prompt = shared
    answer = full[len(prompt) :]
    end = answer.find(tokenizer.eos_token)
    if end < 0:
        raise DataError(f"{location}: the chat template does not end an answer with eos {tokenizer.eos_token!r}")
    return prompt, answer[: end + len(tokenizer.eos_token)]

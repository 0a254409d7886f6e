"""Conversations as tokens, with the boundary between prompt and answer exactly where generation has it."""

from os.path import commonprefix

from dllm_core.common.errors import DataError
from dllm_core.data.tokenizer import backend, require_chat_template


def chat_prompt(tokenizer, messages: str | list[dict]) -> list[int]:
    """Tokens up to where the assistant begins to answer.

    messages: a user's text, or `[{"role", "content"}, …]`. Raises DataError when the tokenizer has no chat template.
    """
    require_chat_template(tokenizer)
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return backend(tokenizer).encode(text, add_special_tokens=False).ids


def encode_conversations(
    tokenizer, conversations: list[list[dict]], max_length: int, turns: str, places: list[str]
) -> tuple[list[list[int]], list[list[bool]], list[int], dict[str, int]]:
    """(ids, scored, index of the conversation, counts), one entry per example. See `data.chat_documents`.

    places: "file:line" of each conversation, for the messages of errors.
    """
    require_chat_template(tokenizer)
    turns_of = [(c, i, turn["role"]) for c, talk in enumerate(conversations) for i, turn in enumerate(talk)]
    asked = [(c, i) for c, i, role in turns_of if role == "assistant"]
    prompts = _render(tokenizer, [conversations[c][:i] for c, i in asked], True, places)
    answered = _render(tokenizer, [conversations[c][: i + 1] for c, i in asked], False, places)

    # 1. Cut every rendered turn into (conversation, what is given, what is answered), as text.
    pieces: list[list] = []
    before, last = "", -1
    for (c, i), prompt, full in zip(asked, prompts, answered):
        prompt, answer = _cut(tokenizer, conversations[c][:i], prompt, full, places[c])
        if turns == "all" and c == last:
            if not prompt.startswith(before):
                raise DataError(
                    f'{places[c]}: the chat template rewrites earlier turns when later ones follow; use turns="each"'
                )
            given = prompt[len(before) :]
        else:
            given = prompt
        before, last = prompt + answer, c
        pieces.append([c, given, answer, bool(conversations[c][i]["content"].strip())])

    # 2. Tokenise both kinds of piece apart, all at once.
    encode = backend(tokenizer).encode_batch_fast
    given_ids = [e.ids for e in encode([p[1] for p in pieces], add_special_tokens=False)]
    answer_ids = [e.ids for e in encode([p[2] for p in pieces], add_special_tokens=False)]

    # 3. Join the pieces of one example; cut it at max_length; keep it if something is left to learn.
    ids, scored, origin = [], [], []
    counts = {"cut": 0, "dropped": 0, "blank": 0}
    k = 0
    while k < len(pieces):
        stop = k + 1
        while turns == "all" and stop < len(pieces) and pieces[stop][0] == pieces[k][0]:
            stop += 1
        tokens, marks = [], []
        for j in range(k, stop):
            tokens += given_ids[j] + answer_ids[j]
            marks += [False] * len(given_ids[j]) + [pieces[j][3]] * len(answer_ids[j])
        if not any(marks):
            counts["blank"] += 1
        elif not any(marks[:max_length]):
            counts["dropped"] += 1
        else:
            counts["cut"] += len(tokens) > max_length
            ids.append(tokens[:max_length])
            scored.append(marks[:max_length])
            origin.append(pieces[k][0])
        k = stop
    return ids, scored, origin, counts


def _render(tokenizer, talks: list[list[dict]], ask: bool, places: list[str]) -> list[str]:
    try:
        return tokenizer.apply_chat_template(talks, tokenize=False, add_generation_prompt=ask)
    except Exception as error:  # templates raise what they like, for example on a system turn
        raise DataError(f"{places[0]} or one of the next lines: the chat template refuses it: {error}") from error


def _cut(tokenizer, talk: list[dict], prompt: str, full: str, place: str) -> tuple[str, str]:
    """(prompt, answer through eos) as text, from the turns before an answer rendered for generation and with it."""
    if not full.startswith(prompt):
        # The template puts something after the generation prompt that this answer lacks (an empty thought, say).
        shared = commonprefix([prompt, full])
        if not shared.startswith(tokenizer.apply_chat_template(talk, tokenize=False)):
            raise DataError(f"{place}: the chat template shows earlier turns differently once an answer follows")
        prompt = shared
    answer = full[len(prompt) :]
    end = answer.find(tokenizer.eos_token)
    if end < 0:
        raise DataError(f"{place}: the chat template does not end an answer with eos {tokenizer.eos_token!r}")
    return prompt, answer[: end + len(tokenizer.eos_token)]

"""Conversations as tokens, with the same boundary between prompt and answer as in generation."""

import re
from dataclasses import dataclass, field
from os.path import commonprefix

from dllm_core.common.errors import DataError
from dllm_core.data.tokenizer import backend, control_tokens, encode_text, refuse_surrogates, require_chat_template

# A control token within a content is rendered as its id between two halves of surrogate pairs, which no text holds.
# So the template cannot confuse it with those that it writes itself.
QUOTE = "\ud800{}\udfff"
QUOTED = re.compile("\ud800(\\d+)\udfff")


def chat_prompt(tokenizer, messages: str | list[dict]) -> list[int]:
    """Tokens of a prompt, including the generation prompt that precedes the assistant's answer.

    messages: a user's text, or `[{"role", "content"}, …]`. Raises DataError when the tokenizer has no chat template.
    """
    require_chat_template(tokenizer)
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    for message in messages:
        refuse_surrogates(message["content"], "prompt")
    (quoted,), _ = _quoted(tokenizer, [messages])
    text = tokenizer.apply_chat_template(quoted, tokenize=False, add_generation_prompt=True)
    return _encode(tokenizer, [text], ["prompt"])[0]


@dataclass(slots=True)
class Conversation:
    """A conversation on its way to tokens.

    turns: with the control tokens in their contents quoted. location: "file:line", for errors. answers: indices of the
    assistant's turns. scored: for each answer whether it is not blank. parts: (prompt ids, answer ids) of the first
    answers; where they make one example, a later prompt is only what follows the answer before. rendered: the text of
    the parts.
    """

    turns: list[dict]
    location: str
    answers: list[int]
    scored: list[bool]
    parts: list[tuple[list[int], list[int]]] = field(default_factory=list)
    rendered: str = ""

    def is_complete(self, max_length: int, turns: str) -> bool:
        """Whether no further answer can change an example."""
        if len(self.parts) == len(self.answers):
            return True
        if turns == "each":
            return len(self.parts[-1][0]) >= max_length  # later prompts are at least as long
        return sum(len(prompt) + len(answer) for prompt, answer in self.parts) > max_length


def encode_conversations(
    tokenizer, conversations: list[list[dict]], max_length: int, turns: str, locations: list[str]
) -> tuple[list[list[int]], list[list[bool]], list[int], dict[str, int]]:
    """(ids, scored, number of the conversation), a list each with one entry per example, and the counts.

    turns, max_length and counts: see `jsonl.chat_documents`. locations: "file:line" of each conversation, for errors.
    """
    require_chat_template(tokenizer)
    quoted, written_out = _quoted(tokenizer, conversations)
    every = []
    for conversation, location in zip(quoted, locations, strict=True):
        answers = [i for i, turn in enumerate(conversation) if turn["role"] == "assistant"]
        scored = [bool(conversation[i]["content"].strip()) for i in answers]
        every.append(Conversation(conversation, location, answers, scored))

    # An answer costs the text before it. So the answers are taken in rounds, eight first, then as many as all before,
    # until a conversation exceeds max_length.
    pending, stop = every, 8
    while pending:
        _encode_answers(tokenizer, pending, stop, turns)
        pending = [conversation for conversation in pending if not conversation.is_complete(max_length, turns)]
        stop = 2 * stop

    # Join the parts of an example, cut it at max_length, and keep it if a scored token is left.
    ids, scored, origin = [], [], []
    counts = {"cut": 0, "dropped": 0, "blank": 0, "control": written_out}
    for c, conversation in enumerate(every):
        numbers = range(len(conversation.answers))
        for example in [slice(None)] if turns == "all" else [slice(k, k + 1) for k in numbers]:
            scored_answers = conversation.scored[example]
            tokens, marks = [], []
            for (prompt, answer), is_scored in zip(conversation.parts[example], scored_answers):
                tokens += prompt
                tokens += answer
                marks += [False] * len(prompt) + [is_scored] * len(answer)
            is_cut = len(tokens) > max_length
            del tokens[max_length:], marks[max_length:]
            if not any(scored_answers):
                counts["blank"] += 1
            elif not any(marks):
                counts["dropped"] += 1
            else:
                counts["cut"] += is_cut
                ids.append(tokens)
                scored.append(marks)
                origin.append(c)
    return ids, scored, origin, counts


def _encode_answers(tokenizer, conversations: list[Conversation], stop: int, turns: str) -> None:
    """Add the parts of each conversation's answers up to number `stop`."""
    # 1. Render every answer's prompt, and the prompt with its answer, as text.
    wanted = [(talk, i) for talk in conversations for i in talk.answers[len(talk.parts) : stop]]
    locations = [talk.location for talk, _ in wanted]
    prompts = _render(tokenizer, [talk.turns[:i] for talk, i in wanted], True, locations)
    with_answers = _render(tokenizer, [talk.turns[: i + 1] for talk, i in wanted], False, locations)

    # 2. Split each into the prompt's text (for a later turn only the new part) and the answer's text.
    new, answers = [], []
    for (talk, i), prompt, full in zip(wanted, prompts, with_answers):
        prompt, answer = _split_at_answer(tokenizer, talk.turns[:i], prompt, full, talk.location)
        if not prompt.startswith(talk.rendered):
            raise DataError(
                f'{talk.location}: the chat template rewrites earlier turns when later ones follow; use turns="each"'
            )
        new.append(prompt[len(talk.rendered) :])
        answers.append(answer)
        talk.rendered = prompt + answer if turns == "all" else ""

    # 3. Tokenize prompts and answers separately, so that no token spans the boundary.
    prompt_ids, answer_ids = _encode(tokenizer, new, locations), _encode(tokenizer, answers, locations)
    for (talk, _), prompt, answer in zip(wanted, prompt_ids, answer_ids):
        talk.parts.append((prompt, answer))


def _quoted(tokenizer, conversations: list[list[dict]]) -> tuple[list[list[dict]], int]:
    """The conversations with every control token in their contents quoted, and how many there are."""
    control = control_tokens(tokenizer)
    contents = [turn["content"] for turns in conversations for turn in turns]
    written_out = len(control.findall("\0".join(contents)))  # of all at once: nearly always there is none
    if not written_out:
        return conversations, 0
    quote = lambda found: QUOTE.format(tokenizer.convert_tokens_to_ids(found[0]))
    quoted = [[{**turn, "content": control.sub(quote, turn["content"])} for turn in turns] for turns in conversations]
    return quoted, written_out


def _encode(tokenizer, texts: list[str], names: list[str]) -> list[list[int]]:
    """Token ids of rendered texts: the template's control tokens become ids, quoted ones are plain text.

    names: of the texts, for errors.
    """
    encode = backend(tokenizer, control_tokens=True).encode_batch_fast
    quoted = {i for i, text in enumerate(texts) if QUOTE[0] in text}
    whole = [text for i, text in enumerate(texts) if i not in quoted] if quoted else texts
    ids = [e.ids for e in encode(whole, add_special_tokens=False)]
    unquote = lambda found: tokenizer.convert_ids_to_tokens(int(found[1]))
    for i in sorted(quoted):
        parts = []
        for k, part in enumerate(control_tokens(tokenizer).split(texts[i])):  # plain text, control token, plain text …
            if k % 2:
                parts.append(tokenizer.convert_tokens_to_ids(part))
            else:
                parts += encode_text(tokenizer, QUOTED.sub(unquote, part), names[i]).ids
        ids.insert(i, parts)
    return ids


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

"""Conversations as tokens, with the same boundary between prompt and answer as in generation."""

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from os.path import commonprefix

from dllm_core.data.tokenizer import backend, control_tokens, encode_text, refuse_surrogates, require_chat_template
from dllm_core.data.turns import Conversation, OddTurn
from dllm_core.trace import end_token_ids

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
    quoted, _ = _quoted(tokenizer, messages)
    text = tokenizer.apply_chat_template(quoted, tokenize=False, add_generation_prompt=True)
    return _encode(tokenizer, [text], ["prompt"])[0]


def encode_conversations(
    tokenizer, conversations: list[Conversation], max_length: int, turns: str
) -> tuple[list[list[int]], list[list[bool]], list[int], dict[str, int]]:
    """(ids, scored, number of the conversation), a list each with one entry per example, and the counts.

    turns, max_length and counts: see `jsonl.chat_documents`. A conversation that the chat template refuses gets a
    `problem`, as one that had it before, and is left out.
    """
    require_chat_template(tokenizer)
    quoted, written_out = _quoted(tokenizer, [(talk.turns, talk.tools) for talk in conversations])
    for talk, (its_turns, its_tools) in zip(conversations, quoted):
        talk.turns, talk.tools = its_turns, its_tools

    # An answer costs the text before it. So the answers are taken in rounds, eight first, then as many as all before,
    # until a conversation exceeds max_length.
    pending, stop = [talk for talk in conversations if not talk.problem], 8
    while pending:
        _encode_answers(tokenizer, pending, stop, turns)
        pending = [talk for talk in pending if not talk.is_complete(max_length, turns)]
        stop = 2 * stop

    # Join the parts of an example, cut it at max_length, and keep it if a scored token is left.
    ids, scored, origin = [], [], []
    counts = {"cut": 0, "dropped": 0, "blank": 0, "odd": 0, "turns": 0, "unwritten": 0, "control": written_out}
    for c, talk in enumerate(conversations):
        if talk.problem:
            counts["odd"] += 1
            continue
        counts["turns"] += len(talk.turns)
        counts["unwritten"] += talk.unwritten
        numbers = range(len(talk.answers))
        for example in [slice(None)] if turns == "all" else [slice(k, k + 1) for k in numbers]:
            scored_answers = talk.scored[example]
            tokens, marks = [], []
            for (prompt, answer), is_scored in zip(talk.parts[example], scored_answers):
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
    """Add the parts of each conversation's answers up to number `stop`, or its problem."""
    # 1. Render every answer's prompt, and the prompt with its answer, as text.
    wanted = [(talk, k) for talk in conversations for k in range(len(talk.parts), min(stop, len(talk.answers)))]
    prompts = _render(tokenizer, [(talk, talk.answers[k]) for talk, k in wanted], True)
    with_answers = _render(tokenizer, [(talk, talk.answers[k] + 1) for talk, k in wanted], False)

    # 2. Split each into the prompt's text (for a later turn only the new part) and the answer's text.
    ends = re.compile("|".join(map(re.escape, tokenizer.convert_ids_to_tokens(end_token_ids(tokenizer)))))
    new, answers, owners = [], [], []
    for (talk, k), prompt, full in zip(wanted, prompts, with_answers):
        if talk.problem:
            continue
        try:
            prompt, answer = _split_at_answer(tokenizer, talk, k, prompt, full, ends)
            if not prompt.startswith(talk.rendered):
                raise OddTurn('the chat template rewrites earlier turns when later ones follow; use turns="each"')
        except OddTurn as error:
            talk.problem = f"{talk.location}: {error}"
            continue
        _judge(talk, k, prompt, answer)
        new.append(prompt[len(talk.rendered) :])
        answers.append(answer)
        owners.append(talk)
        talk.rendered = prompt + answer if turns == "all" else ""

    # 3. Tokenize prompts and answers separately, so that no token spans the boundary.
    locations = [talk.location for talk in owners]
    prompt_ids, answer_ids = _encode(tokenizer, new, locations), _encode(tokenizer, answers, locations)
    for talk, prompt, answer in zip(owners, prompt_ids, answer_ids):
        talk.parts.append((prompt, answer))


def _judge(talk: Conversation, k: int, prompt: str, answer: str) -> None:
    """Count what the template leaves out of answer k, and of the tools; with nothing left, the answer is blank."""
    turn = talk.turns[talk.answers[k]]
    if len(turn) == 2 and talk.tools is None:  # nearly all answers: a role and a content
        return
    reasoning, calls = turn.get("reasoning_content", "").strip(), turn.get("tool_calls", ())
    has_reasoning, has_calls = reasoning in prompt + answer, all(_name(call) in answer for call in calls)
    talk.unwritten += not (has_reasoning and has_calls)
    if not turn["content"].strip():
        talk.scored[k] = bool((reasoning and has_reasoning) or (calls and has_calls))
    if k == 0 and talk.tools:
        talk.unwritten += not all(_name(tool) in prompt for tool in talk.tools)


def _name(tool: dict) -> str:
    """The name of a tool or of a call, in OpenAI's layout or in MiniMind's, which has no "function" around it."""
    function = tool.get("function")
    return str((function if isinstance(function, dict) else tool).get("name", ""))


def _quoted(tokenizer, value: list) -> tuple[list, int]:
    """The value with every control token in its texts quoted, and how many there are."""
    control = control_tokens(tokenizer)
    written_out = len(control.findall("\0".join(_texts(value))))  # of all at once: nearly always there is none
    if not written_out:
        return value, 0
    quote = lambda found: QUOTE.format(tokenizer.convert_tokens_to_ids(found[0]))
    return _with_texts(value, lambda text: control.sub(quote, text)), written_out


def _texts(value) -> Iterator[str]:
    """Each text in a nest of dicts and lists."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _texts([*value.values(), *value])
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)


def _with_texts(value, change: Callable[[str], str]):
    """The same nest of dicts and lists with each text changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(name): _with_texts(each, change) for name, each in value.items()}
    return [_with_texts(each, change) for each in value] if isinstance(value, list | tuple) else value


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


def _render(tokenizer, wanted: list[tuple[Conversation, int]], for_generation: bool) -> list[str]:
    """The first so many turns of each conversation as text. What the template refuses is empty and becomes a problem."""
    render = partial(tokenizer.apply_chat_template, tokenize=False, add_generation_prompt=for_generation)
    plain = [i for i, (talk, _) in enumerate(wanted) if talk.tools is None]
    texts: dict[int, str] = {}
    with suppress(Exception):  # a template may raise anything; below it shows where
        texts |= zip(plain, render([wanted[i][0].turns[: wanted[i][1]] for i in plain]) if plain else [])
    for i, (talk, count) in enumerate(wanted):
        if i not in texts and not talk.problem:
            try:
                texts[i] = _render_one(render, talk.turns[:count], talk.tools)
            except OddTurn as error:
                talk.problem = f"{talk.location}: {error}"
    return [texts.get(i, "") for i in range(len(wanted))]


def _render_one(render: Callable, turns: list[dict], tools: list[dict] | None) -> str:
    try:
        return render(turns, tools=tools)
    except Exception as error:  # for example on a system turn
        raise OddTurn(f"the chat template refuses it: {error}") from error


def _split_at_answer(
    tokenizer, talk: Conversation, k: int, prompt: str, full: str, ends: re.Pattern
) -> tuple[str, str]:
    """(prompt, answer through its end) as text. prompt: the turns before answer k, rendered for generation; full: all
    turns. Raises OddTurn for a template that cannot be split so."""
    if not full.startswith(prompt):
        # The generation prompt ends with something that this answer lacks, such as an empty thought.
        shared = commonprefix([prompt, full])
        before = talk.turns[: talk.answers[k]]
        if not shared.startswith(tokenizer.apply_chat_template(before, tools=talk.tools, tokenize=False)):
            raise OddTurn("the chat template shows earlier turns differently once an answer follows")
        prompt = shared
    answer = full[len(prompt) :]
    end = ends.search(answer)
    if not end:
        raise OddTurn(f"the chat template does not end an answer with eos {tokenizer.eos_token!r}")
    return prompt, answer[: end.end()]

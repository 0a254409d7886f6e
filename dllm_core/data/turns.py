"""A line of a chat file as turns for a chat template: the schemas of today, and what is wrong with a line.

`{"conversations": […]}` or `{"messages": […]}`; a turn has a role (system, user, assistant or tool) and content, which may
be null. An assistant's turn may have reasoning_content and tool_calls, a system turn or the line itself tools; calls and
tools are lists or, in MiniMind's files, the JSON of one (jingyaogong/minimind, dataset/lm_dataset.py at d65ef2c).
"""

import json
from dataclasses import dataclass, field

from dllm_core.common.errors import DataError

ROLES = ("system", "user", "assistant", "tool")
EXPECTED = '{"conversations": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}'


class OddTurn(Exception):
    """Why nothing can be learned from a conversation."""


@dataclass(slots=True)
class Conversation:
    """A conversation on its way to tokens.

    turns: as the chat template takes them, through the last answer. tools: descriptions for it, or None. location:
    "file:line". problem: why the conversation is left out, empty while it is not. answers: indices of the assistant's
    turns that answer something. scored: for each answer whether it is not blank. parts: (prompt ids, answer ids) of the
    first answers; where they make one example, a later prompt is only what follows the answer before. rendered: the text
    of the parts. unwritten: turns of which the template leaves out the reasoning, the tools or the calls.
    """

    turns: list[dict]
    tools: list[dict] | None
    location: str
    problem: str = ""
    answers: list[int] = field(default_factory=list)
    scored: list[bool] = field(default_factory=list)
    parts: list[tuple[list[int], list[int]]] = field(default_factory=list)
    rendered: str = ""
    unwritten: int = 0

    def is_complete(self, max_length: int, turns: str) -> bool:
        """Whether no further answer can change an example."""
        if self.problem or len(self.parts) == len(self.answers):
            return True
        if turns == "each":
            return len(self.parts[-1][0]) >= max_length  # later prompts are at least as long
        return sum(len(prompt) + len(answer) for prompt, answer in self.parts) > max_length


def list_of_turns(row: dict):
    """What a line has under "conversations" or "messages"; None where it has neither."""
    return row.get("conversations", row.get("messages"))


def read_conversation(row: dict, location: str) -> Conversation:
    """The conversation of a line; one that nothing can be learned from has a `problem`.

    Raises DataError for a line that has no list of turns at all: then the file is of another kind.
    """
    turns = list_of_turns(row)
    if not isinstance(turns, list):
        has = ", ".join(row) or "nothing"
        raise DataError(
            f'{location}: no list of turns under "conversations" or "messages" (this line has: {has}); expected {EXPECTED}'
        )
    try:
        tools = _json_list(row.get("tools"), "tools")
        read = []
        for number, turn in enumerate(turns, 1):
            read.append(_read_turn(turn, number))
            tools = _json_list(read[-1].pop("tools", None), f"tools of turn {number}") or tools
        answers = [i for i, turn in enumerate(read) if turn["role"] == "assistant" and i > 0]
        if not answers:
            raise OddTurn("no assistant's turn answers another")
    except OddTurn as error:
        return Conversation([], None, location, problem=f"{location}: {error}")
    del read[answers[-1] + 1 :]  # nobody answers what follows
    return Conversation(read, tools or None, location, answers=answers, scored=[_is_scored(read[i]) for i in answers])


def _read_turn(turn, number: int) -> dict:
    """The turn without its empty fields, its content a text and its calls a list. Raises OddTurn."""
    if not isinstance(turn, dict):
        raise OddTurn(f"turn {number} is no object")
    if turn.get("role") not in ROLES:
        raise OddTurn(f"turn {number} has role {turn.get('role')!r}, not {', '.join(ROLES)}")
    if len(turn) == 2 and isinstance(turn.get("content"), str):  # nearly all turns
        return turn
    for name in ("content", "reasoning_content"):
        if not isinstance(turn.get(name), str | None):
            raise OddTurn(f'turn {number} has {type(turn[name]).__name__}, no string, under "{name}"')
    calls = _json_list(turn.get("tool_calls"), f"tool_calls of turn {number}")
    if "content" not in turn and not calls:
        raise OddTurn(f'turn {number} has no "content"')
    kept = {name: value for name, value in turn.items() if value not in (None, "", [])}
    kept |= {"content": turn.get("content") or "", "tool_calls": calls}
    return kept if calls else {name: value for name, value in kept.items() if name != "tool_calls"}


def _json_list(value, name: str) -> list[dict]:
    """The objects of a list, or of the JSON of one; empty where there is nothing. Raises OddTurn."""
    if isinstance(value, str) and value:
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise OddTurn(f"{name} is not valid JSON: {error}") from error
    objects = [value] if isinstance(value, dict) else value or []
    if not isinstance(objects, list) or not all(isinstance(each, dict) for each in objects):
        raise OddTurn(f"{name} is no list of objects")
    return objects


def _is_scored(turn: dict) -> bool:
    """Whether an answer is not blank."""
    return bool(turn["content"].strip() or turn.get("reasoning_content", "").strip() or turn.get("tool_calls"))

"""Conversations, chat templates and their files that tests share."""

from pathlib import Path

import numpy as np
from small import CHARACTERS, write

from dllm_core.data.token_cache import TokenDataset
from dllm_core.data.tokenizer import character_tokenizer

TALK = [
    {"role": "user", "content": "你是谁？"},
    {"role": "assistant", "content": "我是小言。"},
    {"role": "user", "content": "你好"},
    {"role": "assistant", "content": "你好。"},
]
# a tool, its call and what it says
CALL = {"name": "clock", "arguments": {"zone": "东八区"}}
TOOL = {"type": "function", "function": {"name": "clock", "parameters": {}}}
ASKED = {"role": "user", "content": "几点"}
CALLED = {"role": "assistant", "content": "", "tool_calls": [CALL]}
OUTPUT = {"role": "tool", "content": "八点"}
SAID = {"role": "assistant", "content": "八点。"}
TURN = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
THOUGHT = "<think>\n\n</think>\n\n"


def with_template(template: str):
    tokenizer = character_tokenizer([CHARACTERS])
    tokenizer.chat_template = template
    return tokenizer


def talks(name: str, *conversations) -> Path:
    return write(name, *({"conversations": talk} for talk in conversations))


def words(tokenizer, documents: TokenDataset, i: int = 0) -> tuple[str, list[str]]:
    """(the whole example, the stretches of it that are scored), as text."""
    ids, scored = documents[i]
    edges = np.flatnonzero(np.diff(np.concatenate([[False], scored, [False]]).astype(int)))
    return tokenizer.decode(ids), [tokenizer.decode(ids[a:b]) for a, b in zip(edges[::2], edges[1::2])]

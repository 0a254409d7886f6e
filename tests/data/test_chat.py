"""Chat templates of other models: where the prompt ends, and which templates cannot serve."""


import pytest
from chats import TALK, THOUGHT, TURN, talks, with_template, words

from dllm_core.common.errors import DataError
from dllm_core.data.jsonl import chat_documents


def test_a_thought_after_the_generation_prompt_belongs_to_the_prompt(workspace):
    """MiniMind's way: both generation and history show an empty thought before the answer."""
    tokenizer = with_template(
        "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>assistant\n" + THOUGHT + "{{ m.content }}"
        "<|im_end|>\n{% else %}" + TURN + "{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n" + THOUGHT + "{% endif %}"
    )
    read = chat_documents(talks("x.jsonl", TALK), tokenizer, 300)
    assert words(tokenizer, read)[1] == ["我是小言。<|im_end|>", "你好。<|im_end|>"]


def test_a_thought_only_at_generation_is_left_out(workspace):
    """The answer was never given after the inserted text, so the longest common beginning is the prompt."""
    tokenizer = with_template(
        "{% for m in messages %}" + TURN + "{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n" + THOUGHT + "{% endif %}"
    )
    whole, scored = words(tokenizer, chat_documents(talks("x.jsonl", TALK[:2]), tokenizer, 300))
    assert scored == ["我是小言。<|im_end|>"] and "think" not in whole


def test_a_template_that_rewrites_history(workspace):
    """Qwen3's way: the last answer shows its thought, earlier ones do not."""
    tokenizer = with_template(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}"
        + THOUGHT
        + "{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    path = talks("x.jsonl", TALK)
    with pytest.raises(DataError, match=r'x\.jsonl:1: the chat template rewrites earlier turns.*turns="each"'):
        chat_documents(path, tokenizer, 300)
    read = chat_documents(path, tokenizer, 300, turns="each")
    assert [words(tokenizer, read, i)[1] for i in (0, 1)] == [
        [THOUGHT + "我是小言。<|im_end|>"], [THOUGHT + "你好。<|im_end|>"]
    ]  # fmt: skip


def test_templates_that_cannot_serve(workspace):
    path = talks("x.jsonl", TALK)
    endless = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    with pytest.raises(DataError, match=r"x\.jsonl:1: the chat template does not end an answer with eos"):
        chat_documents(path, with_template(endless), 64)
    counting = "{{ messages | length }}" + "{% for m in messages %}" + TURN + "{% endfor %}"
    with pytest.raises(DataError, match=r"x\.jsonl:1: the chat template shows earlier turns differently"):
        chat_documents(path, with_template(counting), 64)
    refusing = "{{ raise_exception('no such role') }}"
    with pytest.raises(DataError, match=r"x\.jsonl:1 .*the chat template refuses it: no such role"):
        chat_documents(path, with_template(refusing), 64)

"""The token cache: what it keeps, when it reads anew; sets of documents and their parts."""

import os
import socket

import numpy as np
import pytest
from chats import TALK, TURN, talks, with_template
from small import CHARACTERS, write

from dllm_core.common.errors import DataError
from dllm_core.data import parallel
from dllm_core.data.jsonl import chat_documents, text_documents
from dllm_core.data.token_cache import TokenDataset
from dllm_core.data.tokenizer import character_tokenizer


def test_a_second_call_reads_nothing_again(workspace, tokenizer, monkeypatch):
    path = talks("x.jsonl", TALK)
    first = chat_documents(path, tokenizer, 64)
    monkeypatch.setattr(parallel, "chunks_of_lines", lambda *_: pytest.fail("the text was read again"))
    second = chat_documents(path, tokenizer, 64)
    assert isinstance(second.tokens, np.memmap)
    assert (first.tokens == second.tokens).all() and (first.scored == second.scored).all()
    assert first.info == second.info


def test_whatever_changes_the_tokens_invalidates_the_cache(workspace, tokenizer):
    path = write("x.jsonl", {"text": "ab"}, {"text": "cd"})
    assert len(text_documents(path, tokenizer)) == 2
    other = character_tokenizer([CHARACTERS, "!"])
    assert text_documents(path, other)[0][0].tolist() != text_documents(path, tokenizer)[0][0].tolist()
    write("x.jsonl", {"text": "ab"}, {"text": "cd"}, {"text": "e"})
    assert len(text_documents(path, tokenizer)) == 3


def test_other_reading_options_invalidate_the_cache(workspace, tokenizer):
    path = talks("x.jsonl", TALK)
    assert [len(chat_documents(path, tokenizer, 200, turns=turns)) for turns in ("all", "each")] == [1, 2]
    whole = "{% for m in messages %}" + TURN + "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    first, second = (with_template(whole.replace("{{ m.content }}", gap + "{{ m.content }}")) for gap in ("", " "))
    assert chat_documents(path, first, 200).tokens.tolist() != chat_documents(path, second, 200).tokens.tolist()
    both = write("y.jsonl", {"text": "ab", "body": "cd"})
    read = lambda **how: text_documents(both, tokenizer, **how)[0][0].tolist()
    before = read()
    assert read(field="body") != before
    write("y.jsonl", {"text": "ba", "body": "cd"})  # of the same size
    os.utime(both, ns=(1, 1))
    assert read() != before


def test_no_network_is_used(workspace, tokenizer, monkeypatch):
    def refuse(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    text_documents(write("x.jsonl", {"text": "ab"}), tokenizer)


def test_large_vocabularies_take_wider_numbers(workspace):
    wide = character_tokenizer(["a", "".join(map(chr, range(0x10000, 0x20100)))])
    write("x.jsonl", {"text": "a\U00020000"})
    read = text_documents("x.jsonl", wide)
    assert read.tokens.dtype == np.int32
    assert read[0][0].tolist() == [1, *wide("a\U00020000", add_special_tokens=False)["input_ids"], 2]


def test_documents_select_and_split():
    documents = TokenDataset.of([[i] * (i + 1) for i in range(10)], pad_token_id=0, eos_token_id=2)
    assert [len(documents[i][0]) for i in range(10)] == list(range(1, 11)) == documents.lengths.tolist()
    assert documents[-1][0].tolist() == [9] * 10
    few = documents.select([7, 2]).select([1, 0])
    assert [ids[0] for ids, _ in few] == [2, 7] and few.lengths.tolist() == [3, 8] and len(few) == 2
    with pytest.raises(IndexError):
        few[2]
    train, valid = documents.split(0.3, seed=5)
    assert len(valid) == 3 and sorted([ids[0] for ids, _ in train] + [ids[0] for ids, _ in valid]) == list(range(10))
    again = documents.split(0.3, seed=5)[1]
    assert [ids[0] for ids, _ in again] == [ids[0] for ids, _ in valid]
    assert len(documents.split(0.9, at_most=2)[1]) == 2 and len(documents.split(1.0)[0]) == 1
    with pytest.raises(DataError, match="cannot be split"):
        documents.select([0]).split()

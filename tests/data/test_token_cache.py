"""The token cache: what it keeps, when it reads anew; sets of documents and their parts."""

import errno
import json
import os
import socket
from datetime import date
from types import SimpleNamespace

import numpy as np
import pytest
from chats import TALK, TURN, talks, with_template
from small import CHARACTERS, write

from dllm_core.common.errors import DataError, RunError
from dllm_core.data import parallel, token_cache
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


def damages():
    """(name, function of a path) of what may happen to a file."""
    yield "cut", lambda path: path.write_bytes(path.read_bytes()[:-1])
    yield "longer", lambda path: path.write_bytes(path.read_bytes() + b"\0\0")
    yield "empty", lambda path: path.write_bytes(b"")
    yield "zeroed", lambda path: path.write_bytes(bytes(path.stat().st_size))
    yield "deleted", lambda path: path.unlink()
    yield "folder", lambda path: (path.unlink(), path.mkdir())


@pytest.mark.parametrize("name", ["tokens.bin", "scored.bin", "offsets.npy", "info.json"])
@pytest.mark.parametrize("damage", [damage for _, damage in damages()], ids=[name for name, _ in damages()])
def test_a_damaged_cache_is_made_again(workspace, tokenizer, name, damage):
    path = talks("x.jsonl", TALK)
    first = chat_documents(path, tokenizer, 64)
    tokens, scored = first.tokens.tolist(), first.scored.tolist()
    (folder,) = (workspace / "data/cache").iterdir()
    damage(folder / name)
    for _ in range(2):
        again = chat_documents(path, tokenizer, 64)
        assert (again.tokens.tolist(), again.scored.tolist(), again.info) == (tokens, scored, first.info)
    assert list((workspace / "data/cache").iterdir()) == [folder]


@pytest.mark.parametrize(
    "change", [{"counts": None}, {"dtype": "int16"}, {"files": 5}, {"state": []}, {"checksum": 0}], ids=str
)
def test_a_changed_record_of_a_cache_is_made_again(workspace, tokenizer, change):
    path = write("x.jsonl", {"text": "ab"})
    first = text_documents(path, tokenizer)
    (file,) = (workspace / "data/cache").glob("*/info.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    again = text_documents(path, tokenizer)
    assert (again.tokens.tolist(), again.tokens.dtype, again.info) == (first.tokens.tolist(), np.uint16, first.info)


def test_another_content_of_equal_size_and_time_is_noticed(workspace, tokenizer):
    path = write("x.jsonl", {"text": "ab"})
    time = path.stat().st_mtime_ns
    before = text_documents(path, tokenizer)[0][0].tolist()
    write("x.jsonl", {"text": "ba"})
    os.utime(path, ns=(time, time))
    assert text_documents(path, tokenizer)[0][0].tolist() == [before[0], before[2], before[1], before[3]]


@pytest.mark.parametrize("size", [0, 1, 100_000, 2**23 + 1])
def test_a_checksum_reads_both_ends_and_what_lies_between(tmp_path, size):
    content = np.random.default_rng(0).integers(1, 256, size, np.uint8)
    seen = set()
    for zeroed in (slice(0), slice(1), slice(size - 1, size), slice(size // 3, 2 * size // 3)):
        changed = content.copy()
        changed[zeroed] = 0
        changed.tofile(tmp_path / "x")
        seen.add(tuple(token_cache.checksum(tmp_path / "x")))
    assert len(seen) == {0: 1, 1: 2}.get(size, 4) and {length for length, _ in seen} == {size}


def test_a_template_that_writes_the_date_is_read_anew_on_another_day(workspace, monkeypatch):
    dated = with_template("{{ strftime_now('%Y') }}{% for m in messages %}" + TURN + "{% endfor %}")
    path, texts = talks("x.jsonl", TALK), write("y.jsonl", {"text": "ab"})
    reads = []
    chunks_of_lines = parallel.chunks_of_lines
    monkeypatch.setattr(parallel, "chunks_of_lines", lambda path: reads.append(path.name) or chunks_of_lines(path))
    for day in (1, 1, 2):
        monkeypatch.setattr(token_cache, "date", SimpleNamespace(today=lambda day=day: date(2026, 1, day)))
        chat_documents(path, dated, 200)
        text_documents(texts, dated)
    assert reads == ["x.jsonl", "y.jsonl", "x.jsonl"]


def test_caches_of_changed_and_deleted_files_do_not_pile_up(workspace, tokenizer):
    mine = workspace / "data/cache/mine-0123456789abcdef"
    mine.mkdir(parents=True)
    (mine / "thesis.txt").touch()
    for count in range(1, 4):
        path = talks("x.jsonl", *[TALK] * count)
        for length in (32, 64):
            assert len(chat_documents(path, tokenizer, length)) == count
    gone = write("gone.jsonl", {"text": "ab"})
    text_documents(gone, tokenizer)
    gone.unlink()
    text_documents(write("y.jsonl", {"text": "ab"}), tokenizer)
    names = sorted(folder.name.rpartition("-")[0] for folder in (workspace / "data/cache").iterdir())
    assert names == ["mine", "x", "x", "y"]


def test_a_full_disk_is_named_and_leaves_nothing(workspace, tokenizer, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(RunError, match="no space in .*data/cache for x-"):
        text_documents(write("x.jsonl", {"text": "ab"}), tokenizer)
    assert not list((workspace / "data/cache").iterdir())


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

"""The feeding benchmark: packed rows and the loader deliver the same text, and nothing is left behind."""

import json
import os
from pathlib import Path

import pytest
import torch

from dllm_core.common.errors import DataError
from dllm_core.data.jsonl import chat_documents, read_jsonl, text_documents
from dllm_core.data.tokenizer import load_tokenizer
from dllm_core.workshop.benchmark import feed, timing
from dllm_core.workshop.benchmark.timing import Setting, run_child


@pytest.fixture(scope="module")
def source():
    return feed.corpus_folder()


@pytest.fixture(scope="module")
def rows(source):
    around = lambda: (set((source / "cache").glob("*")), Path.cwd(), os.environ.get("TOKENIZERS_PARALLELISM"))
    before = around()
    measured = list(feed.measure(Setting("feed", "26m", "", 2, 1, quick=True)))
    assert around() == before  # nothing is left behind, and nothing changed
    return measured


def test_the_rows_of_a_measurement(rows, source):
    assert [row["part"] for row in rows] == ["feed"] * len(rows)
    text, chat, *runs = rows
    assert "pretraining rows of 512" in text["case"] and text["more"]["packed, share of the row"] == 1.0
    assert text["target"] == "at least 100"
    assert 0.9 < chat["more"]["packed, share of the row"] <= 1 and "conversations of 512" in chat["case"]
    for row in (text, chat):
        assert (row["name"], row["against"]) == ("packed", "plain") and row["more"]["plain, share of the row"] < 0.5
        assert row["ratio"]["median"] > 0 and all(spread["low"] > 0 for spread in row["seconds"].values())
    assert runs[-1]["name"] == "next run" and runs[-1]["against"] == "first run" and runs[-1]["target"] == "under 2 s"
    for row in runs:
        assert row["more"]["tokens"] > 1e5 and row["more"][f"{row['name']}, peak MB"] > 10
    json.dumps(rows)


@pytest.mark.parametrize("schema", ["text", "chat"])
def test_packed_rows_hold_the_tokens_of_the_loader(workspace, source, schema):
    """Without truncation the useful tokens of both are the same documents, token for token."""
    tokenizer = load_tokenizer(source / "tokenizer")
    path = feed.write_file(workspace / "x.jsonl", source, 2e4, schema, 1)
    plain = feed.TokenizedInTheLoader(path, tokenizer, 256)
    documents = feed.documents_of(schema, path, tokenizer, 256)
    assert len(plain) == len(documents) > 20
    for (tokens, useful), (ids, _) in zip((plain[i] for i in range(len(plain))), documents, strict=True):
        assert tokens.shape == useful.shape == (256,) and tokens.dtype == torch.int64 and useful.dtype == torch.bool
        assert tokens[useful].tolist() == ids.tolist()
        assert (tokens[~useful] == tokenizer.pad_token_id).all()
    packed = feed.batches_of(schema, documents, 256)
    assert next(packed).tokens.shape == (feed.BATCH, 256)


def test_the_loader_cuts_long_lines(workspace, source):
    tokenizer = load_tokenizer(source / "tokenizer")
    path = feed.write_file(workspace / "x.jsonl", source, 2e4, "text", 6)
    for tokens, useful in feed.TokenizedInTheLoader(path, tokenizer, 16):
        assert tokens.shape == (16,) and useful.all()
        break


def test_a_written_file_has_its_size_and_schema(workspace, source):
    text = feed.write_file(workspace / "t.jsonl", source, 5e4, "text", 6)
    assert 5e4 <= text.stat().st_size < 6e4
    again = feed.write_file(workspace / "again.jsonl", source, 5e4, "text", 6)
    assert text.read_bytes() == again.read_bytes()
    chat = feed.write_file(workspace / "c.jsonl", source, 5e4, "chat", 3)
    tokenizer = load_tokenizer(source / "tokenizer")
    assert len(text_documents(text, tokenizer)) == sum(1 for _ in read_jsonl(text))
    assert len(chat_documents(chat, tokenizer, 512)) == sum(1 for _ in read_jsonl(chat))


def test_memory_does_not_grow_with_the_file(workspace, source, monkeypatch):
    """Four times the file, in several processes where there are several cores, and hardly more memory."""
    monkeypatch.setattr(timing, "SAMPLE", 0.02)  # the peak of a short run must not fall between two samples
    peaks, tokens = [], []
    for name, size in (("small", 1.5e7), ("large", 6e7)):
        path = feed.write_file(workspace / f"{name}.jsonl", source, size, "text", 6)
        (_, count), peak = run_child(feed.first_batch, path, source / "tokenizer", 512, cores=2)
        peaks.append(peak / 1e6)
        tokens.append(count)
    assert tokens[1] > 3 * tokens[0]
    assert peaks[1] < peaks[0] + 50


def test_the_error_of_a_child_process_is_reported(workspace, source):
    (workspace / "x.jsonl").write_text("no json\n")
    with pytest.raises(DataError, match="x.jsonl:1: not valid JSON"):
        run_child(feed.first_batch, workspace / "x.jsonl", source / "tokenizer", 64)

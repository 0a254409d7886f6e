"""What reading lost is counted, said in one sentence, and warned of above 1 %."""

import re
import warnings

import pytest
from chats import TALK, talks
from small import write

from dllm_core.data.batches import PackedBatches
from dllm_core.data.jsonl import chat_documents, text_documents
from dllm_core.data.report import reading_report


def test_nothing_lost_is_said_without_a_warning(workspace, tokenizer):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = text_documents(write("x.jsonl", {"text": "ab"}, {"text": "你好"}), tokenizer)
        chats = chat_documents(talks("y.jsonl", TALK), tokenizer, 200)
    train, valid = read.split()
    assert reading_report(train, valid, None) == "x.jsonl: 2 of 2 examples, 8 tokens; lost: nothing"
    assert reading_report(train, chats).splitlines()[1].startswith("y.jsonl: 1 of 1 examples, ")


def test_every_loss_is_said_and_above_one_percent_warned_of(workspace, tokenizer):
    write("x.jsonl", {"text": "ab"}, {"text": " "}, {"text": "a鑫"}, {"text": "<|mask|>"})
    with pytest.warns(UserWarning, match="More than 1 %: look at the file; use a tokenizer that has these") as caught:
        read = text_documents("x.jsonl", tokenizer)
    assert caught[0].filename == __file__
    report = reading_report(read)
    assert "x.jsonl: 3 of 4 examples" in report and "1 of 4 examples left out, blank" in report
    assert re.search(r"\d of \d+ tokens unknown to the tokenizer", report)
    assert report.endswith("control tokens read as plain text: 1")

    long = [{"role": "user", "content": "a" * 60}, TALK[1]]
    cut = [TALK[0], {"role": "assistant", "content": "a" * 60}]
    with pytest.warns(UserWarning, match="allow longer ones"):
        chats = chat_documents(talks("y.jsonl", long, TALK[:2], cut), tokenizer, 50)
    report = reading_report(chats)
    assert "1 of 3 examples cut at their end" in report and "1 of 3 examples left out, with no answer" in report


def test_the_cache_warns_as_the_first_reading_does(workspace, tokenizer):
    path = write("x.jsonl", {"text": "ab"}, {"text": " "})
    for _ in range(2):
        with pytest.warns(UserWarning, match="left out, blank"):
            text_documents(path, tokenizer)


def test_a_loss_below_one_percent_is_only_said(workspace, tokenizer):
    write("x.jsonl", *[{"text": "ab"}] * 199, {"text": " "})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = text_documents("x.jsonl", tokenizer)
    assert "1 of 200 examples left out, blank" in reading_report(read)


def test_rows_shorter_than_the_examples_are_warned_of(workspace, tokenizer):
    chats = chat_documents(talks("x.jsonl", TALK), tokenizer, 200)
    with pytest.warns(UserWarning, match="seq_len=40: 1 of 1 examples are longer and lose their end"):
        PackedBatches(chats, batch_size=1, seq_len=40, pack="whole")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PackedBatches(chats, batch_size=1, seq_len=40)  # cut: the rest comes in the next row
        PackedBatches(chats, batch_size=1, seq_len=200, pack="whole")

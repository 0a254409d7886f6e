"""Tokenizing on all cores: the same tokens, the first error in the file's order, nothing left by what was killed."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from chats import TALK
from small import CHARACTERS, ROOT, gone, wait_for, write

from dllm_core.common.errors import DataError
from dllm_core.data import jsonl, parallel
from dllm_core.data.chat import encode_conversations
from dllm_core.data.jsonl import chat_documents, text_documents


def test_blank_lines_do_not_count(workspace, tokenizer, monkeypatch):
    monkeypatch.setattr(parallel, "CHUNK", 30)
    write(
        "x.jsonl", {"text": "a"}, "", " ", {"text": "bb"}, {"text": "ccc"}, "", "", "", "", {"text": "d"}, {"text": "e"}
    )
    assert len(text_documents("x.jsonl", tokenizer)) == 5


def conversations(path: str, count: int = 60) -> Path:
    answers = [{"role": "assistant", "content": "a" * i} for i in range(1, count)]
    return write(path, *({"conversations": [TALK[0], answer]} for answer in answers))


def in_several_processes(monkeypatch, count: int = 3) -> None:
    if sys.platform != "linux":
        pytest.skip("one process does all here")
    monkeypatch.setattr(parallel, "CHUNK", 300)
    monkeypatch.setattr(parallel, "LARGE", 0)
    monkeypatch.setattr(parallel.os, "sched_getaffinity", lambda _: range(count))


@pytest.mark.parametrize("setting", ["true", None])
def test_large_files_in_several_processes_the_same(workspace, tokenizer, monkeypatch, setting):
    monkeypatch.delenv("TOKENIZERS_PARALLELISM")
    if setting:
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", setting)
    path = conversations("x.jsonl")
    first = chat_documents(path, tokenizer, 40)
    shutil.rmtree("data/cache")
    in_several_processes(monkeypatch)

    def noted(*arguments):
        Path(f"by-{os.getpid()}").touch()
        return encode_conversations(*arguments)

    monkeypatch.setattr(jsonl, "encode_conversations", noted)
    second = chat_documents(path, tokenizer, 40)
    shutil.rmtree("data/cache")
    workers = {path.name for path in Path().glob("by-*")}
    assert workers and f"by-{os.getpid()}" not in workers
    assert (first.tokens == second.tokens).all() and (first.scored == second.scored).all()
    assert (first.starts == second.starts).all() and first.info == second.info
    assert os.environ.get("TOKENIZERS_PARALLELISM") == setting
    good = [{"conversations": TALK[:2]}] * 40
    for bad in ({"conversations": "a"}, {"text": "a"}):
        write("y.jsonl", *good, bad, *good, {})
        with pytest.raises(DataError, match=r"y\.jsonl:41: "):
            chat_documents("y.jsonl", tokenizer, 200)
    assert not list(Path("data/cache").iterdir())


def test_no_more_is_read_than_is_worked_on(workspace, monkeypatch):
    """Memory stays bounded: at most two chunks a process are read ahead of what was taken."""
    in_several_processes(monkeypatch)
    path = conversations("x.jsonl", 200)
    taken, read = 0, []
    chunks = parallel.chunks_of_lines

    def noted(*arguments):
        for chunk in chunks(*arguments):
            read.append(chunk)
            yield chunk

    monkeypatch.setattr(parallel, "chunks_of_lines", noted)
    for _ in parallel.map_lines(path, len):
        assert len(read) - taken <= 6
        taken += 1
    assert taken == len(read) > 20


def test_a_killed_process_is_reported(workspace, tokenizer, monkeypatch):
    in_several_processes(monkeypatch)
    path = conversations("x.jsonl")
    monkeypatch.setattr(jsonl, "encode_conversations", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(DataError, match=r"x\.jsonl: the system ended a process that tokenized this file"):
        chat_documents(path, tokenizer, 40)
    assert not list(Path("data/cache").iterdir())


SLOW = f"""
import os, sys, time
from pathlib import Path
from dllm_core.data import jsonl, parallel
from dllm_core.data.tokenizer import character_tokenizer

parallel.CHUNK, parallel.LARGE = 300, 0
encode = jsonl.encode_conversations

def slow(tokenizer, conversations, max_length, turns):
    if len(conversations[0].turns[1]["content"]) > 30:
        Path(f"waiting-{{os.getpid()}}").touch()
        while True:
            time.sleep(1)
    return encode(tokenizer, conversations, max_length, turns)

jsonl.encode_conversations = slow
jsonl.chat_documents("x.jsonl", character_tokenizer([{CHARACTERS!r}]), 40)
"""


def test_a_killed_run_leaves_nothing_that_seems_done(workspace, tokenizer):
    """SIGKILL in the middle: the processes it started end as well, and the next run begins anew and tidies up."""
    path = conversations("x.jsonl")
    run = subprocess.Popen([sys.executable, "-c", SLOW], env={**os.environ, "PYTHONPATH": str(ROOT)})
    wait_for(lambda: list(Path().glob("waiting-*")) or run.poll() is not None, "the run never came to the slow lines")
    assert run.poll() is None
    run.kill()
    run.wait()
    (left,) = Path("data/cache").iterdir()
    assert left.name.startswith(".unfinished-") and not list(left.rglob("info.json"))
    workers = {int(waiting.name.removeprefix("waiting-")) for waiting in Path().glob("waiting-*")} - {run.pid}
    wait_for(lambda: all(gone(pid) for pid in workers), "a process outlived its parent")
    assert len(chat_documents(path, tokenizer, 40)) == 59
    assert left.is_dir(), "it might belong to a run that is alive"
    for entry in (left, *left.rglob("*")):
        os.utime(entry, (0, 0))
    chat_documents(path, tokenizer, 41)
    assert not left.exists() and len(list(Path("data/cache").iterdir())) == 2


def test_the_bar_counts_the_bytes_of_the_file(workspace, tokenizer, monkeypatch):
    from tqdm import tqdm

    monkeypatch.setattr(parallel, "CHUNK", 300)
    shown = []

    class Noted(tqdm):
        def __init__(self, **options):
            shown.append((self, options["total"], []))
            super().__init__(**options)

        def update(self, n=1):
            shown[-1][2].append(n)
            super().update(n)

    monkeypatch.setattr("tqdm.tqdm", Noted)
    path = conversations("x.jsonl")
    chat_documents(path, tokenizer, 40)
    ((bar, total, steps),) = shown
    assert total == sum(steps) == path.stat().st_size and len(steps) > 5
    assert bar.desc.startswith("Tokenizing x.jsonl")

"""The embedded corpus: its large files are unpacked on first use, whole or not at all."""

import lzma
import multiprocessing
import os
import shutil

import pytest

from dllm_core.common.errors import DataError
from dllm_core.data.embedded import EMBEDDED, PACKED, is_embedded, unpack
from dllm_core.data.jsonl import find_data, read_jsonl

TEXT = '{"text": "你好"}\n' * 1000


@pytest.fixture
def data(workspace):
    """The data/ folder of a small project, with a packed pretrain_tiny.jsonl."""
    (workspace / "data").mkdir()
    (workspace / "data/pretrain_tiny.jsonl.xz").write_bytes(lzma.compress(TEXT.encode()))
    return workspace / "data"


def test_a_packed_file_is_unpacked_on_first_use(data):
    path = data / "pretrain_tiny.jsonl"
    assert find_data("data/pretrain_tiny.jsonl") == path and path.read_text("utf-8") == TEXT
    path.write_text('{"text": "my own"}\n')
    assert [row for _, row in read_jsonl(path)] == [{"text": "my own"}]  # what is there is never replaced
    assert sorted(entry.name for entry in data.iterdir()) == ["pretrain_tiny.jsonl", "pretrain_tiny.jsonl.xz"]


def _unpack_together(path, barrier):
    barrier.wait()
    unpack(path)


def test_several_processes_may_unpack_at_once(data):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(4)
    workers = [context.Process(target=_unpack_together, args=(data / "pretrain_tiny.jsonl", barrier)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert (data / "pretrain_tiny.jsonl").read_text("utf-8") == TEXT
    assert len(list(data.iterdir())) == 2


def test_an_absent_or_damaged_file_is_named_with_its_remedy(data):
    with pytest.raises(DataError, match=r"data/sft_tiny\.jsonl\.xz: .*git checkout data/sft_tiny\.jsonl\.xz"):
        find_data("data/sft_tiny.jsonl")
    with pytest.raises(DataError, match=r"data/sft_test\.jsonl: .*git checkout data/sft_test\.jsonl`"):
        find_data("data/sft_test.jsonl")
    packed = data / "pretrain_tiny.jsonl.xz"
    packed.write_bytes(packed.read_bytes()[:-8])
    with pytest.raises(DataError, match=r"pretrain_tiny\.jsonl\.xz: .*git checkout"):
        find_data("data/pretrain_tiny.jsonl")
    assert not (data / "pretrain_tiny.jsonl").exists()


def test_a_full_disk_leaves_no_partial_file(data, monkeypatch):
    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        find_data("data/pretrain_tiny.jsonl")
    assert [entry.name for entry in data.iterdir()] == ["pretrain_tiny.jsonl.xz"]


def test_only_the_files_in_data_are_the_embedded_ones(data, workspace):
    assert is_embedded(data / "sft_tiny.jsonl") and is_embedded(data / "sft_valid.jsonl")
    assert not is_embedded(data / "my_own.jsonl") and not is_embedded(workspace / "sft_tiny.jsonl")


def test_every_embedded_file_is_in_the_repository(project, workspace):
    for name in EMBEDDED - set(PACKED):
        assert (project / "data" / name).is_file()
    shutil.copytree(project / "data", workspace / "data", ignore=shutil.ignore_patterns("cache", "modelscope", "*_tiny.jsonl"))
    for name in PACKED:
        assert next(iter(read_jsonl(f"data/{name}")))[0] == 1

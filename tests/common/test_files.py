"""The atomic write, the JSON reader and the path that messages show."""

import errno
import multiprocessing

import pytest

from dllm_core.common.errors import DataError, RunError
from dllm_core.common.files import display_path, read_json, read_json_lines, replaced_whole, write_json, write_whole


def test_text_and_bytes_are_written_as_they_are(tmp_path):
    path = write_whole(tmp_path / "new/folder/a.txt", "小言\r\n")
    assert path == tmp_path / "new/folder/a.txt" and path.read_bytes() == "小言\r\n".encode()
    assert write_whole(str(path), b"\x00\xff") == path and path.read_bytes() == b"\x00\xff"
    assert [entry.name for entry in path.parent.iterdir()] == ["a.txt"]


def test_an_error_keeps_the_old_file_and_leaves_no_partial_one(tmp_path):
    path = write_whole(tmp_path / "a.txt", "old")
    with pytest.raises(KeyboardInterrupt), replaced_whole(path) as partial:
        partial.write_text("half")
        assert path.read_text() == "old"
        raise KeyboardInterrupt
    assert path.read_text() == "old" and [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_a_file_has_the_mode_of_the_umask_whoever_writes_it(tmp_path):
    with replaced_whole(tmp_path / "private") as partial:
        partial.unlink()
        partial.touch(0o600)  # as safetensors makes its files
    assert (tmp_path / "private").stat().st_mode == write_whole(tmp_path / "plain", "").stat().st_mode


@pytest.mark.parametrize("error", [
    OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EDQUOT, "Disk quota exceeded"),
    RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
    Exception("Error while serializing: I/O error: No space left on device (os error 28)"),
])  # fmt: skip
def test_a_full_disk_is_named_whichever_library_met_it(tmp_path, error):
    path = write_whole(tmp_path / "a.txt", "old")
    message = rf"no space in {tmp_path} for a\.txt: 5\.0 MB needed, .* MB free; free some"
    with pytest.raises(RunError, match=message), replaced_whole(path, 5_000_000):
        raise error
    assert path.read_text() == "old" and [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_another_error_of_a_writer_stays(tmp_path):
    with pytest.raises(PermissionError), replaced_whole(tmp_path / "a"):
        raise PermissionError(errno.EACCES, "Permission denied")


def test_json_lines_are_read_up_to_the_last_whole_one_and_a_damaged_one_is_named(tmp_path):
    path = tmp_path / "a.jsonl"
    assert read_json_lines(path) == []
    path.write_text('{"a": 1}\n{"a": "x\u2028y"}\n{"a"', "utf-8")
    assert read_json_lines(path) == [{"a": 1}, {"a": "x\u2028y"}]
    for damage in ("{bad}", "5", "", "[" * 10_000, "\0"):
        path.write_text(f'{{"a": 1}}\n{damage}\n{{"a": 2}}\n')
        with pytest.raises(RunError, match=r"a\.jsonl:2: not a JSON object .*; delete the line"):
            read_json_lines(path, RunError)


def _write_often(path, letter):
    for _ in range(50):
        write_whole(path, letter * 100_000)


def test_processes_that_write_the_same_file_never_mix(tmp_path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write_often, args=(tmp_path / "a.txt", letter)) for letter in "xy"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert (tmp_path / "a.txt").read_text() in ("x" * 100_000, "y" * 100_000)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_json_comes_back_and_a_bad_file_is_named(tmp_path):
    path = write_json(tmp_path / "a.json", {"小言": [1]}, indent=2)
    assert path.read_text("utf-8") == '{\n  "小言": [\n    1\n  ]\n}\n' and read_json(path) == {"小言": [1]}
    path.write_text("{")
    with pytest.raises(DataError, match=r"a\.json: not valid JSON \(.*line 1"):
        read_json(path)
    with pytest.raises(RunError, match=r"a\.json: not valid JSON"):
        read_json(path, RunError)
    path.write_bytes(b'"\xff"')
    with pytest.raises(DataError, match=r"a\.json: not valid JSON .*utf-8"):
        read_json(path)
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none.json")


def test_a_path_below_the_root_is_shown_as_one_would_type_it(tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)
    assert display_path(tmp_path / "weights/a") == "weights/a"
    assert display_path("weights/a") == "weights/a"
    assert display_path("/elsewhere/a") == "/elsewhere/a"


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_json_holds_no_number_that_is_none(tmp_path, number):
    path = write_json(tmp_path / "a.json", {"loss": 1.5})
    with pytest.raises(ValueError, match="a.json: Out of range float"):
        write_json(path, {"loss": number})
    assert read_json(path) == {"loss": 1.5}

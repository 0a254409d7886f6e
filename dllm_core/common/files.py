"""Files: the atomic write, the JSON reader and the form in which messages name a path."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dllm_core.common.errors import DataError, RunError
from dllm_core.common.paths import root

NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_SPACE_WORDS = ("unexpected pos", *(f"os error {number}" for number in NO_SPACE))  # of torch and safetensors


@contextmanager
def explain_full_disk(path: Path, size: int) -> Iterator[None]:
    """Around writing `size` bytes to `path`. Raises RunError on a full disk, whichever library met it."""
    free = shutil.disk_usage(path.parent).free / 1e6
    try:
        yield
    except Exception as error:
        if getattr(error, "errno", None) in NO_SPACE or any(words in str(error) for words in NO_SPACE_WORDS):
            raise RunError(
                f"no space in {path.parent} for {path.name}: {max(size / 1e6, 0.1):.1f} MB needed, {free:.1f} MB free; "
                "free some and run the same again"
            ) from error
        raise


@contextmanager
def replaced_whole(path: str | Path, size: int = 0) -> Iterator[Path]:
    """Yield a path beside `path` to write to, and rename it to `path` when the block ends without an error.

    A reader sees the old file or the new one, never a part of it, and several processes may write the same file. The
    folder is created. After an error the old file stays and the partial one is removed. size: bytes to be written.
    Raises RunError on a full disk.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with explain_full_disk(path, size):
        try:
            partial.touch()
            mode = partial.stat().st_mode  # as the umask wants it; safetensors makes a file private
            yield partial
            partial.chmod(mode)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def write_whole(path: str | Path, content: str | bytes) -> Path:
    """Write text (as UTF-8, line ends unchanged) or bytes atomically; return the path. Half a surrogate pair is written as
    its escape, which JSON reads back."""
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    with replaced_whole(path, len(data)) as partial:
        partial.write_bytes(data)
    return Path(path)


def json_text(value: object, **options) -> str:
    """The JSON of a value, which can hold neither NaN nor an infinity: they raise ValueError."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, **options)


def write_json(path: str | Path, value: dict | list, indent: int = 1) -> Path:
    """Write indented JSON with a final line end atomically; return the path. Raises ValueError for NaN, which names the
    file."""
    try:
        return write_whole(path, json_text(value, indent=indent) + "\n")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_json(path: str | Path, error: type[ValueError] = DataError) -> dict:
    """The record of a JSON file. Raises `error`, which names the file, when the content is no valid JSON object, and
    OSError when the file cannot be read."""
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as cause:
        raise error(f"{path}: not valid JSON ({cause})") from cause
    if not isinstance(record, dict):
        raise error(f"{path}: expected a JSON object, found {type(record).__name__}")
    return record


def read_json_lines(path: Path, error: type[ValueError] = DataError) -> list[dict]:
    """The records of a file of JSON lines, [] where there is none; a last line that a killed process left incomplete is
    skipped. Raises `error` that names file and line of a damaged one."""
    # of bytes: as text, a line separator of Unicode within a JSON string would end the line, too
    lines = path.read_bytes().splitlines(keepends=True) if path.is_file() else []
    records = []
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            break
        try:
            records.append(dict(json.loads(line.decode())))
        except (ValueError, TypeError, RecursionError) as cause:
            raise error(f"{path}:{number}: not a JSON object ({cause}); delete the line") from cause
    return records


def display_path(path: str | Path) -> str:
    """The path as a person at the project's root would type it: relative to the root where it lies below it."""
    path = Path(path)
    return os.path.relpath(path, root()) if path.is_relative_to(root()) else str(path)

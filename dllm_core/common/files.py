"""Files: the atomic write, the JSON reader and the form in which messages name a path."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dllm_core.common.errors import DataError
from dllm_core.common.paths import root


@contextmanager
def replaced_whole(path: str | Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to, and rename it to `path` when the block ends without an error.

    A reader sees the old file or the new one, never a part of it, and several processes may write the same file. The
    folder is created. After an error the old file stays and the partial one is removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: str | Path, content: str | bytes) -> Path:
    """Write text (as UTF-8, line ends unchanged) or bytes atomically; return the path. Half a surrogate pair is written as
    its escape, which JSON reads back."""
    with replaced_whole(path) as partial:
        partial.write_bytes(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)
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


def display_path(path: str | Path) -> str:
    """The path as a person at the project's root would type it: relative to the root where it lies below it."""
    path = Path(path)
    return os.path.relpath(path, root()) if path.is_relative_to(root()) else str(path)

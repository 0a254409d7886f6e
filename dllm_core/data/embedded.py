"""The embedded corpus in data/: which files it has, and the two large ones unpacked from .xz on first use."""

import lzma
from pathlib import Path

from dllm_core.common.errors import DataError
from dllm_core.common.files import write_whole
from dllm_core.common.paths import root

PACKED = ("pretrain_tiny.jsonl", "sft_tiny.jsonl")
EMBEDDED = frozenset({
    *PACKED, "pretrain_sample.jsonl", "pretrain_valid.jsonl", "sft_sample.jsonl", "sft_valid.jsonl", "sft_test.jsonl",
    "sft_reversal.jsonl", "reversal_tiny.jsonl",
})  # fmt: skip


def is_embedded(path: Path) -> bool:
    """Whether an absolute path is that of a file of the embedded corpus, unpacked or not."""
    return path.name in EMBEDDED and path.parent == root() / "data"


def unpack(path: Path) -> Path:
    """Write an absent file of the embedded corpus from its .xz and return it; several processes may do so at once.

    Raises DataError when the committed file is absent or damaged.
    """
    committed = path.with_name(path.name + ".xz") if path.name in PACKED else path
    try:
        return write_whole(path, lzma.decompress(committed.read_bytes()))
    except (FileNotFoundError, lzma.LZMAError) as error:
        raise DataError(
            f"{committed}: this file of the embedded corpus cannot be read ({error}); restore it with "
            f"`git checkout data/{committed.name}`"
        ) from error

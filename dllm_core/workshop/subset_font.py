"""`python -m dllm_core.workshop.subset_font FONT TEXT …`: the font of the pictures, cut out of a full one.

FONT: NotoSansCJK-Regular.ttc (Debian: fonts-noto-cjk). It keeps the characters of this repository and the most common
Chinese ones of the TEXT files: the tests' tang_pretrain.jsonl once, alpaca_zh_sft.jsonl four times (more than verse).
"""

import io
import lzma
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from fontTools import subset

from dllm_core.common.files import display_path, write_whole
from dllm_core.common.paths import root
from dllm_core.show.figures import FAMILY, SUBSET

MOST = 2_300  # characters: less than 400 kB
RANGES = ((0x20, 0x7F), (0xA0, 0x100), (0x2010, 0x2028), (0x3000, 0x3020), (0xFF01, 0xFF5F))  # Latin and punctuation
FILES = ("*.md", "data/[prs]*.jsonl*", "data/tokenizer/*", "notebooks/**/*", "dllm_core/**/*")
TEXTS = {".md", ".jsonl", ".xz", ".ipynb", ".yaml", ".py", ".js"}  # what is read of them


def needed() -> set[str]:
    """The characters of `RANGES` and of the repository's texts."""
    signs = {chr(code) for bounds in RANGES for code in range(*bounds)}
    for path in [path for pattern in FILES for path in root().glob(pattern) if path.suffix in TEXTS]:
        content = path.read_bytes()
        signs.update((lzma.decompress(content) if path.suffix == ".xz" else content).decode("utf-8"))
    return signs


def make(source: str | Path, signs: Iterable[str]) -> bytes:
    """The font file `source` with the outlines of `signs` alone (those that it has), without hints, named `FAMILY`."""
    tables = ["BASE", "GDEF", "GPOS", "GSUB", "VORG", "vhea", "vmtx"]  # of layout, which the pictures do not use
    options = subset.Options(hinting=False, desubroutinize=True, notdef_outline=True, drop_tables=tables,
                             name_IDs=[0, 5, 7, 13, 14], name_languages=[0x409], font_number=2)  # fmt: skip
    font = subset.load_font(source, options)  # of a collection, the face number 2: Simplified Chinese
    cutter = subset.Subsetter(options)
    cutter.populate(text="".join(signs))
    cutter.subset(font)
    names, outlines = font["name"], font["CFF "].cff  # a changed font needs a name of its own
    for identity, words in {1: FAMILY, 2: "Regular", 3: SUBSET.stem, 4: FAMILY, 6: SUBSET.stem}.items():
        names.setName(words, identity, 3, 1, 0x409)
    outlines.fontNames, outlines[0].FullName, outlines[0].FamilyName = [SUBSET.stem], FAMILY, FAMILY
    font.save(out := io.BytesIO())
    return out.getvalue()


def main(source: str, *texts: str) -> None:
    signs = needed()
    counts = Counter("".join(Path(path).read_text("utf-8") for path in texts)).most_common()
    common = [sign for sign, _ in counts if "\u4e00" <= sign <= "\u9fff" and sign not in signs]
    write_whole(SUBSET, make(source, signs.union(common[: max(0, MOST - len(signs))])))
    print(f"{display_path(SUBSET)}: {SUBSET.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Links and pictures of a notebook's text, rewritten when the notebook moves to another folder."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

LINK = re.compile(r'(\]\(|(?:src|href)=")(?!\w+:|#)([^")]+)')  # a link of Markdown or HTML to a file


def relinked(text: str, old: Path, new: Path, copies: Mapping[str, str] | None = None) -> str:
    """`text` of a page in the folder `old`, with its relative links as they must be in the folder `new`.

    copies: name of a notebook → name of the one that stands for it in `new`, both without .ipynb.
    """

    def moved(match: re.Match) -> str:
        name, mark, anchor = match[2].partition("#")
        stem = name.removesuffix(".ipynb")
        if name.endswith(".ipynb") and stem in (copies or {}):
            name = f"{copies[stem]}.ipynb"
        else:
            name = Path(os.path.relpath(old / name, new)).as_posix()
        return match[1] + name + mark + anchor

    return LINK.sub(moved, text)

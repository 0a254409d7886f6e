"""The result of a sweep in a notebook: its section of RESULTS.md, with its figure and its tables."""

import re
from itertools import groupby
from pathlib import Path

from dllm_core.common.errors import UsageError
from dllm_core.common.paths import resolve
from dllm_core.show.figures import SavedPicture
from dllm_core.show.html import Markdown, Table, table

SWEEPS = "notebooks/sweeps"
ORIGIN = re.compile(r"(?:\*Not run yet: )?`dllm sweep (\S+)`")  # how the last paragraph of a sweep's section begins
PICTURE = re.compile(r"!\[(.*)\]\((.+)\)")


def sweep(name: str, brief: bool = False) -> tuple:
    """What a notebook displays of a sweep, `display(*show.sweep("cap"))`: question, answer, figure, tables, and the
    command, seeds and machine they come from. It is the sweep's section of RESULTS.md; without one, the command.

    brief: question, answer and origin alone. Raises UsageError when there is no such sweep.
    """
    section = _sections().get(name)
    if section is None:
        sweeps = sorted(path.stem for path in resolve(SWEEPS).glob("*.yaml"))
        if name not in sweeps:
            raise UsageError(f"no sweep {name!r} in {SWEEPS}; there are {', '.join(sweeps)}")
        return (Markdown(f"Not in RESULTS.md yet: `dllm sweep {name}` measures it, `dllm results` writes it there."),)
    if brief and len(section) > 2:
        section = [*section[:2], section[-1]]
    shown = []
    for is_text, blocks in groupby(section, key=lambda block: not block.startswith(("|", "!["))):
        if is_text:
            shown.append(Markdown("\n\n".join(blocks)))
        else:
            shown.extend(map(_drawn, blocks))
    return tuple(shown)


def _sections() -> dict[str, list[str]]:
    """Sweep's name → the blocks of its section (paragraphs, picture, tables) below the title."""
    page = Path(resolve("RESULTS.md"))
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    sections = {}
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        blocks = section.strip().split("\n\n")[1:]
        if blocks and (origin := ORIGIN.match(blocks[-1])):
            sections[origin[1]] = blocks
    return sections


def _drawn(block: str) -> SavedPicture | Table:
    """A Markdown picture or table; columns of plain numbers are numbers again, so that they align to the right."""
    if picture := PICTURE.fullmatch(block):
        return SavedPicture(resolve(picture[2]), picture[1])
    heads, _, *rows = [
        [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in block.splitlines()
    ]
    return table([dict(zip(heads, map(_value, row), strict=True)) for row in rows])


def _value(cell: str) -> str | float | None:
    """A number where its text is exactly that of the number, None for a dash, else the text, as of 1.6e+13."""
    if cell == "–":
        return None
    if "e" in cell:
        return cell
    try:
        return float(cell) if f"{float(cell):.4g}" == cell else cell
    except ValueError:
        return cell

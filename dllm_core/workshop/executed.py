"""`dllm executed`: copies of the notebooks as `dllm run all` executed them, which a web page can show.

A copy is the source notebook with the outputs of its run: links lead to where they led, pictures have few colours, and
nothing tells of the machine.
"""

import argparse
import base64
import datetime
import io
import re
from collections.abc import Iterator
from pathlib import Path

import torch

from dllm_core.cli.stages import STAGES, plan
from dllm_core.common import links
from dllm_core.common.errors import RunError
from dllm_core.common.files import display_path, read_json, write_json
from dllm_core.common.paths import resolve
from dllm_core.compute.devices import machine
from dllm_core.workshop import site
from dllm_core.workshop.site import COPIES, EXECUTED

EMBEDDED = re.compile(r'(src="data:image/png;base64,)([^"]+)')
STYLE = re.compile(r"(?s)<style>.*?</style>\s*")
PLAYER = re.compile(
    r'(?s)(document\.getElementById\("[\w-]+"\);\n)((?:(?!</script>).)*?class Player (?:(?!</script>).)*?)\nstart\(root, '
)
COLOURS = 64  # of a picture: a curve with its antialiasing needs no more
INJECTED = "injected-parameters"  # papermill's tag for the cell of the values that a preset gives
HIDDEN = {"tags": [INJECTED], "slideshow": {"slide_type": "skip"}}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `dllm executed`."""
    parser.add_argument("--site", metavar="FOLDER", help="write the copies and the pages as HTML, instead of making copies")


def run(options: argparse.Namespace) -> None:
    """Make the copies, or the site of them. Raises RunError for a notebook that was not executed as it stands."""
    if options.site:
        paths = site.write(Path(options.site))
    else:
        paths = [write_json(path, copy) for path, copy in copies()] + list(keep_summary())
    for path in paths:
        print(display_path(path))


def keep_summary() -> Iterator[Path]:
    """Keep the seconds and the memory of the last run if it was one of the whole chain, with its machine and date."""
    path = resolve("runs/cpu/summary.json")
    summary = read_json(path) if path.exists() else {"stages": {}}
    if {name: stage["state"] for name, stage in summary["stages"].items()} == {s.name: "done" for s in STAGES}:
        date = datetime.date.fromtimestamp(path.stat().st_mtime).isoformat()
        more = {"machine": machine(torch.device("cpu")), "date": date}
        yield write_json(resolve(EXECUTED) / "summary.json", summary | more)


def copies() -> Iterator[tuple[Path, dict]]:
    """The path and the notebook of each stage's copy, made anew from its run or else from the copy that there is.

    Raises RunError for a stage of which neither was executed with the notebook's present code.
    """
    for job in plan(STAGES, STAGES, "cpu", [], resolve("runs/cpu")):
        path, source = resolve(f"{EXECUTED}/{job.stage.preset}.ipynb"), read_json(job.notebook)
        stale = job.why_stale()
        file = path if stale else job.executed
        executed = read_json(file) if file.exists() else {}
        if code_cells(executed) != code_cells(source):
            raise RunError(f"{display_path(job.executed)}: {stale or 'other code'}; run `dllm run all`, then this again")
        yield path, copy(source, executed)


def copy(source: dict, executed: dict) -> dict:
    """The source notebook with the outputs of the executed one, and the cell of its preset's parameters."""
    outputs = {cell["id"]: cell for cell in executed["cells"] if cell["cell_type"] == "code"}
    injected = [cell for cell in executed["cells"] if INJECTED in cell["metadata"].get("tags", ())]
    cells, shown = [], set()
    for cell in source["cells"]:
        if cell["cell_type"] == "markdown":
            cells.append(cell | {"source": relinked(cell["source"])})
            continue
        cells.append(_filled(cell, outputs[cell["id"]], shown))
        if "parameters" in cell["metadata"].get("tags", ()):
            cells += [_filled(other | {"metadata": HIDDEN}, other, shown) for other in injected]
    return source | {"cells": cells}


def code_cells(notebook: dict) -> list[tuple[str, str]]:
    """The id and the source of each code cell, without the one that papermill adds."""
    return [
        (cell["id"], "".join(cell["source"]))
        for cell in notebook.get("cells", ())
        if cell["cell_type"] == "code" and INJECTED not in cell["metadata"].get("tags", ())
    ]


def relinked(lines: list[str]) -> list[str]:
    """The lines of a Markdown cell, with links as they must be in the copies' folder."""
    return [links.relinked(line, EXECUTED.parent, EXECUTED, COPIES) for line in lines]


def _filled(cell: dict, executed: dict, shown: set[str]) -> dict:
    outputs = [_light(output, shown) for output in executed["outputs"]]
    return cell | {"outputs": outputs, "execution_count": executed["execution_count"]}


def _light(output: dict, shown: set[str]) -> dict:
    """The output in the one form that a web page shows: HTML, else a picture with its words, else text. shown: the style
    elements, and the player's script, that the page has already; it gets each once."""
    data = output.get("data", {})
    if "text/html" in data:
        html = EMBEDDED.sub(lambda match: match[1] + few_colours(match[2]), "".join(data["text/html"]))
        html = STYLE.sub(lambda match: "" if match[0] in shown else shown.add(match[0]) or match[0], html)
        html = PLAYER.sub(lambda match: _shared(match, shown), html)
        return output | {"data": {"text/html": html.splitlines(keepends=True)}}
    if "image/png" in data:
        words = "".join(data.get("text/plain", "")).partition("\n")[0]
        picture = data | {"image/png": few_colours("".join(data["image/png"]))}
        return output | {"data": picture, "metadata": {"image/png": {"alt": words}}}
    return output


def _shared(match: re.Match, shown: set[str]) -> str:
    """The beginning of a player's script; all players of a page use the first one's."""
    before, script = match.groups()
    if script in shown:
        return f"{before}window.dllmStart?.(root, "
    shown.add(script)
    return f"{before}{script}\nwindow.dllmStart = start;\nstart(root, "


def few_colours(png: str) -> str:
    """The base64 PNG with a palette of `COLOURS`, or as it is where that is no smaller."""
    from PIL import Image

    png = png.replace("\n", "")
    with Image.open(io.BytesIO(base64.b64decode(png))) as picture:
        small, out = picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE), io.BytesIO()
        small.save(out, "PNG", optimize=True)
    return min(png, base64.b64encode(out.getvalue()).decode(), key=len)

"""The pages and the executed notebooks as a site of HTML files, laid out as the repository is."""

import html
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from dllm_core.cli.stages import STAGES
from dllm_core.common.files import write_whole
from dllm_core.common.paths import resolve

EXECUTED = Path("notebooks/executed")
COPIES = {stage.notebook: stage.preset for stage in STAGES} | {  # notebook → the executed copy that a link leads to
    "05_llada2_sft": "05_llada2_sft", "07_compare_styles": "07_compare_sft",
}  # fmt: skip
PAGES = ("*.md", "notebooks/*.md", "dllm_core/*.md", "data/*.md", "weights/*.md", f"{EXECUTED}/*.ipynb")
LINK = re.compile(r'((?:href|src)=")(?!\w+:|#)([^"#]+)')


def write(folder: Path) -> Iterator[Path]:
    """Write the site to `folder` (created) and yield its pages; index.html is README's."""
    from nbconvert import HTMLExporter

    exporter, root = HTMLExporter(), resolve(".")
    for path in sorted(path for pattern in PAGES for path in root.glob(pattern)):
        page = path.relative_to(root)
        text = _page(exporter, path)
        for link in {match[2] for match in LINK.finditer(text)}:
            linked = root / os.path.normpath(page.parent / html.unescape(link))
            if linked.is_file() and linked.suffix not in (".md", ".ipynb"):  # a picture, a file of code
                (copy := folder / linked.relative_to(root)).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(linked, copy)
        text = LINK.sub(lambda match, page=page: match[1] + href(match[2], page), text)
        yield write_whole(folder / page.with_suffix(".html"), text)
    yield write_whole(folder / "index.html", (folder / "README.html").read_text("utf-8"))


def href(link: str, page: Path) -> str:
    """The link to a file of the site for one to a file of the repository, in its page: to a page's HTML, to a notebook's
    executed copy, to a folder's README."""
    target = Path(os.path.normpath(page.parent / link))
    if target.suffix == ".ipynb" and target.parent == EXECUTED.parent and target.stem in COPIES:
        target = EXECUTED / COPIES[target.stem]
    elif resolve(target).is_dir():
        target /= "README"
    elif target.suffix not in (".md", ".ipynb"):
        return link
    return os.path.relpath(target.with_suffix(".html"), page.parent)


def _page(exporter, path: Path) -> str:
    import nbformat

    if path.suffix == ".ipynb":
        notebook = nbformat.read(path, as_version=4)
        return exporter.from_notebook_node(notebook, {"metadata": {"name": path.stem}})[0]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(path.read_text("utf-8"))])
    text, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": path.stem}})
    return re.sub(r'(<h\d id=")([^"]+)', lambda match: match[1] + github_anchor(match[2]), text)


def github_anchor(anchor: str) -> str:
    """A heading's anchor as GitHub writes it, from nbconvert's, whose spaces are hyphens already."""
    return re.sub(r"[^\w-]", "", html.unescape(anchor).lower())

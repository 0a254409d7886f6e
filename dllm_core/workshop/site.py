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
from dllm_core.show.page.page import save_page

EXECUTED = Path("notebooks/executed")
COPIES = {stage.notebook: stage.preset for stage in STAGES} | {  # notebook → the executed copy that a link leads to
    "05_llada2_sft": "05_llada2_sft", "07_compare_styles": "07_compare_sft",
}  # fmt: skip
LIVE = Path("dllm_core/show/page/README")  # whose place on the site the page itself takes
PAGES = (
    "*.md", "notebooks/*.md", "dllm_core/*.md", "data/*.md", "weights/*.md", "notebooks/solutions.ipynb", f"{EXECUTED}/*.ipynb",
)  # fmt: skip
LINK = re.compile(r'((?:href|src)=")(?!\w+:|#)([^"#]+)')


def write(folder: Path) -> Iterator[Path]:
    """Write the site to `folder` (created) and yield its pages; index.html is README's, page.html the one that runs the
    models. What a page links to is copied, and a linked folder without a README gets a list of its files."""
    from dllm_core.show.offline import OfflineExporter

    exporter, root, folders = OfflineExporter(), resolve("."), set()
    pages = {path.relative_to(root): path.read_text("utf-8") for pattern in PAGES for path in sorted(root.glob(pattern))}
    while pages:
        page, source = pages.popitem()
        text = _html(exporter, page, source)
        for link in {html.unescape(match[2]) for match in LINK.finditer(text)}:
            linked = Path(os.path.normpath(page.parent / link))
            if (root / linked).is_dir() and not (root / linked / "README.md").exists() and linked not in folders:
                folders.add(linked)
                files = sorted(path.name for path in (root / linked).iterdir() if path.is_file())
                listed = "\n".join(f"- [{name}]({name})" for name in files)
                pages[linked / "README.md"] = f"# {linked.name}\n\n{listed}\n"
            elif (root / linked).is_file() and href(link, page) == link:  # a picture, a file of code
                (copy := folder / linked).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(root / linked, copy)
        text = LINK.sub(lambda match, page=page: match[1] + href(match[2], page), text)
        yield write_whole(folder / page.with_suffix(".html"), text)
    yield save_page(folder / "page.html")
    yield write_whole(folder / "index.html", (folder / "README.html").read_text("utf-8"))


def href(link: str, page: Path) -> str:
    """The link to a file of the site for one to a file of the repository, in its page: to a page's HTML, to a notebook's
    executed copy, to a folder's README."""
    target = Path(os.path.normpath(page.parent / link))
    if target.suffix == ".ipynb" and target.parent == EXECUTED.parent and target.stem in COPIES:
        target = EXECUTED / COPIES[target.stem]
    elif resolve(target).is_dir():
        target /= "README"
    elif target.with_suffix("") == LIVE:
        target = Path("page.html")
    elif not any(target.match(pattern) for pattern in PAGES):
        return link
    return os.path.relpath(target.with_suffix(".html"), page.parent)


def _html(exporter, page: Path, source: str) -> str:
    """The HTML of a notebook's JSON or of a page's Markdown."""
    import nbformat

    resources = {"metadata": {"name": page.stem}}
    if page.suffix == ".ipynb":
        return exporter.from_notebook_node(nbformat.reads(source, as_version=4), resources)[0]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(source)])
    text, _ = exporter.from_notebook_node(notebook, resources)
    return re.sub(r'(<h\d id=")([^"]+)', lambda match: match[1] + github_anchor(match[2]), text)


def github_anchor(anchor: str) -> str:
    """A heading's anchor as GitHub writes it, from nbconvert's, whose spaces are hyphens already."""
    return re.sub(r"[^\w-]", "", html.unescape(anchor).lower())

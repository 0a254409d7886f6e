"""A notebook as one HTML file that makes no outside request: formulas become MathML, which every browser draws itself.

`jupyter nbconvert --to dllm_core.show.offline.OfflineExporter NOTEBOOK` writes it beside the notebook.
"""

import html
import re

from jinja2 import pass_context
from latex2mathml.converter import convert
from nbconvert.exporters.html import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

REMOTE = re.compile(r'<script src="(?:https?:)?//[^"]*">\s*</script>')  # MathJax and require.js, which nothing here needs


class OfflineExporter(HTMLExporter):
    """nbconvert's HTML without its scripts from other machines."""

    export_from_notebook = None  # not a name of its own in JupyterLab's menu

    @pass_context
    def markdown2html(self, context, source: str) -> str:
        """The filter that the template calls for Markdown."""
        renderer = _Renderer(
            escape=False, embed_images=self.embed_images, path=context["resources"]["metadata"].get("path", ""),
            anchor_link_text=self.anchor_link_text, exclude_anchor_links=self.exclude_anchor_links,
            attachments=context.get("cell", {}).get("attachments"),
        )  # fmt: skip
        return MarkdownWithMath(renderer=renderer).render(source)

    def from_notebook_node(self, nb, resources=None, **options) -> tuple[str, dict]:
        page, resources = super().from_notebook_node(nb, resources, **options)
        return REMOTE.sub("", page), resources


class _Renderer(IPythonRenderer):
    def inline_math(self, body: str) -> str:
        return mathml(body, "inline")

    def block_math(self, body: str) -> str:
        return mathml(body, "block")


def mathml(latex: str, display: str) -> str:
    """The MathML of a formula, or its LaTeX where that cannot be read. display: "inline" or "block"."""
    try:
        page = convert(latex.strip(), display=display)
    except Exception:  # noqa: BLE001  the converter's errors have no common class
        return f"<code>{html.escape(latex)}</code>"
    return re.sub(r"\\(?=[a-z_])", "", page)  # a function's name or an escaped sign that the converter leaves as it was

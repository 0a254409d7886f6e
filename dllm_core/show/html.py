"""Text to display, as HTML and as plain text: tables, library source code, the text of a token.

Styles are inline, and no color carries a meaning alone. The same cell therefore reads in JupyterLab (also when it
sanitizes untrusted output), in exported HTML, on GitHub and in a terminal.
"""

import base64
import html
import inspect
import numbers
import re
import secrets
import textwrap
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template

from dllm_core.common.files import json_text
from dllm_core.common.text import safe
from dllm_core.data import tokenizer

MASK = "░"
SPECIAL = {tokenizer.BOS: "⟨bos⟩", tokenizer.EOS: "⟨eos⟩", tokenizer.PAD: "⟨pad⟩", tokenizer.MASK: MASK}
BLANKS = str.maketrans({"\n": "↵", "\t": "⇥", "\r": "␍"})
TOKEN, CELL = 40, 1000  # most characters of a token and of a table's cell that are shown
COMPRESS_ABOVE = 150_000  # characters of JSON


@dataclass(frozen=True)
class Html:
    """Something to display: `html` where HTML is shown, `text` elsewhere (terminals, plain logs)."""

    html: str
    text: str

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, str]:
        return {"text/html": self.html, "text/plain": self.text}

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Table(Html):
    """A table as HTML, text and `markdown`; `table` builds it."""

    markdown: str


@dataclass(frozen=True)
class Markdown:
    """Text to display that a notebook renders as Markdown."""

    text: str

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, str]:
        return {"text/markdown": self.text, "text/plain": self.text}

    def __str__(self) -> str:
        return self.text


def joined(items: Sequence) -> Html:
    """Stack displayable items (objects with `html` and `text`) vertically."""
    return Html("".join(item.html for item in items), "\n".join(item.text for item in items))


def image_html(png: bytes, alt: str) -> str:
    """An <img> with the PNG embedded in it; paper.css inverts it in a dark notebook."""
    data, style = base64.b64encode(png).decode("ascii"), "max-width:100%;height:auto"
    return f'<img class="dllm-paper" src="data:image/png;base64,{data}" alt="{html.escape(alt)}" style="{style}">'


def asset(name: str) -> str:
    """The text of a file of HTML, CSS or JavaScript. name: its path under this folder, e.g. "player/player.css"."""
    return files("dllm_core.show").joinpath(name).read_text(encoding="utf-8")


def script_piece(template: str, css: str, script: str, static: str, data: dict) -> str:
    """HTML that shows `static` until `script` runs on `data` and replaces it.

    template: the asset to fill in; its root element gets a unique id. data: see `embedded`.
    """
    identity = f"dllm-{secrets.token_hex(5)}"
    parts = {"css": css, "script": script, "static": static, "data": embedded(data)}
    return Template(asset(template)).substitute(id=identity, **parts)


def embedded(data: dict) -> str:
    """`data` as JSON that can stand in a script element and in HTML: `<`, `>` and `&` are escaped, so text written by a
    model cannot close the element. It is {"deflate": base64 of the compressed JSON} when longer than `COMPRESS_ABOVE`."""
    text = json_text(data, separators=(",", ":"))
    if len(text) > COMPRESS_ABOVE:
        packed = base64.b64encode(zlib.compress(text.encode("utf-8"))).decode("ascii")
        text = json_text({"deflate": packed})
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


# text of tokens ----------------------------------------------------------------------------------------------------


def visible(text: str) -> str:
    """The text of one token, with a visible symbol for each blank, control character and direction mark.

    Special tokens get short names, and a very long token loses its middle. So text written by a model can neither
    reorder nor hide the text beside it.
    """
    if text in SPECIAL:
        return SPECIAL[text]
    if text == "":
        return "∅"
    # blanks at the ends of a token cannot be seen; inside a word they can
    return re.sub("^ +| +$", lambda blanks: "␣" * len(blanks[0]), one_line(text, TOKEN))


def one_line(text: str, limit: int = CELL) -> str:
    """`text` made safe to show, with a symbol for each line end."""
    return safe(text.translate(BLANKS), limit)


# tables ------------------------------------------------------------------------------------------------------------


def table(
    rows: Iterable[Mapping], *, columns: Sequence[str] | None = None, caption: str | None = None, digits: int = 4
) -> Table:
    """A table of dicts (or of dataclasses): one row each, a column per key in order of first appearance.

    columns: the keys to show, in this order (default: all). caption: a line above. digits: significant digits of a
    number. Columns of numbers are aligned to the right; None and absent values show as a dash.
    """
    rows = [dict(row) if isinstance(row, Mapping) else dict(vars(row)) for row in rows]
    keys = list(columns or dict.fromkeys(key for row in rows for key in row))
    right = [bool(rows) and all(isinstance(row.get(key), numbers.Number | None) for row in rows) for key in keys]
    lines = [[one_line(str(key)).replace("_", " ") for key in keys]]
    lines += [[_value(row.get(key), digits) for key in keys] for row in rows]
    caption = caption and one_line(caption)
    return Table(*(form(lines, right, caption) for form in (_table_html, _table_text, _table_markdown)))


def _table_html(lines: list[list[str]], right: list[bool], caption: str | None) -> str:
    rows = []
    for line in lines:
        tag, scope = ("td", "") if rows else ("th", ' scope="col"')
        cells = ""
        for value, to_right in zip(line, right, strict=True):
            style = f"text-align:{'right' if to_right else 'left'};padding:.25em .7em"
            cells += f'<{tag}{scope} style="{style}">{html.escape(value)}</{tag}>'
        rows.append(f"<tr>{cells}</tr>")
    title = f'<caption style="text-align:left;padding:.3em 0">{html.escape(caption)}</caption>' if caption else ""
    return (
        f'<table style="border-collapse:collapse;font-size:14px">{title}'
        f"<thead>{rows[0]}</thead><tbody>{''.join(rows[1:])}</tbody></table>"
    )


def _table_text(lines: list[list[str]], right: list[bool], caption: str | None) -> str:
    from rich.cells import cell_len

    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    text = [caption] if caption else []
    for line in (lines[0], ["─" * width for width in widths], *lines[1:]):
        padded = []
        for value, width, to_right in zip(line, widths, right, strict=True):
            space = " " * (width - cell_len(value))
            padded.append(space + value if to_right else value + space)
        text.append("  ".join(padded).rstrip())
    return "\n".join(text)


def _table_markdown(lines: list[list[str]], right: list[bool], caption: str | None) -> str:
    head, *rows = ["| " + " | ".join(value.replace("|", "\\|") for value in line) + " |" for line in lines]
    rule = "|" + "".join("---:|" if to_right else "---|" for to_right in right)
    title = [caption, ""] if caption else []
    return "\n".join([*title, head, rule, *rows])


def _value(value, digits: int) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, numbers.Integral):
        return f"{value:,}"
    if isinstance(value, numbers.Real):
        return f"{float(value):,.0f}" if abs(value) >= 10**digits else f"{float(value):.{digits}g}"
    return one_line(str(value))


# source code -------------------------------------------------------------------------------------------------------


def source(what: object) -> Html:
    """The installed source of a function, method, class or module, highlighted, with its file and line.

    Raises TypeError for an object that has no Python source (a built-in, an instance).
    """
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    target = inspect.unwrap(what) if callable(what) else what
    try:
        lines, start = inspect.getsourcelines(target)
        file = Path(inspect.getsourcefile(target))
    except (TypeError, OSError) as error:
        raise TypeError(
            f"source: {what!r} has no Python source to show; give a function, class, method or module"
        ) from error
    code = textwrap.dedent("".join(lines)).rstrip() + "\n"
    style = "background:#f7f7f7;color:#1a1a1a;padding:.6em .8em;border-left:3px solid #0072B2;overflow-x:auto"
    # no `inherit`: a sanitizer drops it, and many pages set a color and a font on <pre>
    pre = "margin:0;line-height:1.35;background:transparent;color:#1a1a1a;font-family:monospace"
    formatter = HtmlFormatter(noclasses=True, style="xcode", cssclass="dllm-paper", cssstyles=style, prestyles=pre)
    title = f"{file.parent.name}/{file.name}, line {max(start, 1)}"
    markup = (
        f"<style>{asset('paper.css')}</style>"
        f'<figure style="margin:.3em 0"><figcaption style="font-size:90%;opacity:.8">{html.escape(title)}</figcaption>'
        f"{highlight(code, PythonLexer(), formatter)}</figure>"
    )
    return Html(markup, f"# {title}\n{code}")

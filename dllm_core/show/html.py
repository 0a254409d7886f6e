"""Text to display: library source code, tables, rows of noised tokens. Each as HTML and as plain text.

Styles are inline, and no color carries a meaning alone. The same cell therefore reads in JupyterLab (also when it
sanitizes untrusted output), in exported HTML, on GitHub and in a terminal.
"""

import html
import inspect
import numbers
import textwrap
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

MASK = "░"
SPECIAL = {"<|im_start|>": "⟨bos⟩", "<|im_end|>": "⟨eos⟩", "<|endoftext|>": "⟨pad⟩", "<|mask|>": MASK}
BLANKS = {"\n": "↵", "\t": "⇥", "\r": "␍", " ": "␣"}
INVISIBLE = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")  # Unicode categories: controls, direction marks, unassigned …
EMOJI_JOINERS = ("\u200d", "\ufe0f")


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
    """A table that a notebook shows by itself, for a page also as `markdown`. Made by `table`."""

    markdown: str


@dataclass(frozen=True)
class Markdown:
    """Text to display that a notebook renders as Markdown."""

    text: str

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, str]:
        return {"text/markdown": self.text, "text/plain": self.text}

    def __str__(self) -> str:
        return self.text


def asset(name: str) -> str:
    """The text of a page's part (HTML, CSS, JavaScript). name: its path under this folder, e.g. "player/player.css"."""
    return files("dllm_core.show").joinpath(name).read_text(encoding="utf-8")


# text of tokens ----------------------------------------------------------------------------------------------------


def visible(text: str) -> str:
    """The text of one token with nothing invisible in it: blanks, controls and direction marks become signs.

    Special tokens get short names. The text of a model can then neither reorder nor hide its neighbors.
    """
    if text in SPECIAL:
        return SPECIAL[text]
    if text == "":
        return "∅"
    shown = "".join(sign if sign == " " else BLANKS.get(sign) or _sign(sign) for sign in text)
    # blanks at the ends of a token cannot be seen; inside a word they can
    inner = shown.strip(" ")
    if not inner:
        return BLANKS[" "] * len(shown)
    left = len(shown) - len(shown.lstrip(" "))
    right = len(shown) - len(shown.rstrip(" "))
    return BLANKS[" "] * left + inner + BLANKS[" "] * right


def _sign(sign: str) -> str:
    """The character itself, or its code point where nothing of it would be seen."""
    if unicodedata.category(sign) in INVISIBLE and sign not in EMOJI_JOINERS:
        return f"⟨U+{ord(sign):04X}⟩"
    return sign


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
    heads = [str(key).replace("_", " ") for key in keys]
    cells = [[_value(row.get(key), digits) for key in keys] for row in rows]
    right = [bool(rows) and all(isinstance(row.get(key), numbers.Number | None) for row in rows) for key in keys]
    return Table(
        _table_html(heads, cells, right, caption),
        _table_text(heads, cells, right, caption),
        _table_markdown(heads, cells, right, caption),
    )


def _table_html(heads: list[str], cells: list[list[str]], right: list[bool], caption: str | None) -> str:
    def line(tag: str, values: list[str]) -> str:
        markup = ""
        for value, to_right in zip(values, right, strict=True):
            style = f"text-align:{'right' if to_right else 'left'};padding:.25em .7em"
            markup += f'<{tag} style="{style}">{html.escape(value)}</{tag.split()[0]}>'
        return f"<tr>{markup}</tr>"

    title = f'<caption style="text-align:left;padding:.3em 0">{html.escape(caption)}</caption>' if caption else ""
    head = line('th scope="col"', heads)
    body = "".join(line("td", row) for row in cells)
    return (
        f'<table style="border-collapse:collapse;font-size:14px">{title}'
        f"<thead>{head}</thead><tbody>{body}</tbody></table>"
    )


def _table_text(heads: list[str], cells: list[list[str]], right: list[bool], caption: str | None) -> str:
    from rich.cells import cell_len

    widths = [max(map(cell_len, column)) for column in zip(heads, *cells, strict=True)]

    def line(values: list[str]) -> str:
        padded = []
        for value, width, to_right in zip(values, widths, right, strict=True):
            space = " " * (width - cell_len(value))
            padded.append(space + value if to_right else value + space)
        return "  ".join(padded).rstrip()

    rule = "  ".join("─" * width for width in widths)
    title = [caption] if caption else []
    return "\n".join([*title, line(heads), rule, *map(line, cells)])


def _table_markdown(heads: list[str], cells: list[list[str]], right: list[bool], caption: str | None) -> str:
    def line(values: list[str]) -> str:
        return "| " + " | ".join(value.replace("|", "\\|") for value in values) + " |"

    rule = "|" + "".join("---:|" if to_right else "---|" for to_right in right)
    title = [caption, ""] if caption else []
    return "\n".join([*title, line(heads), rule, *map(line, cells)])


def _value(value, digits: int) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, numbers.Integral):
        return f"{value:,}"
    if isinstance(value, numbers.Real):
        return f"{float(value):,.0f}" if abs(value) >= 10**digits else f"{float(value):.{digits}g}"
    return str(value)


# source code -------------------------------------------------------------------------------------------------------


def source(what: object) -> Html:
    """The installed source of a function, method, class or module, highlighted, with its file and line.

    Raises TypeError for an object that has no Python source (a built-in, an instance).
    """
    target = inspect.unwrap(what) if callable(what) else what
    try:
        lines, start = inspect.getsourcelines(target)
        file = Path(inspect.getsourcefile(target))
    except (TypeError, OSError) as error:
        raise TypeError(
            f"source: {what!r} has no Python source to show; give a function, class, method or module"
        ) from error
    code = textwrap.dedent("".join(lines)).rstrip() + "\n"
    title = f"{file.parent.name}/{file.name}, line {max(start, 1)}"
    markup = (
        f"<style>{asset('paper.css')}</style>"
        f'<figure style="margin:.3em 0"><figcaption style="font-size:90%;opacity:.8">{html.escape(title)}</figcaption>'
        f"{_highlighted(code)}</figure>"
    )
    return Html(markup, f"# {title}\n{code}")


def _highlighted(code: str) -> str:
    """Python code as HTML with inline colors; without colors where pygments is not installed."""
    try:
        from pygments import highlight
        from pygments.formatters import HtmlFormatter
        from pygments.lexers import PythonLexer
    except ImportError:
        return f"<pre>{html.escape(code)}</pre>"
    style = "background:#f7f7f7;color:#1a1a1a;padding:.6em .8em;border-left:3px solid #0072B2;overflow-x:auto"
    # spelled out: a sanitizer drops `inherit`, and pages set a color and a font of their own on <pre>
    pre = "margin:0;line-height:1.35;background:transparent;color:#1a1a1a;font-family:monospace"
    formatter = HtmlFormatter(noclasses=True, style="xcode", cssclass="dllm-paper", cssstyles=style, prestyles=pre)
    return highlight(code, PythonLexer(), formatter)


# rows of noised tokens ---------------------------------------------------------------------------------------------


def masked_row(
    texts: Sequence[str], masked: Sequence[bool], twin: Sequence[bool] | bool | None = None, *, name: str = "x_t",
    given: Sequence[bool] | None = None,
) -> Html:  # fmt: skip
    """A row of tokens noised at some t: `texts` [L] of the clean tokens, `masked` [L] bool.

    twin: the complementary view's mask [L], or True for the logical inverse of `masked` (no token is left out then).
    given: [L] bool, tokens that are never hidden (a prompt). Raises ValueError when the lengths differ.
    """
    masked = [bool(value) for value in masked]
    prompt = [False] * len(texts) if given is None else [bool(value) for value in given]
    views = [(name, masked)]
    if twin is not None and twin is not False:
        inverse = [not value for value in masked] if twin is True else [bool(value) for value in twin]
        views.append((f"{name}, complementary twin", inverse))
    for label, mask in [*views, ("given", prompt)]:
        if len(mask) != len(texts):
            raise ValueError(f"masked_row: {label} has {len(mask)} entries for {len(texts)} tokens; give one per token")
    lines = []
    for label, mask in views:
        cells = [MASK if hidden else visible(text) for text, hidden in zip(texts, mask, strict=True)]
        lines.append(f"{label}: " + " ".join(cells))
    return Html("".join(_view_html(texts, mask, prompt, label) for label, mask in views), "\n".join(lines))


def _view_html(texts: Sequence[str], masked: Sequence[bool], prompt: Sequence[bool], name: str) -> str:
    """One noised view: hidden tokens dashed, clean ones framed, those of the prompt without a frame."""
    base = (
        "display:inline-block;min-width:1.3em;padding:.15em .3em;margin:1px;text-align:center;"
        "border:1px {line} rgba(127,127,127,.8);border-radius:3px;{fill}"
    )
    styles = {
        "hidden": base.format(line="dashed", fill="background:rgba(127,127,127,.28)"),
        "clean": base.format(line="solid", fill="background:rgba(86,180,233,.30)"),
        "prompt": base.format(line="solid", fill="border-color:transparent;opacity:.8"),
    }
    cells = ""
    for text, hide, in_prompt in zip(texts, masked, prompt, strict=True):
        style = styles["hidden" if hide else "prompt" if in_prompt else "clean"]
        cells += f'<span style="{style}">{MASK if hide else html.escape(visible(text))}</span>'
    share = f"{sum(masked)} of {len(texts) - sum(prompt)} hidden"
    note = ", without a frame: given" if any(prompt) else ""
    return (
        f'<div style="margin:.3em 0;font-size:15px;line-height:1.9"><span style="font-size:13px;opacity:.85">'
        f"{html.escape(name)} ({share}{note})</span><br>{cells}</div>"
    )

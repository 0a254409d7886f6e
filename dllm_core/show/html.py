"""What is shown as text: library source beside its equation, tables, rows of tokens. HTML with its plain-text twin.

Styles are inline, and no colour carries a meaning alone, so that the same cell reads in JupyterLab (also when it
sanitises untrusted output), in exported HTML, on GitHub and in a terminal.
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


@dataclass(frozen=True)
class Html:
    """Something to display: `html` where HTML is shown, `text` elsewhere (terminals, plain logs)."""

    html: str
    text: str

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, str]:
        return {"text/html": self.html, "text/plain": self.text}

    def __str__(self) -> str:
        return self.text


def visible(text: str) -> str:
    """`text` of one token with nothing invisible in it: blanks, controls, direction marks become signs or code points.

    Special tokens get short names. What a model wrote can then neither reorder nor hide its neighbours.
    """
    if text in SPECIAL:
        return SPECIAL[text]
    if text == "":
        return "∅"
    shown = "".join(BLANKS.get(sign, sign) if sign != " " else sign for sign in text)
    shown = "".join(_safe(sign) for sign in shown)
    # blanks at the ends of a token cannot be seen; inside a word they can
    left, right = len(shown) - len(shown.lstrip(" ")), len(shown) - len(shown.rstrip(" "))
    if left == len(shown):
        return BLANKS[" "] * len(shown)
    return BLANKS[" "] * left + shown.strip(" ") + BLANKS[" "] * right


def _safe(sign: str) -> str:
    category = unicodedata.category(sign)
    if category in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") and sign not in (
        "\u200d",
        "\ufe0f",
    ):  # emoji joiners stay
        return f"⟨U+{ord(sign):04X}⟩"
    return sign


def width(text: str) -> int:
    """Columns `text` takes where a Chinese character takes two."""
    return sum(
        0 if unicodedata.combining(sign) else 2 if unicodedata.east_asian_width(sign) in "WF" else 1 for sign in text
    )


def _padded(text: str, columns: int, right: bool = False) -> str:
    space = " " * (columns - width(text))
    return space + text if right else text + space


def source(what: object) -> Html:
    """The installed source of a function, method, class or module, coloured, with its file and line.

    Raises TypeError for an object that has no Python source (a built-in, an instance).
    """
    try:
        lines, start = inspect.getsourcelines(inspect.unwrap(what) if callable(what) else what)
        file = Path(inspect.getsourcefile(inspect.unwrap(what) if callable(what) else what))
    except (TypeError, OSError) as error:
        raise TypeError(
            f"source: {what!r} has no Python source to show; give a function, class, method or module"
        ) from error
    code = textwrap.dedent("".join(lines)).rstrip() + "\n"
    place = f"{file.parent.name}/{file.name}, line {max(start, 1)}"
    try:
        from pygments import highlight
        from pygments.formatters import HtmlFormatter
        from pygments.lexers import PythonLexer

        style = "background:#f7f7f7;color:#1a1a1a;padding:.6em .8em;border-left:3px solid #0072B2;overflow-x:auto"
        # said in full: a sanitiser drops `inherit`, and pages set a colour and a font of their own on <pre>
        pre = "margin:0;line-height:1.35;background:transparent;color:#1a1a1a;font-family:monospace"
        formatter = HtmlFormatter(noclasses=True, style="xcode", cssclass="dllm-paper", cssstyles=style, prestyles=pre)
        body = highlight(code, PythonLexer(), formatter)
    except ImportError:
        body = f"<pre>{html.escape(code)}</pre>"
    return Html(
        f"<style>{asset('paper.css')}</style>"
        f'<figure style="margin:.3em 0"><figcaption style="font-size:90%;opacity:.8">{html.escape(place)}</figcaption>'
        f"{body}</figure>",
        f"# {place}\n{code}",
    )


def table(
    rows: Iterable[Mapping], *, columns: Sequence[str] | None = None, caption: str | None = None, digits: int = 4
) -> Html:
    """A table of dicts (or dataclasses' `vars`): one row each, a column per key in order of first appearance.

    Numbers are right-aligned and cut to `digits` significant digits; None and absent values show as a dash.
    """
    rows = [dict(row) if isinstance(row, Mapping) else dict(vars(row)) for row in rows]
    columns = list(columns or dict.fromkeys(key for row in rows for key in row))
    cells = [[_value(row.get(column), digits) for column in columns] for row in rows]
    number = [
        bool(rows) and all(isinstance(row.get(column), numbers.Number | None) for row in rows) for column in columns
    ]
    side = ["right" if right else "left" for right in number]
    heads = [str(column).replace("_", " ") for column in columns]

    def line(tag: str, values: Iterable[str]) -> str:
        scope = ' scope="col"' if tag == "th" else ""
        return "".join(
            f'<{tag}{scope} style="text-align:{where};padding:.25em .7em">{html.escape(value)}</{tag}>'
            for value, where in zip(values, side, strict=True)
        )

    body = "".join(f"<tr>{line('td', row)}</tr>" for row in cells)
    title = f'<caption style="text-align:left;padding:.3em 0">{html.escape(caption)}</caption>' if caption else ""
    markup = (
        f'<table style="border-collapse:collapse;font-size:14px">{title}<thead><tr>{line("th", heads)}</tr></thead>'
        f"<tbody>{body}</tbody></table>"
    )
    widths = [max(width(row[i]) for row in [heads, *cells]) for i in range(len(columns))]
    lines = [
        "  ".join(_padded(value, widths[i], number[i]) for i, value in enumerate(row)).rstrip()
        for row in [heads, *cells]
    ]
    lines.insert(1, "  ".join("─" * columns_ for columns_ in widths))
    return Html(markup, "\n".join(([caption] if caption else []) + lines))


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


def _cells(texts: Sequence[str], masked: Sequence[bool], given: Sequence[bool], name: str) -> str:
    cell = (
        "display:inline-block;min-width:1.3em;padding:.15em .3em;margin:1px;text-align:center;"
        "border:1px {line} rgba(127,127,127,.8);border-radius:3px;{fill}"
    )
    hidden = cell.format(line="dashed", fill="background:rgba(127,127,127,.28)")
    clean = cell.format(line="solid", fill="background:rgba(86,180,233,.30)")
    plain = cell.format(line="solid", fill="border-color:transparent;opacity:.8")
    marks = "".join(
        f'<span style="{hidden if hide else plain if free else clean}">{MASK if hide else html.escape(visible(text))}</span>'
        for text, hide, free in zip(texts, masked, given, strict=True)
    )
    share = f"{sum(masked)} of {len(texts) - sum(given)} hidden" + (", without a frame: given" if any(given) else "")
    return (
        f'<div style="margin:.3em 0;font-size:15px;line-height:1.9"><span style="font-size:13px;opacity:.85">'
        f"{html.escape(name)} ({share})</span><br>{marks}</div>"
    )


def masked_row(
    texts: Sequence[str], masked: Sequence[bool], twin: Sequence[bool] | bool | None = None, *, name: str = "x_t",
    given: Sequence[bool] | None = None,
) -> Html:  # fmt: skip
    """A row of tokens noised at some t: `texts` [L] of the clean tokens, `masked` [L] bool.

    twin: the complementary view's mask [L], or True for the logical inverse of `masked` (no token is left out then).
    given: [L] bool, tokens that are never hidden (a prompt). Raises ValueError when the lengths differ.
    """
    masked = [bool(value) for value in masked]
    given = [False] * len(texts) if given is None else [bool(value) for value in given]
    views = [(name, masked)]
    if twin is not None and twin is not False:
        inverse = [not value for value in masked] if twin is True else [bool(value) for value in twin]
        views.append((f"{name}, complementary twin", inverse))
    for label, mask in [*views, ("given", given)]:
        if len(mask) != len(texts):
            raise ValueError(f"masked_row: {label} has {len(mask)} entries for {len(texts)} tokens; give one per token")
    text = "\n".join(
        f"{label}: " + " ".join(MASK if hide else visible(token) for token, hide in zip(texts, mask, strict=True))
        for label, mask in views
    )
    return Html("".join(_cells(texts, mask, given, label) for label, mask in views), text)


def asset(name: str) -> str:
    """The text of a page's part (html, css, js) that lies beside this module."""
    return files("dllm_core.show").joinpath(name).read_text(encoding="utf-8")

"""The player's static form, shown where scripts do not run (GitHub, untrusted notebooks).

HTML with inline styles only, which survive a notebook's sanitizer: a picture of the decoding, then a folded <details>
per step. It is readable without styles too: masks are shaded boxes, tokens filled in a step are bold.
"""

import html
from collections.abc import Iterator, Sequence
from itertools import groupby

from dllm_core.data.tokenizer import EOS, PAD
from dllm_core.show.html import MASK, SPECIAL, image_html, visible
from dllm_core.show.trace_view import cells, edit_words, masked_after, names, spread_steps, summary, token_text
from dllm_core.trace import Commit, Edit, Trace

STATIC_STEPS = 24  # of all traces together
STATIC_CELLS = 8_192  # tokens drawn in the steps of all traces together, about
STATIC_COMMITS = 24  # named with their confidence in one static step
TAIL = 8  # from so many on, ends in a row are counted

_LOOKS = {  # state → HTML tag, style
    "prompt": ("span", "opacity:.75"),
    "masked": ("span", "border:1px dashed #7f7f7f;background:rgba(127,127,127,.22)"),
    "now": ("b", "border:2px solid #D55E00;background:rgba(213,94,0,.18)"),
    "before": ("span", "border:1px solid #0072B2;background:rgba(86,180,233,.25)"),
    "by hand": ("u", "border:1px solid #007A59;border-width:1px 5px;text-decoration:none"),
}


def static_form(traces: Sequence[Trace], labels: Sequence[str], picture: bytes | None) -> str:
    """At most `STATIC_STEPS` steps of all traces, fewer for long ones, under `picture` (PNG) where there is one."""
    parts = ['<div style="font-size:12px;opacity:.8">Static form: trust this notebook, or export it, to play it.</div>']
    if picture:
        alt = f"{labels[0]}: four moments of the decoding, from all masked to the answer"
        parts.append(image_html(picture, alt))
    for trace, label in zip(traces, labels, strict=True):
        room = STATIC_CELLS // (len(traces) * max(len(trace.initial), 1))
        parts.append(_steps(trace, label, min(STATIC_STEPS // len(traces), max(4, room))))
    return "".join(parts)


def _steps(trace: Trace, label: str, most: int) -> str:
    """At most `most` steps of one trace, each folded but the last."""
    steps = spread_steps(len(trace.steps), most)
    head = f"{label}: {summary(trace)}. {MASK} masked; bold, thick frame: filled since the step above; thin: before."
    head += "".join(f" {visible(name)} is {name}." for name in names(trace).values())
    head += " Thick sides, underlined: by hand." if trace.edits else ""
    parts = [f'<div style="margin:.4em 0;font-size:14px;line-height:1.8">{html.escape(head)}']
    for since, k in zip([0, *steps], steps, strict=False):
        commits = [(index, commit) for index in range(since, k) for commit in trace.steps[index].commits]
        edits = [edit for edit in trace.edits if edit.step == k or since < edit.step < k]
        name = "start" if k == 0 else f"step {k}"
        masked = masked_after(trace, k)
        behind = ", all behind the end" if masked and trace.ended and k == len(trace.steps) else ""
        parts.append(
            f"<details{' open' if k == steps[-1] else ''}>"
            f"<summary>{name}: {len(commits)} filled, {masked} masked{behind}</summary>"
            f"<div>{' '.join(_runs(trace, k, since))}</div>{_named(trace, commits, edits)}</details>"
        )
    return "".join(parts) + "</div>"


def _runs(trace: Trace, k: int, since: int) -> Iterator[str]:
    """The sequence after `k` steps as HTML; adjacent cells of the same state form one element."""
    for state, run in groupby(cells(trace, k, since), key=lambda cell: cell.state):
        tag, style = _LOOKS[state]
        same = [(text, len(list(cells))) for text, cells in groupby(cell.text for cell in run)]
        text = html.escape("".join(_counted(text, count) for text, count in same))
        yield f'<{tag} style="{style}">{text}</{tag}>'


def _counted(text: str, count: int) -> str:
    """A token's text `count` times; of the end and of padding, many are a number."""
    return f"{text} × {count}" if count >= TAIL and text in (SPECIAL[EOS], SPECIAL[PAD]) else text * count


def _named(trace: Trace, commits: list[tuple[int, Commit]], edits: list[Edit]) -> str:
    """The edits by hand, and the first commits with their confidence, reason and step."""
    names = [f"by hand after step {edit.step}: {edit_words(trace, edit)}" for edit in edits]
    names += [
        f"{token_text(trace, commit.token)} {commit.confidence:.2f} {commit.reason} (step {index + 1})"
        for index, commit in commits[:STATIC_COMMITS]
    ]
    if len(commits) > STATIC_COMMITS:
        names.append(f"… and {len(commits) - STATIC_COMMITS} more")
    return f'<div style="font-size:12px">{html.escape(", ".join(names))}</div>' if names else ""

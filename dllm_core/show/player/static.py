"""What stands in the player's place where no script runs (GitHub, untrusted notebooks, text), drawn from the `Trace`.

HTML with inline styles only, which survive a notebook's sanitiser: a picture of the decoding, then a folded <details>
per step. It reads without any style too: masks are shaded boxes, what a step filled is bold.
"""

import base64
import html
from collections.abc import Sequence

from dllm_core.show.html import MASK
from dllm_core.show.results import first_masked
from dllm_core.show.strip import chosen_steps, strip, token_text
from dllm_core.trace import Trace

STATIC_STEPS = 24  # of all traces together
STATIC_CELLS = 8_192  # tokens drawn in the steps of all traces together, about
STATIC_COMMITS = 24  # named with their confidence in one static step
PICTURE_TOKENS = 512  # longer texts get no picture: nobody could read it

_LOOKS = {
    "prompt": ("span", "opacity:.75"),
    "masked": ("span", "border:1px dashed #7f7f7f;background:rgba(127,127,127,.22)"),
    "now": ("b", "border:2px solid #D55E00;background:rgba(213,94,0,.18)"),
    "before": ("span", "border:1px solid #0072B2;background:rgba(86,180,233,.25)"),
}


def static_form(traces: Sequence[Trace], labels: Sequence[str], picture: bytes | None) -> str:
    """At most `STATIC_STEPS` steps of all traces, fewer for long ones, under `still_picture` where there is one."""
    parts = ['<div style="font-size:12px;opacity:.8">Static form: trust this notebook, or export it, to play it.</div>']
    if picture:
        png, words = base64.b64encode(picture).decode("ascii"), html.escape(_words(labels[0]))
        parts.append(f'<img src="data:image/png;base64,{png}" alt="{words}" style="max-width:100%">')
    for trace, label in zip(traces, labels, strict=True):
        room = STATIC_CELLS // (len(traces) * max(len(trace.initial), 1))
        parts.append(_steps(trace, label, min(STATIC_STEPS // len(traces), max(4, room))))
    return "".join(parts)


def still_picture(trace: Trace, label: str) -> bytes | None:
    """PNG of four moments of a decoding; None for a text too long to read in it."""
    if len(trace.initial) > PICTURE_TOKENS:
        return None
    return strip(trace, chosen_steps(len(trace.steps), 4), 800, 16, label)


def _words(label: str) -> str:
    return f"{label}: four moments of the decoding, from all masked to the answer"


def _steps(trace: Trace, label: str, most: int) -> str:
    shown = chosen_steps(len(trace.steps), most)
    head = f"{label}: {summary(trace)}. {MASK} masked; bold, thick frame: filled since the step above; thin: before."
    parts = [f'<div style="margin:.4em 0;font-size:14px;line-height:1.8">{html.escape(head)}']
    for before, k in zip([0, *shown], shown, strict=False):
        new = [(index, commit) for index in range(before, k) for commit in trace.steps[index].commits]
        left = trace.steps[k - 1].masked if k else first_masked(trace)
        name = "start" if k == 0 else f"step {k}"
        parts.append(
            f"<details{' open' if k == shown[-1] else ''}><summary>{name}: {len(new)} filled, {left} masked</summary>"
            f"<div>{_runs(trace, k, {commit.position for _, commit in new})}</div>{_named(trace, new)}</details>"
        )
    return "".join(parts) + "</div>"


def summary(trace: Trace) -> str:
    return f"{trace.tokens} tokens, {trace.forwards} forwards, {trace.tokens_per_forward:.2f} tokens per forward"


def states(trace: Trace, k: int, now: set[int]) -> list[tuple[str, str]]:
    """(state, text) of stretches of the sequence after `k` steps, neighbours of one state joined.

    state: "prompt", "masked", "now" (positions in `now`) or "before".
    """
    runs: list[tuple[str, str]] = []
    for position, token in enumerate(trace.tokens_at(k)):
        if token == trace.mask_token_id:
            state, text = "masked", MASK
        else:
            given = trace.initial[position] != trace.mask_token_id and position not in now
            state = "prompt" if given else "now" if position in now else "before"
            text = token_text(trace, token)
        if runs and runs[-1][0] == state:
            runs[-1] = (state, runs[-1][1] + text)
        else:
            runs.append((state, text))
    return runs


def _runs(trace: Trace, k: int, now: set[int]) -> str:
    made = []
    for state, text in states(trace, k, now):
        tag, style = _LOOKS[state]
        made.append(f'<{tag} style="{style}">{html.escape(text)}</{tag}>')
    return " ".join(made)


def _named(trace: Trace, new: list) -> str:
    names = [
        f"{token_text(trace, c.token)} {c.confidence:.2f} {c.reason} (step {index + 1})"
        for index, c in new[:STATIC_COMMITS]
    ]
    more = [f"… and {len(new) - STATIC_COMMITS} more"] if len(new) > STATIC_COMMITS else []
    return f'<div style="font-size:12px">{html.escape(", ".join(names + more))}</div>' if names else ""


def plain_form(traces: Sequence[Trace], labels: Sequence[str]) -> str:
    """A few steps of each trace as plain lines, masks as shaded boxes."""
    parts = []
    for trace, label in zip(traces, labels, strict=True):
        lines = [f"{label}: {summary(trace)}"]
        for k in chosen_steps(len(trace.steps), 6):
            lines.append(f"{k:>4} " + "".join(text for _, text in states(trace, k, set())))
        parts.append("\n".join(lines))
    return "\n\n".join(parts)

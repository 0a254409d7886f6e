"""The decoding player: a `Trace` (up to three, side by side) as one piece of HTML and JavaScript without any address.

Python turns traces into plain data and a static form (a folded <details> per step, inline styles only, so that it
survives a notebook's sanitiser); player.js replaces that with the controls. Text of a model is data everywhere: it
passes `visible`, then `html.escape` here or textContent there, and `<` never stands in the JSON.
"""

import base64
import html
import json
import secrets
import zlib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from string import Template

from dllm_core.show_figures import write_whole
from dllm_core.show_html import MASK, visible
from dllm_core.show_results import first_masked, times, trace_labels
from dllm_core.show_strip import chosen_steps
from dllm_core.trace import DecodeStep, Trace

MOST_TRACES = 3
SCRIPTS = ("player_record.js", "player_side.js", "player.js")
STATIC_STEPS = 24  # of all traces together
STATIC_COMMITS = 24  # named with their confidence in one static step
COMPRESS_ABOVE = 150_000  # characters of JSON

REASONS = {
    "threshold": "its confidence was above the threshold",
    "fallback": "too few were above the threshold: it was among the most confident",
    "schedule": "its share of the step: it was among the most confident",
    "budget": "above the threshold, and within the decoding budget",
    "ar": "next token, left to right",
    "edit": "replaced a token that was committed before",
}


class Player:
    """The player of one to three traces. A notebook shows it by itself; `html` is the piece, `page()` a whole page."""

    def __init__(self, traces: Sequence[Trace], labels: Sequence[str] | None = None, clock: str = "forwards"):
        if not 1 <= len(traces) <= MOST_TRACES:
            raise ValueError(f"player: got {len(traces)} traces; give one to {MOST_TRACES}")
        self.traces, self.labels, self.clock = list(traces), trace_labels(traces, labels), clock
        times(traces[0], clock)  # raises for an unknown clock

    @property
    def html(self) -> str:
        data = {
            "clock": self.clock,
            "reasons": REASONS,
            "traces": [record(trace, label) for trace, label in zip(self.traces, self.labels, strict=True)],
        }
        return _template("player.html").substitute(
            id=f"dllm-player-{secrets.token_hex(5)}",
            css=_asset("player.css"),
            script="".join(map(_asset, SCRIPTS)),
            data=_script_data(data),
            static=_HINT
            + "".join(
                _static(trace, label, STATIC_STEPS // len(self.traces))
                for trace, label in zip(self.traces, self.labels, strict=True)
            ),
        )

    @property
    def text(self) -> str:
        return "\n\n".join(_plain(trace, label) for trace, label in zip(self.traces, self.labels, strict=True))

    def page(self, title: str = "decoding") -> str:
        """A whole HTML document that forbids itself every request."""
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
            "script-src 'unsafe-inline'\">"
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{html.escape(title)}</title>"
            "<style>:root{color-scheme:light dark}body{margin:0 auto;max-width:1500px;padding:1rem;"
            "font-family:system-ui,sans-serif}h1{font-size:1.3rem}</style></head>"
            f"<body><main><h1>{html.escape(title)}</h1>{self.html}</main></body></html>\n"
        )

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, str]:
        return {"text/html": self.html, "text/plain": self.text}

    def __repr__(self) -> str:
        return self.text


def player(*traces: Trace, labels: Sequence[str] | None = None, clock: str = "forwards") -> Player:
    """Step through one to three decodings on a common clock, "forwards" (of the model) or "seconds".

    Raises ValueError for another number of traces, of labels, or another clock; TypeError for what is no `Trace`.
    """
    return Player(traces, labels, clock)


def save_html(
    path: str | Path, *traces: Trace, labels: Sequence[str] | None = None, clock: str = "forwards",
    title: str = "decoding",
) -> Path:  # fmt: skip
    """Write the player as a stand-alone page that works with the network off. Gives the path."""
    return write_whole(path, Player(traces, labels, clock).page(title).encode("utf-8"))


def record(trace: Trace, label: str) -> dict:
    """What player.js draws from. Steps: block, commits, masked, confidence, entropy, changed drafts, held."""
    seen: dict[int, tuple] = {}
    steps = []
    for step in trace.steps:
        steps.append({
            "block": list(step.block),
            "commits": [
                [c.position, c.token, round(c.confidence, 4), c.reason, [[t, round(p, 4)] for t, p in c.alternatives]]
                for c in step.commits
            ],
            "masked": step.masked,
            "confidence": round(step.confidence, 4),
            "entropy": round(step.entropy, 4),
            "drafts": _changed(step, seen),
            "held": step.held,
        })  # fmt: skip
    return {
        "label": label,
        "style": trace.style,
        "mask": trace.mask_token_id,
        "eos": trace.eos_token_id,
        "initial": trace.initial,
        "vocabulary": {str(token): visible(text) for token, text in trace.vocabulary.items()},
        "forwards": times(trace, "forwards"),
        "seconds": [round(value, 6) for value in times(trace, "seconds")],
        "tokens": trace.tokens,
        "settings": {key: _short(value) for key, value in trace.settings.items() if value is not None},
        "steps": steps,
    }


def _short(value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _changed(step: DecodeStep, seen: dict[int, tuple]) -> list[list]:
    """Drafts that differ from those `seen` at their position (confidence to three digits); updates `seen`."""
    changes = []
    for position, token, confidence in step.draft:
        now = (token, round(confidence, 3))
        if seen.get(position) != now:
            seen[position] = now
            changes.append([position, *now])
    return changes


def _script_data(data: dict) -> str:
    """A JavaScript expression: the object itself, or {"deflate": base64} of its JSON where that is long."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    if len(text) > COMPRESS_ABOVE:
        packed = base64.b64encode(zlib.compress(text.encode("utf-8"))).decode("ascii")
        return json.dumps({"deflate": packed})
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _asset(name: str) -> str:
    return files("dllm_core").joinpath(name).read_text(encoding="utf-8")


def _template(name: str) -> Template:
    return Template(_asset(name))


# The static form ---------------------------------------------------------------------------------------------------

_LOOKS = {
    "prompt": "opacity:.75",
    "masked": "border:1px dashed rgba(127,127,127,.9);background:rgba(127,127,127,.22);border-radius:3px",
    "now": "border:2px solid #D55E00;background:rgba(213,94,0,.18);border-radius:3px;font-weight:bold",
    "before": "border:1px solid rgba(0,114,178,.8);background:rgba(86,180,233,.25);border-radius:3px",
}


_HINT = (
    '<div style="font-size:12px;opacity:.8">Static form: trust this notebook to get the player with its controls.</div>'
)


def _static(trace: Trace, label: str, most: int) -> str:
    shown = chosen_steps(len(trace.steps), most)
    head = f"{label}: {_summary(trace)}. Dashed: masked; thick frame: filled since the step above; thin: before."
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


def _summary(trace: Trace) -> str:
    return f"{trace.tokens} tokens, {trace.forwards} forwards, {trace.tokens_per_forward:.2f} tokens per forward"


def _runs(trace: Trace, k: int, now: set[int]) -> str:
    """The sequence after `k` steps, neighbours of one state joined: a long text stays small."""
    runs: list[list[str]] = []
    for position, token in enumerate(trace.tokens_at(k)):
        if token == trace.mask_token_id:
            state, text = "masked", MASK
        else:
            state = "prompt" if trace.initial[position] == token else "now" if position in now else "before"
            text = visible(trace.vocabulary.get(token, f"#{token}"))
        if runs and runs[-1][0] == state:
            runs[-1][1] += text
        else:
            runs.append([state, text])
    return " ".join(f'<span style="{_LOOKS[state]}">{html.escape(text)}</span>' for state, text in runs)


def _named(trace: Trace, new: list) -> str:
    names = [
        f"{visible(trace.vocabulary.get(c.token, f'#{c.token}'))} {c.confidence:.2f} {c.reason} (step {index + 1})"
        for index, c in new[:STATIC_COMMITS]
    ]
    more = [f"… and {len(new) - STATIC_COMMITS} more"] if len(new) > STATIC_COMMITS else []
    return f'<div style="font-size:12px">{html.escape(", ".join(names + more))}</div>' if names else ""


def _plain(trace: Trace, label: str) -> str:
    """A few steps as plain lines, masks as shaded boxes."""
    lines = [f"{label}: {_summary(trace)}"]
    for k in chosen_steps(len(trace.steps), 6):
        tokens = trace.tokens_at(k)
        texts = [MASK if t == trace.mask_token_id else visible(trace.vocabulary.get(t, f"#{t}")) for t in tokens]
        lines.append(f"{k:>4} {''.join(texts)}")
    return "\n".join(lines)

"""The decoding player: one to three `Trace`s as self-contained HTML and JavaScript that loads nothing from the network.

Python turns traces into JSON and a static form (see `static`); player.js replaces the static form with controls. Text
written by a model is never markup: it passes `visible`, then `html.escape` in Python or textContent in JavaScript, and
`<` is escaped in the JSON.
"""

import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from string import Template

from dllm_core.common.files import write_whole
from dllm_core.show.html import asset, one_line, script_piece, visible
from dllm_core.show.player.static import static_form
from dllm_core.show.strip import strip
from dllm_core.show.trace_view import (
    cells,
    masked_after,
    names,
    reasons,
    spread_steps,
    summary,
    times,
    trace_labels,
    waits,
)
from dllm_core.trace import DecodeStep, Trace

MOST_TRACES = 3
PICTURE_TOKENS = 512  # longer texts get no picture: nobody could read it
SCRIPTS = (
    "unpack.js",
    *(f"player/{name}.js" for name in ("record", "cell", "side", "branch", "curve", "why", "bar", "player")),
)


class Player:
    """Step through one to three decodings on a common clock, "forwards" (of the model) or "seconds".

    A notebook displays it, with a picture where scripts do not run. `html`: for embedding in a page, without that
    picture; `page()`: a complete page; `text`: a few steps as plain lines. Raises ValueError for another number of
    traces or of labels, or another clock; TypeError for anything that is not a `Trace`.
    """

    def __init__(self, *traces: Trace, labels: Sequence[str] | None = None, clock: str = "forwards"):
        if not 1 <= len(traces) <= MOST_TRACES:
            raise ValueError(f"player: got {len(traces)} traces; give one to {MOST_TRACES}")
        self.traces, self.clock = traces, clock
        self.labels = trace_labels(traces, labels)
        times(traces[0], clock)  # raises for an unknown clock

    @property
    def html(self) -> str:
        return self._piece(picture=None)

    @property
    def text(self) -> str:
        parts = []
        for trace, label in zip(self.traces, self.labels, strict=True):
            lines = [f"{label}: {summary(trace)}"]
            for k in spread_steps(len(trace.steps), 6):
                lines.append(f"{f'step {k}' if k else 'start':>8} " + "".join(cell.text for cell in cells(trace, k)))
            parts.append("\n".join(lines))
        return "\n\n".join(parts)

    def _piece(self, picture: bytes | None) -> str:
        traces = [record(trace, label) for trace, label in zip(self.traces, self.labels, strict=True)]
        return script_piece(
            "player/player.html",
            css=asset("palette.css") + asset("player/player.css"),
            script="".join(map(asset, SCRIPTS)),
            static=static_form(self.traces, self.labels, picture),
            data={"clock": self.clock, "traces": traces},
        )

    def page(self, title: str = "decoding") -> str:
        """A complete HTML document; its content security policy forbids every request."""
        return Template(asset("player/page.html")).substitute(title=html.escape(one_line(title)), player=self.html)

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, str | bytes]:
        """HTML with a picture where scripts do not run, and that picture for formats without HTML (slides, PDF)."""
        first, picture = self.traces[0], None
        if len(first.initial) <= PICTURE_TOKENS:
            picture = strip(first, spread_steps(len(first.steps), 4), 800, 16, self.labels[0])
        bundle = {"text/html": self._piece(picture), "text/plain": self.text}
        return bundle | ({"image/png": picture} if picture else {})

    def __repr__(self) -> str:
        return self.text


player = Player  # as the notebooks call it


def save_html(
    path: str | Path, *traces: Trace, labels: Sequence[str] | None = None, clock: str = "forwards",
    title: str = "decoding",
) -> Path:  # fmt: skip
    """Write the player as a stand-alone page that works without a network. Returns the path."""
    return write_whole(path, Player(*traces, labels=labels, clock=clock).page(title))


def record(trace: Trace, label: str) -> dict:
    """The JSON record of a trace that player.js draws.

    steps: for each `DecodeStep` its block [start, end]; commits, each [position, token, confidence, reason,
    alternatives]; masked, confidence, entropy and held, as in the step; drafts: the guesses that changed since the last
    step, as three columns [differences of positions, tokens, confidences in thousandths]. edits: made by hand, each
    [step, position, token or None, action, why]. names: of special tokens in the tokenizer. A decoding that still runs
    gets `running: true` beside these.
    """
    seen: dict[int, tuple] = {}
    set_values = {key: value for key, value in trace.settings.items() if value is not None}
    settings = {k: f"{v:g}" if isinstance(v, float) else one_line(str(v)) for k, v in set_values.items()}
    steps = [
        {
            "block": list(step.block),
            "commits": [
                [c.position, c.token, round(c.confidence, 4), c.reason, [[t, round(p, 4)] for t, p in c.alternatives]]
                for c in step.commits
            ],
            "masked": step.masked,
            "confidence": round(step.confidence, 4),
            "entropy": round(step.entropy, 4),
            "drafts": _changed(step, before, seen),
            "held": step.held_back,
        }
        for step, before in zip(trace.steps, trace.changes(), strict=False)
    ]
    return {
        "label": label,
        "style": one_line(trace.style),
        "reasons": reasons(trace),
        "waits": waits(trace),
        "threshold": trace.settings.get("threshold") if trace.style == "llada2" else None,
        "mask": trace.mask_token_id,
        "ends": trace.ends,
        "initial": trace.initial,
        "vocabulary": {str(token): visible(text) for token, text in trace.vocabulary.items()},
        "names": names(trace),
        "forwards": times(trace, "forwards"),
        "seconds": [round(value, 6) for value in times(trace, "seconds")],
        "tokens": trace.tokens,
        "written": trace.written(),
        "finished": trace.ended or not masked_after(trace, len(trace.steps)),
        "rate": f"{trace.tokens_per_forward:.2f}",
        "settings": settings,
        "steps": steps,
        "edits": [[e.step, e.position, e.token, e.action, one_line(e.why)] for e in trace.edits],
    }


def _changed(step: DecodeStep, before: Iterable[int], seen: dict[int, tuple]) -> list[list[int]]:
    """The drafts that differ from `seen` (position → draft), as the columns of `record`; updates `seen`. before: positions
    that changed before this step: a guess where a token was masked again is a new one."""
    for position in before:
        seen.pop(position, None)
    changed, last = [], 0
    for position, token, confidence in sorted(step.draft):
        draft = (token, round(1000 * confidence))
        if seen.get(position) != draft:
            seen[position] = draft
            changed.append((position - last, *draft))
            last = position
    return [[row[column] for row in changed] for column in range(3)]

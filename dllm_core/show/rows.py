"""Rows of tokens as pictures: noised views, packed batches, and the film of samples that a training leaves behind.

Drawn from `Noised` views, a `Batch`, or decoded samples; every state has an outline or a hatch besides its color.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from dllm_core.common.files import write_whole
from dllm_core.show.figures import COLORS, Picture, in_our_look, new_figure
from dllm_core.show.html import MASK, visible
from dllm_core.show.trace_view import cells
from dllm_core.trace import Trace

MOST = 48  # tokens of a sample that the film keeps


def _across(text: str) -> float:
    """Columns that a cell with `text` takes."""
    from rich.cells import cell_len

    return max(2.0, cell_len(text) * 0.92 + 0.7)


def _chips(ax, y: float, cells: Iterable[tuple[str, str, float, float]], limit: float, x: float = 0.0) -> float:
    """Draw cells (text, state, shade 0..1, columns) from (x, y) on, wrapped at `limit`; gives the y of the last line.

    State: "masked" (dashed), "given" (no frame), "made" (framed, shaded), "end" (dotted).
    """
    from matplotlib.patches import Rectangle

    start = x
    for text, state, shade, across in cells:
        if x + across > limit:
            x, y = start, y + 1.25
        if state != "given":
            line = {"masked": "--", "made": "-", "end": ":"}[state]
            fill = {"masked": "#ececec", "end": "white"}.get(state) or (0.0, 0.447, 0.698, 0.06 + 0.4 * shade)
            edge = COLORS["blue"] if state == "made" else "#555555"
            look = {"facecolor": fill, "edgecolor": edge, "linestyle": line, "linewidth": 1}
            ax.add_patch(Rectangle((x, y), across - 0.25, 1.0, **look))
        ax.text(x + (across - 0.25) / 2, y + 0.53, text, ha="center", va="center", fontsize=11,
                color="#6a6a6a" if state in ("given", "masked") else "#1a1a1a")  # fmt: skip
        x += across
    return y


def _page(rows: float, columns: float):
    """(figure, axes) whose data units are text columns and lines, y downwards."""
    figure, ax = new_figure(0.112 * columns, 0.33 * rows)
    ax.set_axis_off()
    ax.set_xlim(0, columns)
    ax.set_ylim(rows, 0)
    return figure, ax


@in_our_look
def noised_rows(
    texts: Sequence[str], views: Mapping[str, Sequence[bool]], given: Sequence[bool] | None = None
) -> Picture:
    """A row of tokens under several masks, one under the other. texts: [L] clean tokens; views: name → masked [L] bool;
    given: [L] bool, tokens that are never hidden (a prompt), drawn without a frame.

    Raises ValueError when lengths differ.
    """
    texts, given = [visible(text) for text in texts], list(given or [False] * len(texts))
    for name, masked in {**views, "given": given}.items():
        if len(masked) != len(texts):
            raise ValueError(
                f"noised_rows: {name} has {len(masked)} entries for {len(texts)} tokens; give one per token"
            )
    long = sum(map(_across, texts))
    lines = -(-long // 84)
    figure, ax = _page(len(views) * (2.2 + 1.25 * (lines - 1)) + 0.3, min(long, 88) + 2)
    y, told = 0.0, []
    for name, masked in views.items():
        ax.text(0, y + 0.45, f"{name}: {sum(map(bool, masked))} of {len(texts)} hidden", fontsize=10, va="center")
        states = ["masked" if hide else "given" if free else "made" for hide, free in zip(masked, given, strict=True)]
        cells = [
            (MASK if s == "masked" else text, s, 0.5, _across(text)) for text, s in zip(texts, states, strict=True)
        ]
        y = _chips(ax, y + 0.9, cells, 88) + 1.3
        told.append(f"{name}: " + " ".join(cell[0] for cell in cells))
    return Picture(figure, "\n".join(told))


@in_our_look
def packing(batches: Mapping[str, object], eos: int, block_size: int | None = None, rows: int = 6) -> Picture:
    """What packing and filling do to rows: a panel per name → `Batch`, each of its first `rows` rows as a strip.

    Prompts (not scored), what is scored, eos filling and padding are told apart; thick ticks stand where a document
    begins, thin ones at its block borders (block_size, tokens). eos: the token id that ends and fills.
    Raises ValueError when there is no batch.
    """
    if not batches:
        raise ValueError("packing: no batch given; give name → Batch")
    figure, axes = new_figure(10.5, 0.5 + len(batches) * (0.75 + 0.27 * rows), rows=len(batches), share_x=True)
    axes = [axes] if len(batches) == 1 else axes
    kinds = {
        "prompt: seen, not scored": {"facecolor": "#d9d9d9", "hatch": ""},
        "scored": {"facecolor": COLORS["sky"], "hatch": ""},
        "eos filling": {"facecolor": "white", "hatch": "...."},
        "padding: wasted": {"facecolor": "white", "hatch": "xxx"},
    }
    told = []
    for ax, (name, batch) in zip(axes, batches.items(), strict=True):
        states = [_states(batch, row, eos) for row in range(len(batch.tokens))]
        for row, line in enumerate(states[:rows]):
            for start, end, kind in _stretches(line):
                how = kinds[list(kinds)[kind]]
                ax.barh(row, end - start, left=start, height=0.72, edgecolor="#555555", linewidth=0.5, **how)
            document, position = batch.document[row].tolist(), batch.position[row].tolist()
            for x, (number, place) in enumerate(zip(document, position, strict=True)):
                if number >= 0 and place == 0:
                    ax.plot([x, x], [row - 0.46, row + 0.46], color="#1a1a1a", linewidth=2.4, solid_capstyle="butt")
                elif number >= 0 and block_size and place % block_size == 0:
                    ax.plot([x, x], [row - 0.36, row + 0.36], color=COLORS["vermilion"], linewidth=1.1)
        flat = [kind for line in states for kind in line]
        parts = [round(100 * flat.count(kind) / len(flat)) for kind in range(4)]
        words = f"{name}: {parts[1]} % scored, {parts[0]} % prompt, {parts[2]} % filling, {parts[3]} % padding"
        ax.set_title(words, fontsize=11)
        told.append(words)
        ax.set_yticks(range(min(rows, len(states))), [str(i + 1) for i in range(min(rows, len(states)))])
        ax.set_ylim(min(rows, len(states)) - 0.4, -0.6)
        ax.set_ylabel("row")
        ax.grid(False)
    axes[-1].set_xlabel("token of the row")
    axes[-1].set_xlim(-1, max(batch.tokens.shape[1] for batch in batches.values()) + 1)
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    legend = [Patch(label=label, edgecolor="#555555", **how) for label, how in kinds.items()]
    legend.append(Line2D([], [], color="#1a1a1a", linewidth=2.4, label="document begins"))
    if block_size:
        legend.append(Line2D([], [], color=COLORS["vermilion"], linewidth=1.1, label=f"block of {block_size}"))
    figure.legend(handles=legend, loc="outside lower center", ncols=3)
    return Picture(figure, "; ".join(told))


def _states(batch, row: int, eos: int) -> list[int]:
    """0 prompt, 1 scored, 2 filling (an eos after an eos of the same document), 3 padding, for each token of a row."""
    tokens, document, scored = (part[row].tolist() for part in (batch.tokens, batch.document, batch.scored))
    states = []
    for i, (token, number) in enumerate(zip(tokens, document, strict=True)):
        repeated = i > 0 and token == eos == tokens[i - 1] and number == document[i - 1]
        states.append(3 if number < 0 else 2 if repeated else int(scored[i]))
    return states


def _stretches(states: Sequence[int]) -> list[tuple[int, int, int]]:
    starts = [i for i, state in enumerate(states) if i == 0 or state != states[i - 1]]
    return [(start, end, states[start]) for start, end in zip(starts, [*starts[1:], len(states)], strict=True)]


class SampleFilm:
    """Samples of a model while it learns: `film.add(step, trace)`, then `film.picture()` as a strip of frames.

    file: JSON lines they are kept in, beside the run's other files, and read back from; None keeps them in memory.
    A sample at a step drops those of that step or later, which a run taken up again from an earlier state left.
    """

    def __init__(self, file: str | Path | None = None, title: str = "samples over training"):
        self.file, self.title, self.frames = file and Path(file), title, []
        if self.file and self.file.is_file():
            lines = self.file.read_text(encoding="utf-8").splitlines()
            self.frames = [json.loads(line) for line in lines if line.endswith("}")]

    def __len__(self) -> int:
        return len(self.frames)

    def add(self, step, sample: Trace | str) -> None:
        """Keep `sample` as of `step`: a `TrainStep`, or a plain number of steps."""
        number = getattr(step, "step", step)
        frame = {"step": number, "loss": getattr(step, "loss", None), "block_size": getattr(step, "block_size", None)}
        self.frames = [old for old in self.frames if old["step"] < number] + [frame | _sampled(sample)]
        if self.file:
            write_whole(self.file, "".join(json.dumps(frame, ensure_ascii=False) + "\n" for frame in self.frames))

    def chosen(self, most: int = 6) -> list[dict]:
        """At most `most` frames, evenly spread, the first and the last among them."""
        count = len(self.frames)
        if count <= most:
            return list(self.frames)
        return [self.frames[round(i * (count - 1) / (most - 1))] for i in range(most)]

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict | tuple[dict, dict]:
        return self.picture()._repr_mimebundle_() if self.frames else {"text/plain": f"{self.title}: none were kept"}

    @in_our_look
    def picture(self, most: int = 6) -> Picture:
        """The film: a row of tokens per frame, shaded by confidence. Raises ValueError when there are no frames."""
        if not self.frames:
            raise ValueError("film: no samples yet; give `film` to show.progress together with `sample`")
        frames, left, columns = self.chosen(most), 15, 100
        lines = [1 + int(sum(_across(text) for text, _ in f["tokens"]) // (columns - left - 3)) for f in frames]
        figure, ax = _page(sum(1.25 * count + 0.75 for count in lines) + 1.6, columns)
        ax.text(0, 0.6, self.title, fontsize=12, va="center")
        y = 1.4
        for frame, count in zip(frames, lines, strict=True):
            under = [f"loss {frame['loss']:.2f}"] if frame["loss"] is not None else []
            under += [f"block {frame['block_size']}"] if frame["block_size"] else []
            ax.text(0, y + 0.5, f"step {frame['step']:,}", fontsize=11, va="center", fontweight="bold")
            ax.text(0, y + 1.3, ", ".join(under), fontsize=8.5, va="center", color="#555555")
            cells = [
                (text, "end" if text == "⟨eos⟩" else "made", p or 0.0, _across(text)) for text, p in frame["tokens"]
            ]
            _chips(ax, y, cells, columns, x=left)
            y += 1.25 * count + 0.6
            ax.plot([0, columns], [y - 0.2, y - 0.2], color="#cccccc", linewidth=0.6)
        ax.text(0, y + 0.15, "stronger shade: surer when it was written", fontsize=9, va="center", color="#555555")
        told = "\n".join(f"step {f['step']}: {''.join(t for t, _ in f['tokens'])}" for f in frames)
        return Picture(figure, f"{self.title}\n{told}")


def _sampled(sample: Trace | str) -> dict:
    """tokens: (text, confidence or None) of the answer, through eos and at most `MOST`; and the whole text."""
    if isinstance(sample, str):
        return {"text": sample, "tokens": [(visible(sign), None) for sign in sample[:MOST]]}
    tokens = []
    for cell in cells(sample, len(sample.steps)):
        if cell.state == "prompt":
            continue
        tokens.append((cell.text, cell.commit and round(cell.commit.confidence, 3)))
        if cell.token == sample.eos_token_id or len(tokens) == MOST:
            break
    return {"text": sample.text, "tokens": tokens, "forwards": sample.forwards}

"""Pictures of a decoding for slides and the README: an animated GIF with a frame per step, or chosen steps as a strip.

Drawn with Pillow from the `Trace` alone, on a light background that dark pages can show too. The outline tells the state
without color: dashed = masked, thick = filled in this step, thin = filled before, double = edited, none = prompt. A line
below the tokens marks the current block.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dllm_core.common.files import write_whole
from dllm_core.show.figures import fonts
from dllm_core.show.html import MASK
from dllm_core.show.trace_view import (
    Cell,
    cells,
    chosen_steps,
    drawn_length,
    spread_steps,
    times,
    token_text,
    trace_label,
)
from dllm_core.trace import Trace

INK, PAPER, QUIET, GUESS = (26, 26, 26), (255, 255, 255), (100, 100, 100), (125, 125, 125)
BLUE, ORANGE, PURPLE = (0, 114, 178), (213, 94, 0), (160, 44, 142)
LEGEND = (
    "dashed: masked (grey: the guess) · thick: filled in this step · thin: filled before, darker = more confident · "
    "line below: current block"
)


@dataclass(frozen=True)
class _Page:
    """The layout, the same in all frames. boxes: (left, top, right, bottom) in pixels per position, None where nothing
    is drawn; unit: pixels of the font's size; fonts: "latin", "chinese" and "small"."""

    boxes: list[tuple[int, int, int, int] | None]
    size: tuple[int, int]
    unit: int
    fonts: dict[str, object]


def _page(trace: Trace, width: int, unit: int, prompt: bool) -> _Page:
    """The layout of a trace's final text, wrapped at `width` pixels."""
    faces = {
        "latin": _font(fonts()[0], unit),
        "chinese": _font(fonts()[-1], unit),
        "small": _font(fonts()[-1], round(unit * 0.72)),
    }
    first = 0 if prompt else len(trace.prompt)
    last = drawn_length(trace)
    left, height = unit, round(unit * 1.75)
    x, y, boxes = left, round(unit * 2.6), []
    for position, token in enumerate(trace.final):
        if position < first or position >= last:
            boxes.append(None)
            continue
        across = max(round(unit * 1.5), round(_measure(faces, token_text(trace, token))) + round(unit * 0.5))
        if x + across > width - left:
            x, y = left, y + height + round(unit * 0.45)
        boxes.append((x, y, x + across, y + height))
        x += across + round(unit * 0.22)
    return _Page(boxes, (width, y + height + round(unit * 0.9)), unit, faces)


def _font(family: str, size: int):
    from matplotlib import font_manager
    from PIL import ImageFont

    path = font_manager.findfont(font_manager.FontProperties(family=family))
    return ImageFont.truetype(str(path), size, index=getattr(path, "face_index", 0))


def _face(faces: dict, sign: str):
    return faces["latin"] if ord(sign) < 0x2E80 and sign not in MASK else faces["chinese"]


def _measure(faces: dict, text: str) -> float:
    return sum(_face(faces, sign).getlength(sign) for sign in text)


def _frame(trace: Trace, k: int, page: _Page, label: str):
    """The sequence after `k` steps."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", page.size, PAPER)
    draw = ImageDraw.Draw(image)
    unit = page.unit
    shown = [(cell, box) for cell, box in zip(cells(trace, k), page.boxes, strict=True) if box is not None]
    masked = sum(cell.state == "masked" for cell, _ in shown)
    decoded = sum(cell.state != "prompt" for cell, _ in shown)
    forwards = times(trace)[k]
    title = f"{label}   step {k} of {len(trace.steps)}   {forwards} forwards   {masked} of {decoded} cells masked"
    draw.text((unit, round(unit * 0.8)), title, font=page.fonts["small"], fill=QUIET)
    first, end = trace.steps[k - 1].block if k else (0, 0)
    for cell, box in shown:
        if first <= cell.position < end:
            below = box[3] + max(2, unit // 7)
            draw.rectangle((box[0], below, box[2], below + max(1, unit // 12)), fill=INK)
        if cell.state == "masked":
            _masked(draw, box, cell.guess or "", page)
        elif cell.state == "prompt":
            _text(draw, box, cell.text, page, QUIET)
        else:
            _filled(draw, box, cell, page)
            _text(draw, box, cell.text, page, INK)
    return image


def _masked(draw, box, guess: str, page: _Page) -> None:
    _dashed(draw, box, page.unit)
    fits = guess and _measure(page.fonts, guess) <= box[2] - box[0] - 4
    _text(draw, box, guess if fits else "·", page, GUESS if fits else QUIET)


def _filled(draw, box, cell: Cell, page: _Page) -> None:
    new = cell.state == "now"
    thin = max(1, page.unit // 16)
    line = max(2, page.unit // 7) if new else thin
    ground = _mix(ORANGE, PAPER, 0.14) if new else _mix(BLUE, PAPER, 0.06 + 0.40 * cell.commit.confidence**2)
    color = PURPLE if cell.edited else ORANGE if new else BLUE
    draw.rectangle(box, fill=ground, outline=color, width=line)
    if cell.edited:
        gap = line + thin
        inner = (box[0] + gap, box[1] + gap, box[2] - gap, box[3] - gap)
        draw.rectangle(inner, outline=color, width=thin)


def _legend(page: _Page):
    """The meaning of the outlines, wrapped at the page's width."""
    from PIL import Image, ImageDraw

    face, room = page.fonts["small"], page.size[0] - 2 * page.unit
    lines = [""]
    for part in LEGEND.split(" · "):
        longer = f"{lines[-1]} · {part}" if lines[-1] else part
        if face.getlength(longer) <= room:
            lines[-1] = longer
        else:
            lines.append(part)
    image = Image.new("RGB", (page.size[0], round(page.unit * (1.1 * len(lines) + 0.5))), PAPER)
    for i, line in enumerate(lines):
        ImageDraw.Draw(image).text((page.unit, round(page.unit * 1.1 * i)), line, font=face, fill=QUIET)
    return image


def stacked(images: list):
    """The images one under the other, as one."""
    from PIL import Image

    column = Image.new("RGB", (max(image.width for image in images), sum(image.height for image in images)), PAPER)
    top = 0
    for image in images:
        column.paste(image, (0, top))
        top += image.height
    return column


def _mix(color, ground, share: float) -> tuple[int, ...]:
    return tuple(round(a * share + b * (1 - share)) for a, b in zip(color, ground, strict=True))


def _text(draw, box, text: str, page: _Page, fill) -> None:
    x = (box[0] + box[2] - _measure(page.fonts, text)) / 2
    base = box[1] + (box[3] - box[1]) * 0.70
    for sign in text:  # Latin and Chinese characters come from two fonts
        face = _face(page.fonts, sign)
        draw.text((x, base), sign, font=face, fill=fill, anchor="ls")
        x += face.getlength(sign)


def _dashed(draw, box, unit: int) -> None:
    dash, (x0, y0, x1, y1) = max(3, unit // 4), box
    draw.rectangle(box, fill=(244, 244, 244))
    for x in range(x0, x1, 2 * dash):
        draw.line([(x, y0), (min(x + dash, x1), y0)], fill=QUIET)
        draw.line([(x, y1), (min(x + dash, x1), y1)], fill=QUIET)
    for y in range(y0, y1, 2 * dash):
        draw.line([(x0, y), (x0, min(y + dash, y1))], fill=QUIET)
        draw.line([(x1, y), (x1, min(y + dash, y1))], fill=QUIET)


def gif(
    trace: Trace, path: str | Path, *, width: int = 760, seconds: float = 8.0, label: str | None = None,
    prompt: bool = True, frames: int = 80, legend: bool = True,
) -> Path:  # fmt: skip
    """Write the decoding as an animated GIF: a frame per step (at most `frames`), the result held for two seconds.

    width: pixels; seconds: of one round, about; prompt: whether to draw the prompt's tokens; legend: a line with the
    meaning of the outlines. Returns the path.
    """
    label = trace_label(trace, label)
    page = _page(trace, width, 20, prompt)
    below = [_legend(page)] if legend else []
    steps = spread_steps(len(trace.steps), frames)
    images = [stacked([_frame(trace, k, page, label), *below]).quantize(64) for k in steps]
    pause = int(min(900, max(60, 1000 * seconds / max(len(images), 1))))
    pauses = [max(700, pause), *[pause] * (len(images) - 2), 2200] if len(images) > 1 else [1000]
    out = io.BytesIO()
    images[0].save(out, "GIF", save_all=True, append_images=images[1:], duration=pauses, loop=0, optimize=True)
    return write_whole(path, out.getvalue())


def png(
    trace: Trace, path: str | Path, *, steps: Sequence[int] | None = None, width: int = 760, label: str | None = None,
    prompt: bool = True,
) -> Path:  # fmt: skip
    """Write chosen steps of the decoding one under the other. steps: numbers 0..len(trace.steps) (default: five).

    Drawn at twice `width` pixels. Raises ValueError for a step outside the trace. Returns the path.
    """
    label = trace_label(trace, label)
    return write_whole(path, strip(trace, chosen_steps(trace, steps, 5), 2 * width, 40, label, prompt))


def strip(trace: Trace, steps: Sequence[int], width: int, unit: int, label: str, prompt: bool = True) -> bytes:
    """PNG of chosen steps one under the other. width: pixels; unit: pixels of the font's size."""
    page = _page(trace, width, unit, prompt)
    column = stacked([*(_frame(trace, k, page, label) for k in steps), _legend(page)])
    out = io.BytesIO()
    column.quantize(64).save(out, "PNG", optimize=True)
    return out.getvalue()

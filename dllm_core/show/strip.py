"""Pictures of a decoding for slides and the README: an animated GIF with a frame per step, or chosen steps as a strip.

Drawn with Pillow from the `Trace` alone, on a light background that dark pages can show too. The outline tells the state
without color: dashed = masked, thick = filled in this step, thin = filled before, double = edited, thick sides = by hand, none
= prompt. A line below the tokens marks the current block.
"""

import io
import itertools
from collections.abc import Sequence
from pathlib import Path

from dllm_core.common.files import write_whole
from dllm_core.show.figures import fonts
from dllm_core.show.rows import flow
from dllm_core.show.trace_view import cells, chosen_steps, drawn_length, spread_steps, times, token_text, trace_labels
from dllm_core.trace import Trace

INK, PAPER, QUIET, GUESS = (26, 26, 26), (255, 255, 255), (100, 100, 100), (125, 125, 125)
BLUE, ORANGE, PURPLE, GREEN = (0, 114, 178), (213, 94, 0), (160, 44, 142), (0, 122, 89)
WIDTH = 760  # pixels
LONGEST = 3.6  # font sizes; the text of a wider token is drawn smaller
MOST_CELLS = 32_000  # tokens in all frames of a GIF: 80 frames of 400
DOT = " · "  # between the parts of the legend
LEGEND = (
    "dashed: masked (grey: the guess)",
    "thick: filled in this step",
    "thin: filled before, darker = more confident",
    "line below: current block",
)
BY_HAND = ("thick sides: by hand",)  # in a decoding that a person edited


class _Font:
    """The families of `fonts()` at a size in pixels: each character is drawn with the first that has it."""

    def __init__(self, size: int):
        from matplotlib.font_manager import FontProperties, findfont, get_font
        from PIL import ImageFont

        self.faces = []  # (index of a character's glyph, 0 without one; Pillow's font)
        for family in fonts():
            path = findfont(FontProperties(family=family))
            drawn = ImageFont.truetype(str(path), size, index=getattr(path, "face_index", 0))
            self.faces.append((get_font(path).get_char_index, drawn))

    def face(self, sign: str):
        return next((drawn for glyph, drawn in self.faces if glyph(ord(sign))), self.faces[0][1])

    def measure(self, text: str) -> float:
        """Length in pixels."""
        return sum(self.face(sign).getlength(sign) for sign in text)

    def write(self, draw, x: float, base: float, text: str, fill) -> None:
        """Draw the text from `x` on; base: y of its baseline."""
        for sign in text:
            draw.text((x, base), sign, font=self.face(sign), fill=fill, anchor="ls")
            x += self.face(sign).getlength(sign)


class _Strip:
    """The frames of a trace, all of the same layout: cells of one width, so that a masked one does not tell what comes,
    wrapped at `width` pixels. A longer text is drawn smaller.

    unit: pixels of the font's size; boxes: position → (left, top, right, bottom) in pixels.
    """

    def __init__(self, trace: Trace, label: str, width: int, unit: int, prompt: bool):
        self.trace, self.label, self.width, self.unit = trace, label, width, unit
        self.font, self.small, self.fonts = _Font(unit), _Font(round(unit * 0.72)), {}
        final, height, gap = trace.final, round(unit * 1.75), round(unit * 0.22)
        positions = range(0 if prompt else len(trace.prompt), drawn_length(trace))
        lengths = [round(self.font.measure(token_text(trace, final[position]))) for position in positions]
        is_open = [trace.initial[position] == trace.mask_token_id for position in positions]
        words = [0 if final[p] in trace.ends else length for p, length in zip(positions, lengths, strict=True)]
        wide = min(round(unit * LONGEST), max(itertools.compress(words, is_open), default=0))
        lengths = [wide if masked else length for length, masked in zip(lengths, is_open, strict=True)]
        widths = [max(round(unit * 1.7), length + round(unit * 0.5)) for length in lengths]
        places = flow([width + gap for width in widths], self.width - 2 * unit + gap)
        self.boxes = {}
        for position, across, (x, line) in zip(positions, widths, places, strict=True):
            top = round(unit * 2.6) + line * (height + round(unit * 0.45))
            self.boxes[position] = (unit + x, top, unit + x + across, top + height)
        self.height = max(box[3] for box in self.boxes.values()) + round(unit * 0.9)

    def frame(self, k: int):
        """The sequence after `k` steps."""
        from PIL import Image, ImageDraw

        trace, unit = self.trace, self.unit
        image = Image.new("RGB", (self.width, self.height), PAPER)
        draw = ImageDraw.Draw(image)
        shown = [cell for cell in cells(trace, k) if cell.position in self.boxes]
        masked = sum(cell.state == "masked" for cell in shown)
        decoded = sum(cell.state != "prompt" for cell in shown)
        title = (
            f"{self.label}   step {k} of {len(trace.steps)}   {times(trace)[k]} forward passes   "
            f"{masked} of {decoded} cells masked"
        )
        self.small.write(draw, unit, round(unit * 1.6), title, QUIET)
        first, end = trace.steps[k - 1].block if k else (0, 0)
        for cell in shown:
            box = self.boxes[cell.position]
            if first <= cell.position < end:
                below = box[3] + max(2, unit // 7)
                draw.rectangle((box[0], below, box[2], below + max(1, unit // 12)), fill=QUIET)
            if cell.state == "masked":
                _dashed(draw, box, unit)
                fits = cell.guess and self.font.measure(cell.guess) <= box[2] - box[0] - 4
                self._text(draw, box, cell.guess if fits else "·", GUESS if fits else QUIET)
            elif cell.state == "prompt":
                self._text(draw, box, cell.text, QUIET)
            else:
                self._outline(draw, box, cell)
                self._text(draw, box, cell.text, INK)
        return image

    def _outline(self, draw, box, cell) -> None:
        """The box of a filled position."""
        new, thin = cell.state == "now", max(1, self.unit // 16)
        if cell.edit:
            draw.rectangle(box, fill=PAPER, outline=GREEN, width=thin)
            for x in (box[0], box[2] - self.unit // 4):
                draw.rectangle((x, box[1], x + self.unit // 4, box[3]), fill=GREEN)
            return
        line = max(2, self.unit // 7) if new else thin
        ground = _tint(ORANGE, 0.14) if new else _tint(BLUE, 0.06 + 0.40 * cell.commit.confidence**2)
        color = PURPLE if cell.edited else ORANGE if new else BLUE
        draw.rectangle(box, fill=ground, outline=color, width=line)
        if cell.edited:
            gap = line + thin
            inner = (box[0] + gap, box[1] + gap, box[2] - gap, box[3] - gap)
            draw.rectangle(inner, outline=color, width=thin)

    def _text(self, draw, box, text: str, fill) -> None:
        font, room = self.font, box[2] - box[0] - round(self.unit * 0.3)
        if font.measure(text) > room:
            size = max(self.unit // 2, int(self.unit * room / font.measure(text)))
            font = self.fonts[size] = self.fonts.get(size) or _Font(size)
        while font.measure(text) > room and len(text) > 1:
            text = text[:-2] + "…"
        x = (box[0] + box[2] - font.measure(text)) / 2
        font.write(draw, x, box[1] + (box[3] - box[1]) * 0.70, text, fill)

    def legend(self):
        """The meaning of the outlines, wrapped at the width."""
        from PIL import Image, ImageDraw

        between, legend = self.small.measure(DOT), LEGEND + BY_HAND[: bool(self.trace.edits)]
        widths = [self.small.measure(part) + between for part in legend]
        places = flow(widths, self.width - 2 * self.unit + between)
        image = Image.new("RGB", (self.width, round(self.unit * (1.1 * (places[-1][1] + 1) + 0.5))), PAPER)
        for line, parts in itertools.groupby(zip(places, legend, strict=True), key=lambda placed: placed[0][1]):
            words = DOT.join(part for _, part in parts)
            base = round(self.unit * (1.1 * line + 0.8))
            self.small.write(ImageDraw.Draw(image), self.unit, base, words, QUIET)
        return image


def _tint(color: tuple[int, int, int], share: float) -> tuple[int, ...]:
    """The color on white, with `share` of its strength."""
    return tuple(round(value * share + 255 * (1 - share)) for value in color)


def _dashed(draw, box, unit: int) -> None:
    dash, (x0, y0, x1, y1) = max(3, unit // 4), box
    draw.rectangle(box, fill=(244, 244, 244))
    for x in range(x0, x1, 2 * dash):
        draw.line([(x, y0), (min(x + dash, x1), y0)], fill=QUIET)
        draw.line([(x, y1), (min(x + dash, x1), y1)], fill=QUIET)
    for y in range(y0, y1, 2 * dash):
        draw.line([(x0, y), (x0, min(y + dash, y1))], fill=QUIET)
        draw.line([(x1, y), (x1, min(y + dash, y1))], fill=QUIET)


def stacked(images: list):
    """The images one under the other, as one."""
    from PIL import Image

    column = Image.new("RGB", (max(image.width for image in images), sum(image.height for image in images)), PAPER)
    top = 0
    for image in images:
        column.paste(image, (0, top))
        top += image.height
    return column


def gif(trace: Trace, path: str | Path, *, prompt: bool = True, frames: int = 80, legend: bool = True) -> Path:
    """Write the decoding as an animated GIF: a frame per step, the result held for two seconds. There are at most
    `frames`, and fewer of more than 400 tokens, down to 6.

    prompt: whether to draw the prompt's tokens; legend: a line with the meaning of the outlines. Returns the path.
    """
    frames = min(frames, max(6, MOST_CELLS // len(trace.final)))
    drawing = _Strip(trace, trace_labels([trace])[0], WIDTH, 20, prompt)
    below = [drawing.legend()] if legend else []
    images = [stacked([drawing.frame(k), *below]).quantize(64) for k in spread_steps(len(trace.steps), frames)]
    pause = int(min(900, max(60, 8000 / len(images))))  # ms, for a round of about eight seconds
    pauses = [max(700, pause), *[pause] * (len(images) - 2), 2200] if len(images) > 1 else [1000]
    out = io.BytesIO()
    images[0].save(out, "GIF", save_all=True, append_images=images[1:], duration=pauses, loop=0, optimize=True)
    return write_whole(path, out.getvalue())


def png(
    trace: Trace, path: str | Path, *, steps: Sequence[int] | None = None, width: int = WIDTH, prompt: bool = True
) -> Path:
    """Write chosen steps of the decoding one under the other. steps: numbers 0..len(trace.steps) (default: five).

    Drawn at twice `width` pixels. Raises ValueError for a step outside the trace. Returns the path.
    """
    label = trace_labels([trace])[0]
    return write_whole(path, strip(trace, chosen_steps(trace, steps, 5), 2 * width, 40, label, prompt))


def strip(trace: Trace, steps: Sequence[int], width: int, unit: int, label: str, prompt: bool = True) -> bytes:
    """PNG of chosen steps one under the other. width: pixels; unit: pixels of the font's size."""
    drawing = _Strip(trace, label, width, unit, prompt)
    column = stacked([*map(drawing.frame, steps), drawing.legend()])
    out = io.BytesIO()
    column.quantize(64).save(out, "PNG", optimize=True)
    return out.getvalue()

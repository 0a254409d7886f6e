"""Pictures of a decoding for slides and the README: one frame per step as a moving picture, or chosen steps as a strip.

Drawn with Pillow from the `Trace` alone. Light ground, readable on dark pages too. Every state has its own outline, so
that it reads without colour: dashed = masked, thick = filled in this step, thin = filled before, double = edited, none =
prompt; a line below marks the block in work.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dllm_core.common.files import write_whole
from dllm_core.show.figures import fonts
from dllm_core.show.html import MASK, visible
from dllm_core.show.results import NAMES, times
from dllm_core.trace import Trace

INK, PAPER, QUIET, GUESS = (26, 26, 26), (255, 255, 255), (100, 100, 100), (125, 125, 125)
BLUE, ORANGE, PURPLE = (0, 114, 178), (213, 94, 0), (160, 44, 142)
LEGEND = (
    "dashed: masked (grey: the guess) · thick: filled in this step · thin: filled before, stronger shade = surer · "
    "line below: current block"
)


@dataclass(frozen=True)
class _Page:
    """Where everything stands, the same in all frames. boxes: (left, top, right, bottom) in pixels per position, None
    where nothing is drawn."""

    boxes: list[tuple[int, int, int, int] | None]
    size: tuple[int, int]
    unit: int
    fonts: dict[str, object]


def _font_files() -> dict[str, tuple[str, int]]:
    """Family → (file, face in it) of the fonts to draw with, the one with Chinese glyphs last."""
    from matplotlib import font_manager

    found = {}
    for family in fonts():
        file = font_manager.findfont(font_manager.FontProperties(family=family))
        found[family] = (str(file), getattr(file, "face_index", 0))
    return found


def _page(trace: Trace, wide: int, unit: int, prompt: bool) -> _Page:
    from PIL import ImageFont

    files = list(_font_files().values())
    latin = ImageFont.truetype(files[0][0], unit, index=files[0][1])
    chinese = ImageFont.truetype(files[-1][0], unit, index=files[-1][1])
    small = ImageFont.truetype(files[-1][0], round(unit * 0.72), index=files[-1][1])
    faces = {"latin": latin, "chinese": chinese, "small": small}
    final, first = trace.final, len(trace.prompt) if trace.prompt and not prompt else 0
    last = end_of_interest(trace)
    left, top, high = unit, round(unit * 2.6), round(unit * 1.75)
    x, y, boxes = left, top, []
    for position, token in enumerate(final):
        text = token_text(trace, token)
        if position < first or position >= last:
            boxes.append(None)
            continue
        across = max(round(unit * 1.5), round(_measure(faces, text)) + round(unit * 0.5))
        if x + across > wide - left:
            x, y = left, y + high + round(unit * 0.45)
        boxes.append((x, y, x + across, y + high))
        x += across + round(unit * 0.22)
    return _Page(boxes, (wide, y + high + round(unit * 0.9)), unit, faces)


def token_text(trace: Trace, token: int) -> str:
    """A token's text as it may be shown: nothing invisible, its number where the trace has no text of it."""
    return visible(trace.vocabulary.get(token, f"#{token}"))


def end_of_interest(trace: Trace) -> int:
    """End of what is worth drawing: through eos, without filling or masks that were never decoded."""
    final = trace.final
    open_ = [i for i, token in enumerate(trace.initial) if token == trace.mask_token_id]
    for position in open_:
        if final[position] == trace.eos_token_id:
            return position + 1 if all(i <= position or final[i] in _fill(trace) for i in open_) else len(final)
    return len(final)


def _fill(trace: Trace) -> tuple[int, ...]:
    pads = [token for token, text in trace.vocabulary.items() if text == "<|endoftext|>"]
    return (trace.eos_token_id, trace.mask_token_id, *pads)


def _face(faces: dict, sign: str):
    return faces["latin"] if ord(sign) < 0x2E80 and sign not in MASK else faces["chinese"]


def _measure(faces: dict, text: str) -> float:
    return sum(_face(faces, sign).getlength(sign) for sign in text)


def _frame(trace: Trace, k: int, page: _Page, label: str):
    """The sequence after `k` steps."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", page.size, PAPER)
    draw = ImageDraw.Draw(image)
    unit, step = page.unit, trace.steps[k - 1] if k else None
    now = {commit.position for commit in step.commits} if step else set()
    commits = {commit.position: commit for done in trace.steps[:k] for commit in done.commits}
    drafts = {position: (token, p) for position, token, p in step.draft} if step else {}
    tokens = trace.tokens_at(k)
    left = sum(box is not None and tokens[i] == trace.mask_token_id for i, box in enumerate(page.boxes))
    forwards = times(trace)[k]
    cells = sum(box is not None and trace.initial[i] == trace.mask_token_id for i, box in enumerate(page.boxes))
    words = f"{label}   step {k} of {len(trace.steps)}   {forwards} forwards   {left} of {cells} cells masked"
    draw.text((unit, round(unit * 0.8)), words, font=page.fonts["small"], fill=QUIET)
    first, end = step.block if step else (0, 0)
    for position, box in enumerate(page.boxes):
        if box is None:
            continue
        if first <= position < end:
            below = box[3] + max(2, unit // 7)
            draw.rectangle((box[0], below, box[2], below + max(1, unit // 12)), fill=INK)
        text = token_text(trace, tokens[position])
        if tokens[position] == trace.mask_token_id:
            _masked(draw, box, trace, drafts.get(position), page)
        elif position in commits:
            _filled(draw, box, commits[position], position in now, page)
            _text(draw, box, text, page, INK)
        else:
            _text(draw, box, text, page, QUIET)
    return image


def _masked(draw, box, trace: Trace, guess: tuple[int, float] | None, page: _Page) -> None:
    text = token_text(trace, guess[0]) if guess else ""
    _dashed(draw, box, page.unit)
    fits = text and _measure(page.fonts, text) <= box[2] - box[0] - 4
    _text(draw, box, text if fits else "·", page, GUESS if fits else QUIET)


def _filled(draw, box, commit, new: bool, page: _Page) -> None:
    thick, thin = max(2, page.unit // 7), max(1, page.unit // 16)
    ground = _mix(ORANGE, PAPER, 0.14) if new else _mix(BLUE, PAPER, 0.06 + 0.40 * commit.confidence**2)
    colour = PURPLE if commit.reason == "edit" else ORANGE if new else BLUE
    draw.rectangle(box, fill=ground, outline=colour, width=thick if new else thin)
    if commit.reason == "edit":
        gap = (thick if new else thin) + thin
        inner = (box[0] + gap, box[1] + gap, box[2] - gap, box[3] - gap)
        draw.rectangle(inner, outline=colour, width=thin)


def _legend(page: _Page):
    """A line that says what the outlines mean, cut into as many lines as the width asks for."""
    from PIL import Image, ImageDraw

    face, room = page.fonts["small"], page.size[0] - 2 * page.unit
    lines = [""]
    for part in LEGEND.split(" · "):
        longer = f"{lines[-1]} · {part}" if lines[-1] else part
        lines = [*lines[:-1], longer] if face.getlength(longer) <= room else [*lines, part]
    image = Image.new("RGB", (page.size[0], round(page.unit * (1.1 * len(lines) + 0.5))), PAPER)
    for i, line in enumerate(lines):
        ImageDraw.Draw(image).text((page.unit, round(page.unit * 1.1 * i)), line, font=face, fill=QUIET)
    return image


def _stacked(images: list):
    from PIL import Image

    whole = Image.new("RGB", (images[0].width, sum(image.height for image in images)), PAPER)
    top = 0
    for image in images:
        whole.paste(image, (0, top))
        top += image.height
    return whole


def _mix(colour, ground, share: float) -> tuple[int, ...]:
    return tuple(round(a * share + b * (1 - share)) for a, b in zip(colour, ground, strict=True))


def _text(draw, box, text: str, page: _Page, fill) -> None:
    x = (box[0] + box[2] - _measure(page.fonts, text)) / 2
    base = box[1] + (box[3] - box[1]) * 0.70
    for sign in text:  # Latin signs and Chinese ones come from two fonts
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


def _check(trace: Trace) -> None:
    if not isinstance(trace, Trace):
        raise TypeError(
            f"expected a Trace, got {type(trace).__name__}; decode.generate gives a list: pass one of its items"
        )


def chosen_steps(count: int, most: int) -> list[int]:
    """At most `most` step numbers from 0 to `count`, evenly spaced, both ends among them."""
    if count + 1 <= most:
        return list(range(count + 1))
    return sorted({round(i * count / (most - 1)) for i in range(most)})


def gif(
    trace: Trace, path: str | Path, *, width: int = 760, seconds: float = 8.0, label: str | None = None,
    prompt: bool = True, frames: int = 80, legend: bool = True,
) -> Path:  # fmt: skip
    """Write the decoding as a moving picture: a frame per step (at most `frames`), the result held for two seconds.

    width: pixels; seconds: of one round, about; prompt: whether to draw the prompt's tokens; legend: a line that says
    what the outlines mean. Gives the path.
    """
    _check(trace)
    page = _page(trace, width, 20, prompt)
    label = label or NAMES.get(trace.style, trace.style)
    shown = chosen_steps(len(trace.steps), frames)
    below = [_legend(page)] if legend else []
    images = [_stacked([_frame(trace, k, page, label), *below]).quantize(64) for k in shown]
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

    Drawn at twice `width` pixels. Raises ValueError for a step outside the trace. Gives the path.
    """
    _check(trace)
    steps = chosen_steps(len(trace.steps), 5) if steps is None else list(steps)
    bad = [k for k in steps if not 0 <= k <= len(trace.steps)]
    if bad or not steps:
        raise ValueError(f"steps={steps}: must be one or more numbers from 0 to {len(trace.steps)}")
    return write_whole(path, strip(trace, steps, 2 * width, 40, label or NAMES.get(trace.style, trace.style), prompt))


def strip(trace: Trace, steps: Sequence[int], wide: int, unit: int, label: str, prompt: bool = True) -> bytes:
    """PNG of chosen steps one under the other. wide: pixels; unit: pixels of the type's size."""
    page = _page(trace, wide, unit, prompt)
    whole = _stacked([*(_frame(trace, k, page, label) for k in steps), _legend(page)])
    out = io.BytesIO()
    whole.quantize(64).save(out, "PNG", optimize=True)
    return out.getvalue()

"""`dllm figures NAME …`: the pictures of the pages and of the notebooks, drawn by name, or all of them.

Pictures of a decoding or a training need the trained chain (`dllm run all`), the screenshots (see_…) Chromium and
Playwright.
"""

import argparse
import io
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from dllm_core import show
from dllm_core.checkpoints.formats import load_checkpoint
from dllm_core.common.errors import UsageError
from dllm_core.common.files import display_path, write_whole
from dllm_core.common.paths import resolve
from dllm_core.config import DecodeConfig
from dllm_core.data.batches import PackedBatches
from dllm_core.data.jsonl import TokenDataset, chat_documents
from dllm_core.data.tokenizer import load_tokenizer
from dllm_core.noise import corrupt
from dllm_core.notebook.asking import generate_answers
from dllm_core.schedules import NoiseSchedule
from dllm_core.show.html import MASK
from dllm_core.show.rows import TokenRow, draw_token_rows
from dllm_core.show.strip import stacked
from dllm_core.show.trace_view import times
from dllm_core.trace import Trace
from dllm_core.workshop import screenshots

MOST = 300_000  # bytes of a picture that is committed
PAUSE = 260  # milliseconds per forward in a race
ANSWERS = {  # style → (checkpoint, how it is decoded)
    "ar": ("minimind_sft", DecodeConfig("ar", 64)),
    "llada1": ("diffusion_llada1_sft", DecodeConfig("llada1", 64, block_length=16, draft=True)),
    "llada2": ("diffusion_llada2_sft", DecodeConfig("llada2", 64, threshold=0.9, draft=True)),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `dllm figures`."""
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)} (default: all)")


def run(options: argparse.Namespace) -> None:
    """Write the named pictures (all, without a name) to figures/. Raises UsageError for an unknown name, and for a
    picture larger than may be committed (`MOST` bytes)."""
    names = options.names or NAMES
    if unknown := [name for name in names if name not in NAMES]:
        raise UsageError(f"no picture {unknown[0]!r}; there are {', '.join(NAMES)}")
    paths = [path for name in names if name not in screenshots.VIEWS for path in draw(name)]
    if views := [name for name in names if name in screenshots.VIEWS]:
        paths += screenshots.take(views)  # one JupyterLab for all of them
    for path in paths:
        print(display_path(path))
        if path.stat().st_size > MOST:
            raise UsageError(f"{path}: {path.stat().st_size:,} bytes; a committed picture has at most {MOST:,}")


def draw(name: str) -> list[Path]:
    """The files of one picture of `PICTURES`, `RACES` or "decoding"."""
    if name == "decoding":
        return [show.gif(answer("llada2"), resolve("figures/decoding.gif"))]
    if name in RACES:
        return [race([answer(style) for style in RACES[name]], resolve(f"figures/{name}.gif"))]
    return [show.save_figure(PICTURES[name](), name)]


def answer(style: str) -> Trace:
    """The answer of the style's SFT checkpoint. LLaDA 1 writes one token a step, in blocks as in notebook 05; LLaDA 2 in
    those of its training."""
    checkpoint, config = ANSWERS[style]
    loaded = load_checkpoint(f"weights/{checkpoint}_best.pt")
    if style == "llada2":
        config = replace(config, block_length=loaded.info.block_size)
    return generate_answers(loaded, ["你是谁？"], config)[0]


def race(traces: Sequence[Trace], path: Path) -> Path:
    """Write the traces, one below the other, as an animated GIF on a common clock of model forwards. Returns the path."""
    from PIL import Image, ImageSequence

    films = []
    with tempfile.TemporaryDirectory() as folder:
        for trace in traces:
            legend = trace is traces[-1]  # one legend for all
            frames = len(trace.steps) + 1
            file = show.gif(trace, Path(folder, "film.gif"), prompt=False, frames=frames, legend=legend)
            with Image.open(file) as film:
                films.append([frame.convert("RGB") for frame in ImageSequence.Iterator(film)])
    clocks = [times(trace) for trace in traces]
    frames = []
    for forwards in range(max(clock[-1] for clock in clocks) + 1):
        steps = [max(k for k, time in enumerate(clock) if time <= forwards) for clock in clocks]
        frames.append(stacked([film[min(k, len(film) - 1)] for film, k in zip(films, steps, strict=True)]))
    # one palette for all frames, so that only changed pixels are stored
    sample = stacked([frames[0], frames[len(frames) // 2], frames[-1]])
    palette = sample.quantize(48, method=Image.Quantize.MAXCOVERAGE)  # white stays white
    frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    out = io.BytesIO()
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:], loop=0, optimize=True,
                   duration=[900, *[PAUSE] * (len(frames) - 2), 3000])  # fmt: skip
    return write_whole(path, out.getvalue())


def noise() -> show.Picture:
    tokenizer, chats = tokenizer_and_chats()
    tokens, scored = min((chats[i] for i in range(20)), key=lambda example: len(example[0]))
    x_0, maskable = (torch.tensor(part.tolist())[None] for part in (tokens, scored))
    band, generator = NoiseSchedule.band(0.05, 0.95), torch.Generator().manual_seed(0)
    view, complement = corrupt(x_0, maskable, band, tokenizer.mask_token_id, generator)
    texts = [show.visible(tokenizer.decode([token])) for token in x_0[0].tolist()]
    rows = []
    for name, noised in (("noisy view x_t", view), ("its complementary view", complement)):
        boxes = []
        for text, masked, scored in zip(texts, noised.masked[0].tolist(), maskable[0].tolist(), strict=True):
            boxes.append((MASK, "masked", 0) if masked else (text, "filled" if scored else "prompt", 0.5))
        rows.append(TokenRow(name, f"{int(noised.masked.sum())} of {len(texts)} masked", boxes))
    return draw_token_rows(rows)


def packing() -> show.Picture:
    tokenizer, chats = tokenizer_and_chats()
    to_blocks = "packed, each padded to whole blocks (LLaDA 2)"
    fills = {
        "whole conversations, packed (AR)": {},
        to_blocks: {"fill": "block", "block_size": 8},
        "one to a sequence, padded to the longest (LLaDA 1)": {"fill": "batch"},
    }
    rows = {"batch_size": 8, "seq_len": 128, "pack": "whole"}
    batches = {words: next(PackedBatches(chats, **rows, **fill)) for words, fill in fills.items()}
    return show.packing(batches, tokenizer.eos_token_id, {to_blocks: 8}, rows=4)


def tokenizer_and_chats() -> tuple[object, TokenDataset]:
    tokenizer = load_tokenizer("data/tokenizer")
    return tokenizer, chat_documents("data/sft_tiny.jsonl", tokenizer, 128)


RACES = {"race": ("ar", "llada1", "llada2"), "ar": ("ar",), "llada1": ("llada1",)}
PICTURES = {
    "attention": show.attention_picture,
    "noise": noise,
    "packing": packing,
}
NAMES = ("decoding", *RACES, *PICTURES, *screenshots.VIEWS)

"""The chosen pictures that README and notebooks show, each made by its name: `dllm figures race noise`.

Without a name all are made. Those of a decoding or a training need the trained chain (`dllm run all`), the photographs
(see_…) Chromium and Playwright.
"""

import argparse
import io
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from dllm_core import show
from dllm_core.checkpoints.run_folder import RunFolder, find_checkpoint, load
from dllm_core.common.errors import UsageError
from dllm_core.common.files import display_path, write_whole
from dllm_core.common.paths import resolve
from dllm_core.config import DecodeConfig
from dllm_core.data.batches import PackedBatches
from dllm_core.data.chat import chat_prompt
from dllm_core.data.jsonl import chat_documents
from dllm_core.data.tokenizer import load_tokenizer
from dllm_core.noise import corrupt
from dllm_core.notebook import parameters
from dllm_core.notebook.setup import parse_numbers
from dllm_core.samplers import generate
from dllm_core.schedules import BlockSchedule, NoiseSchedule, learning_rate
from dllm_core.show.html import MASK
from dllm_core.show.rows import TokenRow, draw_token_rows
from dllm_core.trace import Trace
from dllm_core.train import TrainStep
from dllm_core.workshop import screenshots

MOST = 300_000  # bytes of a picture that is committed
CHECKPOINTS = {"ar": "minimind_sft", "llada1": "diffusion_llada1_sft", "llada2": "diffusion_llada2_sft"}


def answer(checkpoint: str, prompt: str, config: DecodeConfig) -> Trace:
    """The trace of a chat checkpoint's answer to `prompt`."""
    loaded = load(checkpoint)
    return generate(loaded, [chat_prompt(loaded.tokenizer, prompt)], config)[0]


def styled(style: str, given) -> Trace:
    """The answer of the style's own checkpoint. LLaDA 1 writes one token a step, in blocks as in notebook 05."""
    config = DecodeConfig(style, max_new_tokens=64, draft=style != "ar")
    if style != "ar":
        config = replace(config, block_length=given.block_length)
    if style == "llada2":
        config = replace(config, threshold=given.threshold)
    checkpoint = given.checkpoint if style == "llada2" else f"weights/{CHECKPOINTS[style]}_best.pt"
    return answer(checkpoint, given.prompt, config)


def race(traces: Sequence[Trace], path: Path, width: int = 760, pause: int = 260) -> Path:
    """Write the traces one under the other as one moving picture on a common clock of model forwards.

    width: pixels; pause: milliseconds a forward. Gives the path.
    """
    from PIL import Image, ImageSequence

    films = []
    with tempfile.TemporaryDirectory() as folder:
        for i, trace in enumerate(traces):
            last = i == len(traces) - 1  # one legend for all
            file = show.gif(trace, Path(folder) / f"{i}.gif", width=width, prompt=False, frames=len(trace.steps) + 1,
                            legend=last)  # fmt: skip
            with Image.open(file) as moving:
                films.append([frame.convert("RGB") for frame in ImageSequence.Iterator(moving)])
    clocks = [[0] * (len(trace.steps) + 1) for trace in traces]
    for clock, trace in zip(clocks, traces, strict=True):
        for k, step in enumerate(trace.steps, 1):
            clock[k] = clock[k - 1] + step.forwards
    ends = [clock[-1] for clock in clocks]
    height = sum(film[0].height for film in films)
    frames = []
    for now in range(max(ends) + 1):
        frame, y = Image.new("RGB", (width, height), "white"), 0
        for film, clock in zip(films, clocks, strict=True):
            k = max(i for i, forwards in enumerate(clock) if forwards <= now)
            frame.paste(film[min(k, len(film) - 1)], (0, y))
            y += film[0].height
        frames.append(frame)
    # one palette for all frames: then only what changes is stored
    sample = Image.new("RGB", (width, 3 * height))
    for i, frame in enumerate((frames[0], frames[len(frames) // 2], frames[-1])):
        sample.paste(frame, (0, i * height))
    palette = sample.quantize(48, method=Image.Quantize.MAXCOVERAGE)  # white stays white
    frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    out = io.BytesIO()
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:], loop=0, optimize=True,
                   duration=[900, *[pause] * (len(frames) - 2), 3000])  # fmt: skip
    return write_whole(path, out.getvalue())


def _saved(picture: show.Picture, name: str) -> list[Path]:
    return [show.save_figure(picture, name)]


def _decoding(given) -> list[Path]:
    trace, folder = styled("llada2", given), resolve("figures")
    return [show.gif(trace, folder / "decoding.gif"), show.png(trace, folder / "decoding.png")]


def _ar(given) -> list[Path]:
    return [race([styled("ar", given)], resolve("figures/ar.gif"))]


def _llada1(given) -> list[Path]:
    return [race([styled("llada1", given)], resolve("figures/llada1.gif"))]


def _race(given) -> list[Path]:
    return [race([styled(style, given) for style in CHECKPOINTS], resolve("figures/race.gif"))]


def _attention(given) -> list[Path]:
    return _saved(show.attention_picture(), "attention")


def _schedules(given) -> list[Path]:
    return _saved(
        show.noise_schedules([NoiseSchedule(kind) for kind in ("linear", "cosine", "cosine_squared")]),
        "noise_schedules",
    )


def _shares(given) -> list[Path]:
    bands = [NoiseSchedule.band(0.05, 0.95, kind) for kind in ("linear", "cosine", "cosine_squared")]
    return _saved(show.loss_shares(bands), "loss_shares")


def _blocks(given) -> list[Path]:
    of = _laptop("03_llada2_pretrain")
    steps = of["max_iters"]
    blocks = BlockSchedule(of["seq_len"], steps, parse_numbers(of["wsd_phase_ratios"], float),
                           parse_numbers(of["wsd_block_sizes_up"]), parse_numbers(of["wsd_block_sizes_down"]))  # fmt: skip
    shape = {"warmup": of["warmup_steps"], "decay_ratio": of["decay_ratio"], "min_ratio": of["min_lr_ratio"]}
    rates = [of["learning_rate"] * learning_rate(step, steps, **shape) for step in range(steps)]
    return _saved(show.block_schedule(blocks, steps, rates), "block_schedule")


def _noise(given) -> list[Path]:
    tokenizer, chats = _chats()
    tokens, scored = min((chats[i] for i in range(20)), key=lambda example: len(example[0]))
    x_0, maskable = (torch.tensor(part.tolist())[None] for part in (tokens, scored))
    band, generator = NoiseSchedule.band(0.05, 0.95), torch.Generator().manual_seed(0)
    view, twin = corrupt(x_0, maskable, band, tokenizer.mask_token_id, generator)
    texts = [show.visible(tokenizer.decode([token])) for token in x_0[0].tolist()]
    rows = []
    for name, noised in (("noisy view x_t", view), ("its complementary twin", twin)):
        boxes = []
        for text, hidden, answer in zip(texts, noised.masked[0].tolist(), maskable[0].tolist(), strict=True):
            boxes.append((MASK, "masked", 0) if hidden else (text, "filled" if answer else "prompt", 0.5))
        rows.append(TokenRow(name, f"{int(noised.masked.sum())} of {len(texts)} hidden", boxes))
    return _saved(draw_token_rows(rows), "noise")


def _packing(given) -> list[Path]:
    tokenizer, chats = _chats()
    made = lambda **how: next(PackedBatches(chats, batch_size=8, seq_len=128, pack="whole", **how))
    batches = {
        "whole conversations, packed (AR)": made(),
        "packed, filled to blocks (LLaDA 2)": made(fill="block", block_size=16),
        "one to a row, filled to the longest (LLaDA 1)": made(fill="batch"),
    }
    return _saved(show.packing(batches, tokenizer.eos_token_id, 16, rows=4), "packing")


def _training(given) -> list[Path]:
    run = RunFolder(find_checkpoint("weights/diffusion_llada2_pretrain")[0])
    steps = [TrainStep(**line) for line in run.metrics()]
    of = _laptop("03_llada2_pretrain")
    merged = [int(file.stem) for _, file in run.checkpoints()[: of["llada2_topk_merge_k"]]]
    return _saved(show.training_curve(steps, "LLaDA 2 pretraining", merged), "training")


def _film(given) -> list[Path]:
    file = find_checkpoint("weights/diffusion_llada2_sft")[0] / "samples.jsonl"
    return _saved(show.SampleFilm(file, "LLaDA 2 learns to answer").picture(), "film")


def _laptop(notebook: str) -> dict:
    """The values in a notebook's parameters cell."""
    declared = parameters.read_parameters(resolve(f"notebooks/{notebook}.ipynb"))
    return {name: one.default for name, one in declared.items()}


def _chats():
    tokenizer = load_tokenizer("data/tokenizer")
    return tokenizer, chat_documents("data/sft_tiny.jsonl", tokenizer, 128)


PICTURES = {
    "decoding": _decoding, "race": _race, "ar": _ar, "llada1": _llada1, "attention": _attention, "noise": _noise,
    "noise_schedules": _schedules, "loss_shares": _shares, "block_schedule": _blocks, "packing": _packing,
    "training": _training, "film": _film,
}  # fmt: skip
PHOTOGRAPHS = tuple(screenshots.VIEWS)
EVERY = (*PICTURES, *PHOTOGRAPHS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `dllm figures`."""
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(EVERY)} (default: all)")
    parser.add_argument("--checkpoint", default="weights/diffusion_llada2_sft_best.pt", help="LLaDA 2's")
    parser.add_argument("--prompt", default="你是谁？")
    parser.add_argument("--threshold", type=float, default=0.9)
    parser.add_argument("--block-length", type=int, default=16, help="tokens")


def run(options: argparse.Namespace) -> None:
    """Write the named pictures to figures/ and print their paths.

    Raises UsageError for a name that is no picture's, RuntimeError for one larger than may be committed (`MOST` bytes).
    """
    for name in options.names:
        if name not in EVERY:
            raise UsageError(f"no picture {name!r}; there are {', '.join(EVERY)}")
    names = options.names or EVERY
    paths = [path for name in names if name in PICTURES for path in PICTURES[name](options)]
    if screens := [name for name in names if name in PHOTOGRAPHS]:
        paths += screenshots.take(screens)  # one JupyterLab for all of them
    for path in paths:
        if path.stat().st_size > MOST:
            raise RuntimeError(f"{path}: {path.stat().st_size:,} bytes, more than the {MOST:,} that are committed")
        print(display_path(path))

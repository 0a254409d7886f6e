"""Explorers of schedules, noise and packing: controls beside a figure that follows them.

Each function returns a widget in an interactive notebook (`show.interactive()`), and elsewhere (papermill, exported
notebooks, where a widget would be blank) the figure of its starting values. Invalid combinations of values are explained
beside the controls.
"""

from collections.abc import Sequence

import torch

from dllm_core import show
from dllm_core.data.batches import PackedBatches
from dllm_core.noise import corrupt
from dllm_core.schedules import ALPHAS, BlockSchedule, NoiseSchedule, learning_rate
from dllm_core.show.attention.scenes import POEM
from dllm_core.show.widgets.controls import Control, explorer

AT_REST = {"continuous_update": False}  # draw when a slider is released or a text is complete


def schedule_explorer(interactive: bool | None = None):
    """alpha(t), weight and share of the loss of a noise schedule within a band of mask ratios, compared with linear."""

    def draw(curve: str, band: tuple[float, float], weighting: str):
        linear = NoiseSchedule("linear")
        chosen = NoiseSchedule.band(*band, kind=curve, weighting=weighting)
        return [show.noise_schedules([linear, chosen]), show.loss_shares([linear, chosen])]

    controls = {
        "curve": ("cosine", Control("Dropdown", "alpha(t)", "how the share of clean tokens falls with t",
                                   options=list(ALPHAS))),
        "band": ((0.05, 0.95), Control("FloatRangeSlider", "mask ratio from – to", "bandwidth of mask probabilities",
                                       min=0.0, max=1.0, step=0.01, **AT_REST)),
        "weighting": ("elbo", Control("Dropdown", "weight", "the bound's weight, or 1", options=["elbo", "uniform"])),
    }  # fmt: skip
    return explorer("noise schedule: the share of masked tokens over t", draw, controls, interactive)


def block_explorer(interactive: bool | None = None):
    """Block size and learning rate over a run: shares of warm-up and decay, the block sizes, the row's length."""

    def draw(length: int, steps: int, warm: float, decay: float, up: str, down: str):
        stable = 1 - warm - decay
        if stable < -1e-9:
            raise ValueError(
                f"warm-up {warm:.2f} and decay {decay:.2f} take more than the whole run; lower one of them"
            )
        sizes = [_sizes("sizes going up", up), _sizes("sizes going down", down)]
        schedule = BlockSchedule(length, steps, (warm, max(stable, 0.0), decay), *sizes)
        rates = [learning_rate(step, steps, warmup=max(1, steps // 20), decay_ratio=decay) for step in range(steps)]
        return show.block_schedule(schedule, steps, rates)

    share = {"min": 0.0, "max": 1.0, "step": 0.05, **AT_REST}
    comma = "comma-separated; each must divide the row length"
    controls = {
        "length": (256, Control("Dropdown", "row length (tokens)", "the largest block: full diffusion",
                                options=[64, 128, 256, 512])),
        "steps": (1000, Control("IntSlider", "training steps", "length of the run",
                                min=100, max=5000, step=100, **AT_REST)),
        "warm": (0.3, Control("FloatSlider", "share of warm-up", "blocks grow", **share)),
        "decay": (0.2, Control("FloatSlider", "share of decay", "blocks shrink", **share)),
        "up": ("32, 64, 128, 256", Control("Text", "sizes going up", comma, **AT_REST)),
        "down": ("256, 128, 64, 32", Control("Text", "sizes going down", comma, **AT_REST)),
    }  # fmt: skip
    return explorer("block size and learning rate over a run", draw, controls, interactive)


def _sizes(name: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.replace("，", ",").split(",") if part.strip())
    except ValueError as error:
        raise ValueError(f"{name}: {text!r} must be whole numbers with commas between, e.g. 32, 64, 128") from error


def noise_explorer(
    texts: Sequence[str] = POEM, maskable: Sequence[bool] | None = None, complement: bool = True,
    interactive: bool | None = None,
):  # fmt: skip
    """The noisy view of a sequence at a chosen t and the complementary view, with the weight of each masked token.

    texts: [L] tokens; maskable: [L] bool, False on a prompt, which is never masked. complement: whether the complementary
    view is shown at first. The random numbers are fixed, so a larger t masks the same tokens and more.
    """
    ids = torch.arange(len(texts))[None]
    free = torch.ones_like(ids, dtype=torch.bool) if maskable is None else torch.tensor([[*map(bool, maskable)]])
    prompt = (~free[0]).tolist()

    def draw(t: float, curve: str, complement: bool):
        level = NoiseSchedule(curve, t_min=min(t, 1 - 1e-6), t_max=min(1.0, t + 1e-6))
        views = corrupt(ids, free, level, -1, torch.Generator().manual_seed(0))
        time = torch.tensor(t)
        ratio, weight, other = 1 - level.alpha(time), level.weight(time), level.complement_weight(time)
        names = (
            f"x_t at t = {t:.2f}: masked with probability {ratio:.2f}, weight {weight:.2f} each",
            f"complementary view: masked where x_t is clean, weight {other:.2f} each",
        )
        rows = [
            show.masked_row(list(texts), view.masked[0].tolist(), name=name, prompt=prompt)
            for name, view in zip(names, views, strict=True)
        ]
        return rows if complement else rows[:1]

    controls = {
        "t": (0.5, Control("FloatSlider", "noise level t", "0 clean, 1 all masked",
                           min=0.01, max=0.99, step=0.01, **AT_REST)),
        "curve": ("linear", Control("Dropdown", "alpha(t)", "how the share of clean tokens falls with t",
                                   options=list(ALPHAS))),
        "complement": (complement, Control("Checkbox", "complementary view", "masked where the first view is clean")),
    }  # fmt: skip
    return explorer("a noisy view of a sequence", draw, controls, interactive)


PACKED = "whole, packed"
FILLED = "whole, filled to blocks (LLaDA 2)"
LAYOUTS = {  # how documents become rows → arguments of `PackedBatches`
    "cut end to end (pretraining)": {"pack": "cut"},
    PACKED: {"pack": "whole"},
    FILLED: {"pack": "whole", "fill": "block"},
    "whole, random tail of eos": {"pack": "whole", "fill": "random", "max_fill": 32},
    "one to a row, filled to the longest (LLaDA 1)": {"pack": "whole", "fill": "batch"},
}


def packing_explorer(
    documents, length: int = 128, block_size: int = 16, fill: str | None = "block", interactive: bool | None = None
):
    """Sequences of `documents` (a `TokenDataset`) under packing, EOS padding and LLaDA 2.0's quantized effective length.

    length: tokens of a sequence; block_size: tokens of a block; fill: the EOS padding of the layout that is shown at first,
    as in `PackedBatches`. The chosen layout is drawn below packed whole documents; only the first 512 documents are used.
    Raises ValueError where no layout has this padding.
    """
    if fill == "block" and length % block_size:
        fill = None
    whole = {options.get("fill"): name for name, options in LAYOUTS.items() if options["pack"] == "whole"}
    if fill not in whole:
        raise ValueError(f"packing_explorer: fill={fill!r}: must be one of {', '.join(map(repr, whole))}")
    documents = documents.select(range(min(512, len(documents))))

    def draw(layout: str, length: int, block_size: int, rows: int):
        common = {"batch_size": rows, "seq_len": length, "shuffle": False}
        batches = {}
        for name in dict.fromkeys([PACKED, layout]):
            size = {"block_size": block_size} if name == FILLED else {}
            batches[name] = next(PackedBatches(documents, **LAYOUTS[name], **size, **common))
        return show.packing(batches, documents.eos_token_id, {FILLED: block_size}, rows)

    controls = {
        "layout": (whole[fill], Control("Dropdown", "layout", "how documents become rows", options=list(LAYOUTS))),
        "length": (length, Control("Dropdown", "row length (tokens)", "longer documents are cut",
                                   options=sorted({32, 64, 128, 256, length}))),
        "block_size": (block_size, Control("Dropdown", "block size (tokens)", "filling ends a block",
                                           options=sorted({4, 8, 16, 32, block_size}))),
        "rows": (4, Control("IntSlider", "rows", "rows of the batch", min=2, max=12, step=1, **AT_REST)),
    }  # fmt: skip
    return explorer("sequences of a batch", draw, controls, interactive)

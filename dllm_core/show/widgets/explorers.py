"""Thin ipywidgets on top of `show`: turn a knob, see the schedule, the noise or the packing change.

Each function gives a widget where a person looks on (`show.interactive()`), and the figure of its starting values
elsewhere (papermill, exported notebooks), where a widget would be blank. A wrong combination of values says what is
wrong beside the controls.
"""

import base64
import html
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from dllm_core import show
from dllm_core.data.batches import PackedBatches
from dllm_core.noise import corrupt
from dllm_core.schedules import ALPHAS, BlockSchedule, NoiseSchedule, learning_rate
from dllm_core.show.attention.scenes import POEM
from dllm_core.show.html import asset


def explorer(draw: Callable, controls: dict, watched: bool | None = None):
    """`controls` (name → ipywidget factory, or plain starting value when nobody looks on) drive `draw(**values)`.

    draw: gives a `show.Picture`, a `show.Html`, or a list of them; its ValueError is shown beside the controls.
    """
    if not (show.interactive() if watched is None else watched):
        return _Stack(_listed(draw(**{name: value for name, (value, _) in controls.items()})))
    import ipywidgets
    from IPython.display import HTML, display

    made = {name: build(ipywidgets, value) for name, (value, build) in controls.items()}
    complaint, stage = ipywidgets.HTML(), ipywidgets.VBox()

    def refresh(_=None) -> None:
        try:
            drawn = _listed(draw(**{name: control.value for name, control in made.items()}))
        except ValueError as error:
            complaint.value = f"<span role='alert'><b>Not possible:</b> {html.escape(str(error))}</span>"
            return
        complaint.value = ""
        stage.children = [ipywidgets.HTML(_markup(item)) for item in drawn]

    for control in made.values():
        control.observe(refresh, "value")
    refresh()
    # arrow keys to the controls, not to JupyterLab; its theme to the pictures
    display(HTML(f"<style>{asset('paper.css')}</style><script>{asset('widgets/widgets_keys.js')}</script>"))
    return ipywidgets.VBox([ipywidgets.VBox(list(made.values())), complaint, stage])


def _listed(drawn) -> list:
    return list(drawn) if isinstance(drawn, list | tuple) else [drawn]


def _markup(item) -> str:
    if isinstance(item, show.Html):
        return item.html
    packed = base64.b64encode(item.png()).decode("ascii")
    look = "max-width:100%;height:auto"
    return f'<img class="dllm-paper" src="data:image/png;base64,{packed}" alt="{html.escape(item.alt)}" style="{look}">'


class _Stack:
    """Several things shown one under the other, in one static output."""

    def __init__(self, items: list):
        self.items = items

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict | tuple[dict, dict]:
        if len(self.items) == 1:
            return self.items[0]._repr_mimebundle_()
        return {"text/html": "".join(map(_markup, self.items)), "text/plain": repr(self)}

    def __repr__(self) -> str:
        return "\n".join(item.text if isinstance(item, show.Html) else item.alt for item in self.items)


def _wide(**options) -> dict:
    return {"style": {"description_width": "12em"}, "layout": {"width": "34em"}, **options}


def _slider(text: str, low, high, step, help_: str, kind: str = "FloatSlider") -> Callable:
    def build(ipywidgets, value):
        return getattr(ipywidgets, kind)(value=value, min=low, max=high, step=step, description=text, tooltip=help_,
                                         continuous_update=False, **_wide())  # fmt: skip

    return build


def _choice(text: str, options, help_: str) -> Callable:
    return lambda ipywidgets, value: ipywidgets.Dropdown(
        options=list(options), value=value, description=text, tooltip=help_, **_wide()
    )


def _text(text: str, help_: str) -> Callable:
    return lambda ipywidgets, value: ipywidgets.Text(
        value=value, description=text, tooltip=help_, continuous_update=False, **_wide()
    )


def _check(text: str, help_: str) -> Callable:
    return lambda ipywidgets, value: ipywidgets.Checkbox(value=value, description=text, tooltip=help_, **_wide())


def schedule_explorer(watched: bool | None = None):
    """alpha(t), weight and share of the loss of one noise schedule, limited to a band of mask ratios, beside linear."""

    def draw(kind: str, band: tuple[float, float], weighting: str):
        plain = NoiseSchedule("linear")
        chosen = NoiseSchedule.band(*band, kind=kind, weighting=weighting)
        return [show.noise_schedules([plain, chosen]), show.loss_shares([plain, chosen])]

    controls = {
        "kind": ("cosine", _choice("alpha(t)", ALPHAS, "how the share of clean tokens falls with t")),
        "band": (
            (0.05, 0.95),
            _slider("mask ratio from – to", 0.0, 1.0, 0.01, "bandwidth of mask probabilities", "FloatRangeSlider"),
        ),
        "weighting": ("elbo", _choice("weight", ["elbo", "uniform"], "the bound's weight, or 1")),
    }
    return explorer(draw, controls, watched)


def block_explorer(watched: bool | None = None):
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

    controls = {
        "length": (256, _choice("row length (tokens)", [64, 128, 256, 512], "the largest block: full diffusion")),
        "steps": (1000, _slider("training steps", 100, 5000, 100, "length of the run", "IntSlider")),
        "warm": (0.3, _slider("share of warm-up", 0.0, 1.0, 0.05, "blocks grow")),
        "decay": (0.2, _slider("share of decay", 0.0, 1.0, 0.05, "blocks shrink")),
        "up": ("32, 64, 128, 256", _text("sizes going up", "comma-separated; each must divide the row length")),
        "down": ("256, 128, 64, 32", _text("sizes going down", "comma-separated; each must divide the row length")),
    }
    return explorer(draw, controls, watched)


def _sizes(name: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.replace("，", ",").split(",") if part.strip())
    except ValueError as error:
        raise ValueError(f"{name}: {text!r} must be whole numbers with commas between, e.g. 32, 64, 128") from error


def noise_explorer(texts: Sequence[str] = POEM, maskable: Sequence[bool] | None = None, watched: bool | None = None):
    """A row of tokens hidden at a chosen t, beside its complementary twin, with the weight of each hidden token.

    texts: [L] tokens; maskable: [L] bool, False on a prompt, which is never hidden. The draw is fixed, so raising t
    only ever hides more.
    """
    ids = torch.arange(len(texts))[None]
    free = torch.ones_like(ids, dtype=torch.bool) if maskable is None else torch.tensor([[*map(bool, maskable)]])
    given = (~free[0]).tolist()

    def draw(t: float, kind: str, twin: bool):
        level = NoiseSchedule(kind, t_min=min(t, 1 - 1e-6), t_max=min(1.0, t + 1e-6))
        views = corrupt(ids, free, level, -1, torch.Generator().manual_seed(0))
        at = torch.tensor(t)
        hidden = float(1 - level.alpha(at))
        names = (
            f"x_t at t = {t:.2f}: hidden with probability {hidden:.2f}, weight {float(level.weight(at)):.2f} each",
            f"complementary twin: what x_t shows, weight {float(level.complement_weight(at)):.2f} each",
        )
        shown = list(zip(names, views, strict=True))[: 2 if twin else 1]
        return [show.masked_row(list(texts), view.masked[0].tolist(), name=name, given=given) for name, view in shown]

    controls = {
        "t": (0.5, _slider("noise level t", 0.01, 0.99, 0.01, "0 clean, 1 all hidden")),
        "kind": ("linear", _choice("alpha(t)", ALPHAS, "how the share of clean tokens falls with t")),
        "twin": (True, _check("complementary twin", "the view hidden where the first is clean")),
    }
    return explorer(draw, controls, watched)


FILLED = "whole, filled to blocks (LLaDA 2)"
LAYOUTS = {  # how documents become rows: what `PackedBatches` is told
    "cut end to end (pretraining)": {"pack": "cut"},
    "whole, packed": {"pack": "whole"},
    FILLED: {"pack": "whole", "fill": "block"},
    "whole, random tail of eos": {"pack": "whole", "fill": "random", "max_fill": 32},
    "one to a row, filled to the longest (LLaDA 1)": {"pack": "whole", "fill": "batch"},
}


def packing_explorer(
    documents,
    pad_token_id: int,
    eos_token_id: int,
    length: int = 128,
    block_size: int = 16,
    watched: bool | None = None,
):
    """What packing, filling and the quantised effective length do to rows of `documents` (a `TokenDataset`).

    length: tokens a row; block_size: tokens a block. The chosen layout is drawn under whole documents, packed; the
    first few hundred documents are enough for that.
    """
    every = np.arange(len(documents)) if documents.chosen is None else documents.chosen
    documents = replace(documents, chosen=every[:512])

    def draw(layout: str, length: int, block_size: int, rows: int):
        ids = {"pad_token_id": pad_token_id, "eos_token_id": eos_token_id}
        batches = {}
        for name in dict.fromkeys(["whole, packed", layout]):
            own = {"block_size": block_size} if name == FILLED else {}
            made = PackedBatches(documents, batch_size=rows, seq_len=length, shuffle=False, **LAYOUTS[name], **own, **ids)
            batches[name] = next(made)
        return show.packing(batches, eos_token_id, block_size, rows)

    sizes = sorted({32, 64, 128, 256, length})
    controls = {
        "layout": (
            FILLED if length % block_size == 0 else "whole, packed",
            _choice("layout", LAYOUTS, "how documents are laid into rows"),
        ),
        "length": (length, _choice("row length (tokens)", sizes, "longer documents are cut")),
        "block_size": (
            block_size,
            _choice("block size (tokens)", sorted({4, 8, 16, 32, block_size}), "filling ends a block"),
        ),
        "rows": (4, _slider("rows", 2, 12, 1, "rows of the batch", "IntSlider")),
    }
    return explorer(draw, controls, watched)

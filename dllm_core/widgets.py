"""Thin ipywidgets on top of `show`: turn a knob, see the schedule, the noise or the mask change.

Each function gives a widget where a person looks on (`show.interactive()`), and the figure of its starting values
elsewhere (papermill, exported notebooks), where a widget would be blank. A wrong combination of values says what is
wrong beside the controls.
"""

import html
from collections.abc import Callable

import torch

from dllm_core import patterns, show
from dllm_core.schedules import ALPHAS, BlockSchedule, NoiseSchedule, learning_rate

POEM = "床前明月光疑是地上霜举头望明月低头思故乡"
PATTERNS = ("causal", "bidirectional", "block-causal", "block diffusion [x_t ; x_0]")


def explorer(draw: Callable, controls: dict, watched: bool | None = None):
    """`controls` (name → ipywidget factory, or plain starting value when nobody looks on) drive `draw(**values)`.

    draw: gives a `show.Picture`, a `show.Html`, or a list of them; its ValueError is shown beside the controls.
    """
    if not (show.interactive() if watched is None else watched):
        return _Stack(_listed(draw(**{name: value for name, (value, _) in controls.items()})))
    import ipywidgets

    made = {name: build(ipywidgets, value) for name, (value, build) in controls.items()}
    complaint, stage = ipywidgets.HTML(), ipywidgets.VBox()

    def refresh(_=None) -> None:
        try:
            drawn = _listed(draw(**{name: control.value for name, control in made.items()}))
        except ValueError as error:
            complaint.value = f"<b>Not possible:</b> {html.escape(str(error))}"
            return
        complaint.value = ""
        stage.children = [_widget(ipywidgets, item) for item in drawn]

    for control in made.values():
        control.observe(refresh, "value")
    refresh()
    return ipywidgets.VBox([ipywidgets.VBox(list(made.values())), complaint, stage])


def _listed(drawn) -> list:
    return list(drawn) if isinstance(drawn, list | tuple) else [drawn]


def _widget(ipywidgets, item):
    if isinstance(item, show.Picture):
        return ipywidgets.Image(
            value=item.png(), format="png", layout={"max_width": "100%", "align_self": "flex-start"}
        )
    return ipywidgets.HTML(item.html)


class _Stack:
    """Several things shown one under the other, in one static output."""

    def __init__(self, items: list):
        self.items = items

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        if len(self.items) == 1:
            return self.items[0]._repr_mimebundle_()
        import base64

        def markup(item) -> str:
            if isinstance(item, show.Html):
                return item.html
            packed = base64.b64encode(item.png()).decode("ascii")
            return f'<img src="data:image/png;base64,{packed}" alt="{html.escape(item.alt)}" style="max-width:100%">'

        return {"text/html": "".join(map(markup, self.items)), "text/plain": repr(self)}

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
        return show.noise_schedules([plain, chosen])

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


def mask_explorer(text: str = POEM, watched: bool | None = None):
    """Who may see whom, for a pattern, a length, a block size and packed documents; and the row at a noise level t.

    text: its characters are the row's tokens; the length slider takes the first of them.
    """
    row = list(text)
    # one fixed draw per token: raising t only ever masks more
    draws = torch.rand(len(row), generator=torch.Generator().manual_seed(0))

    def draw(pattern: str, length: int, block_size: int, documents: int, t: float, twin: bool):
        tokens, schedule = row[:length], NoiseSchedule("linear")
        masked = draws[:length] >= schedule.alpha(torch.tensor(t))
        noised = show.masked_row(tokens, masked.tolist(), True if twin else None, name=f"x_t at t = {t:.2f}")
        chosen, views = _pattern(pattern, length, block_size, documents, 2 if twin else 1)
        names = ["░" if hide else token for token, hide in zip(tokens, masked.tolist(), strict=True)]
        opposite = [token if hide else "░" for token, hide in zip(tokens, masked.tolist(), strict=True)]
        labels = {1: names, 2: names + tokens, 3: names + opposite + tokens}[views]
        parts = {1: {}, 2: {"x_t": 0, "x_0": 1}, 3: {"x_t": 0, "twin": 1, "x_0": 2}}[views]
        stretches = {name: (place * length, (place + 1) * length) for name, place in parts.items()}
        title = f"{pattern}, length {length}" + ("" if pattern in PATTERNS[:2] else f", blocks of {block_size}")
        return [noised, show.mask_picture(chosen.mask()[0], labels, title, stretches)]

    controls = {
        "pattern": (PATTERNS[3], _choice("pattern", PATTERNS, "the rule of attention")),
        "length": (min(12, len(row)), _slider("length (tokens)", 2, len(row), 1, "tokens in the row", "IntSlider")),
        "block_size": (
            4,
            _slider("block size (tokens)", 1, len(row), 1, "used by the two block patterns", "IntSlider"),
        ),
        "documents": (1, _slider("documents packed", 1, 3, 1, "no document sees another", "IntSlider")),
        "t": (0.5, _slider("noise level t", 0.0, 1.0, 0.01, "probability that a token is masked (linear schedule)")),
        "twin": (True, _check("complementary twin", "the view masked where the first is clean")),
    }
    return explorer(draw, controls, watched)


def _pattern(name: str, length: int, block_size: int, documents: int, views: int) -> tuple[patterns.Pattern, int]:
    """The pattern of one row of equal documents, and how many copies of the row it stands for."""
    if documents > length:
        raise ValueError(f"{documents} documents do not fit into {length} tokens; lower the number of documents")
    document = (torch.arange(length) * documents // length)[None]
    starts = torch.stack([(document[0] == d).nonzero()[0, 0] for d in document[0]])
    position = (torch.arange(length) - starts)[None]
    if name == PATTERNS[0]:
        return patterns.causal(document, position), 1
    if name == PATTERNS[1]:
        return patterns.bidirectional(document, position), 1
    if name == PATTERNS[2]:
        return patterns.block_causal(document, position, block_size), 1
    return patterns.block_diffusion(document, position, block_size, views=views), views + 1

"""Training while it runs: the loss curve and the progress bar. They read `TrainStep`s and change nothing.

The cost is bounded: a picture is drawn at most every few seconds, and drawing takes at most a small share of the time.
Outside an interactive notebook (papermill, scripts, tests) the curve is drawn once, at the end.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from dllm_core.checkpoints import price
from dllm_core.checkpoints.formats import LoadedCheckpoint
from dllm_core.checkpoints.run_folder import RunFolder
from dllm_core.common import progress_bar
from dllm_core.common.text import safe
from dllm_core.config import DecodeConfig, TrainConfig
from dllm_core.notebook.asking import generate_answers
from dllm_core.schedules import BlockSchedule
from dllm_core.show.figures import COLORS, Picture, legend_below, line_look, new_figure, our_look, shade, stretches
from dllm_core.show.film import SampleFilm
from dllm_core.show.html import Table, table
from dllm_core.train import train

PHASE = {"color": "#444444"}
SHARE = 0.03  # most of the time that drawing may take


def watch_training(
    current: LoadedCheckpoint, batches, objective: Callable, config: TrainConfig, params: Mapping,
    decode_config: DecodeConfig, *, title: str, validate: Callable, blocks: BlockSchedule | None = None,
) -> None:  # fmt: skip
    """Train `current.model` into weights/<run_name> by `dllm_core.train`, under a loss curve that grows, with an answer to
    `prompt` every `sample_every` steps (names of the notebook's `params`, which the run records).

    current: the model while it is trained, as it will be saved. validate: model → nats per token. A stopped run goes on.
    """
    run = RunFolder.open(params["run_name"], current.model, current.info, current.tokenizer, params, config.keep_best)
    steps = train(current.model, batches, objective, config, blocks=blocks, validate=validate, run=run)
    live, film = LiveLossCurve(title, run.steps()), SampleFilm(run.folder / "samples.jsonl")
    sample = lambda step: generate_answers(current, [params["prompt"]], decode_config)[0]
    for _ in progress(steps, config.max_iters, live, sample, params["sample_every"], film=film):
        pass
    run.finish(current.model)


def training_price(trained: Sequence) -> Table:
    """What the trainings behind a checkpoint took (`LoadedCheckpoint.trained`): tokens, positions, model FLOP, seconds."""
    return table(price.rows(trained), caption="what this checkpoint cost")


class LiveLossCurve:
    """A loss curve that grows: `live.update(train_step)` for every step, `live.close()` at the end.

    steps: recorded before, of a run that is continued; every: least seconds between two pictures; interactive: whether
    to draw before the end (default: `show.interactive()`). One picture remains in the notebook. `live.picture()` draws
    the current state at any time.
    """

    def __init__(
        self, title: str = "training", steps: Sequence = (), *, every: float = 2.0, interactive: bool | None = None
    ):
        self.title, self.every = title, every
        self.interactive = progress_bar.interactive() if interactive is None else interactive
        self.steps = list(steps)
        self.handle, self.closed = None, False
        self.drawn_at, self.cost = time.perf_counter(), 0.0

    def update(self, step) -> None:
        """Add a step; draw when it is time. step: any record with `TrainStep`'s fields; later ones are dropped."""
        while self.steps and self.steps[-1].step >= step.step:
            self.steps.pop()
        self.steps.append(step)
        if self.interactive and time.perf_counter() - self.drawn_at > max(self.every, self.cost / SHARE):
            self._draw()

    def close(self) -> None:
        """Draw the last picture (once)."""
        if not self.closed and self.steps:
            self._draw()
        self.closed = True

    def _draw(self) -> None:
        from IPython import get_ipython
        from IPython.display import display

        began = time.perf_counter()
        picture = self.picture()
        if get_ipython() is None:
            return
        if self.handle is None:
            self.handle = display(picture, display_id=True)
        else:
            self.handle.update(picture)
        self.drawn_at = time.perf_counter()
        self.cost = self.drawn_at - began

    def picture(self) -> Picture:
        """Loss (raw, smoothed, validation) over steps, phases of the block size shaded; learning rate below."""
        return training_curve(self.steps, self.title)


@our_look()
def training_curve(steps: Sequence, title: str = "training", merged: Iterable[int] = ()) -> Picture:
    """The curve of a list of `TrainStep`s (or of the metrics of a saved run): loss and validation bound, with the ranges
    of one block size shaded and the phases of a schedule named above.

    merged: steps whose checkpoints were averaged (top-k merge), ringed on the validation curve.
    Raises ValueError when there are no steps, or a merged one was not validated.
    """
    if not steps:
        raise ValueError("training_curve: steps is empty; give at least one TrainStep")
    figure, (upper, lower) = new_figure(9, 4.4, rows=2, ratios=(4, 1))
    x = np.array([step.step for step in steps])
    loss = np.array([step.loss for step in steps], dtype=float)
    smooth = _smoothed(loss)
    thin = np.unique(np.linspace(0, len(x) - 1, min(len(x), 1500)).astype(int))
    upper.plot(x[thin], loss[thin], color=COLORS["grey"], linewidth=0.8, alpha=0.6, label="loss, each step")
    upper.plot(x[thin], smooth[thin], color=COLORS["blue"], linewidth=2, label="loss, smoothed")
    validated = {step.step: step.validation for step in steps if step.validation is not None}
    _draw_validation(upper, validated, sorted(merged), bound=any(step.block_size for step in steps))
    named = _draw_phases(upper, steps)
    # a few outliers of a 1/t weight may leave the frame
    values = np.concatenate([smooth[thin], list(validated.values()), np.quantile(loss[thin], [0.02, 0.98])])
    room = 0.06 * (values.max() - values.min()) + 1e-6
    frame = (values.min() - (2.2 if named else 1) * room, values.max() + 2.5 * room)
    upper.set(ylim=frame, ylabel="loss (nats/token)")
    last = steps[-1]
    rate = f", {last.tokens / last.seconds:,.0f} tokens/s" if last.seconds else ""
    heading = f"{title}: step {last.step:,}, loss {smooth[-1]:.3f}, {last.tokens:,} tokens{rate}"
    upper.set_title(heading, pad=20 if named else None)
    upper.legend(loc="upper right", ncols=3)
    lower.plot(x[thin], [steps[i].learning_rate for i in thin], color=COLORS["green"])
    lower.set(ylim=(0, None), xlabel="step", ylabel="AdamW's\nrate")
    lower.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    return Picture(figure, f"{title}: {len(steps)} steps, smoothed loss {smooth[0]:.3f} to {smooth[-1]:.3f}")


@our_look()
def training_curves(runs: Mapping[str, object], log_v: float | None = None) -> Picture:
    """Short trainings beside each other: the training loss of each step on a logarithmic axis, and the bound.

    runs: name → `notebook.tiny_training.Curves`. log_v: what uniform predictions cost, a dotted line. Raises ValueError
    when there are no runs.
    """
    from matplotlib.ticker import LogLocator

    if not runs:
        raise ValueError("training_curves: runs is empty; give at least one")
    figure, panels = new_figure(9, 3.4, columns=2)
    titles = {"training": "training loss", "bound": "bound of documents held out"}
    for axes, (part, title) in zip(panels, titles.items(), strict=True):
        for i, (name, curves) in enumerate(runs.items()):
            values = getattr(curves, part)
            steps = np.arange(len(values)) + (part == "training")  # the bound is measured before the first step, too
            axes.plot(steps, values, label=name, markersize=3, **line_look(i))
        if log_v is not None:
            axes.axhline(log_v, color=COLORS["grey"], linestyle=":", label="log V")
        axes.set(title=title, xlabel="step", ylabel="nats/token")
    panels[0].set_yscale("log", nonpositive="mask")  # the loss of a step without a masked token is 0
    panels[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panels[0].yaxis.set_major_formatter("{x:g}")  # powers would be math text, which the look leaves as it is written
    panels[0].yaxis.set_minor_formatter("")
    legend_below(figure, panels[1], len(runs) + 1)
    words = (f"{name} from {curves.bound[0]:.2f} to {curves.bound[-1]:.2f}" for name, curves in runs.items())
    return Picture(figure, f"bound of {'; '.join(words)} nats per token")


def _smoothed(loss):
    """[N] float: mean over about a thirtieth of the run around each step, so that it does not lag; less at the ends."""
    step, half = np.arange(len(loss)), len(loss) // 60
    first, end = np.maximum(step - half, 0), np.minimum(step + half + 1, len(loss))
    total = np.concatenate([[0.0], np.cumsum(loss)])
    return (total[end] - total[first]) / (end - first)


def _draw_validation(axes, validated: dict[int, float], merged: list[int], bound: bool) -> None:
    """step → validation as a dashed line, rings around the merged steps. bound: whether it is an upper bound."""
    if validated:
        label = "validation (bound)" if bound else "validation"
        axes.plot(*zip(*validated.items(), strict=True), "D--", color=COLORS["vermilion"], markersize=6, label=label)
    if missing := [step for step in merged if step not in validated]:
        raise ValueError(f"merged={merged}: step {missing[0]} has no validation; give steps that were validated")
    if merged:
        label = f"averaged: the merge of {len(merged)}"
        axes.plot(merged, [validated[step] for step in merged], "o", markersize=15, markeredgewidth=2,
                  fillstyle="none", linestyle="none", color=COLORS["purple"], label=label)  # fmt: skip


def _draw_phases(axes, steps: Sequence) -> bool:
    """Shade the ranges of one phase and block size, and name the phases above. Returns whether any phase has a name."""
    edges = [step.step - 0.5 for step in steps] + [steps[-1].step + 0.5]
    sizes = stretches([(step.phase, step.block_size) for step in steps])
    if len(sizes) > 1:
        shade(axes, [(edges[i], edges[j], f"{size}" if size else phase or "") for i, j, (phase, size) in sizes])
    phases = stretches([step.phase for step in steps])
    named = [(edges[i], edges[j], phase) for i, j, phase in phases if phase and len(phases) > 1]
    for start, end, phase in named:
        axes.annotate(phase, ((start + end) / 2, 1.01), xycoords=("data", "axes fraction"), ha="center", va="bottom",
                      fontsize=10, **PHASE)  # fmt: skip
        if end < named[-1][1]:
            axes.axvline(end, linewidth=0.8, linestyle=":", **PHASE)
    return bool(named)


def progress(
    steps: Iterable, total: int, live: LiveLossCurve | None = None, sample: Callable[[object], object] | None = None,
    every: int | None = None, film: SampleFilm | None = None,
) -> Iterator:  # fmt: skip
    """Yield the same `TrainStep`s while showing a bar, updating `live`, and every `every` steps printing the text of
    `sample(step)`, a `Trace` or a text. film: a `SampleFilm` that keeps the samples, and one of the first step.

    Sampling happens between steps. The bar is plain text; outside an interactive notebook it is drawn every 10 s.
    `live` is closed at the end, also after an error or a stop. Raises ValueError when `sample` comes without `every`
    (0: no samples).
    """
    if sample is not None and every is None:
        raise ValueError("progress: `sample` needs `every` (steps between two samples)")
    bar = progress_bar.progress_bar(total, "training", unit="step", smoothing=0.1)
    try:
        for step in steps:
            if step.step - 1 > bar.n:
                bar.initial = bar.n = step.step - 1  # a resumed run
            bar.update(1)
            bar.set_postfix_str(f"loss {step.loss:.3f}", refresh=False)
            if live is not None:
                live.update(step)
            first = film is not None and step.step == 1
            if sample is not None and every and (step.step % every == 0 or first):
                sampled = sample(step)
                bar.write(f"step {step.step}: {safe(getattr(sampled, 'text', sampled))}")
                if film is not None:
                    film.add(step, sampled)
            yield step
        if not bar.n:
            bar.initial = bar.n = total
            bar.write(
                "the training was finished already, its weights are loaded; to train again, choose another run_name or "
                "delete the run's folder (dllm run: --force)"
            )
    finally:
        bar.close()
        if live is not None:
            live.close()
        if hasattr(steps, "close"):
            steps.close()

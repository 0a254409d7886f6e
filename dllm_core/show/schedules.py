"""Figures of schedules: noise level and weight over t, the share of the loss by t, block size and learning rate.

All values come from a `NoiseSchedule` or `BlockSchedule`; only means over stretches are computed here.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch

from dllm_core.show.figures import COLORS, HATCHES, LINES, Picture, legend_below, new_figure, our_look, shade, stretches

T_AXIS = "t (0 clean, 1 all masked)"


@our_look()
def noise_schedules(schedules: Iterable) -> Picture:
    """alpha(t), the weight w(t) and the expected weight of a token, w(t)·(1 − alpha(t)), for each `NoiseSchedule`.

    With uniform logits the third is proportional to the loss per unit of t. Lines are thick within the schedule's range
    [t_min, t_max], thin outside it. Raises ValueError for an empty list.
    """
    schedules = list(schedules)
    if not schedules:
        raise ValueError("noise_schedules: the list is empty; give at least one NoiseSchedule")
    figure, (left, middle, right) = new_figure(11, 3.4, columns=3)
    everywhere = torch.linspace(0.002, 1, 500, dtype=torch.float64)
    for i, schedule in enumerate(schedules):
        color, line, _ = LINES[i % len(LINES)]
        inside = everywhere[(everywhere >= schedule.t_min) & (everywhere <= schedule.t_max)]
        thin = {"linestyle": "-", "linewidth": 0.7}
        thick = {"linestyle": line, "linewidth": 2.2, "label": _named(schedule)}
        for t, look in ((everywhere, thin), (inside, thick)):
            alpha, weight = schedule.alpha(t), schedule.weight(t)
            for axes, values in ((left, alpha), (middle, weight), (right, weight * (1 - alpha))):
                axes.plot(t, values, color=COLORS[color], **look)
        if _narrow(schedule) and sum(map(_narrow, schedules)) == 1:  # several bands would hide one another
            for axes in (left, middle, right):
                axes.axvspan(schedule.t_min, schedule.t_max, color=COLORS[color], alpha=0.12, linewidth=0)
    left.set(title="still clean: α(t)", xlabel=T_AXIS)
    middle.set(title="weight: w(t)", xlabel=T_AXIS, yscale="log", ylim=(1e-2, 1e3))
    middle.yaxis.set_major_formatter("{x:g}")  # powers would be math text, which the look leaves as it is written
    right.set(title="share of the loss: w(t)·(1 − α(t))", xlabel=T_AXIS, ylim=(0, None))
    legend_below(figure, left, 2 if any(map(_narrow, schedules)) else 3)
    return Picture(figure, "noise schedules over t: " + "; ".join(map(_named, schedules)))


def _narrow(schedule) -> bool:
    """Whether the schedule draws t from only a part of [0, 1]."""
    return schedule.t_min > 0.01 or schedule.t_max < 0.99


def _named(schedule) -> str:
    return schedule.name + (f", t in [{schedule.t_min:.3g}, {schedule.t_max:.3g}]" if _narrow(schedule) else "")


def shares(schedule, measured: Mapping[float, float] | None = None):
    """[10] floats that sum to 1: the share of a schedule's loss from each tenth of t, 0 outside [t_min, t_max].

    measured: mask ratio → loss of a masked token at that ratio; None: the same loss at every ratio.
    """
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)[:-1] + 0.0005  # midpoints of 1000 intervals
    inside = ((t >= schedule.t_min) & (t <= schedule.t_max)).double()
    density = (schedule.weight(t) * (1 - schedule.alpha(t)) * inside).numpy()
    if measured:
        mask_ratio = (1 - schedule.alpha(t)).numpy()
        known = sorted(measured.items())
        density = density * np.interp(mask_ratio, [ratio for ratio, _ in known], [loss for _, loss in known])
    total = density.reshape(10, -1).sum(axis=1)
    return total / total.sum()


@our_look()
def loss_shares(schedules: Iterable, measured: Mapping[float, float] | None = None) -> Picture:
    """The share (%) of the loss that comes from each tenth of t, in a panel for each `NoiseSchedule`.

    The interval [t_min, t_max] is shaded. measured: mask ratio → loss (nats) of a masked token under a trained model,
    drawn as hatched bars beside those of a model with uniform predictions. Raises ValueError for an empty list.
    """
    schedules = list(schedules)
    if not schedules:
        raise ValueError("loss_shares: the list is empty; give at least one NoiseSchedule")
    figure, axes = new_figure(1 + 3.4 * len(schedules), 3.3, columns=len(schedules))
    middles, top = np.arange(10) / 10 + 0.05, 0.0
    for ax, schedule in zip(axes, schedules, strict=True):
        untrained = 100 * shares(schedule)
        width, shift = (0.042, 0.021) if measured else (0.085, 0.0)
        ax.bar(middles - shift, untrained, width, color=COLORS["blue"], label="uniform predictions")
        top = max(top, untrained.max())
        if measured:
            trained = 100 * shares(schedule, measured)
            ax.bar(middles + shift, trained, width, facecolor="white", edgecolor=COLORS["vermilion"], hatch=HATCHES[1],
                   label="this model")  # fmt: skip
            top = max(top, trained.max())
        ax.axvspan(schedule.t_min, schedule.t_max, color=COLORS["orange"], alpha=0.15, linewidth=0, zorder=0,
                   label="range from which t is drawn")  # fmt: skip
        band = torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64)
        low, high = (1 - schedule.alpha(band)).tolist()
        ax.set_title(f"{schedule.name}\nmask ratio {low:.2f} to {high:.2f}", fontsize=10.5)
    for ax in axes:
        ax.set(xlabel=T_AXIS, xlim=(0, 1), ylim=(0, 1.12 * top))
    axes[0].set_ylabel("share of the loss (%)")
    legend_below(figure, axes[0], 3)
    lines = [f"{s.name}: " + " ".join(f"{100 * part:.0f}" for part in shares(s, measured)) for s in schedules]
    return Picture(figure, f"share of the loss (%) from each tenth of t: {'; '.join(lines)}")


@our_look()
def block_schedule(schedule, total_steps: int, learning_rates: Sequence[float] | None = None) -> Picture:
    """Block size over training steps with its phases shaded, below the learning rate of each step if it is passed.

    schedule: anything with block_size(step) and phase(step), such as `BlockSchedule`; learning_rates: [total_steps], as
    shares of their peak (`schedules.learning_rate`), which every optimizer has in common.
    """
    if learning_rates is not None and len(learning_rates) != total_steps:
        raise ValueError(f"learning_rates: has {len(learning_rates)} entries for total_steps={total_steps}")
    sizes = [schedule.block_size(step) for step in range(total_steps)]
    rows = 1 if learning_rates is None else 2
    figure, axes = new_figure(8, 2.2 + 1.3 * rows, rows=rows, ratios=(1, 2) if rows == 2 else None)
    lower = axes[-1]
    edges = [*range(total_steps), total_steps]
    lower.step(edges, [*sizes, sizes[-1]], where="post", color=COLORS["blue"], linewidth=2)
    lower.set_yscale("log", base=2)
    ticks = sorted(set(sizes))
    lower.set_yticks(ticks, [str(size) for size in ticks])
    lower.minorticks_off()
    parts = stretches([schedule.phase(step) for step in range(total_steps)])
    for ax in axes:
        shade(ax, parts if ax is lower else [(start, end, "") for start, end, _ in parts])
    lower.set(ylim=(min(sizes) / 2.2, max(sizes) * 1.3), xlabel="training step", ylabel="block size\n(tokens)")
    if learning_rates is not None:
        axes[0].plot(range(total_steps), learning_rates, color=COLORS["green"], linewidth=2)
        axes[0].set(ylim=(0, None), ylabel="learning rate\n(1: its peak)")
    course = " → ".join(str(size) for _, _, size in stretches(sizes))
    return Picture(figure, f"block size over {total_steps} steps: {course}")

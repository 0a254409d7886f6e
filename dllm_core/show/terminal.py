"""A decoding in a terminal, drawn with `rich` from the `Trace` alone: chosen steps below each other, or played.

    python -m dllm_core.show.terminal outputs/trace.json --play

Reads without colour: masks are shaded boxes (with the guess behind them), what a step filled stands between ‹ and ›.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from dllm_core.show.html import MASK, visible
from dllm_core.show.player.page import reasons
from dllm_core.show.player.static import summary
from dllm_core.show.results import NAMES, first_masked, times
from dllm_core.show.strip import chosen_steps, end_of_interest, token_text
from dllm_core.trace import Trace

STYLES = {"prompt": "dim", "masked": "bright_black", "guess": "dim italic", "now": "bold reverse", "before": "blue"}
BAR = 24  # characters


def terminal(
    trace: Trace, *, steps: Sequence[int] | None = None, label: str | None = None, drafts: bool = False,
    prompt: bool = False,
):  # fmt: skip
    """A rich renderable of chosen steps (numbers 0..len(trace.steps), default: up to eight), for `rich.print`.

    drafts: masked positions show the model's guess; prompt: draw the prompt too. Raises TypeError for what is no
    `Trace`, ValueError for a step outside it, ImportError when `rich` is not installed.
    """
    from rich.console import Group
    from rich.text import Text

    if not isinstance(trace, Trace):
        raise TypeError(f"expected a Trace, got {type(trace).__name__}; decode.generate gives a list: pass its items")
    steps = chosen_steps(len(trace.steps), 8) if steps is None else list(steps)
    bad = [k for k in steps if not 0 <= k <= len(trace.steps)]
    if bad or not steps:
        raise ValueError(f"steps={steps}: must be one or more numbers from 0 to {len(trace.steps)}")
    name = visible(label or NAMES.get(trace.style, trace.style))
    parts = [Text(f"{name}: {summary(trace)}", style="bold")]
    for k in steps:
        parts += [_head(trace, k), _line(trace, k, drafts, prompt)]
    return Group(*parts)


def frames(trace: Trace, *, label: str | None = None, drafts: bool = True, prompt: bool = False) -> Iterator:
    """Yield (seconds, renderable) for the start and every step: how long after the decoding began it was reached."""
    for k, seconds in enumerate(times(trace, "seconds")):
        yield seconds, terminal(trace, steps=[k], label=label, drafts=drafts, prompt=prompt)


def _head(trace: Trace, k: int):
    from rich.text import Text

    start, left = first_masked(trace), trace.steps[k - 1].masked if k else first_masked(trace)
    full = round(BAR * (start - left) / max(start, 1))
    head = Text(f"step {k} of {len(trace.steps)} ", style="bold")
    head.append("█" * full + "░" * (BAR - full), style="blue")
    head.append(f" {times(trace)[k]} forwards, {left} masked", style="default")
    if k:
        step = trace.steps[k - 1]
        words = reasons(trace)
        for reason in dict.fromkeys(commit.reason for commit in step.commits):
            count = sum(commit.reason == reason for commit in step.commits)
            why = words.get(reason, "not recorded").format(filled=count, held=step.held)
            head.append(f"\n  ‹{count} {reason}›: {why}", style="italic")
    return head


def _line(trace: Trace, k: int, drafts: bool, prompt: bool):
    """The sequence after `k` steps as one wrapping line."""
    from rich.text import Text

    step = trace.steps[k - 1] if k else None
    now = {commit.position for commit in step.commits} if step else set()
    guesses = {position: token for position, token, _ in step.draft} if step and drafts else {}
    cells, last = [], end_of_interest(trace)
    for position, token in enumerate(trace.tokens_at(k)[:last]):
        given = trace.initial[position] != trace.mask_token_id and position not in now
        if position < len(trace.prompt) and not prompt:
            continue
        if token == trace.mask_token_id:
            guess = guesses.get(position)
            cells += [("masked", MASK)] + ([] if guess is None else [("guess", token_text(trace, guess))])
        else:
            cells.append(("prompt" if given else "now" if position in now else "before", token_text(trace, token)))
    line = Text("  ")
    for state, run in groupby(cells, key=lambda cell: cell[0]):
        text = "".join(text for _, text in run)
        line.append(f"‹{text}›" if state == "now" else text, style=STYLES[state])
    if last < len(trace.initial):
        line.append(f" … {len(trace.initial) - last} more after the end", style="dim")
    return line


def main(argv: list[str] | None = None) -> None:
    """Draw a saved trace in the terminal, or play it at the pace it was decoded at, times `--speed`."""
    parser = argparse.ArgumentParser(prog="python -m dllm_core.show.terminal", description=main.__doc__)
    parser.add_argument("trace", type=Path, help="JSON written by Trace.save")
    parser.add_argument("--steps", type=int, nargs="+", help="numbers of the steps to draw (default: up to eight)")
    parser.add_argument("--play", action="store_true", help="play all steps in place")
    parser.add_argument("--speed", type=float, default=0.02, help="of the recorded pace (default: %(default)s)")
    parser.add_argument("--drafts", action="store_true", help="show the model's guesses at masked positions")
    parser.add_argument("--prompt", action="store_true", help="draw the prompt too")
    given = parser.parse_args(argv)
    if given.speed <= 0:
        parser.error(f"--speed {given.speed}: must be above 0")
    from rich.console import Console
    from rich.live import Live

    try:
        trace, console = Trace.load(given.trace), Console()
        if not given.play:
            console.print(terminal(trace, steps=given.steps, drafts=given.drafts, prompt=given.prompt))
            return
    except (OSError, ValueError) as error:
        parser.error(str(error))
    with Live(console=console, auto_refresh=False) as live:
        before = 0.0
        for seconds, drawn in frames(trace, drafts=given.drafts, prompt=given.prompt):
            time.sleep((seconds - before) / given.speed)
            live.update(drawn, refresh=True)
            before = seconds


if __name__ == "__main__":
    main()

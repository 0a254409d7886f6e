"""A decoding in a terminal, drawn with `rich` from the `Trace` alone: some of its steps, or all of them played.

    dllm play outputs/trace.json --play

It is readable without color: masks are shaded boxes (followed by the guess), ‹ › enclose what a step filled, and « » what
a person put there.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from dllm_core.common.errors import UsageError
from dllm_core.show import trace_view
from dllm_core.trace import Trace

STYLES = {"prompt": "dim", "masked": "bright_black", "guess": "dim italic", "now": "bold reverse", "before": "blue",
          "by hand": "bold magenta"}  # fmt: skip
ENCLOSED = {"now": "‹{}›", "by hand": "«{}»"}
BAR = 24  # characters


def terminal(trace: Trace, *, steps: Sequence[int] | None = None, drafts: bool = False, prompt: bool = False):
    """A rich renderable of chosen steps (numbers 0..len(trace.steps), default: up to eight), for `rich.print`.

    drafts: masked positions show the model's guess; prompt: draw the prompt too. Raises TypeError for anything that is
    not a `Trace`, ValueError for a step outside it, ImportError when `rich` is not installed.
    """
    from rich.console import Group
    from rich.text import Text

    name = trace_view.trace_labels([trace])[0]
    parts = [Text(f"{name}: {trace_view.summary(trace)}", style="bold")]
    for k in trace_view.chosen_steps(trace, steps, 8):
        parts.append(Text.assemble(*_head(trace, k), style="bold"))
        parts.append(Text.assemble("  ", *_line(trace, k, drafts, prompt)))
    return Group(*parts)


def _head(trace: Trace, k: int) -> Iterator[tuple[str, str]]:
    """(text, style) of the step's number, its progress, and why its tokens were chosen."""
    start, masked = trace_view.masked_after(trace, 0), trace_view.masked_after(trace, k)
    full = round(BAR * (start - masked) / max(start, 1))
    yield f"step {k} of {len(trace.steps)} ", "bold"
    yield "█" * full + "░" * (BAR - full), "blue"
    yield f" {trace_view.times(trace)[k]} forward passes, {masked} masked", "default"
    for step in trace.steps[max(k - 1, 0) : k]:
        words = trace_view.reasons(trace)
        for reason in dict.fromkeys(commit.reason for commit in step.commits):
            count = sum(commit.reason == reason for commit in step.commits)
            why = words.get(reason, "not recorded").format(filled=count, held=step.held_back)
            yield f"\n  ‹{count} {reason}›: {why}", "italic"
    for edit in trace.edits:
        if edit.step == k:
            yield f"\n  «by hand» {trace_view.edit_words(trace, edit)}", "italic"


def _line(trace: Trace, k: int, drafts: bool, prompt: bool) -> Iterator[tuple[str, str]]:
    """(text, style) of the sequence after `k` steps, adjacent tokens of one state together."""
    first, last = 0 if prompt else len(trace.prompt), trace_view.drawn_length(trace)
    pieces = []
    for cell in trace_view.cells(trace, k)[first:last]:
        pieces.append((cell.state, cell.text))
        if drafts and cell.guess is not None:
            pieces.append(("guess", cell.guess))
    for state, run in groupby(pieces, key=lambda piece: piece[0]):
        text = "".join(text for _, text in run)
        yield ENCLOSED.get(state, "{}").format(text), STYLES[state]
    if last < len(trace.initial):
        yield f" … {len(trace.initial) - last} more after the end", "dim"


# `dllm play` -------------------------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `dllm play`."""
    parser.add_argument("trace", type=Path, help="JSON written by Trace.save")
    parser.add_argument("--steps", type=int, nargs="+", help="numbers of the steps to draw (default: up to eight)")
    parser.add_argument("--play", action="store_true", help="play all steps in place")
    parser.add_argument("--speed", type=float, default=0.02, help="of the recorded pace (default: %(default)s)")
    parser.add_argument("--drafts", action="store_true", help="show the model's guesses at masked positions")
    parser.add_argument("--prompt", action="store_true", help="draw the prompt too")


def run(options: argparse.Namespace) -> None:
    """Draw a saved trace in the terminal, or play it at the pace it was decoded at, times `--speed`.

    Raises UsageError for a file that is no trace or cannot be read, a step outside it or a speed that is not above 0.
    """
    from rich.console import Console
    from rich.live import Live

    if options.speed <= 0:
        raise UsageError(f"--speed {options.speed}: must be above 0")
    console = Console()
    try:
        trace = Trace.load(options.trace)
        if not options.play:
            console.print(terminal(trace, steps=options.steps, drafts=options.drafts, prompt=options.prompt))
            return
    except (OSError, ValueError) as error:
        raise UsageError(str(error)) from error
    clock = trace_view.times(trace, "seconds")
    with Live(console=console, auto_refresh=False) as live:
        for k, seconds in enumerate(clock):
            time.sleep((seconds - clock[max(k - 1, 0)]) / options.speed)
            live.update(terminal(trace, steps=[k], drafts=options.drafts, prompt=options.prompt), refresh=True)

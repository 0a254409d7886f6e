"""The decoding explorer: turn a knob, decode, watch it happen in the player, stop it, compare it with the runs before.

Thin ipywidgets over `widgets_request` and `show`. The decoder is a generator, so the panel needs no thread: it takes
one step after the other on the kernel's own event loop, and between two steps a press of Stop comes through.
"""

import asyncio
import html
import time
from collections.abc import Callable, Mapping

from dllm_core import show
from dllm_core.checkpoints.run_folder import LoadedCheckpoint
from dllm_core.config import CheckpointInfo, DecodeConfig
from dllm_core.notebook.setup import open_checkpoint
from dllm_core.samplers import with_text
from dllm_core.show.html import asset
from dllm_core.show.trace_view import STYLE_NAMES, masked_after
from dllm_core.show.widgets.request import (
    CONTROLS,
    RARE,
    TASKS,
    WIDE,
    Decoding,
    begin,
    beside,
    config_of,
    finished_runs,
    run_row,
    used,
)
from dllm_core.trace import Trace

KEPT = 8  # runs in the table
SIDES = 3  # in one player
SHARE = 0.25  # most of the time that drawing may take while it decodes


def decoding_explorer(
    loaded: LoadedCheckpoint, prompt: str, config: DecodeConfig, *, gaps: str = "我是__，一个刚刚学会说话的____模型。",
    open_run: Callable[[str], LoadedCheckpoint] = open_checkpoint, watched: bool | None = None,
):  # fmt: skip
    """A panel that decodes: every setting a control, Decode and Stop, the player while it goes on, a table of the runs.

    loaded, prompt, config: where the controls start; gaps: text of the infilling box; open_run: opens another run under
    weights/ by its name. Where nobody looks on (`show.interactive()`; watched overrides it) it decodes the start once
    and shows that player and its line of the table. Raises ValueError for a prompt that does not fit the model.
    """
    values = _values(loaded, prompt, config, gaps)
    if show.interactive() if watched is None else watched:
        return DecodingPanel(loaded, values, open_run).widget
    job = begin(loaded, values)
    job.trace.steps.extend(job.steps)
    shown = show.player(with_text(job.trace, loaded.tokenizer))
    row = table([run_row(1, loaded.path.name, job.trace, job.text(loaded.tokenizer))])
    return show.Html(shown.html + row.html, f"{shown.text}\n{row.text}")


def _values(loaded: LoadedCheckpoint, prompt: str, config: DecodeConfig, gaps: str) -> dict:
    given = {name: value for name, value in config.to_dict().items() if name in CONTROLS}
    given = {name: 0 if value is None else value for name, value in given.items()}
    given |= {"threshold": 1.0 if config.threshold is None else config.threshold}
    return {"checkpoint": loaded.path.name, "task": TASKS[0], "prompt": prompt, "gaps": gaps, "pause": 0.15, **given}


def table(rows: list[dict]) -> show.Html:
    return show.table(rows, caption="the last runs, newest first", digits=3)


class DecodingPanel:
    """The panel and its state. `widget`: what a notebook shows; `decode()`: a coroutine, one run from the controls.

    One panel decodes at a time: a cell that is run again, or another panel's Decode, stops the one at work.
    """

    at_work: "DecodingPanel | None" = None

    def __init__(self, loaded: LoadedCheckpoint, values: Mapping, open_run: Callable[[str], LoadedCheckpoint]):
        import ipywidgets

        self._stop_other()
        self.loaded, self.name, self.open_run = loaded, loaded.path.name, open_run
        self.kinds = {**finished_runs(), self.name: loaded.checkpoint}
        self.rows: list[dict] = []
        self.done: list[tuple[str, Trace]] = []
        self.count, self.running, self.stopping, self.task = 0, False, False, None
        self.controls = {name: self._control(ipywidgets, name, values[name]) for name in CONTROLS}
        self.notes = {name: ipywidgets.HTML() for name in [*CONTROLS, ""]}
        for note in self.notes.values():
            note.add_class("dllm-note")
        self.cells = {name: ipywidgets.VBox([control, self.notes[name]]) for name, control in self.controls.items()}
        self.more = ipywidgets.ToggleButton(description="more knobs", tooltip="the rarer settings")
        self.go = ipywidgets.Button(description="Decode", tooltip="decode with these settings")
        self.halt = ipywidgets.Button(description="Stop", tooltip="stop after the step in work")
        self.sides = ipywidgets.Button(description="Side by side", tooltip=f"the last {SIDES} runs on one clock")
        self.bar = ipywidgets.IntProgress(min=0, max=1, description="filled", layout={"width": "16em"})
        self.status, self.feed, self.past = ipywidgets.HTML(), ipywidgets.HTML(), ipywidgets.HTML()
        self.status.add_class("dllm-status")
        self.feed.add_class("dllm-feed")
        self.widget = self._assembled(ipywidgets)
        self.go.on_click(lambda _: self.start())
        self.halt.on_click(lambda _: self.stop())
        self.sides.on_click(lambda _: self.show_sides())
        self.controls["checkpoint"].observe(lambda _: self._follow_checkpoint(), "value")
        for control in [*self.controls.values(), self.more]:
            control.observe(lambda _: self.check(), "value")
        self._say("Decode starts it; Stop ends it after the step in work.")
        self._idle(True)
        self.check()

    def _control(self, ipywidgets, name: str, value):
        kind, label, help_, options = CONTROLS[name]
        if name == "checkpoint":
            options = {"options": [(_described(run, how), run) for run, how in self.kinds.items()]}
        style, layout = {"description_width": "12em"}, {"width": "96%"}
        return getattr(ipywidgets, kind)(
            value=value, description=label, tooltip=help_ or label, style=style, layout=layout, **options
        )

    def _assembled(self, ipywidgets):
        columns = {"grid_template_columns": "repeat(auto-fit, minmax(28em, 1fr))", "grid_gap": "0 1em"}
        often = [self.cells[name] for name in CONTROLS if name not in (*WIDE, *RARE)]
        often, rare = (
            ipywidgets.GridBox(cells, layout=columns) for cells in (often, [self.cells[name] for name in RARE])
        )
        row = {"flex_flow": "row wrap", "align_items": "center"}
        buttons = ipywidgets.HBox([self.go, self.halt, self.sides, self.more, self.bar], layout=row)
        stage = ipywidgets.Output()
        stage.append_display_data(show.Html(_stage(), "decoding explorer: needs a browser"))
        look = ipywidgets.HTML(f"<style>{asset('widgets/widgets_decode.css')}</style>")
        wide = [self.cells[name] for name in WIDE]
        shown = [look, *wide, often, rare, buttons, self.notes[""], self.status, self.feed, stage, self.past]
        box = ipywidgets.VBox(shown)
        box.add_class("dllm-explorer")
        return box

    # what is asked ------------------------------------------------------------------------------------------------

    @property
    def values(self) -> dict:
        return {name: control.value for name, control in self.controls.items()}

    def check(self) -> bool:
        """Show the controls that matter, with their help, or what is wrong with one beside it. Whether all is well."""
        values, wrong = self.values, None
        try:
            config_of(values)
        except ValueError as error:
            wrong = error
        kind = self.kinds[values["checkpoint"]]
        shown = used(values["task"], values["style"])
        for name, cell in self.cells.items():
            cell.layout.display = None if name in shown and (self.more.value or name not in RARE) else "none"
            self._note(name, html.escape(CONTROLS[name][2]))
        self._note("", "")
        if kind.objective == "ar" and (values["task"] == TASKS[1] or values["style"] != "ar"):
            self._note("checkpoint", "trained from left to right only: it will write nonsense this way")
        if wrong:
            self._complain(wrong)
        return not wrong

    def _note(self, name: str, markup: str) -> None:
        self.notes[name].value, self.notes[name].layout.display = markup, None if markup else "none"

    def _complain(self, error: Exception) -> None:
        name = beside(error)
        self._note(name, f'<span class="dllm-wrong">✕ {html.escape(str(error))}</span>')
        if name:
            self.cells[name].layout.display = None  # also where it is a rare one

    def _follow_checkpoint(self) -> None:
        """Another checkpoint is decoded as it was trained, until told otherwise; one without blocks keeps those set."""
        kind = self.kinds[self.controls["checkpoint"].value]
        self.controls["style"].value = kind.objective
        self.controls["block_length"].value = kind.block_size or self.controls["block_length"].value

    # decoding -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin a run on the kernel's event loop (to the end at once where there is none). Nothing while one runs."""
        if self.running or not self.check():
            return
        self._stop_other()
        DecodingPanel.at_work = self
        self.running, self.stopping = True, False
        try:
            self.task = asyncio.get_running_loop().create_task(self.decode())
        except RuntimeError:
            asyncio.run(self.decode())

    def stop(self) -> None:
        """End the run in work after its present step; what it has written stays."""
        self.stopping = self.running

    @staticmethod
    def _stop_other() -> None:
        if DecodingPanel.at_work is not None:
            DecodingPanel.at_work.stop()

    async def decode(self) -> None:
        """One run with the controls' values: the player is drawn again as it grows."""
        values = self.values
        self._idle(False)
        try:
            self._say("opening the checkpoint …")
            self._open(values["checkpoint"])
            job = begin(self.loaded, values)
            self.count += 1
            label = f"{self.count}: {STYLE_NAMES[job.trace.style]}"
            await self._watch(label, job)
            if job.trace.steps:
                self._keep(label, values["checkpoint"], job)
        except ValueError as error:
            self._say("")
            self._complain(error)
        except Exception as error:  # whatever it is, the one who looks on must see it; the kernel's log gets the rest
            self._say(f"failed: {type(error).__name__}: {error}")
            raise
        finally:
            self.running = False
            DecodingPanel.at_work = None if DecodingPanel.at_work is self else DecodingPanel.at_work
            self._idle(True)

    def _open(self, name: str) -> None:
        if name != self.name:
            self.loaded, self.name = self.open_run(name), name

    async def _watch(self, label: str, job: Decoding) -> None:
        trace, steps = job.trace, job.steps
        hidden = masked_after(trace, 0)
        self.bar.max, self.bar.value = hidden, 0
        drawn, cost = 0.0, 0.0
        for step in steps:
            trace.steps.append(step)
            self.bar.value = hidden - step.masked
            now = time.perf_counter()
            if now - drawn > max(0.1, cost / SHARE):
                self._say(
                    f"step {len(trace.steps)}, forwards {trace.forwards}, filled {self.bar.value} of {hidden} places"
                )
                self._show([(label, with_text(trace, self.loaded.tokenizer))])
                drawn = time.perf_counter()
                cost = drawn - now
            await asyncio.sleep(self.controls["pause"].value)  # here a press of Stop comes through
            if self.stopping:
                break
        else:
            self.stopping = False  # pressed too late: it was finished
        steps.close()

    def _keep(self, label: str, run: str, job: Decoding) -> None:
        trace, tokenizer = with_text(job.trace, self.loaded.tokenizer), self.loaded.tokenizer
        how = "stopped" if self.stopping else "finished"
        label, words = (f"{label} (stopped)", "(stopped) ") if self.stopping else (label, "")
        self.done = [*self.done, (label, trace)][-SIDES:]
        self.rows = [run_row(self.count, run, trace, words + job.text(tokenizer)), *self.rows][:KEPT]
        self.past.value = table(self.rows).html
        self._show([(label, trace)])
        self._say(f"{how}: {trace.tokens} tokens in {trace.forwards} forwards, {trace.seconds:.2f} s of decoding")
        self.bar.value = self.bar.value if self.stopping else self.bar.max

    def show_sides(self) -> None:
        """The last runs in one player, on a common clock."""
        if self.done and not self.running:
            self._show(self.done)

    # what is shown ------------------------------------------------------------------------------------------------

    def _show(self, runs: list[tuple[str, Trace]]) -> None:
        shown = show.player(*(trace for _, trace in runs), labels=[label for label, _ in runs])
        self.feed.value = f"<template>{shown.html}</template>"

    def _say(self, words: str) -> None:
        self.status.value = html.escape(words)

    def _idle(self, idle: bool) -> None:
        # neither button is ever disabled: that would take the focus away from a person at the keyboard
        self.go.button_style, self.halt.button_style = ("primary", "") if idle else ("", "warning")
        self.bar.bar_style = ("warning" if self.stopping else "success") if idle and self.count else "info"


def _described(name: str, kind: CheckpointInfo) -> str:
    blocks = f", blocks of {kind.block_size}" if kind.block_size else ""
    return f"{name} ({STYLE_NAMES[kind.objective]}{blocks}, {'chat' if kind.chat else 'base'})"


def _stage() -> str:
    return (
        f'<div class="dllm-stage"></div><script>{asset("widgets/widgets_keys.js")}'
        "(() => { const stage = document.currentScript.previousElementSibling;\n"
        f"{asset('widgets/widgets_decode.js')}}})();</script>"
    )

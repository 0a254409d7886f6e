"""The decoding explorer: set the parameters, decode, watch the player, stop, and compare with earlier runs.

The decoder is a generator, so the panel needs no thread: it takes one step after another on the kernel's event loop, and
a press of Stop is handled between two steps.
"""

import asyncio
import html
import time
from collections.abc import Callable, Mapping, Sequence

from dllm_core import show
from dllm_core.checkpoints.formats import LoadedCheckpoint
from dllm_core.config import DecodeConfig
from dllm_core.notebook.setup import open_checkpoint
from dllm_core.show.html import joined
from dllm_core.show.trace_view import STYLE_NAMES, masked_after
from dllm_core.show.widgets import branches, request
from dllm_core.show.widgets.branches import EditForm, Run
from dllm_core.show.widgets.controls import live
from dllm_core.show.widgets.request import ANSWER, CONTROLS, FILL, FIRST, Decoding
from dllm_core.show.widgets.stage import Stage
from dllm_core.trace import Edit, with_text

KEPT = 8  # runs in the table
SIDES = 3  # in one player
SHARE = 0.25  # most of the time that drawing may take while it decodes


def decoding_explorer(
    loaded: LoadedCheckpoint, prompt: str, config: DecodeConfig, *, gaps: str = "我是__，一个刚刚学会说话的____模型。",
    open_run: Callable[[str], LoadedCheckpoint] = open_checkpoint, interactive: bool | None = None,
):  # fmt: skip
    """A panel that decodes: every setting a control, Decode and Stop, the player while it decodes, a table of the runs.

    loaded, prompt, config: starting values of the controls; gaps: text for infilling; open_run: opens another run under
    weights/ by its name. The starting values are decoded once: outside an interactive notebook (`show.interactive()`;
    `interactive` overrides it) that player and table are returned, in one they stand where the saved notebook has no
    kernel. Raises ValueError for a prompt that is too long.
    """
    values = _values(loaded, prompt, config, gaps)
    decoding = request.begin(loaded, values)
    decoding.trace.steps.extend(decoding.steps)
    row = request.run_row(1, loaded.path.name, decoding.trace, decoding.text(loaded.tokenizer))
    notes = [show.Html(f"<p>{html.escape(words)}</p>", words) for words in decoding.notes.values()]
    still = joined([*notes, show.player(with_text(decoding.trace, loaded.tokenizer)), request.run_table([row])])
    if show.interactive() if interactive is None else interactive:
        return live([DecodingPanel(loaded, values, open_run).widget], still)
    return still


def _values(loaded: LoadedCheckpoint, prompt: str, config: DecodeConfig, gaps: str) -> dict:
    """The starting values of the controls."""
    settings = {name: value or 0 for name, value in config.to_dict().items() if name in CONTROLS}
    settings["threshold"] = 1.0 if config.threshold is None else config.threshold
    return {"checkpoint": loaded.path.name, "task": ANSWER, "prompt": prompt, "gaps": gaps, "pause": 0.15, **settings}


class DecodingPanel:
    """The panel and its state. `widget`: what a notebook shows; `decode()`: a coroutine, one run from the controls.

    One panel decodes at a time: the current run stops when its cell is run again or Decode of another panel is pressed.
    """

    current: "DecodingPanel | None" = None

    def __init__(self, loaded: LoadedCheckpoint, values: Mapping, open_run: Callable[[str], LoadedCheckpoint]):
        import ipywidgets

        self._stop_current()
        self.first, self.loaded, self.open_run = loaded, loaded, open_run
        self.runs = {**request.finished_runs(), loaded.path.name: loaded.info}
        self.rows: list[dict] = []
        self.done: list[Run] = []
        self.shown: list[Run] = []  # in the player
        self.then: Callable[[], None] | None = None  # what follows the run in work
        self.count, self.running, self.stopping, self.task = 0, False, False, None
        choices = {"checkpoint": {"options": [(request.described(name, info), name) for name, info in self.runs.items()]}}
        self.controls = {
            name: control.widget(values[name], "96%", **choices.get(name, {})) for name, control in CONTROLS.items()
        }
        self.notes = {name: ipywidgets.HTML().add_class("dllm-note") for name in [*CONTROLS, ""]}
        self.cells = {name: ipywidgets.VBox([control, self.notes[name]]) for name, control in self.controls.items()}
        self.more = ipywidgets.ToggleButton(description="more settings", tooltip="checkpoint, task, lengths, …")
        self.go = ipywidgets.Button(description="Decode", tooltip="decode with these settings")
        self.halt = ipywidgets.Button(description="Stop", tooltip="stop after the current step")
        self.sides = ipywidgets.Button(description="Side by side", tooltip=f"the last {SIDES} runs on one clock")
        self.bar = ipywidgets.IntProgress(min=0, max=1, description="filled", layout={"width": "16em"})
        self.status, self.stage = ipywidgets.HTML().add_class("dllm-status"), Stage()
        self.keep = ipywidgets.Button(description="Save", tooltip="write what the player shows to outputs/")
        self.past = ipywidgets.HTML()
        self.pick = ipywidgets.Text(continuous_update=False).add_class("dllm-pick")  # the player's script fills it in
        self.form = EditForm(lambda run, edits: self.start((run, edits)))
        self.widget = self._assembled(ipywidgets)
        self.go.on_click(lambda _: self.start())
        self.halt.on_click(lambda _: self.stop())
        self.sides.on_click(lambda _: self.show_sides())
        self.keep.on_click(lambda _: self.save())
        self.pick.observe(lambda change: self.open_form(change["new"]), "value")
        self.controls["checkpoint"].observe(lambda _: self._follow_checkpoint(), "value")
        for control in [*self.controls.values(), self.more]:
            control.observe(lambda _: self.check(), "value")
        self._say("Decode starts it; Stop ends it after the current step.")
        self._idle(True)
        self.check()

    def _assembled(self, ipywidgets):
        """The widgets in one box, from top to bottom."""
        grid = {"grid_template_columns": "repeat(auto-fit, minmax(28em, 1fr))", "grid_gap": "0 1em"}
        folded = [name for name in CONTROLS if name not in FIRST]
        grids = [ipywidgets.GridBox([self.cells[name] for name in names], layout=grid) for names in (FIRST[2:], folded)]
        row = {"flex_flow": "row wrap", "align_items": "center"}
        buttons = ipywidgets.HBox([self.go, self.halt, self.sides, self.keep, self.more, self.bar], layout=row)
        wide = [self.cells[name] for name in FIRST[:2]]
        told = [buttons.add_class("dllm-buttons"), self.notes[""], self.status, self.stage.feed, self.pick]
        view = [self.stage.view, self.form.widget, self.past]
        return ipywidgets.VBox([*wide, *grids, *told, *view]).add_class("dllm-explorer")

    # the controls -------------------------------------------------------------------------------------------------

    @property
    def values(self) -> dict:
        return {name: control.value for name, control in self.controls.items()}

    def check(self) -> bool:
        """Show the controls that the task and the style use, each with its help, and return whether their values are
        valid. An error is shown beside the control that it concerns."""
        values = self.values
        shown = request.used(values["task"], values["style"])
        for name, cell in self.cells.items():
            cell.layout.display = None if name in shown and (self.more.value or name in FIRST) else "none"
            self._note(name, "" if name in FIRST and name != "gaps" else html.escape(CONTROLS[name].help))
        self._note("", "")
        causal = self.runs[values["checkpoint"]].objective == "ar"
        if causal and (values["task"] == FILL or values["style"] != "ar"):
            self._note("checkpoint", "trained as an AR model, so it cannot fill masks: the text will make no sense")
        try:
            request.config_of(values)
        except ValueError as error:
            self._complain(error)
            return False
        return True

    def _note(self, name: str, markup: str) -> None:
        self.notes[name].value, self.notes[name].layout.display = markup, None if markup else "none"

    def _complain(self, error: Exception) -> None:
        name = request.beside(error)
        self._note(name, f'<span class="dllm-wrong">✕ {html.escape(str(error))}</span>')
        if name:
            self.cells[name].layout.display = None  # also where it is a rare one

    def _follow_checkpoint(self) -> None:
        """Set the style and block length that another checkpoint was trained with; without blocks, keep the length."""
        info = self.runs[self.controls["checkpoint"].value]
        self.controls["style"].value = info.objective
        self.controls["block_length"].value = info.block_size or self.controls["block_length"].value

    # decoding -----------------------------------------------------------------------------------------------------

    def start(self, branch: tuple[Run, list[Edit]] | None = None) -> None:
        """Begin a run of the controls' values, or a branch of another with its edits, on the kernel's event loop (to the
        end at once where there is none). A run in work is stopped first."""
        if not (branch or self.check()):
            return
        if self.running:
            self._say("stopping this run; the new one follows …")
            self._follow_with(lambda: self.start(branch))
            return
        self._stop_current()
        DecodingPanel.current = self
        self.running, self.stopping = True, False
        try:
            self.task = asyncio.get_running_loop().create_task(self.decode(branch))
        except RuntimeError:
            asyncio.run(self.decode(branch))

    def stop(self) -> None:
        """End the run after its current step; the tokens filled so far are kept."""
        self.stopping, self.then = self.running, None

    def _follow_with(self, then: Callable[[], None]) -> None:
        """Stop the run in work, and do `then` after it."""
        self.stopping, self.then = True, then

    @staticmethod
    def _stop_current() -> None:
        if DecodingPanel.current is not None:
            DecodingPanel.current.stop()

    async def decode(self, branch: tuple[Run, list[Edit]] | None = None) -> None:
        """One run: the player is drawn again as it grows."""
        values = self.values
        name = branch[0].checkpoint if branch else values["checkpoint"]
        self._idle(False)
        try:
            self._say("opening the checkpoint …")
            self._open(name)
            decoding = branches.begin(self.loaded, *branch) if branch else request.begin(self.loaded, values)
            for control, words in decoding.notes.items():
                self._note(control, f"<b>{html.escape(words)}</b>")
            self.count += 1
            of = f", branch of {branch[0].label.split(':')[0]}" if branch else ""
            run = Run(f"{self.count}: {STYLE_NAMES[decoding.trace.style]}{of}", decoding.trace, name, decoding.start)
            beside = branches.beside(branch[0], self.shown, SIDES) if branch else []
            await self._watch(run, decoding, beside)
            if decoding.trace.steps or branch:
                self._keep(run, decoding, beside)
        except ValueError as error:
            self._say("")
            self._complain(error)
        except Exception as error:  # show every error in the panel; the traceback goes to the kernel's log
            self._say(f"failed: {type(error).__name__}: {error}")
            raise
        finally:
            self.running = False
            DecodingPanel.current = None if DecodingPanel.current is self else DecodingPanel.current
            self._idle(True)
            then, self.then = self.then, None
            if then:
                then()

    def _open(self, name: str) -> None:
        if name == self.first.path.name:
            self.loaded = self.first  # it may lie elsewhere than the runs
        elif name != self.loaded.path.name:
            self.loaded = self.open_run(name)

    async def _watch(self, run: Run, decoding: Decoding, beside: list[Run]) -> None:
        trace, steps = decoding.trace, decoding.steps
        total = masked_after(trace, 0)
        self.bar.max, self.bar.value = total, 0
        drawn, cost = 0.0, 0.0
        for step in steps:
            trace.steps.append(step)
            self.bar.value = total - step.masked
            began = time.perf_counter()
            if began - drawn > max(0.1, cost / SHARE):
                filled = f"filled {self.bar.value} of {total} positions"
                self._say(f"step {len(trace.steps)}, forward passes {trace.forwards}, {filled}")
                with_text(trace, self.loaded.tokenizer)
                self._show([*beside, run], running=True)
                drawn = time.perf_counter()
                cost = drawn - began
            await asyncio.sleep(self.controls["pause"].value)  # the event loop handles a press of Stop here
            if self.stopping:
                break
        else:
            self.stopping = False  # Stop was pressed after the last step
        steps.close()

    def _keep(self, run: Run, decoding: Decoding, beside: list[Run]) -> None:
        """Add a run to the table and to the runs that `show_sides` compares."""
        trace, tokenizer = with_text(decoding.trace, self.loaded.tokenizer), self.loaded.tokenizer
        text, end = decoding.text(tokenizer), "finished"
        if self.stopping:
            run, text, end = run._replace(label=f"{run.label} (stopped)"), f"(stopped) {text}", "stopped"
        self.done = [*self.done, run][-SIDES:]
        self.rows = [request.run_row(self.count, run.checkpoint, trace, text), *self.rows][:KEPT]
        self.past.value = request.run_table(self.rows).html
        self._show([*beside, run])
        self._say(f"{end}: {trace.tokens} tokens in {trace.forwards} forward passes, {trace.seconds:.2f} s of decoding")
        self.bar.value = self.bar.value if self.stopping else self.bar.max

    def show_sides(self) -> None:
        """The last runs in one player, on a common clock."""
        if self.done and not self.running:
            self._show(self.done)

    # what is shown ------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write every decoding in the player to a new file under outputs/."""
        if self.shown and not self.running:
            self._say(branches.save(self.shown))

    def open_form(self, message: str) -> None:
        """Show the form for the token that a player's message names; a run in work is stopped first."""
        if self.running:
            self._follow_with(lambda: self.open_form(message))
            return
        try:
            run, step, position = branches.asked(message, self.shown)
            self._open(run.checkpoint)
            self.form.open(self.loaded, run, step, position)
        except ValueError as error:
            self._say(f"this token cannot be changed: {error}")

    def _show(self, runs: Sequence[Run], running: bool = False) -> None:
        self.shown = list(runs)
        self.stage.show([run.label for run in runs], [run.trace for run in runs], self.count, running)

    def _say(self, words: str) -> None:
        self.status.value = html.escape(words)

    def _idle(self, idle: bool) -> None:
        # a disabled button would lose the keyboard focus, so both stay enabled
        self.go.button_style, self.halt.button_style = ("primary", "") if idle else ("", "warning")
        self.bar.bar_style = ("warning" if self.stopping else "success") if idle and self.count else "info"

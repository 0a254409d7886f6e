"""Branches of a decoding in the explorer: what the model ranks at a position, and the form that changes it by hand."""

import html
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count, islice
from typing import NamedTuple

from dllm_core.checkpoints.formats import LoadedCheckpoint
from dllm_core.common.files import display_path
from dllm_core.common.paths import resolve
from dllm_core.config import DecodeConfig
from dllm_core.data.tokenizer import encode_text
from dllm_core.decoding_state import computed_positions, grid_offset
from dllm_core.samplers import decode, decode_gaps, new_gap_trace, new_trace
from dllm_core.show.html import visible
from dllm_core.show.widgets.request import Decoding, timed
from dllm_core.trace import Commit, Edit, Trace

TOP = 20  # tokens in the list
# Settings with which one step fills all that the model predicts in a state, so that its record holds every ranking.
AT_ONCE = {
    "temperature": 0.0, "threshold": 0.0, "cap_start_ratio": None, "cap_end_ratio": None, "max_decode_per_step": None,
    "eos_early_stop": False, "remasking": "low_confidence", "draft": False,
}  # fmt: skip


class Run(NamedTuple):
    """A decoding that the explorer keeps. checkpoint: its run's name; start: the first position of the text shown."""

    label: str
    trace: Trace
    checkpoint: str
    start: int


def asked(message: str, runs: Sequence[Run]) -> tuple[Run, int, int]:
    """The run, step and position of a player's message: JSON of [side, step, position, a number that makes it new].
    Raises ValueError for any other."""
    try:
        side, step, position, _ = json.loads(message)
        run = runs[side]
        steps, initial = range(len(run.trace.steps) + 1), run.trace.initial
        if step in steps and position in range(len(initial)) and initial[position] == run.trace.mask_token_id:
            return run, step, position
    except (ValueError, TypeError, LookupError):
        pass
    raise ValueError(f"the player asked for a token that there is not: {message!r}")


def beside(parent: Run, shown: Sequence[Run], most: int) -> list[Run]:
    """What stays in the player, of `most` sides, when a branch of `parent` comes: it, and its latest branches shown."""
    others = [run for run in shown if run.trace.edits and run.trace.initial == parent.trace.initial and run != parent]
    return [parent, *others[2 - most :]]


def save(runs: Sequence[Run]) -> str:
    """Write the trace of each run to a new file under outputs/, and say where."""
    paths = []
    for run in runs:
        path = next(path for n in count(1) if not (path := resolve(f"outputs/decoding-{n}.json")).exists())
        paths.append(display_path(run.trace.save(path)))
    return f"saved: {', '.join(paths)}; `dllm play` shows such a file, `Trace.load` reads it"


def begin(loaded: LoadedCheckpoint, run: Run, edits: Sequence[Edit]) -> Decoding:
    """The decoding of a branch of `run`. Raises ValueError for edits that it cannot have."""
    trace, steps = _decoding(loaded, run.trace, DecodeConfig(**run.trace.settings), edits)
    replace(trace, steps=run.trace.steps).tokens_at(trace.edits[-1].step)  # raises for an edit that AR cannot have
    return Decoding(trace, timed(steps), run.start)


def _decoding(loaded: LoadedCheckpoint, trace: Trace, config: DecodeConfig, edits: Sequence[Edit]):
    """The record of another decoding of a trace's start, without steps, and its steps."""
    if trace.prompt:
        return new_trace(loaded, trace.prompt, config, edits), decode(loaded, [trace.prompt], config, edits)
    return new_gap_trace(loaded, trace.initial, config, edits), decode_gaps(loaded, trace.initial, config, edits)


def ranked(loaded: LoadedCheckpoint, trace: Trace, step: int, position: int) -> list[tuple[int, float]]:
    """The `TOP` most probable tokens at a position after `step` steps, (token, probability), from one forward.

    At a masked position they are what the next step would rank; at a filled one, what was ranked when it was filled. None
    where the decoder does not predict the position yet: behind AR's next token or LLaDA 2's current block.
    """
    # 1. the state in which the position was predicted, or is to be
    tokens, state = trace.tokens_at(step), step
    for number, changed in enumerate(islice(trace.changes(), step + 1)):
        if position in changed and tokens[position] != trace.mask_token_id:
            state = number - isinstance(changed[position][1], Commit)
    trace = _with_whole_blocks(loaded, trace, state)
    tokens = trace.tokens_at(state)
    masked_again = range(position, len(tokens) if trace.style == "ar" else position + 1)
    tokens = [trace.mask_token_id if i in masked_again else token for i, token in enumerate(tokens)]
    # 2. its tokens as written at the start, and one step from there
    edits = [replace(edit, step=0) for edit in trace.edits if edit.action == "forbid" and edit.step <= state]
    for i, token in enumerate(tokens):
        if trace.initial[i] == trace.mask_token_id != token:
            edits.append(Edit(0, i, "write", token))
    at_once = AT_ONCE | ({"steps": 1, "block_length": None} if trace.style == "llada1" else {})
    config = DecodeConfig(**trace.settings | at_once | {"alternatives": TOP - 1})
    _, steps = _decoding(loaded, trace, config, edits)
    for commit in next(steps).commits:
        if commit.position == position:
            return [(commit.token, commit.confidence), *commit.alternatives]
    return []


def _with_whole_blocks(loaded: LoadedCheckpoint, trace: Trace, count: int) -> Trace:
    """The first `count` steps of a trace with the positions that complete LLaDA 2's last block: they are decoded and seen
    by the model, but lie beyond the answer and its record. So they are decoded again, as a longer answer."""
    config = DecodeConfig(**trace.settings)
    length = len(trace.initial)
    whole = computed_positions(length, config, grid_offset(len(trace.prompt), config, loaded.info.grid))
    if whole == length:
        return trace
    config = replace(config, max_new_tokens=whole - len(trace.prompt), eos_early_stop=False)
    longer, steps = _decoding(loaded, trace, config, [edit for edit in trace.edits if edit.step <= count])
    longer.steps.extend(islice(steps, count))
    return longer


class EditForm:
    """The form that changes one position: the model's list, a text of one's own, a reason, and a button for each action.

    `widget`: hidden until `open`; act: called with the run and all edits of its new branch.
    """

    def __init__(self, act: Callable[[Run, list[Edit]], None]):
        import ipywidgets

        self.act, self.loaded, self.run, self.step, self.position = act, None, None, 0, 0
        wide = {"layout": {"width": "96%"}, "style": {"description_width": "12em"}}
        self.title, self.note = (ipywidgets.HTML().add_class("dllm-say") for _ in range(2))
        self.list = ipywidgets.Select(options=[], rows=6, description="the model's ranking", **wide)
        self.text = ipywidgets.Text(description="a text of your own", placeholder="written from here on", **wide)
        self.why = ipywidgets.Text(description="reason", placeholder="kept in the record", **wide)
        buttons = []
        for action, tip in (
            ("take", "put the chosen token there"), ("write", "put your text there"), ("mask", "mask it again"),
            ("forbid", "never predict the chosen token there"),
        ):  # fmt: skip
            button = ipywidgets.Button(description=action, tooltip=tip)
            button.on_click(lambda _, action=action: self.press(action))
            buttons.append(button)
        row = ipywidgets.HBox(buttons, layout={"flex_flow": "row wrap"})
        parts = [self.title, self.list, self.text, self.why, row, self.note]
        self.widget = ipywidgets.VBox(parts, layout={"display": "none"}).add_class("dllm-form")

    def open(self, loaded: LoadedCheckpoint, run: Run, step: int, position: int) -> None:
        """Show the form for a position after `step` steps. loaded: the run's checkpoint."""
        self.loaded, self.run, self.step, self.position = loaded, run, step, position
        tops = ranked(loaded, run.trace, step, position)
        names = [visible(loaded.tokenizer.decode([token])) for token, _ in tops]
        self.list.options = [
            (f"{rank}. {name} {p:.3f}", token)
            for rank, (name, (token, p)) in enumerate(zip(names, tops, strict=True), 1)
        ]
        self.list.value = tops[0][0] if tops else None
        when = f"after step {step}" if step else "at the start"
        empty = "" if tops else " The model does not predict this position yet, so it has no list."
        self.title.value = f"<b>Change position {position} of {html.escape(run.label)}, {when}.</b>{empty}"
        self.text.value = self.why.value = self.note.value = ""
        self.widget.layout.display = None

    def press(self, action: str) -> None:
        """Begin the branch of a button, or say what is wrong."""
        self.note.value = ""
        try:
            edits = [*(edit for edit in self.run.trace.edits if edit.step <= self.step), *self.edits(action)]
            begin(self.loaded, self.run, edits)
        except ValueError as error:
            self.note.value = f'<span class="dllm-wrong" role="alert">✕ {html.escape(str(error))}</span>'
            return
        self.widget.layout.display = "none"
        self.act(self.run, edits)

    def edits(self, action: str) -> list[Edit]:
        """What a button's action means: one edit, or one for each token of the written text."""
        at, why = (self.step, self.position, action), self.why.value
        if action == "mask":
            return [Edit(*at, why=why)]
        if action == "write":
            if not self.text.value:
                raise ValueError("write: the text is empty; type what is to stand there")
            ids = encode_text(self.loaded.tokenizer, self.text.value, "write").ids
            return [Edit(self.step, self.position + i, action, token, why) for i, token in enumerate(ids)]
        if self.list.value is None:
            raise ValueError(f"{action}: choose a token of the list")
        return [Edit(*at, self.list.value, why)]

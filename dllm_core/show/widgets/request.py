"""The decoding explorer without its widgets: the controls as data, and the decoding that their values describe.

Invalid values raise ValueError; `beside` names the control that the error concerns.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace

from dllm_core.checkpoints.formats import VARIANTS, LoadedCheckpoint
from dllm_core.common.errors import RunError
from dllm_core.common.files import read_json
from dllm_core.common.paths import resolve
from dllm_core.config import OBJECTIVES, CheckpointInfo, DecodeConfig
from dllm_core.notebook.asking import GAP, mask_gaps, prompt_ids, prompt_notes
from dllm_core.samplers import decode, decode_gaps, new_gap_trace, new_trace
from dllm_core.show.html import Table, table
from dllm_core.show.trace_view import STYLE_NAMES
from dllm_core.show.widgets.controls import Control
from dllm_core.trace import DecodeStep, Trace

SETTINGS = tuple(field.name for field in fields(DecodeConfig))
ANSWER, FILL = TASKS = ("answer a prompt", "fill gaps in a text (full attention, LLaDA 1's sampler)")

LIMITS = {  # of what is typed as a number; a slider shows its own
    "steps": (0, 4096), "block_length": (0, 4096), "max_new_tokens": (1, 4096), "max_decode_per_step": (0, 4096),
    "seed": (0, 2**31 - 1),
}  # fmt: skip
_SHARE = {"min": 0, "max": 1, "step": 0.01}
CONTROLS = {  # in the order in which they are shown
    "checkpoint": Control("Dropdown", "checkpoint"),
    "task": Control("Dropdown", "task", options=TASKS),
    "prompt": Control("Textarea", "prompt", "a chat checkpoint answers it, a base checkpoint continues it", rows=2),
    "gaps": Control("Textarea", "text with gaps", "____ is a gap: one underscore for each masked token, at least two",
                    rows=2),
    "style": Control("Dropdown", "style", options=[(STYLE_NAMES[name], name) for name in OBJECTIVES]),
    "threshold": Control("FloatSlider", "threshold (probability)", "write all above it; 1: by the schedule alone",
                         **_SHARE),
    "steps": Control("IntText", "steps", "LLaDA 1: in all, LLaDA 2: in a block; 0: one per token"),
    "block_length": Control("IntText", "block length (tokens)", "0: LLaDA 1 all at once, LLaDA 2 32"),
    "max_new_tokens": Control("IntText", "answer length (tokens)", "positions to fill"),
    "pause": Control("FloatSlider", "slow motion (s/step)", "a pause to look; not counted in the seconds",
                     min=0, max=1, step=0.05),
    "temperature": Control("FloatSlider", "temperature", "0: greedy, the most probable token", min=0, max=2, step=0.05),
    "seed": Control("IntText", "seed", "of the random choice, with a temperature above 0"),
    "cfg_scale": Control("FloatSlider", "guidance (scale)", "0: off; else two forward passes a step, one without the prompt",
                         min=0, max=4, step=0.1),
    "max_decode_per_step": Control("IntText", "most per step (tokens)", "0: no limit"),
    "cap_start_ratio": Control("FloatSlider", "budget at first (share)",
                               "of the masked positions a step may fill; 0: off", **_SHARE),
    "cap_end_ratio": Control("FloatSlider", "budget at last (share)", "set both or neither", **_SHARE),
}  # fmt: skip
FIRST = ("prompt", "gaps", "style", "threshold")  # the two texts over the whole width; the other controls are folded
OFF_AT_ZERO = ("steps", "block_length", "cap_start_ratio", "cap_end_ratio", "max_decode_per_step")
OF_STYLE = {  # the settings that a style uses, besides length, temperature and seed
    "ar": (),
    "llada1": ("steps", "block_length", "cfg_scale"),
    "llada2": (
        "steps", "block_length", "threshold", "cfg_scale", "cap_start_ratio", "cap_end_ratio", "max_decode_per_step",
    ),
}  # fmt: skip
_BESIDE = {  # how a message begins → the control it belongs to; messages "name=value: …" name theirs
    "prompt and answer": "max_new_tokens",
    "gaps": "gaps",
    "prompt": "prompt",
    "cap": "cap_end_ratio",
}


def finished_runs() -> dict[str, CheckpointInfo]:
    """Name → `CheckpointInfo` of every finished run under weights/, without the replaced runs NAME.old and those whose
    config.json is absent or damaged."""
    runs = {}
    for file in sorted(resolve("weights").glob(f"*/{VARIANTS['last']}")):
        with suppress(OSError, ValueError, LookupError, TypeError):
            info = read_json(file.with_name("config.json"))["dllm"]["checkpoint"]
            if not file.parent.name.endswith(".old"):
                runs[file.parent.name] = CheckpointInfo(**info)
    return runs


def described(name: str, info: CheckpointInfo) -> str:
    """A run in the list of checkpoints."""
    blocks = f", blocks of {info.block_size}" if info.block_size else ""
    return f"{name} ({STYLE_NAMES[info.objective]}{blocks}, {'chat' if info.chat else 'base'})"


def used(task: str, style: str) -> set[str]:
    """The controls that a task and a style use; `FILL` always uses LLaDA 1's sampler."""
    always = {"checkpoint", "task", "pause", "prompt", "temperature", "seed"}
    if task == FILL:
        return {*always, "gaps", "steps", "cfg_scale"}
    return {*always, "style", "max_new_tokens", *OF_STYLE[style]}


def config_of(values: Mapping) -> DecodeConfig:
    """`DecodeConfig` of the controls' values; 0 means None where a setting can be off. Raises its ValueError, and one for
    a number beyond `LIMITS`."""
    settings = {name: values[name] for name in used(values["task"], values["style"]) & set(SETTINGS)}
    for name in settings.keys() & LIMITS.keys():
        least, most = LIMITS[name]
        if not least <= settings[name] <= most:
            raise ValueError(f"{name}={settings[name]}: must be from {least} to {most}")
    settings |= {name: settings[name] or None for name in OFF_AT_ZERO if name in settings}
    if values["task"] == FILL:
        masked = sum(map(len, GAP.findall(values["gaps"])))
        settings |= {"style": "llada1", "max_new_tokens": max(1, masked)}
    return DecodeConfig(**settings, alternatives=3, draft=True)


@dataclass
class Decoding:
    """The decoding of one sequence. trace: still without steps; steps: yielded by the decoder, to be added to the trace;
    start: the first position of the text that is shown; notes: control → what `prompt_notes` says of its text."""

    trace: Trace
    steps: Iterator[DecodeStep]
    start: int
    notes: dict[str, str] = field(default_factory=dict)

    def text(self, tokenizer) -> str:
        """The text so far, up to eos, without masked positions; for infilling also the text around the gaps."""
        tokens = self.trace.answer if self.trace.prompt else self.trace.final[self.start :]
        return tokenizer.decode(tokens, skip_special_tokens=True)


def begin(loaded: LoadedCheckpoint, values: Mapping) -> Decoding:
    """The decoding that the controls' values describe. Raises ValueError for invalid values; the decoder raises it at
    the first step for a sequence longer than the model's positions."""
    tokenizer, chat = loaded.tokenizer, loaded.info.chat
    config = config_of(values)
    if values["task"] == ANSWER:
        prompt = prompt_ids(tokenizer, values["prompt"], chat)
        notes = _notes(prompt=prompt_notes(loaded, values["prompt"], config.max_new_tokens))
        return Decoding(new_trace(loaded, prompt, config), timed(decode(loaded, [prompt], config)), len(prompt), notes)
    before = prompt_ids(tokenizer, values["prompt"], chat) if chat else [tokenizer.bos_token_id]
    tokens = before + mask_gaps(tokenizer, values["gaps"])
    notes = _notes(
        prompt=prompt_notes(loaded, values["prompt"]) if chat else [],
        gaps=prompt_notes(loaded, GAP.sub("", values["gaps"]), len(before) + config.max_new_tokens),
    )
    steps = timed(decode_gaps(loaded, tokens, config))
    return Decoding(new_gap_trace(loaded, tokens, config), steps, len(before), notes)


def _notes(**notes: list[str]) -> dict[str, str]:
    """Control → its sentences in one, for those that have any."""
    return {control: "; ".join(sentences) for control, sentences in notes.items() if sentences}


def timed(steps: Iterable[DecodeStep]) -> Iterator[DecodeStep]:
    """The same steps, whose `seconds` leave out the time that the consumer takes between them, to draw and to pause."""
    outside = 0.0
    for step in steps:
        yielded = time.perf_counter()
        yield replace(step, seconds=step.seconds - outside)
        outside += time.perf_counter() - yielded


def beside(error: Exception) -> str:
    """The name of the control that an error concerns, or ""."""
    message = str(error)
    name = message.split("=")[0].split(":")[0].strip()
    if isinstance(error, RunError):
        return "checkpoint"
    if name in SETTINGS:
        return name
    return next((control for start, control in _BESIDE.items() if message.startswith(start)), "")


def run_row(number: int, run: str, trace: Trace, text: str) -> dict:
    """One run as a row of the table."""
    settings = {name: trace.settings.get(name) for name in (*OF_STYLE[trace.style], "temperature")}
    words = [f"{name.replace('_', ' ')} {value:g}" for name, value in settings.items() if value]
    words += [f"{len(trace.edits)} by hand"] if trace.edits else []
    return {
        "run": number, "checkpoint": run, "style": STYLE_NAMES[trace.style], "settings": ", ".join(words) or "–",
        "tokens": trace.tokens, "forwards": trace.forwards, "tokens per forward": trace.tokens_per_forward,
        "seconds": trace.seconds, "text": text[:120],
    }  # fmt: skip


def run_table(rows: list[dict]) -> Table:
    """The rows of `run_row` as a table."""
    return table(rows, caption="the last runs, newest first", digits=3)

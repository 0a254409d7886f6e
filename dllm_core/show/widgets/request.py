"""The decoding explorer without its widgets: the controls as data, and the decoding that their values describe.

Invalid values raise ValueError; `beside` names the control that the error concerns.
"""

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace

from dllm_core.checkpoints.formats import VARIANTS, LoadedCheckpoint
from dllm_core.common.errors import RunError
from dllm_core.common.files import read_json
from dllm_core.common.paths import resolve
from dllm_core.config import OBJECTIVES, CheckpointInfo, DecodeConfig
from dllm_core.data.tokenizer import encode_text
from dllm_core.notebook.asking import prompt_ids
from dllm_core.samplers import decode, decode_gaps, new_gap_trace, new_trace
from dllm_core.show.trace_view import STYLE_NAMES
from dllm_core.show.widgets.controls import Control
from dllm_core.trace import DecodeStep, Trace

SETTINGS = tuple(field.name for field in fields(DecodeConfig))
GAP = re.compile("(_{2,}|＿{2,})")
ANSWER, FILL = TASKS = ("answer a prompt", "fill gaps in a text (full attention, LLaDA 1's sampler)")

_COUNT = {"min": 0, "max": 4096}
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
    "steps": Control("BoundedIntText", "steps", "LLaDA 1: in all, LLaDA 2: in a block; 0: one per token", **_COUNT),
    "block_length": Control("BoundedIntText", "block length (tokens)", "0: LLaDA 1 all at once, LLaDA 2 32", **_COUNT),
    "max_new_tokens": Control("BoundedIntText", "answer length (tokens)", "positions to fill", min=1, max=4096),
    "pause": Control("FloatSlider", "slow motion (s/step)", "a pause to look; not counted in the seconds",
                     min=0, max=1, step=0.05),
    "temperature": Control("FloatSlider", "temperature", "0: greedy, the most probable token", min=0, max=2, step=0.05),
    "seed": Control("BoundedIntText", "seed", "of the random choice, with a temperature above 0", min=0, max=2**31 - 1),
    "cfg_scale": Control("FloatSlider", "guidance (scale)", "0: off; else two forward passes a step, one without the prompt",
                         min=0, max=4, step=0.1),
    "max_decode_per_step": Control("BoundedIntText", "most per step (tokens)", "0: no limit", **_COUNT),
    "cap_start_ratio": Control("FloatSlider", "budget at first (share)",
                               "of the masked positions a step may fill; 0: off", **_SHARE),
    "cap_end_ratio": Control("FloatSlider", "budget at last (share)", "set both or neither", **_SHARE),
}  # fmt: skip
WIDE = ("checkpoint", "task", "prompt", "gaps")
RARE = ("temperature", "seed", "cfg_scale", "max_decode_per_step", "cap_start_ratio", "cap_end_ratio")
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


def used(task: str, style: str) -> set[str]:
    """The controls that a task and a style use; `FILL` always uses LLaDA 1's sampler."""
    always = {"checkpoint", "task", "pause", "prompt", "temperature", "seed"}
    if task == FILL:
        return {*always, "gaps", "steps", "cfg_scale"}
    return {*always, "style", "max_new_tokens", *OF_STYLE[style]}


def config_of(values: Mapping) -> DecodeConfig:
    """`DecodeConfig` of the controls' values; 0 means None where a setting can be off. Raises its ValueError."""
    settings = {name: values[name] for name in used(values["task"], values["style"]) & set(SETTINGS)}
    settings |= {name: settings[name] or None for name in OFF_AT_ZERO if name in settings}
    if values["task"] == FILL:
        masked = sum(map(len, GAP.findall(values["gaps"])))
        settings |= {"style": "llada1", "max_new_tokens": max(1, masked)}
    return DecodeConfig(**settings, alternatives=3, draft=True)


def masked_text(tokenizer, text: str) -> list[int]:
    """Tokens of a text whose gaps are two or more underscores, one masked token for each: "床前____光".

    The text between gaps is tokenized in pieces: the masked words are unknown. Raises ValueError without a gap.
    """
    if not GAP.search(text):
        raise ValueError("gaps: the text has none; write two or more underscores, one for each masked token")
    tokens: list[int] = []
    for i, piece in enumerate(GAP.split(text)):
        if i % 2:  # a gap; the pieces of text come before and after it
            tokens += [tokenizer.mask_token_id] * len(piece)
        else:
            tokens += encode_text(tokenizer, piece, "gaps").ids
    return tokens


@dataclass
class Decoding:
    """The decoding of one sequence. trace: still without steps; steps: yielded by the decoder, to be added to the trace;
    start: the first position of the text that is shown."""

    trace: Trace
    steps: Iterator[DecodeStep]
    start: int

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
        return Decoding(new_trace(loaded, prompt, config), timed(decode(loaded, [prompt], config)), len(prompt))
    before = prompt_ids(tokenizer, values["prompt"], chat) if chat else [tokenizer.bos_token_id]
    tokens = before + masked_text(tokenizer, values["gaps"])
    return Decoding(new_gap_trace(loaded, tokens, config), timed(decode_gaps(loaded, tokens, config)), len(before))


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

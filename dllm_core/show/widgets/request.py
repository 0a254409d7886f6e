"""What the decoding explorer's controls ask for: from plain values to a decoder that yields steps. No widgets in here.

Every refusal is a ValueError; `beside` says next to which control its message belongs.
"""

import re
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace

from dllm_core.checkpoints.formats import VARIANTS
from dllm_core.checkpoints.run_folder import LoadedCheckpoint
from dllm_core.common.errors import RunError
from dllm_core.common.files import read_json
from dllm_core.common.paths import resolve
from dllm_core.config import OBJECTIVES, CheckpointInfo, DecodeConfig
from dllm_core.notebook.asking import prompt_ids
from dllm_core.samplers import decode, decode_gaps, new_gap_trace, new_trace
from dllm_core.show.trace_view import STYLE_NAMES
from dllm_core.trace import DecodeStep, Trace

_FIELDS = tuple(field.name for field in fields(DecodeConfig))
GAP = re.compile("_{2,}|＿{2,}")
TASKS = ("answer a prompt", "fill gaps in a text (full attention, LLaDA 1's sampler)")

# name → (kind of ipywidget, label with its unit, help, options), in the order in which they stand
CONTROLS = {
    "checkpoint": ("Dropdown", "checkpoint", "", {}),
    "task": ("Dropdown", "task", "", {"options": TASKS}),
    "prompt": ("Textarea", "prompt", "a chat checkpoint answers it, a base checkpoint goes on from it", {"rows": 2}),
    "gaps": ("Textarea", "text with gaps", "____ is a gap: one underscore for each hidden token, at least two", {"rows": 2}),
    "style": ("Dropdown", "style", "", {"options": [(STYLE_NAMES[name], name) for name in OBJECTIVES]}),
    "threshold": ("FloatSlider", "threshold (probability)", "write all above it; 1: by the schedule alone",
                  {"min": 0, "max": 1, "step": 0.01}),
    "steps": ("BoundedIntText", "steps", "LLaDA 1: in all, LLaDA 2: in a block; 0: one a token", {"min": 0, "max": 4096}),
    "block_length": ("BoundedIntText", "block length (tokens)", "0: LLaDA 1 all at once, LLaDA 2 32", {"min": 0, "max": 4096}),
    "max_new_tokens": ("BoundedIntText", "answer length (tokens)", "places to fill", {"min": 1, "max": 4096}),
    "pause": ("FloatSlider", "slow motion (s a step)", "a pause to look; not counted in the seconds",
              {"min": 0, "max": 1, "step": 0.05}),
    "temperature": ("FloatSlider", "temperature", "0: greedy, the most probable token", {"min": 0, "max": 2, "step": 0.05}),
    "seed": ("BoundedIntText", "seed", "of the drawing, with a temperature above 0", {"min": 0, "max": 2**31 - 1}),
    "cfg_scale": ("FloatSlider", "guidance (scale)", "0: off; else two forwards a step, one of them without the prompt",
                  {"min": 0, "max": 4, "step": 0.1}),
    "max_decode_per_step": ("BoundedIntText", "most per step (tokens)", "0: no limit", {"min": 0, "max": 4096}),
    "cap_start_ratio": ("FloatSlider", "budget at first (share)", "of the hidden places a step may fill; 0: off",
                        {"min": 0, "max": 1, "step": 0.01}),
    "cap_end_ratio": ("FloatSlider", "budget at last (share)", "set both or neither", {"min": 0, "max": 1, "step": 0.01}),
}  # fmt: skip
WIDE = ("checkpoint", "task", "prompt", "gaps")
RARE = ("temperature", "seed", "cfg_scale", "max_decode_per_step", "cap_start_ratio", "cap_end_ratio")
_OFF_AT_ZERO = ("steps", "block_length", "cap_start_ratio", "cap_end_ratio", "max_decode_per_step")
OF_STYLE = {  # the settings that a style reads, beside length, temperature and seed
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
    """Name → how it was trained, of every finished run under weights/ (those set aside as NAME.old left out)."""
    found = {}
    for file in sorted(resolve("weights").glob(f"*/{VARIANTS['last']}")):
        config = file.with_name("config.json")
        own = read_json(config).get("dllm", {}).get("checkpoint") if config.is_file() else None
        if own and not file.parent.name.endswith(".old"):
            found[file.parent.name] = CheckpointInfo(**own)
    return found


def used(task: str, style: str) -> set[str]:
    """The controls that have a meaning for a task ("fill gaps …" is always LLaDA 1's sampler) and a style."""
    always = {"checkpoint", "task", "pause", "prompt", "temperature", "seed"}
    if task == TASKS[1]:
        return {*always, "gaps", "steps", "cfg_scale"}
    return {*always, "style", "max_new_tokens", *OF_STYLE[style]}


def config_of(values: Mapping) -> DecodeConfig:
    """`DecodeConfig` of the controls' values; 0 stands for None where a setting can be off. Raises its ValueError."""
    given = {name: values[name] for name in used(values["task"], values["style"]) & set(_FIELDS)}
    given |= {name: given[name] or None for name in _OFF_AT_ZERO if name in given}
    if values["task"] == TASKS[1]:
        hidden = sum(len(gap.group()) for gap in GAP.finditer(values["gaps"]))
        given |= {"style": "llada1", "max_new_tokens": max(1, hidden)}
    return DecodeConfig(**given, alternatives=3, draft=True)


def masked_text(tokenizer, text: str) -> list[int]:
    """Tokens of a text whose gaps are two or more underscores, one hidden token for each: "床前____光".

    What stands between gaps is tokenised apart, for nobody knows the hidden words. Raises ValueError without a gap.
    """
    if not GAP.search(text):
        raise ValueError("gaps: the text has none; write two or more underscores, one for each hidden token")
    tokens: list[int] = []
    end = 0
    for gap in GAP.finditer(text):
        tokens += tokenizer.encode(text[end : gap.start()], add_special_tokens=False)
        tokens += [tokenizer.mask_token_id] * len(gap.group())
        end = gap.end()
    return tokens + tokenizer.encode(text[end:], add_special_tokens=False)


@dataclass
class Decoding:
    """One sequence about to be decoded. trace: without steps yet; steps: the decoder, to be fed into it; start: the
    first position of what is shown as the text."""

    trace: Trace
    steps: Iterator[DecodeStep]
    start: int

    def text(self, tokenizer) -> str:
        """What stands there now, up to eos, hidden places left out; in a filled text also what stood between gaps."""
        if self.trace.prompt:
            return tokenizer.decode(self.trace.answer, skip_special_tokens=True)
        return tokenizer.decode(self.trace.final[self.start :], skip_special_tokens=True)


def begin(loaded: LoadedCheckpoint, values: Mapping) -> Decoding:
    """The job that the controls' values ask for. Raises ValueError for values that do not fit (also its decoder does, at
    the first step, for a sequence longer than the model's positions)."""
    tokenizer, kind = loaded.tokenizer, loaded.checkpoint
    config = config_of(values)
    if values["task"] == TASKS[0]:
        prompt = prompt_ids(tokenizer, values["prompt"], kind.chat)
        return Decoding(new_trace(loaded, prompt, config), timed(decode(loaded, [prompt], config)), len(prompt))
    before = prompt_ids(tokenizer, values["prompt"], True) if kind.chat else [tokenizer.bos_token_id]
    tokens = before + masked_text(tokenizer, values["gaps"])
    trace, steps = new_gap_trace(loaded, tokens, config), decode_gaps(loaded, tokens, config)
    return Decoding(trace, timed(steps), len(before))


def timed(steps: Iterable[DecodeStep]) -> Iterator[DecodeStep]:
    """The same steps with `seconds` of the decoder alone: the time between two steps, spent on drawing and pauses of
    the one who looks on, is taken out."""
    outside = 0.0
    for step in steps:
        given = time.perf_counter()
        yield replace(step, seconds=step.seconds - outside)
        outside += time.perf_counter() - given


def beside(error: Exception) -> str:
    """The control that an error belongs to, "" where it is none's."""
    message = str(error)
    name = message.split("=")[0].split(":")[0].strip()
    if isinstance(error, RunError):
        return "checkpoint"
    if name in _FIELDS:
        return name
    return next((control for start, control in _BESIDE.items() if message.startswith(start)), "")


def run_row(number: int, run: str, trace: Trace, text: str) -> dict:
    """One run as a line of the table."""
    told = {name: trace.settings.get(name) for name in (*OF_STYLE[trace.style], "temperature")}
    knobs = [f"{name.replace('_', ' ')} {value:g}" for name, value in told.items() if value]
    return {
        "run": number, "checkpoint": run, "style": STYLE_NAMES[trace.style], "settings": ", ".join(knobs) or "–",
        "tokens": trace.tokens, "forwards": trace.forwards, "tokens per forward": trace.tokens_per_forward,
        "seconds": trace.seconds, "text": text[:120],
    }  # fmt: skip

"""Which settings of the library a notebook's parameters hold: their values are checked before its first cell, and the
errors of its cells name them.
"""

import contextlib
import itertools
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Annotated

from dllm_core.common.limits import Amount, Choice, Count, Positive, Share, parts
from dllm_core.config import CheckpointInfo, DecodeConfig, ModelConfig, Objective, Settings, TrainConfig
from dllm_core.notebook.parameters import Parameter

PARAMETERS_OF = {  # setting of the library → the notebooks' parameters that hold it, where the names differ
    # TrainConfig and the batches
    "seq_len": ("max_seq_len",), "keep_best": ("llada2_topk_merge_k",), "compile": ("torch_compile",),
    "block_size": ("llada2_block_size",), "fill": ("llada1_fill",), "max_fill": ("llada1_max_fill",), "rows": ("valid_rows",),
    # noise, block schedule, loss, likelihood
    "kind": ("noise_schedule",), "alpha_min": ("llada2_alpha_min",), "alpha_max": ("llada2_alpha_max",),
    "phase_ratios": ("wsd_phase_ratios",), "up": ("wsd_block_sizes_up",), "down": ("wsd_block_sizes_down",),
    "cap_lambda": ("llada2_cap_lambda",), "draws": ("bound_draws", "likelihood_draws", "noise_draws"),
    # DecodeConfig
    "temperature": ("gen_temperature",), "top_k": ("gen_top_k",), "top_p": ("gen_top_p",), "cfg_scale": ("gen_cfg_scale",),
    "steps": ("gen_steps", "step_counts"), "threshold": ("gen_confidence_threshold", "thresholds"),
    "block_length": ("gen_block_length", "llada1_block_length", "block_lengths"), "minimal_topk": ("gen_minimal_topk",),
    "cap_start_ratio": ("gen_cap_start_ratio",), "cap_end_ratio": ("gen_cap_end_ratio",),
    "max_decode_per_step": ("gen_max_decode_per_step",),
}  # fmt: skip


@dataclass(frozen=True)
class Reading(Settings):
    """What only notebooks hold, or hold without the settings that belong to it."""

    epochs: Positive = 1.0
    max_iters: Count = 1
    rows: Count = 1
    draws: Count = 1
    train_items: Amount = 0
    valid_items: Amount = 0
    test_items: Amount = 0
    speed_items: Amount = 0
    batch_sizes: Count = 1
    sample_every: Amount = 0
    base_max_new_tokens: Count = 1
    max_fill: Amount = 0
    num_attention_heads: Amount = 0
    alpha_min: Share = 0.0
    alpha_max: Share = 1.0
    teacher_share: Share = 0.5
    style: Objective = "ar"
    fill: Annotated[str, Choice(("", "random", "batch"))] = ""
    turns: Annotated[str, Choice(("all", "each"))] = "all"
    task: Annotated[str, Choice(("sft", "pretrain"))] = "sft"
    mask_schedule: Annotated[str, Choice(("wsd", "iid_t"))] = "wsd"


CONFIGS = {  # the configs that refuse a bad value → what they are given beside the parameters
    ModelConfig: {"vocab_size": 1}, TrainConfig: {"max_iters": 1}, DecodeConfig: {"style": "llada2"},
    CheckpointInfo: {"objective": "llada2"}, Reading: {},
}  # fmt: skip


def check_settings(declared: Mapping[str, Parameter], values: Mapping) -> None:
    """Raises ValueError for `values` of a notebook's parameters that a config of the library would refuse."""
    with naming_parameters(declared):
        for config, others in CONFIGS.items():
            if config is ModelConfig and "hidden_size" not in declared:
                continue  # the checkpoint tells the shape
            given = {}
            for setting in fields(config):
                holders = [name for name in (setting.name, *PARAMETERS_OF.get(setting.name, ())) if name in declared]
                found = [value for name in holders for value in _values(setting.type, declared[name], values[name])]
                given |= {setting.name: found} if found else {}
            for combination in itertools.product(*given.values()):
                config(**{**dict(zip(given, combination, strict=True)), **others})


def _values(annotation, parameter: Parameter, value) -> list:
    """What a parameter's value means for a setting: several numbers where it is a list such as "8,16", nothing where a
    0, an empty text, "auto", "yes" or "no" leaves it to the notebook."""
    kind, _, is_optional = parts(annotation)
    values = [] if kind is bool and parameter.type is str else [value]
    if parameter.type is str and kind in (int, float):
        values = parse_numbers(value, kind) if value else ()
    return [v for v in values if v != "auto" and (v or not (is_optional or v == parameter.default))]


def parse_numbers(text: str, number: type = int) -> tuple:
    """The numbers of a parameter such as "32,64,128". Raises ValueError for a part that is no number."""
    try:
        return tuple(number(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"{text!r}: expected numbers with commas between them, as in 32,64,128 ({error})") from error


def name_parameters(error: ValueError, declared: Collection[str]) -> None:
    """Add to an error about settings of the library ("steps=0: must be …") which of a notebook's `declared` parameters
    hold them ("gen_steps sets steps"), once."""
    message = str(error)
    settings_named = re.findall(r"(\w+)(?=(?:, \w+)*=)", message) if re.match(r"\w+(, \w+)*=", message) else []
    hints = []
    for setting in dict.fromkeys(settings_named):
        holders = [name for name in PARAMETERS_OF.get(setting, ()) if name in declared]
        if holders and setting not in declared:
            hints.append(f"{' or '.join(holders)} sets {setting}")
    if hints and "(in this notebook" not in message:
        error.args = (f"{message} (in this notebook {', '.join(hints)})",)


@contextlib.contextmanager
def naming_parameters(declared: Collection[str]) -> Iterator[None]:
    """`name_parameters` for the errors of a notebook's cells that run without a kernel."""
    try:
        yield
    except ValueError as error:
        name_parameters(error, declared)
        raise

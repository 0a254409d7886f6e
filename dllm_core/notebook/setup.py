"""What every notebook opens first: its settings, a tokenizer, a checkpoint, the data; and what it checks before a training."""

import sys
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path

from dllm_core.checkpoints.bundled import bundled_checkpoint
from dllm_core.checkpoints.formats import LoadedCheckpoint, find_checkpoint, load_checkpoint, run_folders, run_name
from dllm_core.checkpoints.run_lock import check_free
from dllm_core.common.errors import RunError
from dllm_core.common.files import read_json
from dllm_core.common.paths import resolve, run_path
from dllm_core.compute.devices import pick_dtype
from dllm_core.compute.processes import rank
from dllm_core.config import DecodeConfig, TrainConfig
from dllm_core.data.embedded import is_embedded
from dllm_core.data.jsonl import read_texts
from dllm_core.data.token_cache import TokenDataset
from dllm_core.data.tokenizer import character_tokenizer, load_tokenizer
from dllm_core.decoding_state import computed_positions, grid_offset
from dllm_core.losses import Diffusion
from dllm_core.model import Transformer
from dllm_core.notebook.asking import prompt_ids
from dllm_core.notebook.parameters import read_parameters
from dllm_core.notebook.ranges import check_settings, name_parameters, naming_parameters, parse_numbers
from dllm_core.samplers import initial_tokens
from dllm_core.schedules import BlockSchedule, NoiseSchedule

STAGE_OF = {  # run → the stage of `dllm run` that trains it, which begins with its notebook's number
    "minimind_pretrain": "01",
    "diffusion_from_ar_eq3": "02",
    "diffusion_llada2_pretrain": "03",
    "minimind_sft": "04",
    "diffusion_llada1_sft": "05-llada1",
    "diffusion_llada2_sft": "05-llada2",
}
ANSWERS = {"auto": None, "yes": True, "no": False}  # label_shift or chat as a parameter → as `load_checkpoint` takes it


def settings(notebook: str, scope: dict) -> dict:
    """The parameters that `notebook` declares, with their values in `scope` (the notebook's `globals()`). From here on
    an error of a cell also names the notebook's parameter (`name_parameters`). Raises ValueError for a value that a
    config of the library would refuse, RunError for a `run_name` that cannot be trained into."""
    declared = read_parameters(resolve(f"notebooks/{notebook}.ipynb"))
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:

        def show_error(shell, error_class, error, traceback, tb_offset=None) -> None:
            name_parameters(error, declared)
            shell.showtraceback((error_class, error, traceback), tb_offset=tb_offset)

        shell.set_custom_exc((ValueError,), show_error)
    values = {name: scope[name] for name in declared}
    check_settings(declared, values)
    with naming_parameters(declared):
        _check_schedules(values)
    if "run_name" in values and values["train"] and rank() == 0:
        check_free(run_path(values["run_name"]))
    return values


def _check_schedules(values: dict) -> None:
    """Raises ValueError for parameters that no noise schedule, loss or block schedule can have."""
    noise = {"kind": "noise_schedule", "weighting": "weighting", "draw_method": "draw_method"}
    noise = {setting: values[name] for setting, name in noise.items() if name in values}
    schedule = NoiseSchedule(**noise)
    if "llada2_alpha_min" in values:
        schedule = NoiseSchedule.band(values["llada2_alpha_min"], values["llada2_alpha_max"], **noise)
    loss = {"random_length": "random_length", "cap_lambda": "llada2_cap_lambda",
            "complementary": "llada2_enable_complementary_masking"}
    Diffusion(schedule, 0, **{setting: values[name] for setting, name in loss.items() if name in values})
    if values.get("use_block_curriculum"):
        up, down = (parse_numbers(values[f"wsd_block_sizes_{part}"]) for part in ("up", "down"))
        ratios = parse_numbers(values["wsd_phase_ratios"], float)
        BlockSchedule(values["seq_len"], values["max_iters"], ratios, up, down)


def open_tokenizer(tokenizer_dir: str, use_tokenizer: bool = True, data: str = "", field: str = "text"):
    """The tokenizer of `tokenizer_dir`; without `use_tokenizer` one token per character of the file `data`."""
    return load_tokenizer(tokenizer_dir) if use_tokenizer else character_tokenizer(read_texts(data, field))


def open_checkpoint(
    name: str | Path, *, tokenizer_dir: str = "", tokenizer=None, num_attention_heads: int = 0, device="cpu", shipped=False,
    objective: str = "", block_size: int = 0, label_shift: str = "auto", chat: str = "auto", dtype: str = "float32",
) -> LoadedCheckpoint:  # fmt: skip
    """A checkpoint with its tokenizer; its embedding grows where the tokenizer has more entries.

    The tokenizer is `tokenizer`, else that of `tokenizer_dir` (with the mask of the checkpoint's config.json), else the
    checkpoint's, which need not be readable where one is given.
    objective, block_size, label_shift and chat ("auto", "yes" or "no"): how a model of another project was trained, where
    its folder does not say; empty, 0 and "auto": as it says. dtype: of the weights.
    shipped: where the run has not been trained yet, load the small copy of it that comes with the project (the result's
    `path` tells which was loaded). Raises RunError when there is no such checkpoint (the message names the command that
    trains it), when it has no tokenizer, or when the tokenizer is not the one it was trained with.
    """
    tokenizer = tokenizer or (load_tokenizer(tokenizer_dir, _trained_mask(name)) if tokenizer_dir else None)
    size = len(tokenizer) if tokenizer else None
    for setting, answer in (("label_shift", label_shift), ("chat", chat)):
        if answer not in ANSWERS:
            raise ValueError(f"{setting}={answer!r}: must be one of {', '.join(ANSWERS)}")
    declared = {"objective": objective or None, "block_size": block_size or None}
    declared |= {"label_shift": ANSWERS[label_shift], "chat": ANSWERS[chat]}
    options = {"vocab_size": size, "device": device, "dtype": dtype}
    try:
        loaded = load_checkpoint(name, num_attention_heads=num_attention_heads or None, **options, **declared)
    except RunError as error:
        bundled = bundled_checkpoint(name) if shipped else None
        if not bundled:
            raise RunError(f"{error}{_how_to_train(name)}") from error
        loaded = load_checkpoint(bundled, **options)
    saved = loaded.tokenizer
    if tokenizer is None and saved is None:
        raise RunError(f"{loaded.path}: a bare state dict has no tokenizer with it; give tokenizer_dir")
    if tokenizer and saved and tokenizer.get_vocab() != saved.get_vocab():
        raise RunError(
            f"tokenizer_dir={tokenizer_dir or tokenizer.name_or_path!r} is not the tokenizer that {loaded.path} was "
            "trained with: its tokens mean something else. Leave tokenizer_dir empty to take the checkpoint's tokenizer"
        )
    return replace(loaded, tokenizer=tokenizer or saved)


def _trained_mask(name: str | Path) -> int | None:
    """The id that a checkpoint's config.json names as its mask; None where there is no such checkpoint, file or field."""
    with suppress(RunError):
        path, variant = find_checkpoint(name)
        file = (path.parent if variant == "file" else path) / "config.json"
        return read_json(file, RunError).get("mask_token_id") if file.is_file() else None
    return None


def open_start(name: str | Path, params: Mapping, device) -> LoadedCheckpoint:
    """The checkpoint that a training starts from, with the tokenizer that the notebook's parameters ask for: one token per
    character with use_tokenizer False, else that of tokenizer_dir, else the checkpoint's own. from_objective and
    from_label_shift, where there are such, declare how a model of another project was trained. Raises as
    `open_checkpoint`."""
    own = None if params.get("use_tokenizer", True) else open_tokenizer("", False, params["data"], params["jsonl_field"])
    objective = params.get("from_objective", "")
    return open_checkpoint(
        name, tokenizer_dir="" if own else params["tokenizer_dir"], tokenizer=own,
        num_attention_heads=params["num_attention_heads"], device=device, objective=objective,
        block_size=params["llada2_block_size"] if objective == "llada2" else 0,
        label_shift=params.get("from_label_shift", "auto"),
    )  # fmt: skip


def train_config(params: Mapping, model: Transformer, max_iters: int, **settings) -> TrainConfig:
    """The training that a notebook's parameters ask for, max_iters steps long; settings: fields that they do not hold.
    dtype "auto" becomes the type that `model` trains in fastest on its device. Raises ValueError for a bad value."""
    field_of = {"max_seq_len": "seq_len", "torch_compile": "compile"}
    values = {field_of.get(name, name): value for name, value in params.items()}
    names = {field.name for field in fields(TrainConfig)}
    values = {name: value for name, value in values.items() if name in names} | settings | {"max_iters": max_iters}
    values["dtype"] = pick_dtype(values["dtype"], model.device, model.config.hidden_size)
    return TrainConfig(**values)


def _how_to_train(name: str | Path) -> str:
    stage = STAGE_OF.get(run_name(name))
    return f". Notebook {stage[:2]} trains it, or the command: dllm run {stage}" if stage else ""


def read_splits(
    read: Callable[[str], TokenDataset], data: str, valid_data: str = ""
) -> tuple[TokenDataset | None, TokenDataset]:
    """(train, valid): valid is the file `valid_data`, or with an empty name a share of `data` that is not trained on.

    Warns when a user's file is trained on and validated on the embedded corpus.
    """
    if data and is_embedded(resolve(valid_data)) and not is_embedded(resolve(data)):
        warnings.warn(
            f"data={data!r} is your file, but valid_data={valid_data!r} belongs to the embedded corpus: validation, and "
            'with it the choice of the best weights, would be on other texts. Set valid_data = "" to hold out a share of '
            "data, or name a validation file of yours",
            stacklevel=2,
        )
    if not valid_data:
        return read(data).split()
    return (read(data) if data else None), read(valid_data)


def preflight(loaded: LoadedCheckpoint, prompt: str, config: DecodeConfig, checkpoint: str = "", trained: str = "") -> None:
    """Check before a training what would otherwise stop the notebook during or after it.

    Raises ValueError when `prompt` and its answer take more positions than the model has (LLaDA 1 reads them in one
    window, LLaDA 2 computes whole blocks); RunError when `checkpoint`, which is evaluated after the training, does not
    exist. It may be empty, or the run that is about to be `trained`.
    """
    tokens = prompt_ids(loaded.tokenizer, prompt, loaded.info.chat)
    sequence = initial_tokens(tokens, config, loaded.tokenizer.mask_token_id)
    offset = grid_offset(len(tokens), config, loaded.info.grid)
    length, most = computed_positions(len(sequence), config, offset), loaded.model.config.max_position_embeddings
    if length > most:
        raise ValueError(
            f"prompt: its {len(tokens)} tokens and max_new_tokens={config.max_new_tokens} take {length} positions, "
            f"the model has max_position_embeddings={most}: shorten prompt or lower max_new_tokens"
        )
    is_trained = trained and run_path(trained) in [folder for folder, _ in run_folders(checkpoint)]
    if checkpoint and not is_trained:
        try:
            find_checkpoint(checkpoint)
        except RunError as error:
            raise RunError(f"{error}{_how_to_train(checkpoint)}") from error

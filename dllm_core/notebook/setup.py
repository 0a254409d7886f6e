"""What every notebook opens first: its settings, a tokenizer, a checkpoint, the data; and what it checks before a training."""

import contextlib
import re
import sys
import warnings
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path

from dllm_core.checkpoints.bundled import bundled_checkpoint
from dllm_core.checkpoints.formats import LoadedCheckpoint, find_checkpoint, load_checkpoint, run_name
from dllm_core.common.errors import RunError
from dllm_core.common.paths import resolve
from dllm_core.config import DecodeConfig
from dllm_core.data.embedded import is_embedded
from dllm_core.data.jsonl import read_texts
from dllm_core.data.token_cache import TokenDataset
from dllm_core.data.tokenizer import character_tokenizer, load_tokenizer
from dllm_core.notebook import parameters
from dllm_core.notebook.asking import prompt_ids
from dllm_core.samplers import initial_tokens

STAGE_OF = {  # run → the stage of `dllm run` that trains it, which begins with its notebook's number
    "minimind_pretrain": "01",
    "diffusion_from_ar_eq3": "02",
    "diffusion_llada2_pretrain": "03",
    "minimind_sft": "04",
    "diffusion_llada1_sft": "05-llada1",
    "diffusion_llada2_sft": "05-llada2",
}

PARAMETERS_OF = {  # setting of the library → the notebooks' parameters that hold it, where the names differ
    # TrainConfig and the batches
    "seq_len": ("max_seq_len",), "keep_best": ("llada2_topk_merge_k",), "compile": ("torch_compile",),
    "block_size": ("llada2_block_size",), "fill": ("llada1_fill",), "max_fill": ("llada1_max_fill",), "rows": ("valid_rows",),
    # noise, block schedule, loss, likelihood
    "kind": ("noise_schedule",), "alpha_min": ("llada2_alpha_min",), "alpha_max": ("llada2_alpha_max",),
    "phase_ratios": ("wsd_phase_ratios",), "up": ("wsd_block_sizes_up",), "down": ("wsd_block_sizes_down",),
    "cap_lambda": ("llada2_cap_lambda",), "draws": ("bound_draws", "likelihood_draws"),
    # DecodeConfig
    "temperature": ("gen_temperature",), "top_k": ("gen_top_k",), "top_p": ("gen_top_p",), "cfg_scale": ("gen_cfg_scale",),
    "steps": ("gen_steps",), "block_length": ("gen_block_length", "llada1_block_length"),
    "threshold": ("gen_confidence_threshold",), "minimal_topk": ("gen_minimal_topk",),
    "cap_start_ratio": ("gen_cap_start_ratio",), "cap_end_ratio": ("gen_cap_end_ratio",),
    "max_decode_per_step": ("gen_max_decode_per_step",),
}  # fmt: skip


def settings(notebook: str, scope: dict) -> dict:
    """The parameters that `notebook` declares, with their values in `scope` (the notebook's `globals()`). From here on
    an error of a cell also names the notebook's parameter (`name_parameters`)."""
    declared = parameters.read_parameters(resolve(f"notebooks/{notebook}.ipynb"))
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:

        def show_error(shell, error_class, error, traceback, tb_offset=None) -> None:
            name_parameters(error, declared)
            shell.showtraceback((error_class, error, traceback), tb_offset=tb_offset)

        shell.set_custom_exc((ValueError,), show_error)
    return {name: scope[name] for name in declared}


def name_parameters(error: ValueError, declared: Collection[str]) -> None:
    """Add to an error about settings of the library ("steps=0: must be …") which of a notebook's `declared` parameters
    hold them ("gen_steps sets steps")."""
    message = str(error)
    settings_named = re.findall(r"(\w+)(?=(?:, \w+)*=)", message) if re.match(r"\w+(, \w+)*=", message) else []
    hints = []
    for setting in dict.fromkeys(settings_named):
        holders = [name for name in PARAMETERS_OF.get(setting, ()) if name in declared]
        if holders and setting not in declared:
            hints.append(f"{' or '.join(holders)} sets {setting}")
    if hints:
        error.args = (f"{message} (in this notebook {', '.join(hints)})",)


@contextlib.contextmanager
def naming_parameters(declared: Collection[str]) -> Iterator[None]:
    """`name_parameters` for the errors of a notebook's cells that run without a kernel."""
    try:
        yield
    except ValueError as error:
        name_parameters(error, declared)
        raise


def parse_numbers(text: str, number: type = int) -> tuple:
    """The numbers of a parameter such as "32,64,128". Raises ValueError for a part that is no number."""
    try:
        return tuple(number(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"{text!r}: expected numbers with commas between them, as in 32,64,128 ({error})") from error


def open_tokenizer(tokenizer_dir: str, use_tokenizer: bool = True, data: str = "", field: str = "text"):
    """The tokenizer of `tokenizer_dir`; without `use_tokenizer` one token per character of the file `data`."""
    return load_tokenizer(tokenizer_dir) if use_tokenizer else character_tokenizer(read_texts(data, field))


def open_checkpoint(
    name: str | Path, *, tokenizer_dir: str = "", tokenizer=None, num_attention_heads: int = 0, device="cpu", shipped=False
) -> LoadedCheckpoint:
    """A checkpoint with its tokenizer; its embedding grows where the tokenizer has more entries.

    The tokenizer is `tokenizer`, else that of `tokenizer_dir`, else the checkpoint's.
    shipped: where the run has not been trained yet, load the small copy of it that comes with the project (the result's
    `path` tells which was loaded). Raises RunError when there is no such checkpoint (the message names the command that
    trains it), when it has no tokenizer, or when the tokenizer is not the one it was trained with.
    """
    tokenizer = tokenizer or (load_tokenizer(tokenizer_dir) if tokenizer_dir else None)
    size = len(tokenizer) if tokenizer else None
    try:
        loaded = load_checkpoint(name, num_attention_heads=num_attention_heads or None, vocab_size=size, device=device)
    except RunError as error:
        bundled = bundled_checkpoint(name) if shipped else None
        if not bundled:
            raise RunError(f"{error}{_how_to_train(name)}") from error
        loaded = load_checkpoint(bundled, vocab_size=size, device=device)
    saved = loaded.tokenizer
    if tokenizer is None and saved is None:
        raise RunError(f"{loaded.path}: a bare state dict has no tokenizer with it; give tokenizer_dir")
    if tokenizer and saved and tokenizer.get_vocab() != saved.get_vocab():
        raise RunError(
            f"tokenizer_dir={tokenizer_dir or tokenizer.name_or_path!r} is not the tokenizer that {loaded.path} was "
            "trained with: its tokens mean something else. Leave tokenizer_dir empty to take the checkpoint's tokenizer"
        )
    return replace(loaded, tokenizer=saved or tokenizer)


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
    window, LLaDA 2 fills its last block); RunError when `checkpoint`, which is evaluated after the training, does not
    exist. It may be empty, or the run that is about to be `trained`.
    """
    tokens = prompt_ids(loaded.tokenizer, prompt, loaded.info.chat)
    sequence = initial_tokens(tokens, config, loaded.tokenizer.mask_token_id)
    most = loaded.model.config.max_position_embeddings
    if len(sequence) > most:
        raise ValueError(
            f"prompt: its {len(tokens)} tokens and max_new_tokens={config.max_new_tokens} take {len(sequence)} positions, "
            f"the model has max_position_embeddings={most}: shorten prompt or lower max_new_tokens"
        )
    if checkpoint and run_name(checkpoint) != run_name(trained):
        try:
            find_checkpoint(checkpoint)
        except RunError as error:
            raise RunError(f"{error}{_how_to_train(checkpoint)}") from error

"""A checkpoint as a folder that another program reads: transformers (and so diffusers), SDAR's code, dllm.

What the readers ask for is taken from SDAR's folders and `generate.py` (github.com/JetAstra/SDAR, commit c2041a8) and
from dllm's `a2d` models and samplers (github.com/ZHZisZZ/dllm, commit ca17675).
"""

from pathlib import Path

from dllm_core.checkpoints.formats import LoadedCheckpoint
from dllm_core.checkpoints.hf_config import generation_config, hf_config, layout
from dllm_core.checkpoints.tensors import save_weights
from dllm_core.common.errors import RunError
from dllm_core.common.files import display_path, read_json, write_json, write_whole

READERS = ("transformers", "sdar", "dllm")
MODELLING = "modeling_block_diffusion"
OF_THIS_MACHINE = ("backend", "is_local", "local_files_only")  # what transformers notes of how it read a tokenizer


def export(loaded: LoadedCheckpoint, folder: Path, reader: str, **record) -> None:
    """Write a checkpoint for `reader` (one of `READERS`) into a folder that is empty or absent.

    The weights are in the model's precision, and the folder opens here as the checkpoint that it is. record: what
    config.json keeps for this project, under "dllm". Raises RunError for a folder that holds files, and for a checkpoint
    that the reader would misread.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunError(f"{display_path(folder)}: holds files already: name a folder that is empty or does not exist")
    _refuse_misread(loaded, reader)
    base = layout(loaded.model.config)
    fields = {"dtype": str(loaded.model.lm_head.weight.dtype).removeprefix("torch.")}
    if reader == "transformers" and loaded.info.objective == "llada2":
        names = {"AutoConfig": "Config", "AutoModelForCausalLM": "ForCausalLM"}
        fields["auto_map"] = {auto: f"{MODELLING}.BlockDiffusion{base}{name}" for auto, name in names.items()}
        source = Path(__file__).with_name(f"{MODELLING}.py").read_text("utf-8")
        write_whole(folder / f"{MODELLING}.py", source.replace("Qwen3", base).replace("qwen3", base.lower()))
    if reader == "sdar":
        names = {"AutoConfig": "configuration_sdar.SDARConfig", "AutoModelForCausalLM": "modeling_sdar.SDARForCausalLM"}
        fields = {"architectures": ["SDARForCausalLM"], "model_type": "sdar", "auto_map": names, **fields}
        fields |= {"torch_dtype": fields.pop("dtype"), "sliding_window": None, "fuse_cross_entropy": False}
    if reader == "dllm":
        fields |= {"architectures": [f"A2D{base}LMHeadModel"], "model_type": f"a2d-{base.lower()}"}
    write_description(folder, loaded, fields, **record)
    if reader == "sdar":  # its generate.py reads there what ends an answer
        write_json(folder / "generation_config.json", generation_config(loaded.tokenizer, "ar"), indent=2)
    save_weights(loaded.model, folder / "model.safetensors")


def write_description(folder: Path, loaded: LoadedCheckpoint, fields: dict | None = None, **record) -> None:
    """Write all of a folder but its weights: tokenizer, config.json (`hf_config`; `fields` go before its own) and, where
    one is needed, generation_config.json. No file holds a path."""
    config = hf_config(loaded.model.config, loaded.info, loaded.tokenizer, **record) | (fields or {})
    loaded.tokenizer.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    tokenizer = {name: value for name, value in read_json(file).items() if name not in OF_THIS_MACHINE}
    if tokenizer.get("tokenizer_class") == "TokenizersBackend":  # transformers 4 knows it by its older name alone
        tokenizer["tokenizer_class"] = "PreTrainedTokenizerFast"
    write_json(file, tokenizer, indent=2)
    if generation := generation_config(loaded.tokenizer, loaded.info.objective):
        write_json(folder / "generation_config.json", generation, indent=2)
    write_json(folder / "config.json", config, indent=2)


def _refuse_misread(loaded: LoadedCheckpoint, reader: str) -> None:
    """Raise RunError for a checkpoint that the reader would misread."""
    info, name = loaded.info, display_path(loaded.path) if loaded.path else "the model"
    where = f"{name} ({info.objective}), --to {reader}"
    if loaded.tokenizer is None:
        raise RunError(f"{where}: no tokenizer with it; export a run's folder, not a bare state dict")
    if info.objective == "llada2" and info.block_size is None:
        raise RunError(f'{where}: config.json has no block_size; put that of the training under "dllm", "checkpoint"')
    if info.objective == "llada2" and info.label_shift:
        raise RunError(f"{where}: predicts a token one position to its left (label_shift), which none reads in blocks")
    if info.objective == "llada2" and info.grid != "start":
        raise RunError(f"{where}: counts its blocks from the answer (grid), which none of these readers does")
    if reader == "sdar" and not (info.objective == "llada2" and loaded.model.config.qk_norm):
        raise RunError(f"{where}: SDAR is block diffusion with QK-norm: take a LLaDA 2 run, or --to transformers")
    if reader == "dllm" and info.objective == "llada2":
        raise RunError(f"{where}: dllm counts blocks from the answer, not from the first token: --to transformers")
    if reader == "dllm" and info.objective == "ar":
        raise RunError(f"{where}: dllm decodes diffusion alone: take a LLaDA 1 run, or --to transformers")

"""How long notebook 06 takes with a vocabulary of 151,936: its cells, in one or several trees of this project in turns.

    python tests/measure_vocabulary.py OLD_CLONE . [--rounds 3] [--folder runs/vocabulary] [-p NAME VALUE …]

The model is made up, of 10 M parameters, in SDAR's layout and with Qwen's number of rows, and lies in `folder`, with the
executed notebooks of each tree and round. It is no test: run it on a quiet machine.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import torch
from published_tokenizers import PUBLISHED
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models

from dllm_core.config import ModelConfig
from dllm_core.model import Transformer

ROOT = Path(__file__).resolve().parent.parent
ROWS = 151_936  # of Qwen2.5's and Qwen3's embedding
ENTRIES = 151_643  # of their vocabulary, before the special tokens


def write_model(folder: Path, block_size: int = 4) -> None:
    """A folder as SDAR's: the bundled tokenizer's characters, then made-up words, SDAR's special tokens, random weights."""
    published = PUBLISHED["sdar"]
    texts = [(ROOT / "data" / name).read_text("utf-8") for name in ("sft_valid.jsonl", "pretrain_valid.jsonl")]
    characters = sorted(set("".join(texts)) | set(map(chr, range(32, 127))) | {"\n"})
    words = ("".join(pair) for pair in itertools.product(map(chr, range(0x4E00, 0x4E00 + 400)), repeat=2))
    entries = [*characters, *itertools.islice(words, ENTRIES - len(characters))]
    model = Tokenizer(models.BPE({token: i for i, token in enumerate(entries)}, []))
    model.decoder = decoders.Fuse()
    for token in published.last:
        model.add_tokens([AddedToken(token, special=token not in published.plain, normalized=False)])
    folder.mkdir(parents=True, exist_ok=True)
    model.save(str(folder / "tokenizer.json"))
    torch.manual_seed(0)
    shape = ModelConfig(ROWS, 64, 4, 4, 2, 16, 192, initializer_range=0.1)
    transformer = Transformer(shape)
    state = {name: tensor for name, tensor in transformer.state_dict().items() if name != "lm_head.weight"}
    save_file(state, folder / "model.safetensors")
    sizes = (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "intermediate_size",
    )
    config = {"model_type": "sdar", "vocab_size": ROWS, "block_size": block_size, "rope_theta": shape.rope_theta}
    config |= {name: getattr(shape, name) for name in sizes} | {"tie_word_embeddings": True}
    config |= {"max_position_embeddings": 512, "mask_token_id": model.token_to_id(published.mask)}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    roles = {**published.roles, "chat_template": published.template}
    (folder / "tokenizer_config.json").write_text(json.dumps(roles), "utf-8")


def run_06(tree: Path, model: Path, out: Path, overrides: list[list[str]]) -> list[float]:
    """Seconds of each code cell of notebook 06 of one tree."""
    command = [sys.executable, "-m", "dllm_core.cli.main", "run", "06", "--force", "--out", str(out)]
    for name, value in [("checkpoint", str(model)), *overrides]:
        command += ["-p", name, value]
    environment = os.environ | {"PYTHONPATH": str(tree)}
    subprocess.run(command, cwd=tree, env=environment, check=True, stdout=subprocess.DEVNULL)
    (notebook,) = out.glob("06*.ipynb")
    cells = json.loads(notebook.read_text("utf-8"))["cells"]
    return [cell["metadata"]["papermill"]["duration"] or 0.0 for cell in cells if cell["cell_type"] == "code"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trees", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs/vocabulary")
    parser.add_argument("--block-size", type=int, default=4)
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"))
    options = parser.parse_args()
    folder = options.folder.resolve()
    model = folder / f"block-{options.block_size}"
    write_model(model, options.block_size)
    seconds = [[] for _ in options.trees]
    for turn, (index, tree) in itertools.product(range(options.rounds), enumerate(options.trees)):
        cells = run_06(tree.resolve(), model, folder / f"tree-{index}-{turn}", options.p)
        seconds[index].append(sum(cells))
        slowest = sorted(range(len(cells)), key=lambda i: -cells[i])[:6]
        print(
            f"{tree} {sum(cells):8.1f} s: " + ", ".join(f"code cell {i + 1}: {cells[i]:.1f}" for i in slowest),
            flush=True,
        )
    for tree, of_tree in zip(options.trees, seconds, strict=True):
        print(f"{tree}: median {statistics.median(of_tree):.1f} s, {min(of_tree):.1f} to {max(of_tree):.1f}")


if __name__ == "__main__":
    main()

"""`dllm export`: the folder's card says what the run recorded, no file names a path, and its example decodes."""

import json
import os
import re

import pytest
import torch
from run_folders import finished
from small import CHARACTERS, packed, tiny

from dllm_core import TrainConfig, ar_loss, load_checkpoint, notebook, train
from dllm_core.checkpoints.run_folder import RunFolder
from dllm_core.cli.main import main
from dllm_core.config import CheckpointInfo, DecodeConfig
from dllm_core.data.tokenizer import character_tokenizer

INFOS = {
    "ar": CheckpointInfo("ar", label_shift=True, chat=True), "llada1": CheckpointInfo("llada1", chat=True),
    "llada2": CheckpointInfo("llada2", block_size=8, chat=True),
}  # fmt: skip


@pytest.fixture
def home(workspace, monkeypatch):
    """An empty project; transformers keeps the code that it runs there."""
    from transformers import dynamic_module_utils

    monkeypatch.delenv("DLLM_WEIGHTS", raising=False)
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(workspace / "modules"))
    return workspace


def run_of(objective: str, info: CheckpointInfo | None = None, seed: int = 1, **settings):
    tokenizer = character_tokenizer([CHARACTERS])
    model = tiny(seed, vocab=len(tokenizer), max_position_embeddings=128)
    return finished(model=model, checkpoint=info or INFOS[objective], tokenizer=tokenizer, **settings)


def exported(home, reader: str = "transformers", run: str = "story") -> str:
    """The card of a run that was exported to out/."""
    assert main(["export", run, str(home / "out"), "--to", reader]) == 0
    return (home / "out/README.md").read_text("utf-8")


@pytest.mark.parametrize("objective, reader", [
    ("ar", "transformers"), ("llada1", "transformers"), ("llada1", "dllm"),
    ("llada2", "transformers"), ("llada2", "sdar"),
])  # fmt: skip
def test_no_file_names_a_path(home, objective, reader):
    paths = {"data": "mine/chats.jsonl", "load_from": "weights/base.pt", "tokenizer_dir": "tokenizer"}
    run_of(objective, **{name: str(home / path) for name, path in paths.items()})
    card = exported(home, reader)
    assert "| data | base: not recorded; story: chats.jsonl |" in card and "| base | base |" in card
    for file in (home / "out").iterdir():
        assert str(home).encode() not in file.read_bytes(), file.name
    head = ["license: unknown", "library_name: transformers", "pipeline_tag: text-generation"]
    assert card.splitlines()[:7] == ["---", *head, "---", "", "# out"]


def test_a_card_says_what_the_run_recorded(home):
    tokenizer = character_tokenizer([CHARACTERS])
    model = tiny(vocab=len(tokenizer))
    info, settings = CheckpointInfo("ar", label_shift=True), {"data": "data/sft_tiny.jsonl"}
    run = RunFolder.open("story", model, info, tokenizer, settings)
    config = TrainConfig(4, batch_size=4, seq_len=12, eval_every=2)
    losses = iter((1.25, 1.5))
    list(train(model, packed(4), ar_loss, config, run=run, validate=lambda model: next(losses)))
    run.finish(model)
    card = exported(home)
    assert "license: apache-2.0" in card and "| licence | Apache-2.0 |" in card
    assert "| data | story: sft_tiny.jsonl |" in card and "| base | none: trained from the start |" in card
    assert "| validation loss | 1.500 nats per token |" in card
    (row,) = re.findall(r"^\| story \|.*$", card, re.MULTILINE)
    assert row.split(" | ")[1:3] == ["4", f"{run.steps()[-1].tokens:,}"]
    again = load_checkpoint(home / "out").trained  # and once more from the exported folder
    assert [entry["run"] for entry in again] == ["story"]
    main(["export", str(home / "out"), str(home / "twice"), "--to", "transformers"])
    assert "license: apache-2.0" in (home / "twice/README.md").read_text("utf-8")
    main(["export", "story_best", str(home / "best"), "--to", "transformers"])
    assert "| validation loss | 1.250 nats per token |" in (home / "best/README.md").read_text("utf-8")


@pytest.mark.parametrize("objective, info", [
    ("ar", None), ("ar", CheckpointInfo("ar", label_shift=True)), ("llada1", None), ("llada2", None),
    ("llada1", CheckpointInfo("llada1", label_shift=True)),
], ids=str)  # fmt: skip
def test_the_cards_example_writes_this_projects_answer(home, monkeypatch, capsys, objective, info):
    if objective == "llada2":
        pytest.importorskip("diffusers", "0.42")
    run_of(objective, info, seed=4)  # of weights that do not predict the mask, which diffusers lets them
    card = exported(home)
    capsys.readouterr()
    monkeypatch.chdir(home / "out")
    (code,) = re.findall(r"^```python\n(.*?)^```$", card, re.MULTILINE | re.DOTALL)
    torch.manual_seed(0)
    exec(code, {})  # noqa: S102
    written = capsys.readouterr().out.strip("\n")
    loaded = load_checkpoint("story")
    prompt = "你是谁？" if loaded.info.chat else "今天"
    block = {"llada1": 16, "llada2": 8}.get(objective)
    length = len(notebook.prompt_ids(loaded.tokenizer, prompt, loaded.info.chat))
    answer = 64 + -(length + 64) % 8 if objective == "llada2" else 64
    config = DecodeConfig(objective, answer, block_length=block, eos_early_stop=objective != "llada1")
    (trace,) = notebook.generate_answers(loaded, [prompt], config)
    assert written == trace.text


def test_a_card_has_the_scores_that_were_measured(home, monkeypatch):
    """`test_scores.py` says which."""
    run_of("ar")
    assert "## Scores" not in exported(home)
    monkeypatch.setattr("dllm_core.cli.export.scores_of", lambda loaded, variant: [{"decoded as": "AR", "questions": variant}])
    assert main(["export", "story", str(home / "scored"), "--to", "transformers"]) == 0
    assert "## Scores\n" in (card := (home / "scored/README.md").read_text("utf-8")) and "\n| AR | last |\n" in card


def test_what_cannot_be_exported_is_one_line(home, capsys):
    run_of("ar")
    for arguments, message in (
        (["story", "out", "--to", "sdar"], "story (ar), --to sdar: SDAR is block diffusion"),
        (["story", ".", "--to", "transformers"], "holds files already"),
        (["poem", "out", "--to", "transformers"], "checkpoint poem: no such file or finished run"),
    ):
        assert main(["export", *arguments]) == 2
        assert message in capsys.readouterr().err
    assert not os.path.exists("out")


def test_the_shipped_weights_can_be_published(project, tmp_path):
    """They are of the embedded corpus alone."""
    assert main(["export", str(project / "weights/tiny-llada2"), str(tmp_path / "out"), "--to", "transformers"]) == 0
    assert "license: apache-2.0" in (tmp_path / "out/README.md").read_text("utf-8")
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["model_type"] == "block_diffusion_qwen3" and config["block_size"] == 8

"""The weights that come with the project: small copies that stand in until there are others."""

import json
import shutil

import pytest
import torch
from small import tiny

from dllm_core.checkpoints.bundled import bundled_checkpoint
from dllm_core.checkpoints.formats import load_checkpoint
from dllm_core.checkpoints.run_folder import RunFolder
from dllm_core.common.errors import RunError
from dllm_core.config import CheckpointInfo
from dllm_core.data.tokenizer import load_tokenizer
from dllm_core.notebook import setup
from dllm_core.workshop import bundle_weights


def trained(name: str):
    """A finished run under weights/, and its model."""
    tokenizer = load_tokenizer("data/tokenizer")
    model = tiny(vocab=len(tokenizer))
    RunFolder.open(name, model, CheckpointInfo("llada2", block_size=4, chat=True), tokenizer, {"seed": 3}).finish(model)
    return model


@pytest.fixture
def weights(project, workspace, monkeypatch):
    """weights/ of an empty project that has a tokenizer."""
    monkeypatch.delenv("DLLM_WEIGHTS", raising=False)
    shutil.copytree(project / "data/tokenizer", workspace / "data/tokenizer")
    return workspace / "weights"


def test_a_copy_is_the_run_in_half_precision(weights):
    model = trained("diffusion_llada2_sft")
    size = bundle_weights.copy_run("weights/diffusion_llada2_sft_best.pt", weights / "tiny-llada2")
    copy = load_checkpoint("weights/tiny-llada2")
    assert copy.info == CheckpointInfo("llada2", block_size=4, chat=True)
    assert copy.tokenizer.get_vocab() == load_tokenizer("data/tokenizer").get_vocab()
    for name, tensor in model.state_dict().items():
        assert torch.equal(copy.model.state_dict()[name], tensor.half().float())
    whole = (weights / "diffusion_llada2_sft" / "model.safetensors").stat().st_size
    assert size < 0.6 * whole
    assert "settings" not in json.loads((weights / "tiny-llada2" / "config.json").read_text())["dllm"]


def test_the_bundled_copy_is_used_only_if_allowed_and_needed(weights):
    for name in ("weights/diffusion_llada2_sft_state_dict.pt", "diffusion_llada2_sft"):
        assert bundled_checkpoint(name) is None  # no copy yet
        with pytest.raises(RunError, match="dllm run 05-llada2"):
            setup.open_checkpoint(name, shipped=True)
    trained("tiny-llada2")
    for name in ("weights/diffusion_llada2_sft_state_dict.pt", "weights/diffusion_llada2_sft_best.pt"):
        assert setup.open_checkpoint(name, shipped=True).path.name == "tiny-llada2"
        with pytest.raises(RunError, match="dllm run 05-llada2"):
            setup.open_checkpoint(name)
    with pytest.raises(RunError):
        setup.open_checkpoint("weights/diffusion_llada2_pretrain_best.pt", shipped=True)
    trained("diffusion_llada2_sft")
    checkpoint = setup.open_checkpoint("weights/diffusion_llada2_sft_best.pt", shipped=True)
    assert checkpoint.path.name == "diffusion_llada2_sft"


def test_the_copy_is_the_projects_wherever_runs_are_kept(weights, monkeypatch):
    trained("tiny-llada2")
    monkeypatch.setenv("DLLM_WEIGHTS", "seeds/1")
    checkpoint = setup.open_checkpoint("weights/diffusion_llada2_sft_state_dict.pt", shipped=True)
    assert checkpoint.path == weights / "tiny-llada2"

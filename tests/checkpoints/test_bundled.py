"""The small trained weights in the repository are found by the names of the runs they were copied from."""

import pytest

from dllm_core.checkpoints.bundled import BUNDLED, bundled_checkpoint
from dllm_core.checkpoints.formats import load_checkpoint


@pytest.mark.parametrize("run", list(BUNDLED))
def test_every_run_of_the_chain_has_its_copy(project, monkeypatch, run):
    monkeypatch.chdir(project)
    monkeypatch.setenv("DLLM_WEIGHTS", "seeds/1")  # the copies are the project's, wherever runs are kept
    for name in (run, f"weights/{run}.pt", f"weights/{run}_state_dict.pt", f"weights/{run}_best.pt"):
        assert bundled_checkpoint(name) == project / "weights" / BUNDLED[run]
    loaded = load_checkpoint(bundled_checkpoint(run))
    assert loaded.info.chat and loaded.tokenizer.mask_token == "<|mask|>"


def test_other_names_and_absent_copies_mean_none(project, workspace):
    assert bundled_checkpoint("minimind_sft") is None  # an empty project
    assert bundled_checkpoint("minimind_pretrain") is None

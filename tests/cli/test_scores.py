"""The scores on a model card: those of this very training and these weights, as notebook 07 wrote them, or none."""

import json
from dataclasses import asdict, replace

import pytest
from run_folders import finished

from dllm_core.checkpoints.formats import load_checkpoint
from dllm_core.cli.scores import scores_of
from dllm_core.likelihood import Estimate

TRAINED = [{"run": "story", "chat": True, "steps": 4, "flops": 1e9}]
RESULT = {"items": 4, "exact_match": 0.75, "right": [True, True, True, False], "tokens_per_forward": 2.5}
ROW = {
    "exact match (95 % interval)": "0.750 (0.301–0.954)",
    "questions": "4 of sft_test.jsonl",
    "tokens per forward pass": "2.50",
}


@pytest.fixture
def loaded(workspace, monkeypatch):
    monkeypatch.delenv("DLLM_WEIGHTS", raising=False)
    finished()
    return replace(load_checkpoint("story"), trained=TRAINED)


def write(workspace, name: str = "compare_sft", trained=TRAINED, **settings) -> None:
    """A scores file of the run as LLaDA 2, at two thresholds, beside an AR model."""
    about = {"checkpoint": "weights/story.pt", "ar_checkpoint": "other", "llada1_checkpoint": ""}
    about |= {"test_data": "/mine/sft_test.jsonl", "valid_data": "", "data": "/mine/chats.jsonl"} | settings
    answers = [RESULT | {"name": "LLaDA 2", "threshold": threshold} for threshold in (0.9, 0.5)]
    answers += [RESULT | {"name": name, "threshold": None} for name in ("AR", "LLaDA 1")]
    nats = {"LLaDA 2": asdict(Estimate(1.25, 0.01, 10, 8)), "AR": asdict(Estimate(1.0, 0.02, 10, 0))}
    scores = {
        "settings": about, "answers": answers, "likelihood": nats,
        "trained": {"AR": [{"run": "other"}], "LLaDA 1": trained, "LLaDA 2": trained},
    }  # fmt: skip
    (workspace / "outputs").mkdir(exist_ok=True)
    (workspace / f"outputs/{name}.scores.json").write_text(json.dumps(scores), "utf-8")


def test_the_scores_are_those_of_the_weights(workspace, loaded):
    assert scores_of(loaded, "last") == []
    write(workspace)
    rows = scores_of(loaded, "last")
    assert [row["decoded as"] for row in rows] == ["LLaDA 1", "LLaDA 2, threshold 0.9", "LLaDA 2, threshold 0.5"]
    assert all(ROW.items() <= row.items() for row in rows)
    assert [row.get("nats per token") for row in rows] == [None, "at most 1.250 ± 0.010, chats.jsonl", None]


def test_the_scores_of_other_weights_are_left_out(workspace, loaded):
    write(workspace)
    assert scores_of(loaded, "best") == []
    write(workspace, checkpoint="weights/story_best.pt")
    assert scores_of(loaded, "last") == [] and len(scores_of(loaded, "best")) == 3
    write(workspace, trained=[TRAINED[0] | {"flops": 2e9}])  # an earlier training of this name
    assert scores_of(loaded, "last") == []
    write(workspace, trained=[])
    assert scores_of(replace(loaded, trained=[]), "last") == []  # nothing tells which training it was
    write(workspace, ar_checkpoint="story", checkpoint="gone", trained=[{"run": "gone"}])
    assert scores_of(loaded, "last") == []


def test_a_damaged_file_is_no_score(workspace, loaded):
    write(workspace)
    for number, text in enumerate(("", "[]", "{", '{"settings": {}}', '{"settings": {}, "trained": {"AR": 3}}')):
        (workspace / f"outputs/a{number}.scores.json").write_text(text, "utf-8")
    assert len(scores_of(loaded, "last")) == 3

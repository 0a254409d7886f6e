"""Where a checkpoint comes from, and what licence it can have."""

import json

from run_folders import finished
from small import tiny

from dllm_core.checkpoints.lineage import licence, lineage


def behind(name: str) -> list[tuple]:
    return [(training["run"], training["data"], training["embedded"]) for training in lineage(name)]


def test_a_chain_is_followed_to_its_start(home):
    base = finished("base", data="data/pretrain_tiny.jsonl")
    finished("sub/middle", data="data/sft_tiny.jsonl", init_from_minimind="weights/base_state_dict.pt")
    last = finished("last", data=str(home / "mine/chats.jsonl"), load_from=str(home / "weights/sub/middle_best.pt"))
    assert behind(base.folder) == [("base", "pretrain_tiny.jsonl", True)]
    assert behind(last.folder) == [
        ("base", "pretrain_tiny.jsonl", True), ("middle", "sft_tiny.jsonl", True), ("last", "chats.jsonl", False)
    ]  # fmt: skip
    assert licence(lineage(home / "weights/sub/middle")) == "apache-2.0" and licence(lineage(last.folder)) == "unknown"


def test_a_file_of_the_same_name_elsewhere_is_not_the_embedded_one(home):
    run = finished(data="other/sft_tiny.jsonl")
    assert licence(lineage(run.folder)) == "unknown"


def test_what_is_not_recorded_is_unknown(home):
    foreign = home / "Qwen3-0.6B"
    foreign.mkdir()
    gone = finished("story", data="data/sft_tiny.jsonl", load_from="weights/gone_best.pt")
    assert behind(gone.folder) == [("gone", "", False), ("story", "sft_tiny.jsonl", True)]
    assert behind(foreign) == [("Qwen3-0.6B", "", False)]
    assert licence(lineage(gone.folder)) == licence(lineage(foreign)) == licence([]) == "unknown"


def test_a_run_that_was_trained_on_from_itself_ends(home):
    run = finished("story", data="data/sft_tiny.jsonl")
    config = json.loads((run.folder / "config.json").read_text())
    config["dllm"]["settings"]["load_from"] = "weights/story_best.pt"
    (run.folder / "config.json").write_text(json.dumps(config))
    assert behind(run.folder) == [("story", "sft_tiny.jsonl", True)] * 2


def test_a_copy_keeps_what_its_config_says(home):
    run = finished("copy", model=tiny())
    config = json.loads((run.folder / "config.json").read_text())
    config["dllm"]["lineage"] = [{"run": "base", "data": "pretrain_tiny.jsonl", "embedded": True}]
    (run.folder / "config.json").write_text(json.dumps(config))
    assert behind(run.folder) == [("base", "pretrain_tiny.jsonl", True)]

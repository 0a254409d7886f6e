"""Lines of a comparison file: their documented keys, their traces, the settings that were asked for."""

import json

import pytest
import torch
import traces
from small import tiny_of

from dllm_core.checkpoints.formats import LoadedCheckpoint
from dllm_core.config import CheckpointInfo, DecodeConfig
from dllm_core.data.tokenizer import load_tokenizer
from dllm_core.notebook import comparison
from dllm_core.notebook.asking import generate_answers
from dllm_core.trace import Trace


def test_a_line_has_the_fields_of_the_schema_in_order():
    about = {"name": "LLaDA 2", "task": "sft", "prompt": "?", "checkpoint": "tiny", "seed": 0}
    line = comparison.record(traces.llada2(), **about, versions=comparison.versions(torch.device("cpu")), trace="a.json")
    assert list(line) == list(comparison.SCHEMA)
    assert all(text for text in comparison.SCHEMA.values())
    inside = ", ".join(line["versions"])
    assert inside == comparison.SCHEMA["versions"].removeprefix("object: ").replace(
        " (with the processor's or card's name)", ""
    )
    assert all(key in comparison.SCHEMA["confidence"] for key in line["confidence"])


def test_confidences_of_a_line():
    confidence = comparison.record(traces.llada1())["confidence"]
    assert confidence == pytest.approx({"mean": (0.99 + 0.8 + 0.7 + 0.6) / 4, "min": 0.6, "below_half": 0})
    nothing = Trace("ar", [1], [1], 9, 2)
    assert comparison.record(nothing)["confidence"] == {"mean": 0, "min": 0, "below_half": 0}


def test_a_line_names_its_saved_trace(workspace):
    trace = traces.llada2()
    path = comparison.save_trace(trace, "outputs/new/compare.jsonl", 7)
    assert path == "outputs/new/compare.traces/07-llada2.json"
    assert Trace.load(workspace / path) == trace


def test_texts_that_several_runs_wrote_stand_once():
    def line(name, text, prompt="你好", threshold=0.9):
        settings = DecodeConfig("ar" if name == "AR" else "llada2", threshold=threshold, block_length=8).to_dict()
        return {"prompt": prompt, "name": name, "text": text, "settings": settings}

    lines = [line("AR", "你好！"), line("LLaDA 2", "你好！"), line("LLaDA 2", "好", threshold=0.5), line("AR", "A", "B")]
    first, second, other = comparison.distinct_texts(lines, {"B": "C"})[:3]
    assert (first["prompt"], first["prompt in English"], second["prompt"]) == ("你好", "Hello", "")
    assert first["written by"] == "AR; LLaDA 2 (threshold 0.9, block 8)"
    assert second["written by"] == "LLaDA 2 (threshold 0.5, block 8)" and "right" not in second
    assert (other["prompt"], other["text"], other["right"]) == ("B", "A", False)
    *_, missing = comparison.distinct_texts(lines, {"B": "C"})
    assert (missing["text"], missing["written by"], missing["right"]) == ("C", "none of them", True)
    assert [row["right"] for row in comparison.distinct_texts(lines, {"你好": "好"}) if "right" in row] == [False, True]


def test_scores_stand_beside_the_lines(workspace):
    path = comparison.write_scores("outputs/compare_sft.jsonl", {"task": "sft"})
    assert path == workspace / "outputs/compare_sft.scores.json" and json.loads(path.read_text("utf-8")) == {"task": "sft"}


def test_variants_are_every_combination():
    fast = DecodeConfig("llada2", 32, block_length=16, threshold=0.9)
    configs = comparison.variants(fast, block_length=(8, 16), threshold=(0.5, 0.9))
    assert [(config.block_length, config.threshold) for config in configs] == [(8, 0.5), (8, 0.9), (16, 0.5), (16, 0.9)]
    # its own setting comes first where the lists leave it out; an empty list changes nothing
    assert [config.threshold for config in comparison.variants(fast, threshold=(0.5,), block_length=())] == [0.9, 0.5]
    assert comparison.variants(fast) == [fast] == comparison.variants(fast, threshold=())
    with pytest.raises(ValueError, match="steps=3: must be a multiple of the 2 blocks"):
        comparison.variants(DecodeConfig("llada1", 32, block_length=16), steps=(3,))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (DecodeConfig("ar"), "greedy"),
        (DecodeConfig("ar", temperature=0.5), "temperature 0.5"),
        (DecodeConfig("llada1", 32, block_length=16), "steps 32, block 16"),
        (DecodeConfig("llada1", 32, steps=8), "steps 8"),
        (DecodeConfig("llada2", block_length=16), "threshold 0.9, block 16"),
        (DecodeConfig("llada2", block_length=8, threshold=None, steps=4), "steps 4, block 8"),
    ],
)
def test_a_setting_in_words(config, words):
    assert comparison.describe_setting(config) == words


def test_records_are_complete_lines(project, tmp_path):
    tokenizer = load_tokenizer(project / "data/tokenizer")
    writer = LoadedCheckpoint(tiny_of(tokenizer), CheckpointInfo("llada2", 8), tokenizer, None)
    trace = generate_answers(writer, ["你好"], DecodeConfig("llada2", max_new_tokens=6, block_length=8))[0]
    record = comparison.record(trace, prompt="你好", seed=3)
    assert list(record)[:3] == ["prompt", "seed", "style"] and record["settings"] == trace.settings
    assert 0 < record["confidence"]["min"] <= record["confidence"]["mean"] <= 1
    path = comparison.write_jsonl(tmp_path / "new/compare.jsonl", [record, record])
    assert [json.loads(line) for line in path.read_text("utf-8").splitlines()] == [record, record]
    assert "你好" in path.read_text("utf-8") and not list(path.parent.glob("*.partial"))
    assert set(comparison.versions(torch.device("cpu"))) == {"dllm_core", "torch", "python", "device", "threads"}

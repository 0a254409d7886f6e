"""Lines of a comparison file: their documented keys, their traces, the settings that were asked for."""

import pytest
import torch
import traces

from dllm_core.config import DecodeConfig
from dllm_core.notebook import comparison as compare
from dllm_core.trace import Trace


def test_a_line_holds_what_the_schema_says_in_its_order():
    about = {"name": "LLaDA 2", "task": "sft", "prompt": "?", "checkpoint": "tiny", "seed": 0}
    line = compare.record(traces.llada2(), **about, versions=compare.versions(torch.device("cpu")), trace="a.json")
    assert list(line) == list(compare.SCHEMA)
    assert all(text for text in compare.SCHEMA.values())
    inside = ", ".join(line["versions"])
    assert inside == compare.SCHEMA["versions"].removeprefix("object: ").replace(
        " (with the processor's or card's name)", ""
    )
    assert all(key in compare.SCHEMA["confidence"] for key in line["confidence"])
    table = compare.schema_table()
    assert len(table) == 2 + len(line) and len({row.count("|") for row in table}) == 1


def test_confidences_of_a_line():
    found = compare.record(traces.llada1())["confidence"]
    assert found == pytest.approx({"mean": (0.99 + 0.8 + 0.7 + 0.6) / 4, "min": 0.6, "below_half": 0})
    nothing = Trace("ar", [1], [1], 9, 2)
    assert compare.record(nothing)["confidence"] == {"mean": 0, "min": 0, "below_half": 0}


def test_a_kept_trace_is_found_by_its_line(workspace):
    made = traces.llada2()
    path = compare.keep(made, "outputs/new/compare.jsonl", 7)
    assert path == "outputs/new/compare.traces/07-llada2.json"
    assert Trace.load(workspace / path) == made


def test_variants_are_every_combination():
    fast = DecodeConfig("llada2", 32, block_length=16, threshold=0.9)
    made = compare.variants(fast, block_length=(8, 16), threshold=(0.5, 0.9))
    assert [(one.block_length, one.threshold) for one in made] == [(8, 0.5), (8, 0.9), (16, 0.5), (16, 0.9)]
    # its own setting comes first where the lists leave it out; an empty list changes nothing
    assert [one.threshold for one in compare.variants(fast, threshold=(0.5,), block_length=())] == [0.9, 0.5]
    assert compare.variants(fast) == [fast] == compare.variants(fast, threshold=())
    with pytest.raises(ValueError, match="steps=3: must be a multiple of the 2 blocks"):
        compare.variants(DecodeConfig("llada1", 32, block_length=16), steps=(3,))


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
    assert compare.setting(config) == words

"""The record of a decoding: replayed, counted, written and read back."""

import dataclasses
import json

import pytest

from dllm_core.trace import Commit, DecodeStep, Trace

M, EOS = 9, 2


def step(index: int, *commits: tuple[int, int], forwards: int = 1, seconds: float = 0.0, masked: int = 0) -> DecodeStep:
    records = tuple(Commit(position, token, 0.5, "schedule", ((7, 0.25),)) for position, token in commits)
    return DecodeStep(index, 0, forwards, seconds, (2, 6), records, masked, 0.5, 1.25, ((3, 4, 0.125),), held_back=1)


def trace(*steps: DecodeStep, initial=(1, 5, M, M, M, M)) -> Trace:
    return Trace(
        "llada2", [1, 5], list(initial), M, EOS, list(steps), {"threshold": 0.9}, {5: "五", EOS: "<eos>"}, "五"
    )


def test_replay():
    record = trace(step(0, (3, 8)), step(1, (2, 7), (4, EOS)), step(2, (5, EOS)))
    assert record.tokens_at(0) == [1, 5, M, M, M, M]
    assert record.tokens_at(1) == [1, 5, M, 8, M, M]
    assert record.tokens_at(2) == [1, 5, 7, 8, EOS, M]
    assert record.tokens_at(3) == record.final == [1, 5, 7, 8, EOS, EOS]


def test_tokens_count_through_eos_only():
    record = trace(step(0, (2, 7), (3, 8), seconds=0.5), step(1, (4, EOS), (5, 6), forwards=2, seconds=2.0))
    assert record.answer == [7, 8] and record.ended
    assert record.tokens == 3 and record.forwards == 3  # two tokens and the eos; what stands after it is no work
    assert record.tokens_per_forward == 1.0 and record.seconds == 2.0 and record.tokens_per_second == 1.5


def test_an_answer_without_eos():
    record = trace(step(0, (2, 7), (3, 8), (4, 6), (5, 3)))
    assert record.answer == [7, 8, 6, 3] and not record.ended and record.tokens == 4


def test_a_mask_before_eos_means_that_it_has_not_ended():
    record = trace(step(0, (2, 7), (4, EOS)))
    assert not record.ended and record.answer == [7] and record.tokens == 1


def test_another_token_may_end_an_answer():
    record = trace(step(0, (2, 7), (3, 6), (4, EOS), (5, EOS)))
    record.other_ends = [6]
    assert record.answer == [7] and record.ended and record.tokens == 2 and record.written() == [0, 2]
    assert Trace.from_json(record.to_json()) == record
    record.initial = [1, 6, M, M, M, M]  # in the prompt it ends nothing
    record.steps = [step(0, (2, 7), (3, 8), (4, 8), (5, 8))]
    assert not record.ended and record.tokens == 4


def test_eos_in_the_prompt_ends_nothing():
    record = trace(step(0, (3, 7), (4, 8)), initial=(1, EOS, 5, M, M))
    assert record.answer == [7, 8] and not record.ended


def test_gaps_in_the_middle():
    record = trace(step(0, (1, 7), (3, 8)), initial=(1, M, 6, M, 5))
    assert record.answer == [7, 8] and record.final == [1, 7, 6, 8, 5]


def test_an_edit_replaces_a_token():
    record = trace(step(0, (2, 7), (3, 8)), step(1, (2, 4)))
    assert record.tokens_at(1)[2] == 7 and record.tokens_at(2)[2] == 4


def test_tokens_written_so_far_end_at_the_eos():
    record = trace(step(0, (2, 7), (4, EOS)), step(1, (3, EOS)), step(2, (2, 8)))
    assert record.written() == [0, 1, 2, 2] and record.written()[-1] == record.tokens  # the second eos is filling
    stopped = trace(step(0, (3, 8)))
    assert stopped.written() == [0, 1] and not stopped.ended
    behind_a_mask = trace(step(0, (2, 7), (4, EOS)))
    assert behind_a_mask.written() == [0, 1] and behind_a_mask.tokens == 1  # its end does not count yet


def test_nothing_decoded():
    record = trace()
    assert record.tokens == record.forwards == record.seconds == record.tokens_per_forward == 0
    assert record.tokens_per_second == 0 and record.answer == []


def test_json_round_trip(tmp_path):
    record = trace(step(0, (3, 8)), step(1, (2, 7), (4, EOS), seconds=0.25))
    again = Trace.from_json(json.loads(json.dumps(record.to_json())))
    assert again == record and isinstance(again.steps[0].commits[0].alternatives[0], tuple)
    file = record.save(tmp_path / "deep" / "trace.json")
    assert Trace.load(file) == record
    assert "五" in file.read_text(encoding="utf-8") and [f.name for f in file.parent.iterdir()] == ["trace.json"]


@pytest.mark.parametrize(
    "content",
    [
        b"{", b"[1]", b'{"style": "ar"}', b'{"steps": [], "vocabulary": {}, "odd": 1}',
        b'{"steps": 3, "vocabulary": {}}',
        b"\x89PNG\r\n", b'{"steps": [], "vocabulary": []}', b'{"steps": [], "vocabulary": {"x": "y"}}',
    ],
)  # fmt: skip
def test_a_file_that_is_no_trace_is_named(tmp_path, content):
    (tmp_path / "bad.json").write_bytes(content)
    with pytest.raises(ValueError, match="bad.json: not a decoding trace"):
        Trace.load(tmp_path / "bad.json")


@pytest.mark.parametrize("part, change", [
    ("commit", {"position": 6}), ("commit", {"position": -1}), ("commit", {"position": "2"}),
    ("commit", {"token": None}), ("commit", {"confidence": float("nan")}), ("commit", {"confidence": True}),
    ("commit", {"alternatives": [[7, "a"]]}),
    ("step", {"block": [2]}), ("step", {"seconds": "0"}), ("step", {"draft": [[3, 4]]}), ("step", {"commits": 5}),
    ("trace", {"initial": "abc"}), ("trace", {"prompt": None}), ("trace", {"vocabulary": {"5": 5}}),
    ("trace", {"text": 5}),
], ids=str)  # fmt: skip
def test_a_trace_with_a_value_of_another_type_is_named(tmp_path, part, change):
    record = trace(step(0, (3, 8))).to_json()
    {"trace": record, "step": record["steps"][0], "commit": record["steps"][0]["commits"][0]}[part].update(change)
    (tmp_path / "bad.json").write_text(json.dumps(record), "utf-8")
    with pytest.raises(ValueError, match="bad.json: not a decoding trace"):
        Trace.load(tmp_path / "bad.json")


def test_steps_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        step(0).index = 1

"""Branches in the decoding explorer: what the model ranks at a position, the form, and the branch beside its parent."""

import asyncio
import json
from dataclasses import replace

import pytest
import torch

from dllm_core.checkpoints.formats import LoadedCheckpoint
from dllm_core.config import CheckpointInfo, DecodeConfig, ModelConfig
from dllm_core.data.tokenizer import load_tokenizer
from dllm_core.model import Transformer
from dllm_core.samplers import generate
from dllm_core.show.trace_view import first_difference
from dllm_core.show.widgets.branches import TOP, Run, asked, beside, ranked
from dllm_core.show.widgets.decoding import DecodingPanel, _values
from dllm_core.show.widgets.request import FILL, begin
from dllm_core.trace import Edit, Trace

HOSTILE = "<img src=x onerror=alert(1)></template></script>"
WAY = DecodeConfig("llada2", 16, block_length=8)


@pytest.fixture(scope="module")
def loaded(project, tmp_path_factory):
    """An untrained chat checkpoint of blocks of 8."""
    tokenizer = load_tokenizer(project / "data/tokenizer")
    torch.manual_seed(1)
    model = Transformer(ModelConfig(len(tokenizer), 16, 1, 2, max_position_embeddings=96, initializer_range=0.3)).eval()
    path = tmp_path_factory.mktemp("runs") / "mine"
    return LoadedCheckpoint(model, CheckpointInfo("llada2", 8, chat=True), tokenizer, path)


@pytest.fixture
def panel(loaded, workspace):
    panel = DecodingPanel(loaded, values(loaded), lambda name: pytest.fail(f"nobody asked for {name}"))
    panel.controls["pause"].value = 0
    return panel


def values(loaded, **changes) -> dict:
    return {**_values(loaded, "你是谁？", WAY, "我是__，你好____。"), **changes}


def untimed(trace: Trace) -> list:
    return [replace(step, seconds=0.0) for step in trace.steps]


def finished(loaded, **changes) -> Trace:
    decoding = begin(loaded, values(loaded, **changes))
    decoding.trace.steps.extend(decoding.steps)
    return decoding.trace


@pytest.mark.parametrize("changes", [
    {"style": "ar"}, {"style": "llada1", "steps": 4, "block_length": 8}, {"style": "llada2"},
    {"style": "llada2", "cfg_scale": 1.0, "temperature": 0.7}, {"task": FILL},
], ids=str)  # fmt: skip
def test_the_ranking_is_what_the_steps_recorded(loaded, changes):
    trace = finished(loaded, **changes)
    for k, step in list(enumerate(trace.steps))[:: max(1, len(trace.steps) // 5)]:
        for commit in step.commits[:2]:
            before, after, later = (ranked(loaded, trace, at, commit.position) for at in (k, k + 1, len(trace.steps)))
            assert before == after == later and len(before) == TOP
            least = before[-1][1]  # a sampled token may stand behind the list
            assert dict(before).get(commit.token, min(least, commit.confidence)) == pytest.approx(commit.confidence, abs=1e-5)
            best = [p for _, p in before]
            assert best == sorted(best, reverse=True) and sum(best) <= 1 + 1e-5
            for token, p in commit.alternatives:
                assert dict(before)[token] == pytest.approx(p, abs=1e-5)
        for position, token, confidence in step.draft[:1]:
            before = ranked(loaded, trace, k, position)
            assert dict(before).get(token, min(before[-1][1], confidence)) == pytest.approx(confidence, abs=1e-5)


def test_what_is_not_predicted_yet_has_no_ranking_and_what_is_forbidden_no_place_in_it(loaded):
    trace = finished(loaded)
    first = trace.initial.index(trace.mask_token_id)
    assert ranked(loaded, trace, 0, len(trace.initial) - 1) == [] != ranked(loaded, trace, 0, first)
    best = ranked(loaded, trace, 0, first)[0][0]
    forbidden = replace(trace, edits=[Edit(0, first, "forbid", best)], steps=[])
    assert dict(ranked(loaded, forbidden, 0, first)).get(best, 0) == 0
    by_hand = replace(trace, edits=[Edit(0, first, "write", best)], steps=[])
    assert ranked(loaded, by_hand, 0, first) == ranked(loaded, trace, 0, first)


def pick(panel, side: int, step: int, position: int) -> None:
    """What the player's script does."""
    panel.pick.value = json.dumps([side, step, position, len(panel.rows) + 1])


def test_a_branch_stands_beside_its_parent_and_is_the_librarys(panel, loaded):
    panel.start()
    (parent,) = panel.shown
    first = parent.trace.initial.index(parent.trace.mask_token_id)
    pick(panel, 0, 1, first)
    form = panel.form
    assert form.widget.layout.display is None and f"Change position {first} of 1: LLaDA 2, after step 1." in form.title.value
    assert len(form.list.options) == TOP and form.list.options[0][0].startswith("1. ")
    form.list.value = token = form.list.options[5][1]
    form.why.value = HOSTILE
    form.press("take")
    edits = [Edit(1, first, "take", token, HOSTILE)]
    assert [run.label for run in panel.shown] == ["1: LLaDA 2", "2: LLaDA 2, branch of 1"]
    branch = panel.shown[1].trace
    assert branch.edits == edits and branch.text == loaded.tokenizer.decode(branch.answer, skip_special_tokens=True)
    (again,) = generate(loaded, [parent.trace.prompt], replace(WAY, alternatives=3, draft=True), edits)
    assert untimed(branch) == untimed(again) and first_difference(parent.trace, branch) == (1, [first])
    assert panel.rows[0]["settings"].endswith("1 by hand") and form.widget.layout.display == "none"
    assert "<img" not in panel.feed.value and "branch of 1" in panel.feed.value
    # a branch of the branch keeps what was changed before it, and a third side joins
    pick(panel, 1, 1, first + 1)
    form.text.value = "你好"
    form.press("write")
    assert [run.label[0] for run in panel.shown] == ["2", "3"]
    written = panel.shown[-1].trace
    assert written.edits[0] == edits[0] and [edit.action for edit in written.edits[1:]] == ["write"] * (len(written.edits) - 1)
    assert loaded.tokenizer.decode([edit.token for edit in written.edits[1:]]) == "你好" in written.text


def test_four_branches_leave_the_parent_and_the_last_two():
    trace = Trace("llada2", [1], [1, 9], 9, 2)
    of = lambda label, *edits: Run(label, replace(trace, edits=list(edits)), "x", 1)
    parent, other = of("1"), Run("0", Trace("ar", [1], [1, 9, 9], 9, 2), "x", 1)
    one, two = of("2", Edit(0, 1, "mask")), of("3", Edit(1, 1, "mask"))
    assert beside(parent, [other, parent], 3) == [parent]
    assert beside(parent, [parent, one], 3) == [parent, one]
    assert beside(parent, [parent, one, two], 3) == [parent, two]
    assert beside(two, [parent, one, two], 3) == [two, one]


@pytest.mark.parametrize("style", ["ar", "llada1"])
def test_forbidding_and_masking_from_the_form(panel, style):
    panel.controls["style"].value = style
    panel.start()
    trace = panel.shown[0].trace
    step = len(trace.steps)
    position = trace.initial.index(trace.mask_token_id) + 1
    pick(panel, 0, step, position)
    panel.form.list.value = trace.final[position]
    panel.form.press("forbid")
    branch = panel.shown[-1].trace
    assert branch.final[position] != trace.final[position] and len(branch.steps) > step
    pick(panel, 1, len(branch.steps), position)
    panel.form.press("mask")
    assert [edit.action for edit in panel.shown[-1].trace.edits] == ["forbid", "mask"]


def test_what_cannot_be_is_said_in_the_form(panel):
    panel.controls["style"].value = "ar"
    panel.start()
    trace = panel.shown[0].trace
    last = len(trace.initial) - 1
    pick(panel, 0, 1, last)
    assert panel.form.list.options == () and "no list" in panel.form.title.value
    for action, words in (("take", "choose a token"), ("write", "the text is empty")):
        panel.form.press(action)
        assert words in panel.form.note.value and "dllm-wrong" in panel.form.note.value
    panel.form.text.value = "你"
    panel.form.press("write")
    assert "AR writes from left to right" in panel.form.note.value and panel.count == 1
    for message in ("", "[0]", "[9, 0, 9, 1]", "[0, 99, 9, 1]", '["a", 0, 9, 1]', "[0, 0, 0, 1]", HOSTILE):
        with pytest.raises(ValueError, match="a token that there is not"):
            asked(message, panel.shown)
    panel.pick.value = HOSTILE
    assert "cannot be changed" in panel.status.value and "<img" not in panel.status.value


def test_a_run_in_work_is_stopped_before_it_is_changed(panel):
    async def person():
        panel.controls["pause"].value = 0.01
        panel.start()
        while not panel.shown:
            await asyncio.sleep(0)
        first = panel.shown[0].trace.initial.index(panel.shown[0].trace.mask_token_id)
        panel.pick.value = json.dumps([0, 1, first, 1])
        await panel.task

    asyncio.run(person())
    assert panel.rows[0]["text"].startswith("(stopped)") and panel.form.widget.layout.display is None
    assert "(stopped)" in panel.form.title.value


def test_infilling_has_branches_too(panel, loaded):
    panel.controls["task"].value = FILL
    panel.start()
    trace = panel.shown[0].trace
    position = trace.initial.index(trace.mask_token_id)
    pick(panel, 0, 2, position)
    panel.form.press("mask")
    branch = panel.shown[-1].trace
    assert branch.prompt == [] and branch.edits == [Edit(2, position, "mask")] and branch.final.count(trace.mask_token_id) == 0
    assert panel.rows[0]["text"].startswith("我是") and panel.rows[0]["text"] == panel.rows[0]["text"].split("<")[0]


def test_what_the_player_shows_is_saved_to_new_files(panel, workspace):
    panel.save()
    panel.start()
    pick(panel, 0, 1, panel.shown[0].trace.initial.index(panel.shown[0].trace.mask_token_id))
    panel.form.press("mask")
    panel.save()
    panel.save()
    files = sorted((workspace / "outputs").iterdir())
    assert [file.name for file in files] == [f"decoding-{n}.json" for n in (1, 2, 3, 4)]
    assert [Trace.load(file) for file in files[:2]] == [run.trace for run in panel.shown]
    assert "saved: outputs/decoding-3.json, outputs/decoding-4.json" in panel.status.value

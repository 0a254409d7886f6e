"""The decoding explorer without a browser: what the controls ask for, and a run that is watched, stopped, repeated."""

import asyncio
import shutil
import threading
import time
from dataclasses import replace

import pytest
import torch

from dllm_core import show
from dllm_core.checkpoints.formats import LoadedCheckpoint, load_checkpoint
from dllm_core.checkpoints.run_folder import RunFolder
from dllm_core.common.errors import RunError
from dllm_core.config import CheckpointInfo, DecodeConfig, ModelConfig
from dllm_core.data.tokenizer import load_tokenizer
from dllm_core.model import Transformer
from dllm_core.notebook.asking import prompt_ids
from dllm_core.samplers import generate, infill
from dllm_core.show.widgets import decoding as decoding_widgets
from dllm_core.show.widgets.decoding import DecodingPanel, decoding_explorer
from dllm_core.show.widgets.request import (
    CONTROLS,
    TASKS,
    begin,
    beside,
    config_of,
    finished_runs,
    masked_text,
    timed,
    used,
)
from dllm_core.trace import DecodeStep

HOSTILE = "<img src=x onerror=alert(1)></template></script>"
WAY = DecodeConfig("llada2", 16, block_length=8)


@pytest.fixture(scope="module")
def loaded(project, tmp_path_factory):
    """An untrained chat checkpoint of blocks of 8 that never ends by itself early."""
    tokenizer = load_tokenizer(project / "data/tokenizer")
    torch.manual_seed(1)
    model = Transformer(ModelConfig(len(tokenizer), 16, 1, 2, max_position_embeddings=96, initializer_range=0.3)).eval()
    path = tmp_path_factory.mktemp("runs") / "mine"
    return LoadedCheckpoint(model, CheckpointInfo("llada2", 8, chat=True), tokenizer, path)


@pytest.fixture
def panel(loaded, workspace):
    panel = DecodingPanel(loaded, values(loaded), lambda name: pytest.fail(f"nobody asked for {name}"))
    panel.controls["pause"].value = 0
    yield panel
    assert DecodingPanel.current is None


def values(loaded, **changes) -> dict:
    return {**decoding_widgets._values(loaded, "你是谁？", WAY, "我是__，你好____。"), **changes}


def same(ours, theirs) -> bool:
    strip = lambda trace: [replace(step, seconds=0.0) for step in trace.steps]
    return strip(ours) == strip(theirs) and ours.initial == theirs.initial


# what is asked ------------------------------------------------------------------------------------------------------


def test_every_setting_that_the_issue_names_is_a_control_with_a_label_and_help():
    fields = {"threshold", "temperature", "cfg_scale", "steps", "block_length", "cap_start_ratio", "cap_end_ratio"}
    assert fields | {"checkpoint", "prompt", "style", "max_decode_per_step", "gaps"} <= set(CONTROLS)
    assert all(control.label and (control.help or control.widget_class == "Dropdown") for control in CONTROLS.values())


def test_controls_become_a_config(loaded):
    assert config_of(values(loaded)) == replace(WAY, alternatives=3, draft=True)
    settings = values(loaded, style="llada1", steps=8, block_length=0, threshold=0.3, cap_start_ratio=0.5)
    assert config_of(settings) == DecodeConfig("llada1", 16, steps=8, alternatives=3, draft=True)  # the rest is LLaDA 2's
    assert config_of(values(loaded, style="ar", cfg_scale=2.0)).cfg_scale == 0
    budget = config_of(values(loaded, cap_start_ratio=0.1, cap_end_ratio=0.5, max_decode_per_step=3))
    assert (budget.cap_start_ratio, budget.cap_end_ratio, budget.max_decode_per_step) == (0.1, 0.5, 3)


@pytest.mark.parametrize(
    "wrong, control",
    [
        ({"style": "llada1", "steps": 5}, "steps"),
        ({"style": "llada1", "block_length": 5}, "block_length"),
        ({"cap_start_ratio": 0.5}, "cap_end_ratio"),
        ({"task": TASKS[1], "steps": 9}, "steps"),
    ],
)
def test_a_wrong_combination_belongs_to_a_control(loaded, wrong, control):
    with pytest.raises(ValueError) as caught:
        config_of(values(loaded, **wrong))
    assert beside(caught.value) == control and control in used(*(values(loaded, **wrong)[k] for k in ("task", "style")))


def test_other_refusals_find_their_control(loaded):
    for changes, control in (({"task": TASKS[1], "gaps": "no _ gap"}, "gaps"), ({"prompt": "a\ud83d"}, "prompt")):
        with pytest.raises(ValueError) as caught:
            begin(loaded, values(loaded, **changes))
        assert beside(caught.value) == control
    with pytest.raises(ValueError) as caught:
        next(begin(loaded, values(loaded, max_new_tokens=200)).steps)
    assert beside(caught.value) == "max_new_tokens"
    assert beside(RunError("weights/x/model.safetensors: no")) == "checkpoint" and beside(ValueError("what?")) == ""


def test_gaps_are_counted_in_underscores(loaded):
    tokenizer = loaded.tokenizer
    mask, plain = tokenizer.mask_token_id, lambda text: tokenizer.encode(text, add_special_tokens=False)
    assert masked_text(tokenizer, "我是__，a_b＿＿＿。") == [*plain("我是"), mask, mask, *plain("，a_b"), *[mask] * 3,
                                                           *plain("。")]  # fmt: skip
    assert masked_text(tokenizer, "____") == [mask] * 4


def test_runs_are_found_where_they_are_finished(loaded, workspace):
    for name in ("a", "b", "c", "d", "e"):
        RunFolder.open(str(workspace / "weights" / name), loaded.model, loaded.info, loaded.tokenizer, {}).finish(
            loaded.model
        )
    (workspace / "weights/b/model.safetensors").unlink()
    shutil.move(workspace / "weights/c", workspace / "weights/c.old")
    (workspace / "weights/d/config.json").write_text("{")
    (workspace / "weights/e/config.json").write_text('{"dllm": {"checkpoint": {"objective": "gpt"}}}')
    assert finished_runs() == {"a": loaded.info}


# the same decodings as the library's --------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["ar", "llada1", "llada2"])
def test_a_job_is_the_librarys_decoding(loaded, style):
    settings = values(loaded, style=style, temperature=0.7, seed=3)
    job = begin(loaded, settings)
    job.trace.steps.extend(job.steps)
    prompt = prompt_ids(loaded.tokenizer, settings["prompt"], True)
    (trace,) = generate(loaded, [prompt], config_of(settings))
    assert same(job.trace, trace) and job.text(loaded.tokenizer) == trace.text and trace.steps


def test_filling_gaps_is_the_librarys_infilling(loaded):
    settings = values(loaded, task=TASKS[1])
    job = begin(loaded, settings)
    job.trace.steps.extend(job.steps)
    tokens = prompt_ids(loaded.tokenizer, settings["prompt"], True) + masked_text(loaded.tokenizer, settings["gaps"])
    trace = infill(loaded, tokens, DecodeConfig("llada1", alternatives=3, draft=True))
    assert same(job.trace, trace) and len(trace.steps) == 6
    written = job.text(loaded.tokenizer)
    assert written.startswith("我是") and "user" not in written  # the text alone, not what was asked before


def test_pauses_do_not_count_as_decoding(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def decoder():
        for index in range(3):
            clock[0] += 1.0
            yield DecodeStep(index, 0, 1, clock[0], (0, 1), (), 0, 1.0, 0.0)

    seconds = []
    for step in timed(decoder()):
        seconds.append(step.seconds)
        clock[0] += 10.0
    assert seconds == [1.0, 2.0, 3.0]


# the panel ----------------------------------------------------------------------------------------------------------


async def steps_taken(panel, count: int):
    """Wait until the current run has taken `count` steps."""
    while panel.bar.value < count:
        assert panel.running or not panel.count
        await asyncio.sleep(0)


def test_a_run_is_drawn_as_it_grows_stopped_and_repeated(panel, monkeypatch):
    before, seen = threading.active_count(), []
    monkeypatch.setattr(decoding_widgets, "SHARE", 1e9)  # a picture may cost all the time it likes
    panel.feed.observe(lambda change: seen.append(change["new"]), "value")
    panel.controls["pause"].value = 0.12  # longer than the least time between two pictures

    drawn = []

    async def person():
        panel.start()
        task = panel.task
        panel.start()  # a second press changes nothing
        assert panel.task is task
        await steps_taken(panel, 3)
        drawn.append(len(seen))
        panel.stop()
        await task
        assert "stopped" in panel.status.value and panel.rows[0]["text"].startswith("(stopped)")
        panel.controls["pause"].value = 0
        panel.start()
        await panel.task

    asyncio.run(person())
    (again, stopped), whole = panel.rows, panel.done[1].trace
    assert stopped["forwards"] == 3 and drawn[0] >= 2 and len(seen) > drawn[0]  # while it ran, and its last
    assert again["forwards"] == len(whole.steps) > 3 and "finished" in panel.status.value
    assert panel.done[0].trace.steps[-1].masked > 0 and panel.done[0].trace.steps[:1][0].commits == whole.steps[0].commits
    assert panel.bar.value == panel.bar.max and threading.active_count() == before
    assert panel.past.value.count("<tr>") == 3


def test_without_an_event_loop_it_runs_to_the_end(panel):
    panel.start()
    assert panel.rows[0]["forwards"] == panel.done[0].trace.forwards and not panel.running


def test_an_error_is_shown_beside_its_control_and_nothing_runs(panel):
    panel.controls["style"].value = "llada1"
    panel.controls["steps"].value = 5
    assert "steps=5: must be a multiple of the 2 blocks" in panel.notes["steps"].value
    panel.start()
    assert not panel.rows and not panel.running
    panel.controls["steps"].value = 4
    assert "dllm-wrong" not in panel.notes["steps"].value
    panel.start()
    assert panel.rows[0]["forwards"] == 4
    panel.controls["max_new_tokens"].value = 1000  # only the model knows that this is too long
    panel.controls["steps"].value = 0
    panel.controls["block_length"].value = 0
    panel.start()
    assert "max_position_embeddings=96" in panel.notes["max_new_tokens"].value and len(panel.rows) == 1
    assert panel.status.value == "" and not panel.running


def test_a_rare_control_comes_out_where_it_is_wrong(panel):
    hidden = lambda name: panel.cells[name].layout.display == "none"
    assert hidden("cap_end_ratio") and not hidden("threshold") and hidden("gaps")
    panel.controls["cap_start_ratio"].value = 0.5
    assert not hidden("cap_end_ratio") and "set both or neither" in panel.notes["cap_end_ratio"].value
    panel.controls["cap_start_ratio"].value = 0
    panel.more.value = True
    assert not hidden("cap_end_ratio")
    panel.controls["style"].value = "ar"
    assert hidden("cap_end_ratio") and hidden("threshold") and not hidden("temperature")


def test_another_checkpoint_brings_its_style(loaded, workspace):
    torch.manual_seed(2)
    info, opened = CheckpointInfo("ar", label_shift=True, chat=True), []
    RunFolder.open(str(workspace / "weights/left"), loaded.model, info, loaded.tokenizer, {}).finish(loaded.model)
    panel = DecodingPanel(loaded, values(loaded, pause=0), lambda name: opened.append(name) or load_checkpoint(name))
    panel.controls["checkpoint"].value = "left"
    assert panel.controls["style"].value == "ar" and panel.controls["block_length"].value == 8
    panel.start()
    panel.start()
    assert opened == ["left"] and [row["style"] for row in panel.rows] == ["AR", "AR"]
    panel.controls["style"].value = "llada2"
    assert "AR model" in panel.notes["checkpoint"].value
    shutil.rmtree(workspace / "weights/left")
    panel.controls["checkpoint"].value = "mine"
    panel.open_run = load_checkpoint
    panel.controls["checkpoint"].value = "left"
    panel.loaded = loaded
    panel.start()
    assert "no such file or finished run" in panel.notes["checkpoint"].value


def test_one_panel_at_a_time(panel, loaded):
    async def person():
        panel.controls["pause"].value = 0.01
        panel.start()
        await steps_taken(panel, 1)
        DecodingPanel(loaded, values(loaded), load_checkpoint)  # the cell is run again
        await panel.task

    asyncio.run(person())
    assert panel.rows[0]["text"].startswith("(stopped)")


def test_side_by_side_and_the_table_keep_the_last(panel):
    for _ in range(10):
        panel.start()
    assert [row["run"] for row in panel.rows] == [10, 9, 8, 7, 6, 5, 4, 3]
    panel.show_sides()
    assert all(f"{number}: LLaDA 2" in panel.feed.value for number in (8, 9, 10)) and "7: LLaDA" not in panel.feed.value


def test_an_unforeseen_error_is_seen(panel, monkeypatch):
    monkeypatch.setattr(decoding_widgets.request, "begin", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        panel.start()
    assert "failed: ZeroDivisionError" in panel.status.value and not panel.running


def test_texts_are_letters(panel):
    panel.controls["task"].value = TASKS[1]
    panel.controls["gaps"].value = f"{HOSTILE}____"
    panel.start()
    inside = panel.feed.value.removeprefix("<template>").removesuffix("</template>")
    assert "onerror" in inside and "<img" not in inside and "</template" not in inside
    assert "&lt;img" in panel.past.value and "<img" not in panel.past.value
    panel._complain(ValueError(HOSTILE))
    assert "<img" not in panel.notes[""].value


def test_without_an_interactive_display_it_is_a_single_decoding(loaded, workspace):
    shown = decoding_explorer(loaded, "你是谁？", WAY, interactive=False)
    assert isinstance(shown, show.Html) and "dllm-player" in shown.html and "the last runs" in shown.text
    with pytest.raises(ValueError, match="max_position_embeddings"):
        decoding_explorer(loaded, "你是谁？", replace(WAY, max_new_tokens=200), interactive=False)

"""A run's folder: the best checkpoints and their mean; when a run continues, and when it is set aside."""

import json
import os

import pytest
import torch
from run_folders import changed, finished, same
from safetensors.torch import load_file
from small import NoTokenizer, tiny

from dllm_core.checkpoints.formats import load_checkpoint
from dllm_core.checkpoints.run_folder import RunFolder
from dllm_core.common.errors import RunError
from dllm_core.config import CheckpointInfo
from dllm_core.train import TrainStep


def step(number: int, validation: float | None = None) -> TrainStep:
    return TrainStep(number, 1.0, 0.1, 10, 0.5, 1.0, validation=validation)


# --- the best, and their mean -------------------------------------------------------------------------------------


def test_the_best_checkpoints_are_kept_and_ranked(home):
    run = RunFolder.open("story", tiny(), CheckpointInfo("ar"), NoTokenizer(), {}, keep_best=2)
    for number, value in enumerate([3.0, 2.0, None, 2.5, 4.0, 1.0]):
        run.record(step(number, value), changed(number / 10))
    assert [(value, file.name) for value, file in run.checkpoints()] == [
        (1.0, "0000005.safetensors"),
        (2.0, "0000001.safetensors"),
    ]
    assert sorted(file.name for file in (run.folder / "checkpoints").iterdir()) == [
        "0000001.safetensors", "0000005.safetensors", "scores.json",
    ]  # fmt: skip
    assert [line["step"] for line in run.metrics()] == list(range(6))
    run.finish(changed(9.0))
    assert same(load_checkpoint("story_best").model.state_dict(), changed(0.5).state_dict())
    assert same(load_checkpoint("story").model.state_dict(), changed(9.0).state_dict())


def test_without_validation_the_last_is_the_best(home):
    run = finished(model=changed(2.0))
    assert same(load_file(run.folder / "best.safetensors"), load_file(run.folder / "model.safetensors"))


def test_the_merge_is_the_mean(home):
    run = RunFolder.open("story", tiny(), CheckpointInfo("ar"), NoTokenizer(), {}, keep_best=3)
    for number, value in enumerate([3.0, 1.0, 2.0]):
        run.record(step(number, value), tiny(seed=number))
    merged = run.merge(2)
    first, second = tiny(seed=1).state_dict(), tiny(seed=2).state_dict()
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, (first[name] + second[name]) / 2, atol=1e-7, rtol=1e-6)
    run.finish(tiny())
    run.use_as_best("merged")
    for name in ("story_merged.pt", "story_best.pt"):
        state = load_checkpoint(f"weights/{name}").model.state_dict()
        assert all(torch.equal(state[k], v) for k, v in merged.items())
    with pytest.raises(RunError, match="3 validated checkpoints are kept, too few for a merge of 4: validate more often"):
        run.merge(4)


# --- beginning, going on, setting aside ---------------------------------------------------------------------------


def begin(seed: int = 0) -> RunFolder:
    return RunFolder.open("story", tiny(), CheckpointInfo("ar"), NoTokenizer(), {"seed": seed})


def test_an_unfinished_run_of_equal_settings_goes_on(home):
    run = begin()
    for number in (1, 2, 3):
        run.record(step(number), tiny())
    run.save_state({"step": 2})
    (run.folder / "state.pt.4711.partial").touch()  # of a process that was killed while it wrote
    assert begin().load_state() == {"step": 2}
    assert not list(run.folder.glob("*.partial"))
    assert [line["step"] for line in run.metrics()] == [1, 2]  # what came after the state is dropped
    assert not (home / "weights/story.old").exists()


LOOKS = {
    "prompt": "你好", "checkpoint": "story", "max_new_tokens": 8, "sample_every": 5, "save_every": 7, "valid_items": 2,
    "llada1_block_length": 0, "llada2_enable_parallel_decoding": False, "device": "cuda", "gen_top_k": 3,
}  # fmt: skip


@pytest.mark.parametrize("name", [*LOOKS, "gen_that_is_new"])
def test_display_settings_do_not_restart_a_run(home, name):
    settings = LOOKS | {"seed": 0, "learning_rate": 0.1}
    open_run = lambda settings: RunFolder.open("story", tiny(), CheckpointInfo("ar"), NoTokenizer(), settings)
    open_run(settings).save_state({"step": 2})
    changed_settings = settings | {name: "something else"}
    assert open_run(changed_settings).load_state() == {"step": 2}
    written = json.loads((home / "weights/story/config.json").read_text("utf-8"))
    assert written["dllm"]["settings"] == changed_settings  # the folder says how it was looked at last
    assert open_run(changed_settings | {"learning_rate": 0.2}).load_state() is None
    assert (home / "weights/story.old/state.pt").is_file()


def test_a_run_of_another_shape_or_style_is_set_aside(home):
    RunFolder.open("story", tiny(), CheckpointInfo("ar"), NoTokenizer(), {"prompt": "a"}).save_state({"step": 2})
    shaped = RunFolder.open("story", tiny(rope_theta=50.0), CheckpointInfo("ar"), NoTokenizer(), {"prompt": "a"})
    assert shaped.load_state() is None
    shaped.save_state({"step": 2})
    assert RunFolder.open("story", tiny(rope_theta=50.0), CheckpointInfo("llada1"), NoTokenizer(), {}).load_state() is None


def test_other_settings_or_a_finished_run_are_set_aside(home):
    run = begin()
    run.save_state({"step": 2})
    assert begin(seed=1).load_state() is None
    assert (home / "weights/story.old/state.pt").is_file() and not (run.folder / "state.pt").exists()
    begin(seed=1).finish(changed(1.0))
    assert not (run.folder / "state.pt").exists()
    assert begin(seed=1).load_state() is None
    assert same(load_checkpoint("weights/story.old").model.state_dict(), changed(1.0).state_dict())


def test_a_run_that_saved_nothing_does_not_push_a_finished_one_out(home):
    finished(model=changed(1.0))
    for seed in range(3):
        begin(seed)
    assert same(load_checkpoint("weights/story.old").model.state_dict(), changed(1.0).state_dict())


def test_a_folder_that_is_no_run_is_never_deleted(home):
    folder = home / "weights/story"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"vocab_size": 3}')
    (folder / "model-00001-of-00002.safetensors").write_text("theirs")
    begin()
    assert (home / "weights/story.old/model-00001-of-00002.safetensors").read_text() == "theirs"


def test_a_run_may_be_named_by_a_path(home):
    run = RunFolder.open(f"deep{os.sep}er", tiny(), CheckpointInfo("ar"), NoTokenizer(), {})
    assert run.folder == home / "deep/er" and (run.folder / "config.json").is_file()


@pytest.mark.parametrize("name", ["", ".", "..", "weights/", f"weights{os.sep}.{os.sep}", f"..{os.sep}"])
def test_a_name_that_means_all_runs_is_refused(home, name):
    finished()
    before = sorted(home.rglob("*"))
    with pytest.raises(RunError, match=f"run_name={name!r}: must name a folder of its own"):
        RunFolder.open(name, tiny(), CheckpointInfo("ar"), NoTokenizer(), {})
    assert sorted(home.rglob("*")) == before


def test_settings_and_shape_are_written_to_the_config(home):
    run = finished(seed=5, data="今天.jsonl", sizes=(4, 8))
    text = (run.folder / "config.json").read_text(encoding="utf-8")
    assert json.loads(text)["dllm"]["settings"] == {"seed": 5, "data": "今天.jsonl", "sizes": [4, 8]} and "今天" in text

"""A run's folder: the best checkpoints and their mean; when a run continues, and when it is set aside."""

import json
import os
import re
import resource
import shutil
import signal
import warnings

import pytest
import torch
from published_tokenizers import PUBLISHED
from run_folders import changed, finished, same
from safetensors.torch import load_file
from small import NoTokenizer, tiny

from dllm_core.checkpoints.formats import find_checkpoint, load_checkpoint
from dllm_core.checkpoints.hf_config import IDS
from dllm_core.checkpoints.run_folder import RunFolder
from dllm_core.checkpoints.run_lock import check_free
from dllm_core.common.errors import RunError
from dllm_core.common.files import write_whole
from dllm_core.common.paths import run_path
from dllm_core.config import CheckpointInfo
from dllm_core.data.tokenizer import character_tokenizer, load_tokenizer
from dllm_core.train import TrainStep

pytestmark = pytest.mark.filterwarnings("ignore:.*steps are missing")  # these runs record few


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
    (run.folder / ".tmpa1B2c3").touch()  # the same, of safetensors
    assert begin().load_state() == {"step": 2}
    assert not list(run.folder.glob("*.partial")) and not list(run.folder.glob(".tmp*"))
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
    assert (home / "weights/story.stopped/state.pt").is_file()


def test_a_run_of_another_shape_or_style_is_set_aside(home):
    RunFolder.open("story", tiny(), CheckpointInfo("ar"), NoTokenizer(), {"prompt": "a"}).save_state({"step": 2})
    shaped = RunFolder.open("story", tiny(rope_theta=50.0), CheckpointInfo("ar"), NoTokenizer(), {"prompt": "a"})
    assert shaped.load_state() is None
    shaped.save_state({"step": 2})
    assert RunFolder.open("story", tiny(rope_theta=50.0), CheckpointInfo("llada1"), NoTokenizer(), {}).load_state() is None


@pytest.mark.parametrize("info", [CheckpointInfo("ar"), CheckpointInfo("llada1"), CheckpointInfo("llada2", 4)], ids=str)
def test_a_folder_of_a_time_when_config_json_said_less_is_the_same_run(home, info):
    """Such a folder has no token ids and says Qwen3 of every model; what was trained is the same."""
    tokenizer = character_tokenizer(["今天"])
    open_run = lambda: RunFolder.open("story", tiny(), info, tokenizer, {"seed": 0})
    open_run().save_state({"step": 2})
    file = home / "weights/story/config.json"
    config = json.loads(file.read_text("utf-8"))
    before = {name: value for name, value in config.items() if name not in (*IDS, "is_causal", "block_size")}
    file.write_text(json.dumps(before | {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}))
    assert open_run().load_state() == {"step": 2}
    assert json.loads(file.read_text("utf-8")) == config  # and now it says what it is


def test_a_folder_says_what_ends_an_answer(home):
    tokenizer = character_tokenizer(["今天"])
    RunFolder.open("story", tiny(), CheckpointInfo("ar"), tokenizer, {})
    written = json.loads((home / "weights/story/generation_config.json").read_text("utf-8"))
    assert written == {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "suppress_tokens": [3]}
    RunFolder.open("masked", tiny(), CheckpointInfo("llada1"), tokenizer, {})
    assert not (home / "weights/masked/generation_config.json").exists()  # `generate` is not its decoder
    assert json.loads((home / "weights/masked/config.json").read_text("utf-8"))["is_causal"] is False


@pytest.mark.filterwarnings("ignore:.*the roles that its tokenizer leaves open")
@pytest.mark.parametrize("info", [CheckpointInfo("ar"), CheckpointInfo("llada1"), CheckpointInfo("llada2", 4)], ids=str)
def test_every_end_of_an_answer_survives_in_a_run(home, info):
    """LLaMA 3 has three, of which its tokenizer names one."""
    tokenizer = load_tokenizer(PUBLISHED["llama3"].write(home / "theirs"))
    assert len(tokenizer.end_token_ids) == 3
    RunFolder.open("story", tiny(), info, tokenizer, {})
    assert load_tokenizer(home / "weights/story").end_token_ids == tokenizer.end_token_ids


def test_a_stopped_run_of_other_settings_is_set_aside_as_stopped(home):
    begin().save_state({"step": 2})
    assert begin(seed=1).load_state() is None
    assert (home / "weights/story.stopped/state.pt").is_file() and not (home / "weights/story/state.pt").exists()


def test_a_stopped_run_never_pushes_a_finished_one_out(home):
    finished(model=changed(1.0))  # A
    begin(seed=1).save_state({"step": 2})  # B: A is set aside
    begin(seed=2).save_state({"step": 2})  # C: B is set aside
    begin(seed=3)
    assert same(load_checkpoint("weights/story.old").model.state_dict(), changed(1.0).state_dict())
    config = json.loads((home / "weights/story.stopped/config.json").read_text())
    assert config["dllm"]["settings"]["seed"] == 2  # the last stopped one


def test_a_run_that_saved_nothing_does_not_push_another_out(home):
    finished(model=changed(1.0))
    for seed in range(3):
        run = begin(seed)
        run.record(step(1, 2.0), tiny())
        (run.folder / "notes.txt").write_text("mine")
    assert same(load_checkpoint("weights/story.old").model.state_dict(), changed(1.0).state_dict())
    assert not (home / "weights/story.stopped").exists()
    assert (run.folder / "notes.txt").is_file() and len(begin(9).metrics()) == 0


@pytest.mark.parametrize("seed", [0, 9])
def test_what_a_killed_process_left_half_written_goes(home, seed):
    """Nothing was saved yet: neither the same training nor another keeps it."""
    run = begin(0)
    for name in ("state.pt.123.partial", "checkpoints/0000002.safetensors.123.partial", ".tmpAbC123"):
        write_whole(run.folder / name, "half")
    begin(seed)
    assert not [file.name for file in run.folder.rglob("*") if "partial" in file.name or "tmp" in file.name]


# --- a finished training is taken up ------------------------------------------------------------------------------


def test_a_finished_training_is_taken_up_and_finished_again(home):
    run = begin()
    for number in (1, 2):
        run.record(step(number, 1.0 / number), changed(number))
    run.finish(changed(5.0))
    before = {file: file.read_bytes() for file in run.folder.rglob("*.safetensors")}
    again = begin()
    state = again.load_state()
    assert again.is_finished and state["step"] > 10**9 and len(again.steps()) == 2
    again.finish(changed(7.0))  # whatever the model holds: the weights of the training stay
    assert {file: file.read_bytes() for file in run.folder.rglob("*.safetensors")} == before
    assert not (home / "weights/story.old").exists()


def test_a_finished_training_whose_checkpoints_were_deleted_keeps_its_best(home):
    run = begin()
    run.record(step(1, 1.0), changed(3.0))
    run.finish(changed(5.0))
    shutil.rmtree(run.folder / "checkpoints")
    again = begin()
    again.finish(changed(5.0))
    assert same(load_checkpoint("story_best").model.state_dict(), changed(3.0).state_dict())


@pytest.mark.parametrize("what", ["weights", "data", "settings", "force"])
def test_a_finished_training_with_another_start_is_not_taken_up(home, what, monkeypatch):
    (home / "a.jsonl").write_text("1")
    settings = {"data": "a.jsonl"}
    open_run = lambda model, **more: RunFolder.open("story", model, CheckpointInfo("ar"), NoTokenizer(), settings | more)
    open_run(tiny()).finish(changed(1.0))
    assert open_run(tiny()).is_finished
    if what == "data":
        (home / "a.jsonl").write_text("2")
    if what == "force":
        monkeypatch.setenv("DLLM_TRAIN_AGAIN", "1")
    run = open_run(tiny(seed=1) if what == "weights" else tiny(), **({"seed": 3} if what == "settings" else {}))
    assert not run.is_finished and run.load_state() is None
    assert same(load_checkpoint("weights/story.old").model.state_dict(), changed(1.0).state_dict())


def test_an_unfinished_training_from_another_start_is_not_continued(home):
    begin().save_state({"step": 2})
    assert RunFolder.open("story", tiny(seed=7), CheckpointInfo("ar"), NoTokenizer(), {"seed": 0}).load_state() is None
    assert (home / "weights/story.stopped/state.pt").is_file()


def test_a_cell_that_is_run_again_goes_on_with_the_model_that_it_trained(home):
    model = tiny()
    open_run = lambda: RunFolder.open("story", model, CheckpointInfo("ar"), NoTokenizer(), {})
    open_run().save_state({"step": 2})
    start = json.loads((home / "weights/story/config.json").read_text())["dllm"]["starts_from"]
    with torch.no_grad():
        model.model.norm.weight.add_(1.0)  # a step
    assert open_run().load_state() == {"step": 2}
    assert json.loads((home / "weights/story/config.json").read_text())["dllm"]["starts_from"] == start


def test_a_run_without_a_record_of_its_start_is_continued(home):
    run = begin()
    run.save_state({"step": 2})
    config = json.loads((run.folder / "config.json").read_text())
    del config["dllm"]["starts_from"]
    (run.folder / "config.json").write_text(json.dumps(config))
    assert begin().load_state() == {"step": 2}


# --- folders of others, names --------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "metrics.jsonl", "photo.png"])
def test_a_folder_that_is_no_run_is_refused_and_left_alone(home, file):
    folder = home / "weights/story"
    folder.mkdir(parents=True)
    (folder / file).write_text('{"vocab_size": 3}')
    with pytest.raises(RunError, match="weights/story: holds files, but no run of this project: choose another run_name"):
        begin()
    assert [entry.name for entry in folder.iterdir()] == [file] and (folder / file).read_text() == '{"vocab_size": 3}'


def test_an_old_folder_that_is_no_run_is_refused_and_left_alone(home):
    finished()
    (home / "weights/story.old").mkdir()
    (home / "weights/story.old/thesis.txt").write_text("mine")
    with pytest.raises(RunError, match=r"weights/story\.old: holds files, but no run of this project"):
        begin(seed=1)
    assert (home / "weights/story.old/thesis.txt").is_file() and load_checkpoint("story")


@pytest.mark.parametrize("content", ['{"dllm": 5}', '{"dllm": {"settings": 5}}', '{"dllm": {"starts_from": 5}}', "[" * 10_000])
def test_a_config_of_another_form_is_no_run(home, content):
    (home / "weights/story").mkdir(parents=True)
    (home / "weights/story/config.json").write_text(content)
    with pytest.raises(RunError, match="story.*: choose another run_name, or move the folder away"):
        begin()


def test_a_file_in_the_place_of_a_folder_is_refused(home):
    finished()
    (home / "weights/story.old").write_text("mine")
    with pytest.raises(RunError, match=r"weights/story\.old: holds files, but no run"):
        begin(seed=1)
    (home / "weights/other").write_text("mine")
    for name in ("other", "other/deep"):
        with pytest.raises(RunError, match=f"weights/{name}: cannot be written, .*weights/other is a file or read-only"):
            check_free(run_path(name))


@pytest.mark.parametrize("name, folder", [
    ("mine", "weights/mine"), ("sub/mine", "weights/sub/mine"), ("weights/mine", "weights/mine"),
])  # fmt: skip
def test_a_name_means_the_same_for_training_and_loading(home, name, folder):
    run = finished(name)
    assert run.folder == home / folder and find_checkpoint(name) == (home / folder, "last")
    assert find_checkpoint(f"weights/{name.removeprefix('weights/')}_best.pt") == (home / folder, "best")


def test_a_name_with_a_slash_does_not_mean_the_run_of_its_last_part(home):
    finished("mine")
    with pytest.raises(RunError, match="sub/mine: no such file or finished run"):
        find_checkpoint("sub/mine")


def test_a_run_in_the_folder_of_another_is_refused(home):
    finished("a")
    with pytest.raises(RunError, match="weights/a/b: lies in the folder of another run"):
        finished("a/b")
    finished("c/d")
    with pytest.raises(RunError, match="weights/c: holds files, but no run"):
        finished("c")


def test_an_absolute_path_is_taken_as_it_is(home, tmp_path):
    assert finished(str(tmp_path / "else/where")).folder == tmp_path / "else/where"


# --- damage, a full disk --------------------------------------------------------------------------------------------


def damaged(file: str, content: bytes) -> RunFolder:
    run = begin()
    for number in (1, 2, 3):
        run.record(step(number, 1.0 / number), tiny())
    run.save_state({"step": 3})
    (run.folder / file).write_bytes(content)
    return run


@pytest.mark.parametrize("content", [b"", b"5", b"{bad}\n", bytes(100), b'{"a": "b"}\n'])
@pytest.mark.parametrize("file, advice", [
    ("state.pt", r"state\.pt: damaged .*delete it to train from the start"),
    ("checkpoints/scores.json", r"scores\.json: damaged or deleted .*delete the folder weights/story/checkpoints"),
    ("metrics.jsonl", r"metrics\.jsonl.*delete the line|steps are missing"),
    ("config.json", r"story.*: choose another run_name, or move the folder away"),
])  # fmt: skip
def test_a_damaged_file_is_named_with_what_to_do(home, file, advice, content):
    damaged(file, content)

    def use():
        run = begin()
        run.load_state()
        run.record(step(4, 0.1), tiny())

    with warnings.catch_warnings(), pytest.raises((RunError, UserWarning), match=advice):
        warnings.simplefilter("error")
        use()


def test_checkpoints_deleted_during_a_training_are_missed(home):
    run = damaged("notes", b"")
    shutil.rmtree(run.folder / "checkpoints")
    for write in (lambda: run.record(step(4, 9.0), tiny()), lambda: run.finish(tiny())):
        with pytest.raises(RunError, match=r"the best weights so far are lost.*\(the state of step 3 is intact\)"):
            write()
    again = begin()
    again.load_state()
    again.record(step(4, 9.0), tiny())  # whoever runs again has read it


def test_a_full_disk_is_named_and_leaves_the_last_state(home):
    run = begin()
    run.save_state({"step": 3})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        for write in (
            lambda: run.save_state({"step": 4, "model": torch.zeros(500_000)}),
            lambda: run.record(step(4, 0.1), tiny()),
            lambda: run.finish(tiny()),
        ):
            with pytest.raises(RunError, match=r"no space in .*story.* MB needed, .* MB free.*\(the state of step 3 is intact\)"):
                write()
        with pytest.raises(RunError, match="2.0 MB needed"):
            run.save_state({"step": 4, "model": torch.zeros(500_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert begin().load_state() == {"step": 3} and not list(run.folder.rglob("*.partial"))


def test_all_files_of_a_run_can_be_read_by_the_same_people(home):
    run = begin()
    run.record(step(1, 1.0), tiny())
    run.finish(tiny())
    modes = {file.stat().st_mode for file in run.folder.rglob("*") if file.is_file() and file.name != ".lock"}
    assert len(modes) == 1


# --- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [
    "", ".", "..", "weights/", f"weights{os.sep}.{os.sep}", f"..{os.sep}", "../x", "a/../../x", "weights/../x", "/tmp/../x",
    "~nobody/x", " ", "x ", "x\n", "/",
])  # fmt: skip
def test_a_name_that_is_no_folder_of_its_own_is_refused(home, name):
    finished()
    before = sorted(home.rglob("*"))
    with pytest.raises(RunError, match=re.escape(f"run_name={name!r}: must name a folder of its own")):
        RunFolder.open(name, tiny(), CheckpointInfo("ar"), NoTokenizer(), {})
    assert sorted(home.rglob("*")) == before


def test_settings_and_shape_are_written_to_the_config(home):
    run = finished(seed=5, data="今天.jsonl", sizes=(4, 8))
    text = (run.folder / "config.json").read_text(encoding="utf-8")
    assert json.loads(text)["dllm"]["settings"] == {"seed": 5, "data": "今天.jsonl", "sizes": [4, 8]} and "今天" in text

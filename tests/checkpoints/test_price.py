"""What a checkpoint cost, from run to run."""

import json

import pytest
import torch
from small import NoTokenizer, packed, tiny

from dllm_core import CheckpointInfo, TrainConfig, ar_loss, train
from dllm_core.checkpoints import price
from dllm_core.checkpoints.formats import load_checkpoint
from dllm_core.checkpoints.run_folder import RunFolder


def trained(name: str, model, chat: bool = False, steps: int = 3, **settings) -> RunFolder:
    run = RunFolder.open(name, model, CheckpointInfo("ar", label_shift=True, chat=chat), NoTokenizer(), settings)
    list(train(model, packed(4), ar_loss, TrainConfig(steps, batch_size=4, seq_len=12), run=run))
    run.finish(model)
    return run


def test_a_run_lists_its_training_and_those_before_it(home):
    base = trained("base", tiny())
    loaded = load_checkpoint("weights/base_state_dict.pt")
    chat = trained("chat", loaded.model, chat=True, load_from="weights/base_state_dict.pt")
    last = {run.folder.name: run.steps()[-1] for run in (base, chat)}
    entries = load_checkpoint("chat").trained
    assert [(entry["run"], entry["chat"], entry["steps"]) for entry in entries] == [("base", False, 3), ("chat", True, 3)]
    for entry in entries:
        step = last[entry["run"]]
        assert all(entry[name] == getattr(step, name) > 0 for name in price.NUMBERS)
        assert entry["threads"] == torch.get_num_threads() and entry["machine"].startswith("cpu")
    everything, fine_tuning = price.total(entries), price.total(entries, "fine-tuning")
    assert everything.flops == last["base"].flops + last["chat"].flops and fine_tuning.flops == last["chat"].flops
    assert everything.positions == 3 * 2 * 4 * 12  # steps × runs × rows × tokens


def test_a_training_that_goes_on_counts_every_step_once(home):
    whole = trained("whole", tiny(), steps=4).steps()[-1]
    model, config = tiny(), TrainConfig(4, batch_size=4, seq_len=12)
    for _ in range(2):
        run = RunFolder.open("parts", model, CheckpointInfo("ar"), NoTokenizer(), {})
        for step in train(model, packed(4), ar_loss, config, run=run):
            if step.step == 2 and not run.saved_step:
                break
    assert (run.steps()[-1].positions, run.steps()[-1].flops) == (whole.positions, whole.flops)
    run.finish(model)
    assert load_checkpoint("parts").trained[0]["flops"] == whole.flops


def test_a_finished_training_that_is_taken_up_keeps_its_entry(home):
    first = trained("story", tiny())
    before = json.loads((first.folder / "config.json").read_text())["dllm"]["trained"]
    assert trained("story", tiny()).is_finished
    assert load_checkpoint("story").trained == before


def test_an_unknown_part_leaves_the_sum_unknown(home):
    base = trained("base", tiny())
    config = json.loads((base.folder / "config.json").read_text())
    del config["dllm"]["trained"]  # as a run of an earlier version, or of another project
    (base.folder / "config.json").write_text(json.dumps(config))
    trained("chat", load_checkpoint("base").model, chat=True, load_from="weights/base.pt")
    entries = load_checkpoint("chat").trained
    assert [entry["run"] for entry in entries] == ["base", "chat"]
    assert price.total(entries) is None and price.total([]) is None
    assert price.total(entries, "fine-tuning").tokens == entries[1]["tokens"] > 0
    entries[0]["chat"] = True
    assert price.total(entries, "fine-tuning") is None


@pytest.mark.parametrize("value", [None, 3, "x", [1], {"run": "x"}])
def test_a_damaged_list_counts_as_none(home, value):
    run = trained("story", tiny())
    config = json.loads((run.folder / "config.json").read_text())
    config["dllm"]["trained"] = value
    (run.folder / "config.json").write_text(json.dumps(config))
    assert load_checkpoint("story").trained == []


def test_an_entry_says_how_long_the_rows_were(home):
    trained("base", tiny(), seq_len=24)
    trained("chat", tiny(), chat=True, max_seq_len=12, load_from="weights/base_state_dict.pt")
    assert [entry["seq_len"] for entry in load_checkpoint("chat").trained] == [24, 12]

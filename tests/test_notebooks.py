"""All notebooks, walked as a user walks them: papermill through the command line, in a copy of the project."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from published_models import published
from small import HANG_LIMIT, write

from dllm_core.checkpoints.formats import load_checkpoint
from dllm_core.checkpoints.hf_config import IDS
from dllm_core.cli import report
from dllm_core.cli.stages import STAGES
from dllm_core.config import CheckpointInfo, DecodeConfig
from dllm_core.data.batches import validation_batches
from dllm_core.data.jsonl import chat_documents, text_documents
from dllm_core.data.tokenizer import character_tokenizer
from dllm_core.likelihood import ar_nll, nll_bound
from dllm_core.notebook import parameters
from dllm_core.notebook.comparison import SCHEMA
from dllm_core.trace import Trace

PRETRAIN = (
    "data jsonl_field tokenizer_dir seq_len batch_size max_iters learning_rate init_from_minimind run_name prompt"
)
FLAGS = {  # the flags of each notebook's commands
    "01_ar_pretrain": "data jsonl_field tokenizer_dir run_name hidden_size num_hidden_layers num_attention_heads "
    "max_seq_len epochs batch_size checkpoint prompt max_new_tokens",
    "02_llada1_pretrain": PRETRAIN + " max_new_tokens gen_steps gen_cfg_scale",
    "03_llada2_pretrain": PRETRAIN + " max_new_tokens gen_steps gen_cfg_scale train use_tokenizer warmup_steps "
    "min_lr_ratio mask_schedule use_block_curriculum wsd_phase_ratios wsd_block_sizes_up wsd_block_sizes_down "
    "time_weighted_loss llada2_topk_merge llada2_topk_merge_k llada2_enable_parallel_decoding checkpoint",
    "04_ar_sft": "data tokenizer_dir load_from run_name max_seq_len batch_size epochs",
    "05_llada2_sft": "data tokenizer_dir load_from run_name max_seq_len batch_size epochs learning_rate "
    "llada2_enable_block_diffusion llada2_block_size llada2_alpha_min llada2_alpha_max llada2_enable_cap "
    "llada2_cap_lambda llada2_enable_complementary_masking llada2_quantize_effective_length",
    "06_parallel_decoding": "checkpoint tokenizer_dir seq_len prompt max_new_tokens gen_steps gen_cfg_scale "
    "llada2_enable_parallel_decoding gen_confidence_threshold gen_top_k gen_cap_start_ratio gen_cap_end_ratio "
    "gen_max_decode_per_step",
    "07_compare_styles": "checkpoint tokenizer_dir task prompt output ar_checkpoint llada1_checkpoint",
}
BESIDE = {"seed", "device", "dtype"}
NOTEBOOKS = ("00_the_idea", *FLAGS)
PARTS = ("## The smallest idea", "## Exercises", "<details>", "## What was learned", "$$")  # of every notebook
OF_A_RUN = ("what failed", "## Your own text")  # of every notebook that reads a text


# --- as they lie in the repository ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_sources_are_clean_and_complete(project, name):
    file = project / f"notebooks/{name}.ipynb"
    notebook = json.loads(file.read_text("utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    prose = "".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in code)
    assert all(re.fullmatch(r"[a-z0-9-]+", cell["id"]) for cell in notebook["cells"])  # named, not drawn by lot
    long = [cell["id"] for cell in code if len(cell["source"]) > 18 and not cell["metadata"].get("tags")]
    assert not long, f"cells of more than 18 lines: {long}"
    assert [cell["metadata"]["tags"] for cell in code if cell["metadata"].get("tags")] == [["parameters"]]
    slides = {cell["id"]: cell["metadata"].get("slideshow", {}).get("slide_type") for cell in notebook["cells"]}
    for cell in notebook["cells"]:  # `nbconvert --to slides`: a slide for each heading, none for the parameters
        is_heading = cell["cell_type"] == "markdown" and re.match("##? ", cell["source"][0])
        assert slides[cell["id"]] == ("slide" if is_heading else "skip" if cell["metadata"].get("tags") else slides[cell["id"]])
        assert is_heading or slides[cell["id"]] != "slide"
    for part in PARTS + OF_A_RUN * (name in FLAGS):
        assert part in prose, part
    assert any("show.source(" in line for cell in code for line in cell["source"])


@pytest.mark.parametrize("name", FLAGS)
def test_every_flag_of_the_report_is_a_parameter(project, name):
    declared = parameters.read_parameters(project / f"notebooks/{name}.ipynb")
    assert set(FLAGS[name].split()) | BESIDE <= set(declared)
    assert all(parameter.default is not None for parameter in declared.values())  # papermill can show each one's type
    bare = [parameter.name for parameter in declared.values() if not parameter.help]
    assert not bare, f"parameters without a comment that says what they do: {bare}"


def test_papermill_sees_every_parameter(project):
    from papermill import inspect_notebook

    for name in NOTEBOOKS:
        file = project / f"notebooks/{name}.ipynb"
        seen = inspect_notebook(str(file))
        assert set(seen) == set(parameters.read_parameters(file))
        assert all(entry["inferred_type_name"] != "None" for entry in seen.values())


def cell_of(project: Path, name: str, words: str) -> str:
    """The one code cell of a notebook that holds `words`."""
    cells = json.loads((project / f"notebooks/{name}.ipynb").read_text("utf-8"))["cells"]
    (source,) = (text for cell in cells if cell["cell_type"] == "code" and words in (text := "".join(cell["source"])))
    return source


def settings_of_06(project: Path, **values) -> dict:
    """What the cell of 06 that makes the decoding's settings leaves behind, no model needed."""
    declared = parameters.read_parameters(project / "notebooks/06_parallel_decoding.ipynb")
    scope = {name: parameter.default for name, parameter in declared.items()} | {"style": "llada2"} | values
    scope |= {"info": SimpleNamespace(block_size=16, chat=False), "loaded": None, "tokenizer": None}
    scope["DecodeConfig"] = DecodeConfig
    scope["notebook"] = SimpleNamespace(prompt_ids=lambda *_: [1, 2], prompt_notes=lambda *_: [])
    exec(cell_of(project, "06_parallel_decoding", "of_style = {"), scope)  # noqa: S102
    return scope


def test_an_unknown_style_is_named(project):
    with pytest.raises(ValueError, match="style='mdlm': must be .ar. or .llada1. or .llada2."):
        settings_of_06(project, style="mdlm")


def test_every_decoding_setting_is_a_parameter_of_06(project):
    config = settings_of_06(project, style="llada1", gen_block_length=16, gen_steps=32)["decode_config"]
    assert (config.block_length, config.steps) == (16, 32)
    assert settings_of_06(project, style="llada1")["decode_config"].block_length is None
    assert settings_of_06(project)["decode_config"].block_length == 16  # the training's
    config = settings_of_06(project, gen_block_length=8, gen_minimal_topk=3)["decode_config"]
    assert (config.block_length, config.minimal_topk) == (8, 3)


@pytest.mark.parametrize("name", ["06_parallel_decoding", "07_compare_styles"])
def test_a_kind_is_declared_of_the_checkpoint_alone(project, name):
    """The other checkpoints are of this project, or say what they are."""
    opened, declared = {}, {"objective": "llada2", "block_size": 8, "label_shift": "yes"}
    if name.startswith("06"):
        declared["chat"] = "yes"
    of_notebook = parameters.read_parameters(project / f"notebooks/{name}.ipynb")
    scope = {parameter: value.default for parameter, value in of_notebook.items()}
    scope |= declared | {"checkpoint": "theirs", "torch_device": "cpu", "precision": "float32"}
    opening = lambda name, **options: opened.update({name: options}) or 1 / 0
    scope["notebook"] = SimpleNamespace(open_checkpoint=opening, pick_dtype=lambda dtype, device: dtype)
    source = re.match(r"def open_run.*?\n(?=\S)", cell_of(project, name, "def open_run("), re.DOTALL)[0]
    exec(source, scope)  # noqa: S102
    for run in ("theirs", "ours"):
        with pytest.raises(ZeroDivisionError):
            scope["open_run"](run)
    assert declared.items() <= opened["theirs"].items() and not declared.keys() & opened["ours"].keys()


def test_a_choice_that_greedy_decoding_leaves_out_is_reported(project, capsys):
    settings_of_06(project)
    settings_of_06(project, gen_top_k=8, gen_temperature=0.5)
    assert capsys.readouterr().out == ""
    assert settings_of_06(project, gen_top_k=8)["decode_config"].top_k == 8
    assert "gen_temperature is 0" in capsys.readouterr().out


def test_a_merge_without_enough_checkpoints_is_reported(project, capsys):
    run = SimpleNamespace(checkpoints=lambda: [(1.0, "a")], folder=Path("nowhere"))
    stub = SimpleNamespace(mean=1.0, error=0.0, final=16, table=lambda *_, **__: None)
    scope = {"train": True, "llada2_topk_merge": True, "llada2_topk_merge_k": 3, "run": run}
    scope |= dict.fromkeys(("before", "blocks", "show"), stub)
    exec(cell_of(project, "03_llada2_pretrain", "run.merge("), scope)  # noqa: S102
    assert "no merge: 1 validated checkpoints, llada2_topk_merge_k=3" in capsys.readouterr().out


# --- run ------------------------------------------------------------------------------------------------------------


def copy_of(project: Path, folder: Path) -> SimpleNamespace:
    """A project of its own in `folder`: the committed files, none of the runs. `run(*arguments)` is `dllm run`."""
    folder.mkdir(exist_ok=True)
    shutil.copy(project / "pyproject.toml", folder)
    shutil.copytree(project / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    (folder / "data").mkdir()
    shutil.copytree(project / "data/tokenizer", folder / "data/tokenizer")
    for file in ("pretrain_sample", "pretrain_valid", "sft_sample", "sft_valid", "sft_test", "sft_reversal"):
        shutil.copy(project / f"data/{file}.jsonl", folder / "data")
    env = {name: value for name, value in os.environ.items() if not name.startswith("DLLM_")}
    env |= {"PYTHONPATH": str(project), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

    def run(*arguments: str) -> None:
        command = [sys.executable, "-m", "dllm_core.cli.main", "run", *arguments, "--preset", "smoke", "--jobs", "2"]
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=HANG_LIMIT, check=False)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]

    def executed(preset: str) -> dict:
        return json.loads((folder / f"runs/smoke/{preset}.ipynb").read_text("utf-8"))

    return SimpleNamespace(folder=folder, run=run, executed=executed)


def outputs(notebook: dict) -> list[dict]:
    return [output for cell in notebook["cells"] if cell["cell_type"] == "code" for output in cell["outputs"]]


def printed(notebook: dict, cell_id: str) -> str:
    (cell,) = [cell for cell in notebook["cells"] if cell["id"] == cell_id]
    return "".join("".join(output["text"]) for output in cell["outputs"] if output["output_type"] == "stream")


def pictures(notebook: dict) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs(notebook))


def first_and_last(run: Path) -> tuple[float, float]:
    """Training loss of the first and of the last quarter of a run's steps."""
    losses = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    quarter = max(1, len(losses) // 4)
    return sum(losses[:quarter]) / quarter, sum(losses[-quarter:]) / quarter


@pytest.fixture(scope="module")
def chain(project, tmp_path_factory):
    """The whole chain with the smoke presets: all notebooks, 05 and 07 twice."""
    copy = copy_of(project, tmp_path_factory.mktemp("chain") / "project")
    copy.run("all")
    return copy


def test_all_notebooks_run(chain):
    summary = json.loads((chain.folder / "runs/smoke/summary.json").read_text("utf-8"))
    assert {name: stage["state"] for name, stage in summary["stages"].items()} == {s.name: "done" for s in STAGES}
    for stage in STAGES:
        notebook = chain.executed(stage.preset)
        assert not [output for output in outputs(notebook) if output["output_type"] == "error"], stage.name
        assert stage.name == "06" or pictures(notebook) >= 2, stage.name
        if stage.name not in ("00", "01", "04"):  # the others decode in a player: a page of its own within the page
            assert any("<script" in "".join(o.get("data", {}).get("text/html", "")) for o in outputs(notebook)), (
                stage.name
            )


def test_what_is_learned_is_saved_and_better(chain, monkeypatch):
    """Each run against the checkpoint it started from, on the same rows and the same masks."""
    monkeypatch.chdir(chain.folder)
    weights = chain.folder / "weights"
    base = load_checkpoint(weights / "minimind_pretrain", device="cpu")
    tokenizer, mask = base.tokenizer, base.tokenizer.mask_token_id
    texts = text_documents(chain.folder / "data/pretrain_sample.jsonl", tokenizer)
    chats = chat_documents(chain.folder / "data/sft_sample.jsonl", tokenizer, 128)
    texts = validation_batches(texts, batch_size=8, seq_len=64)
    chats = validation_batches(chats, batch_size=8, seq_len=128, pack="whole")
    first, last = first_and_last(weights / "minimind_pretrain")
    assert last < first - 0.3
    assert ar_nll(load_checkpoint(weights / "minimind_sft").model, chats).mean < ar_nll(base.model, chats).mean - 0.3
    for name, start, batches, size in (
        ("diffusion_from_ar_eq3", "minimind_pretrain", texts, None),
        ("diffusion_llada2_pretrain", "minimind_pretrain", texts, 16),
        ("diffusion_llada1_sft", "diffusion_from_ar_eq3", chats, None),
        ("diffusion_llada2_sft", "diffusion_llada2_pretrain", chats, 16),
    ):
        before, after = (
            nll_bound(load_checkpoint(weights / run).model, batches, mask, block_size=size, draws=4).mean for run in (start, name)
        )
        assert after < before - 0.1, (name, before, after)


def test_runs_are_described_by_their_config(chain):
    weights = chain.folder / "weights"
    for name, wanted in (
        ("minimind_pretrain", ("ar", None, False)), ("minimind_sft", ("ar", None, True)),
        ("diffusion_from_ar_eq3", ("llada1", None, False)), ("diffusion_llada1_sft", ("llada1", None, True)),
        ("diffusion_llada2_pretrain", ("llada2", 16, False)), ("diffusion_llada2_sft", ("llada2", 8, True)),
    ):  # fmt: skip
        info = load_checkpoint(weights / name).info
        assert (info.objective, info.block_size, info.chat) == wanted
        assert not (weights / name / "state.pt").exists()  # finished
    steps = [
        json.loads(line) for line in (weights / "diffusion_llada2_pretrain/metrics.jsonl").read_text().splitlines()
    ]
    assert [step["block_size"] for step in steps][::5] == [4, 16, 64, 32] and steps[-1]["block_size"] == 16
    assert (weights / "diffusion_llada2_pretrain/merged.safetensors").is_file()


def test_05_explains_the_model_that_it_trains(chain):
    says = {}
    for preset in ("05_llada1_sft", "05_llada2_sft"):
        shown = [output.get("data", {}) for output in outputs(chain.executed(preset))]
        kinds = ("text/markdown", "text/plain")
        says[preset] = "".join("".join(data[kind]) for data in shown for kind in kinds if kind in data)
    llada1, llada2 = says.values()
    for words, text, other in (
        ("This run: LLaDA 1", llada1, llada2), ("def llada1_loss", llada1, llada2), ("0 to 32 tokens", llada1, llada2),
        ("This run: LLaDA 2", llada2, llada1), ("def llada2_loss", llada2, llada1), ("Two complementary", llada2, llada1),
        ("def correct_token_entropy", llada2, llada1), ("blocks of 4", llada2, llada1),
    ):  # fmt: skip
        assert words in text and words not in other, words


def test_decoding_keeps_its_promises(chain):
    assert "batch equals single: True | cached equals uncached: True" in printed(
        chain.executed("06_parallel_decoding"), "promises"
    )


@pytest.mark.parametrize("task", ["pretrain", "sft"])
def test_the_comparison_is_written(chain, task):
    lines = [json.loads(line) for line in (chain.folder / f"outputs/compare_{task}.jsonl").read_text().splitlines()]
    # two prompts: AR, LLaDA 1, LLaDA 2 at two thresholds, and LLaDA 2 as 1
    assert len(lines) == 10 and {line["style"] for line in lines} == {"ar", "llada1", "llada2"}
    runs = {(line["prompt"], line["name"], line["settings"]["threshold"]) for line in lines}
    assert len(runs) == 10 and {threshold for _, name, threshold in runs if name == "LLaDA 2"} == {0.5, 0.9}
    for line in lines:
        assert list(line) == list(SCHEMA)
        trace = Trace.load(chain.folder / line["trace"])
        assert (trace.text, trace.forwards, trace.settings) == (line["text"], line["forwards"], line["settings"])
        assert line["task"] == task and line["settings"]["style"] == line["style"]
        assert line["versions"]["torch"] == torch.__version__ and 0 < line["confidence"]["mean"] <= 1
        assert line["tokens_per_forward"] == pytest.approx(line["tokens"] / line["forwards"])
    result = json.loads((chain.folder / f"outputs/compare_{task}.scores.json").read_text("utf-8"))
    assert {"AR", "LLaDA 1", "LLaDA 2"} <= set(result["speed"]) and result["quality_speed"]
    counted = {name: estimate["tokens"] for name, estimate in result["likelihood"].items()}
    assert len(counted) == 4 and len(set(counted.values())) == 1  # all measured on the same tokens
    assert result["likelihood"]["AR"]["draws"] == 0 and result["likelihood"]["LLaDA 2"]["draws"] == 4
    assert result["likelihood_exact_masks"]["AR"] == result["likelihood"]["AR"]
    for name, value in result["likelihood_exact_masks"].items():
        other = result["likelihood"][name]
        assert value["mean"] == pytest.approx(other["mean"], abs=6 * (value["error"] + other["error"]) + 1e-6), name
    batches = [(row["name"], row["batch"]) for row in result["batches"]]
    if task == "pretrain":  # AR judges, and not itself
        assert {row["style"] for row in result["quality_speed"]} == {"LLaDA 1", "LLaDA 2"} and not batches
    if task == "sft":
        assert batches == [("AR", 1), ("AR", 2), ("LLaDA 2", 1), ("LLaDA 2", 2)]
        assert set(result["exact_match_overall"]) == set(result["speed"])
        assert [score["count"] for score in result["exact_match"]["AR"]] == [1] * 7
        assert [row["name"] for row in result["answers"]] == ["AR", "LLaDA 1", "LLaDA 2", "LLaDA 2", "LLaDA 2 as 1"]
        for row in result["answers"]:
            assert len(row["right"]) == 7 and sum(row["right"]) == sum(group["right"] for group in row["groups"])
            assert 0 <= row["repetition"] <= 1 and 0 <= row["ended"] <= 1
        assert report.sentences([report.load_scores(chain.folder / "outputs/compare_sft.scores.json")])
        assert {score["group"] for score in result["reversal"]["AR"]} == {"reversal_unseen", "reversal_seen"}


def test_a_published_model_is_fine_tuned(project, tmp_path):
    """SDAR's layout with made-up weights and a tokenizer of twenty characters: 05 trains on from it, in its blocks."""
    copy = copy_of(project, tmp_path / "project")
    tokenizer, theirs = character_tokenizer(["bcdf"]), tmp_path / "sdar"
    ids = {name: getattr(tokenizer, name) for name in IDS}
    published("sdar", theirs, max_position_embeddings=256, **ids)
    tokenizer.save_pretrained(theirs)
    talk = lambda k: [{"role": "user", "content": "bcd" * k}, {"role": "assistant", "content": "fed" * k}]
    write(copy.folder / "chats.jsonl", *({"conversations": talk(1 + k % 4)} for k in range(40)))
    options = {"load_from": str(theirs), "data": "chats.jsonl", "valid_data": "", "llada2_block_size": "4"}
    copy.run("05-llada2", *(part for name, value in options.items() for part in ("-p", name, value)))
    again = load_checkpoint(copy.folder / "weights/diffusion_llada2_sft")
    assert again.info == CheckpointInfo("llada2", 4, chat=True)
    start = load_checkpoint(theirs)
    assert again.model.config == start.model.config
    assert not torch.equal(again.model.lm_head.weight, start.model.lm_head.weight)


def test_absent_weights_name_the_command_that_trains_them(project, tmp_path):
    copy = copy_of(project, tmp_path / "project")
    with pytest.raises(AssertionError, match=r"dllm run 05-llada2"):
        copy.run("06")


def test_characters_instead_of_a_tokenizer_and_a_look_at_a_saved_run(project, tmp_path):
    copy = copy_of(project, tmp_path / "project")
    copy.run("01", "03", "-p", "use_tokenizer", "false")
    tokenizer = load_checkpoint(copy.folder / "weights/diffusion_llada2_pretrain").tokenizer
    assert tokenizer.tokenize("从前") == ["从", "前"] and len(tokenizer) < 900
    weights = (copy.folder / "weights/diffusion_llada2_pretrain/model.safetensors").read_bytes()
    copy.run("03", "-p", "use_tokenizer", "false", "-p", "train", "false")
    assert (copy.folder / "weights/diffusion_llada2_pretrain/model.safetensors").read_bytes() == weights
    assert pictures(copy.executed("03_llada2_pretrain")) >= 3  # the curve is drawn from the run's records


def test_real_text(project, real_data, tmp_path):
    """The chain on text that nobody here wrote, with another tokenizer: nothing rests on the embedded corpus."""
    copy = copy_of(project, tmp_path / "project")
    for file in (copy.folder / "data").glob("*.jsonl"):
        file.unlink()
    shutil.rmtree(copy.folder / "data/tokenizer")
    poems, chats = str(real_data / "tang_pretrain.jsonl"), str(real_data / "alpaca_zh_sft.jsonl")
    short = ("-p", "learning_rate", "0.004", "-p", "muon_learning_rate", "0.03")  # a few steps want large ones
    own_data = ("-p", "valid_data", "", "-p", "epochs", "0.01", *short)
    theirs = ("-p", "tokenizer_dir", str(real_data / "minimind_tokenizer"), "-p", "max_iters", "60")
    copy.run("01", "02", "03", "-p", "data", poems, *own_data, *theirs)
    copy.run("04", "05", "-p", "data", chats, *own_data)
    none = ("-p", "valid_data", "", "-p", "test_data", "", "-p", "reversal_data", "")
    copy.run("06", "-p", "valid_data", "")
    copy.run("07-pretrain", *none, "-p", "data", poems)
    copy.run("07-sft", *none, "-p", "data", chats)
    weights = copy.folder / "weights"
    for name in ("minimind_pretrain", "minimind_sft"):
        first, last = first_and_last(weights / name)
        assert last < first - 0.2, (name, first, last)
    for preset in ("02_llada1_pretrain", "05_llada1_sft", "05_llada2_sft"):
        text = printed(copy.executed(preset), "saved" if preset.startswith("02") else "answers")
        before, after = map(float, re.search(r"bound (?:before )?([\d.]+).*?(?:after|→) ([\d.]+)", text).groups())
        assert after < before, (preset, text)
    assert len(load_checkpoint(weights / "diffusion_llada2_sft").tokenizer) == 6401  # MiniMind's 6,400 and the mask
    result = json.loads((copy.folder / "outputs/compare_sft.scores.json").read_text("utf-8"))
    assert not result["exact_match"] and result["quality_speed"] and len(result["likelihood"]) == 4

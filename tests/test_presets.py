"""Every preset fits its notebook; the large ones hold the report's numbers and build what they name."""

import dataclasses
import math
import os

import pytest
import torch
import yaml

from dllm_core.cli.stages import STAGES, plan
from dllm_core.common.errors import UsageError
from dllm_core.config import DecodeConfig, ModelConfig, TrainConfig
from dllm_core.data.batches import PackedBatches
from dllm_core.data.jsonl import MINIMIND_FILES, chat_documents, text_documents
from dllm_core.data.tokenizer import load_tokenizer
from dllm_core.losses import Diffusion, ar_loss
from dllm_core.model import Transformer
from dllm_core.notebook import parameters
from dllm_core.notebook.setup import parse_numbers
from dllm_core.notebook.training_cost import estimate
from dllm_core.schedules import BlockSchedule, NoiseSchedule, learning_rate

NOTEBOOK_OF = {stage.preset: stage.notebook for stage in STAGES}
EXTRA = {"06_eval_ar_pretrain", "06_eval_llada1_pretrain", "06_eval_llada2_pretrain"}

PRETRAIN_DATA = "modelscope:gongjy/minimind_dataset/pretrain_hq.jsonl"
SFT_DATA = "modelscope:gongjy/minimind_dataset/sft_mini_512.jsonl"
PRETRAIN_RUN = {"data": PRETRAIN_DATA, "jsonl_field": "text", "seq_len": 256, "batch_size": 96, "max_iters": 50000,
                "learning_rate": 4e-4, "warmup_steps": 2000, "min_lr_ratio": 0.025,
                "init_from_minimind": "weights/minimind_pretrain_state_dict.pt"}  # fmt: skip
SFT_RUN = {"data": SFT_DATA, "max_seq_len": 512, "batch_size": 96, "epochs": 3, "learning_rate": 2.5e-5}
REPORT = {  # the commands of the report, flag by flag
    "01_ar_pretrain": {
        "data": PRETRAIN_DATA, "jsonl_field": "text", "run_name": "minimind_pretrain", "hidden_size": 512,
        "num_hidden_layers": 8, "num_attention_heads": 8, "max_seq_len": 256, "epochs": 2, "batch_size": 256,
        "checkpoint": "weights/minimind_pretrain_state_dict.pt", "prompt": "请介绍你自己。", "max_new_tokens": 200,
    },
    "02_llada1_pretrain": PRETRAIN_RUN | {
        "run_name": "diffusion_from_ar_eq3", "checkpoint": "weights/diffusion_from_ar_eq3_best.pt",
        "prompt": "请介绍你自己。", "max_new_tokens": 200, "gen_steps": 64, "gen_cfg_scale": 1.5,
    },
    "03_llada2_pretrain": PRETRAIN_RUN | {
        "train": True, "use_tokenizer": True, "mask_schedule": "wsd", "use_block_curriculum": True,
        "wsd_phase_ratios": "0.3,0.5,0.2", "wsd_block_sizes_up": "32,64,128,256",
        "wsd_block_sizes_down": "256,128,64,32", "time_weighted_loss": True, "llada2_topk_merge": True,
        "llada2_topk_merge_k": 3, "llada2_enable_parallel_decoding": True, "run_name": "diffusion_llada2_pretrain",
        "checkpoint": "weights/diffusion_llada2_pretrain.pt", "prompt": "请介绍一下你自己。", "max_new_tokens": 200,
        "gen_steps": 64, "gen_cfg_scale": 1.5,
    },
    "04_ar_sft": {
        "data": SFT_DATA, "load_from": "weights/minimind_pretrain_state_dict.pt", "run_name": "minimind_sft",
        "max_seq_len": 512, "batch_size": 96, "epochs": 2,
    },
    "05_llada2_sft": SFT_RUN | {
        "load_from": "weights/diffusion_llada2_pretrain_best.pt", "run_name": "diffusion_llada2_sft",
        "llada2_enable_block_diffusion": True, "llada2_block_size": 32, "llada2_alpha_min": 0.05,
        "llada2_alpha_max": 0.95, "llada2_enable_cap": True, "llada2_cap_lambda": 0.1,
        "llada2_enable_complementary_masking": True, "llada2_quantize_effective_length": True,
    },
    "05_llada1_sft": SFT_RUN | {
        "load_from": "weights/diffusion_from_ar_eq3_best.pt", "run_name": "diffusion_llada1_sft",
        "llada2_enable_block_diffusion": False, "llada2_enable_cap": False,
        "llada2_enable_complementary_masking": False, "llada2_quantize_effective_length": False,
    },
    "06_eval_ar_pretrain": {
        "checkpoint": "weights/minimind_pretrain_state_dict.pt", "prompt": "请介绍你自己。", "max_new_tokens": 200,
    },
    "06_eval_llada2_pretrain": {
        "checkpoint": "weights/diffusion_llada2_pretrain.pt", "seq_len": 256, "prompt": "请介绍一下你自己。",
        "max_new_tokens": 200, "gen_steps": 64, "gen_cfg_scale": 1.5, "llada2_enable_parallel_decoding": True,
    },
    "06_eval_llada1_pretrain": {
        "checkpoint": "weights/diffusion_from_ar_eq3_best.pt", "seq_len": 256, "prompt": "请介绍你自己。",
        "max_new_tokens": 200, "gen_steps": 64, "gen_cfg_scale": 1.5, "llada2_enable_parallel_decoding": False,
    },
    "06_parallel_decoding": {
        "checkpoint": "weights/diffusion_llada2_sft_state_dict.pt", "seq_len": 512, "prompt": "你好，请介绍你自己。",
        "max_new_tokens": 128, "gen_steps": 64, "gen_cfg_scale": 1.5, "llada2_enable_parallel_decoding": True,
        "gen_confidence_threshold": 0.9, "gen_top_k": 8, "gen_cap_start_ratio": 0.08, "gen_cap_end_ratio": 0.5,
        "gen_max_decode_per_step": 32,
    },
    "07_compare_pretrain": {"task": "pretrain", "prompt": "你是谁？", "output": "outputs/compare_pretrain.jsonl"},
    "07_compare_sft": {"task": "sft", "prompt": "你是谁？", "output": "outputs/compare_sft.jsonl"},
}  # fmt: skip


@pytest.fixture(scope="module")
def in_force(project):
    """(scale, preset) → all parameters that are then in force."""

    def read(scale: str, preset: str) -> dict:
        notebook = project / "notebooks" / f"{NOTEBOOK_OF.get(preset, '06_parallel_decoding')}.ipynb"
        declared = parameters.read_parameters(notebook)
        preset_values = parameters.read_preset(project / f"notebooks/presets/{scale}/{preset}.yaml", declared)
        return {name: parameter.default for name, parameter in declared.items()} | preset_values

    return read


@pytest.fixture(scope="module")
def tokenizer(project):
    """MiniMind's, where the real data are; else the embedded one, grown to as many entries."""
    folder = os.environ.get("DLLM_REAL_DATA")
    if folder:
        return load_tokenizer(f"{folder}/minimind_tokenizer")
    embedded = load_tokenizer(project / "data/tokenizer")
    embedded.add_tokens([f"<|spare {i}|>" for i in range(6401 - len(embedded))])
    return embedded


def test_every_preset_fits_its_notebook_and_every_stage_has_its_presets(project, in_force):
    for folder in (project / "notebooks/presets").glob("*/"):
        for file in folder.glob("*.yaml"):
            assert file.stem in NOTEBOOK_OF or (folder.name, file.stem) in {("h100", name) for name in EXTRA}, file
            in_force(folder.name, file.stem)  # raises for an unknown name or a value of the wrong type
    for stage in STAGES:
        for scale in ("smoke", "h100", "h100-t2t") + ("cpu",) * stage.variant:
            assert (project / f"notebooks/presets/{scale}/{stage.preset}.yaml").is_file(), (scale, stage.preset)


def test_an_unknown_name_in_a_preset_is_an_error(project, tmp_path):
    declared = parameters.read_parameters(project / "notebooks/03_llada2_pretrain.ipynb")
    (tmp_path / "bad.yaml").write_text("max_iters: 10\nmax_itres: 10\n")
    with pytest.raises(UsageError, match="bad.yaml, line 2: max_itres.*max_iters"):
        parameters.read_preset(tmp_path / "bad.yaml", declared)


@pytest.mark.parametrize("preset", REPORT)
def test_large_presets_hold_the_reports_numbers(project, in_force, preset):
    in_file = yaml.safe_load((project / f"notebooks/presets/h100/{preset}.yaml").read_text("utf-8"))
    assert in_file["tokenizer_dir"] == "gongjy/MiniMind2"
    assert in_force("h100", preset).items() >= REPORT[preset].items()
    assert all(name in in_file for name in REPORT[preset])  # said in the file, not left to the notebook's laptop default


def test_large_fine_tuning_follows_the_schedules_of_the_reports_code_base(in_force):
    """lijrjyan/Nano-LLaDA at 28f02d8, train_sft_minimind.py and train_sft_diffusion.py; its cosine is a line here."""
    rates = {}
    for preset in ("04_ar_sft", "05_llada1_sft", "05_llada2_sft"):
        for scale in ("h100", "h100-t2t"):
            p = in_force(scale, preset)
            assert p["learning_rate"] == 2.5e-5 and p["optimizer"] == "adamw"
            schedule = {"warmup": p["warmup_steps"], "decay_ratio": p["decay_ratio"], "min_ratio": p["min_lr_ratio"]}
            rates[preset] = [learning_rate(step, 10_000, **schedule) for step in range(10_000)]
            assert rates[preset][24] == 0.5 and rates[preset][-1] == pytest.approx(0.1, abs=1e-3)
    cosine = [0.1 + 0.9 * (1 + math.cos(math.pi * step / 10_000)) / 2 for step in range(10_000)]
    assert sum(rates["04_ar_sft"]) == pytest.approx(sum(cosine), rel=0.01)
    assert rates["05_llada2_sft"][9000] == 1 and rates["05_llada2_sft"][9500] == pytest.approx(0.55)


def test_the_preset_of_miniminds_present_data_differs_where_the_data_do(project, in_force):
    """Other files, MiniMind 3's tokenizer and longer rows; as many tokens a step, and blocks up to the whole row."""
    longer = {"seq_len", "max_seq_len", "batch_size", "wsd_block_sizes_up", "wsd_block_sizes_down"}
    for stage in STAGES:
        ours, reports = in_force("h100-t2t", stage.preset), in_force("h100", stage.preset)
        assert {name for name in ours if ours[name] != reports[name]} <= {"data", "tokenizer_dir"} | longer
        if stage.name == "00":
            continue
        assert ours["tokenizer_dir"] == "gongjy/minimind-3"
        if "data" in ours:
            files = {"pretrain_hq.jsonl": "pretrain_t2t_mini.jsonl", "sft_mini_512.jsonl": "sft_t2t_mini.jsonl"}
            data, _, file = reports["data"].rpartition("/")
            assert ours["data"] == f"{data}/{files[file]}" and files[file] in MINIMIND_FILES
        if "batch_size" in ours:
            length = "max_seq_len" if "max_seq_len" in ours else "seq_len"
            assert ours["batch_size"] * ours[length] == reports["batch_size"] * reports[length]
            assert ours[length] % ours.get("llada2_block_size", 1) == 0
    p = in_force("h100-t2t", "03_llada2_pretrain")
    up, down = (parse_numbers(p[f"wsd_block_sizes_{part}"]) for part in ("up", "down"))
    assert BlockSchedule(512, 50_000, parse_numbers(p["wsd_phase_ratios"], float), up, down).block_size(20_000) == 512


@pytest.mark.parametrize(("preset", "views", "gib"), [
    ("01_ar_pretrain", 1, 22), ("03_llada2_pretrain", 1, 14), ("04_ar_sft", 1, 17), ("05_llada2_sft", 2, 41),
])  # fmt: skip
def test_the_estimate_of_a_large_step_counts_its_activations(in_force, large, preset, views, gib):
    """About 0.36 MiB a position in AR and 0.25 to 0.3 in LLaDA 2: what an H100 of 80 GB has to hold."""
    p = in_force("h100", preset)
    length = p["max_seq_len"] if "max_seq_len" in p else p["seq_len"]
    blocks = None
    if preset != "01_ar_pretrain" and preset != "04_ar_sft":
        blocks = BlockSchedule(length, 10, (0.3, 0.5, 0.2), (32,), (32,))
    cost = estimate(large, train_config(p, 10, length), blocks=blocks, views=views)
    assert cost.activation_bytes / 2**30 == pytest.approx(gib, rel=0.1)
    fewer = dataclasses.replace(train_config(p, 10, length), micro_batch_size=p["batch_size"] // 4)
    assert estimate(large, fewer, blocks=blocks, views=views).activation_bytes == pytest.approx(cost.activation_bytes / 4)


def model_of(parameters: dict, vocabulary: int) -> Transformer:
    p = parameters
    return Transformer(ModelConfig(
        vocabulary, p["hidden_size"], p["num_hidden_layers"], p["num_attention_heads"],
        num_key_value_heads=p["num_key_value_heads"] or None, intermediate_size=p["intermediate_size"] or None,
        rope_theta=p["rope_theta"], qk_norm_init=p["qk_norm_init"],
    ))  # fmt: skip


@pytest.fixture(scope="module")
def large(in_force, tokenizer):
    """The report's network, in its shape."""
    torch.manual_seed(0)
    return model_of(in_force("h100", "01_ar_pretrain"), len(tokenizer))


def batches_of(project, tokenizer, p: dict, length: int, **options) -> PackedBatches:
    if "pack" in options:
        documents = chat_documents(project / "data/sft_sample.jsonl", tokenizer, length)
    else:
        documents = text_documents(project / "data/pretrain_sample.jsonl", tokenizer, p["jsonl_field"])
    return PackedBatches(documents, batch_size=2, seq_len=length, seed=p["seed"], **options)


def train_config(p: dict, steps: int, length: int) -> TrainConfig:
    names = ("optimizer", "learning_rate", "warmup_steps", "decay_ratio", "min_lr_ratio", "eval_every", "save_every")
    return TrainConfig(steps, batch_size=p["batch_size"], seq_len=length, **{name: p[name] for name in names})


def test_the_large_ar_preset_builds_its_model_and_first_batch(project, in_force, tokenizer, large):
    p = in_force("h100", "01_ar_pretrain")
    shape = large.config
    assert (shape.hidden_size, shape.num_hidden_layers, shape.num_attention_heads, shape.head_dim) == (512, 8, 8, 64)
    assert shape.intermediate_size == 1408 and 20e6 < large.num_parameters < 30e6
    batch = next(batches_of(project, tokenizer, p, p["max_seq_len"]))
    assert batch.tokens.shape == (2, 256)
    train_config(p, 1000, p["max_seq_len"])
    with torch.no_grad():
        loss = ar_loss(large, batch)
    assert loss.count == int((batch.scored & (batch.position > 0)).sum())
    assert abs(float(loss.mean) - math.log(len(tokenizer))) < 1


@pytest.mark.parametrize("preset", ["02_llada1_pretrain", "03_llada2_pretrain"])
def test_large_diffusion_presets_build_their_schedule_and_first_batch(project, in_force, tokenizer, large, preset):
    p = in_force("h100", preset)
    train_config(p, p["max_iters"], p["seq_len"])
    batch = next(batches_of(project, tokenizer, p, p["seq_len"]))
    assert batch.tokens.shape == (2, 256)
    rate = lambda step: learning_rate(
        step, p["max_iters"], warmup=p["warmup_steps"], decay_ratio=p["decay_ratio"], min_ratio=p["min_lr_ratio"])  # fmt: skip
    assert rate(999) == 0.5 and rate(49_999) == pytest.approx(0.025, abs=1e-3)
    assert rate(22_000) == pytest.approx(1)  # held for 0.4 of the run, then down over the rest
    assert rate(36_000) == pytest.approx(0.5125)
    sizes = [None]
    if preset.startswith("03"):
        blocks = BlockSchedule(256, 50_000, parse_numbers(p["wsd_phase_ratios"], float), parse_numbers(p["wsd_block_sizes_up"]),
                               parse_numbers(p["wsd_block_sizes_down"]))  # fmt: skip
        of = blocks.block_size
        assert [of(0), of(3750), of(7500), of(14_999), of(15_000), of(39_999)] == [32, 64, 128, 256, 256, 256]
        assert [of(40_000), of(42_500), of(45_000), of(47_500), blocks.final] == [256, 128, 64, 32, 32]
        assert [blocks.phase(step) for step in (0, 15_000, 40_000)] == ["warm-up", "stable", "decay"]
        sizes = [32, 256]
    objective = Diffusion(NoiseSchedule(), tokenizer.mask_token_id)
    for size in sizes:
        pattern = objective.pattern(batch, size)
        width = pattern.position.shape[1]  # with a clean half, which lacks the documents' last blocks
        assert width == 256 if size in (None, 256) else 256 < width <= 512
        with torch.no_grad():
            loss = objective(large, batch, block_size=size, generator=torch.Generator().manual_seed(0))
        assert loss.count == 512 and math.isfinite(float(loss.total))


@pytest.mark.parametrize("preset", ["04_ar_sft", "05_llada1_sft", "05_llada2_sft"])
def test_large_sft_presets_build_their_first_batch(project, in_force, tokenizer, large, preset):
    p = in_force("h100", preset)
    train_config(p, 1000, p["max_seq_len"])
    if preset == "04_ar_sft":
        batch, objective, block = next(batches_of(project, tokenizer, p, 512, pack="whole")), ar_loss, None
        assert batch.tokens.shape == (2, 512)
    elif preset == "05_llada1_sft":
        batch = next(batches_of(project, tokenizer, p, 512, pack="whole", fill=p["llada1_fill"]))
        assert batch.tokens.shape[0] == 2 and (batch.document == 0).all()  # one conversation a row, filled to the longest
        band = NoiseSchedule.band(p["llada2_alpha_min"], p["llada2_alpha_max"])
        assert (band.t_min, band.t_max) == pytest.approx((0.001, 1.0))
        objective, block = Diffusion(band, tokenizer.mask_token_id, per_answer=p["per_answer"]), None
    else:
        block = p["llada2_block_size"]
        batch = next(batches_of(project, tokenizer, p, 512, pack="whole", fill="block", block_size=block))
        assert batch.tokens.shape == (2, 512)
        real = (batch.document >= 0).flatten()
        lengths = torch.unique((batch.document + 1000 * torch.arange(2)[:, None]).flatten()[real], return_counts=True)[
            1
        ]
        assert len(lengths) > 2 and (lengths % 32 == 0).all()  # every conversation is filled to whole blocks
        band = NoiseSchedule.band(p["llada2_alpha_min"], p["llada2_alpha_max"])
        assert (band.t_min, band.t_max) == pytest.approx((0.05, 0.95))
        objective = Diffusion(band, tokenizer.mask_token_id, complementary=True, cap_lambda=p["llada2_cap_lambda"])
    with torch.no_grad():
        loss = objective(large, batch, block_size=block, generator=torch.Generator().manual_seed(0))
    assert loss.count > 0 and math.isfinite(float(loss.total))


def test_decoding_presets_are_valid_settings(in_force):
    p = in_force("h100", "06_parallel_decoding")
    DecodeConfig("llada2", p["max_new_tokens"], steps=p["gen_steps"], block_length=32, cfg_scale=p["gen_cfg_scale"],
                 threshold=p["gen_confidence_threshold"], top_k=p["gen_top_k"], cap_start_ratio=p["gen_cap_start_ratio"],
                 cap_end_ratio=p["gen_cap_end_ratio"], max_decode_per_step=p["gen_max_decode_per_step"])  # fmt: skip
    for preset in ("06_eval_llada1_pretrain", "07_compare_pretrain", "07_compare_sft", "02_llada1_pretrain"):
        p = in_force("h100", preset)
        DecodeConfig("llada1", p["max_new_tokens"], steps=p["gen_steps"], cfg_scale=p["gen_cfg_scale"])


@pytest.mark.parametrize("scale", ["cpu", "smoke", "h100", "h100-t2t"])
def test_every_shipped_preset_fits_its_notebook(project, scale):
    jobs = plan(STAGES, STAGES, scale, [], project / "runs/none")
    assert [job.stage for job in jobs] == list(STAGES)
    files = {path.stem: path for path in (project / f"notebooks/presets/{scale}").glob("*.yaml")}
    for name in files.keys() - {stage.preset for stage in STAGES}:  # for papermill by hand: another use of 06
        assert name.startswith("06_eval_"), "a preset that no stage uses"
        declared = parameters.read_parameters(project / "notebooks/06_parallel_decoding.ipynb")
        assert yaml.safe_load(files[name].read_text("utf-8")).keys() <= declared.keys()

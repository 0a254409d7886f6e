"""A notebook's parameters are checked by the configs that they go to; errors of the library name them."""

import math

import pytest

from dllm_core.config import DecodeConfig
from dllm_core.notebook import ranges
from dllm_core.notebook.parameters import read_parameters


@pytest.fixture
def declared(project):
    return {file.stem: read_parameters(file) for file in sorted((project / "notebooks").rglob("*.ipynb"))}


def checked(parameters: dict, **changed) -> None:
    ranges.check_settings(parameters, {name: parameter.default for name, parameter in parameters.items()} | changed)


def test_the_notebooks_own_values_are_in_range(declared):
    for parameters in declared.values():
        checked(parameters)


@pytest.mark.parametrize("notebook, name, value, message", [
    ("01_ar_pretrain", "rope_theta", math.nan, "rope_theta=nan: must be a number above 0"),
    ("01_ar_pretrain", "seed", -1, "seed=-1: must be an integer from 0"),
    ("01_ar_pretrain", "epochs", math.inf, "epochs=inf: must be a number above 0"),
    ("01_ar_pretrain", "max_seq_len", 1, "seq_len=1: must be an integer from 2 .*max_seq_len sets seq_len"),
    ("01_ar_pretrain", "intermediate_size", -5, "intermediate_size=-5: must be an integer from 1"),
    ("01_ar_pretrain", "num_attention_heads", 3, "hidden_size=128: must be divisible by num_attention_heads=3"),
    ("01_ar_pretrain", "batch_size", 10**11, "batch_size=100000000000: must be an integer from 1 to"),
    ("01_ar_pretrain", "sample_every", -1, "sample_every=-1: must be an integer from 0"),
    ("02_llada1_pretrain", "bound_draws", 0, "draws=0: .*bound_draws sets draws"),
    ("03_llada2_pretrain", "mask_schedule", "cosine", "mask_schedule='cosine': must be 'wsd' or 'iid_t'"),
    ("04_ar_sft", "turns", "none", "turns='none': must be 'all' or 'each'"),
    ("05_llada2_sft", "llada2_block_size", -4, "block_size=-4: .*llada2_block_size sets block_size"),
    ("05_llada2_sft", "learning_rate", math.inf, "learning_rate=inf: must be a number above 0"),
    ("06_parallel_decoding", "gen_cfg_scale", math.inf, "cfg_scale=inf: .*gen_cfg_scale sets cfg_scale"),
    ("06_parallel_decoding", "gen_cap_start_ratio", 0.5, "cap_start_ratio, cap_end_ratio=.*set both or neither"),
    ("06_parallel_decoding", "style", "bert", "style='bert': must be 'ar' or"),
    ("07_compare_styles", "block_size", -4, "block_size=-4: must be an integer from 1"),
    ("07_compare_styles", "thresholds", "0.5,1.5", "threshold=1.5: must be a number from 0 to 1"),
    ("07_compare_styles", "block_lengths", "8,-2", "block_length=-2: .*block_lengths sets block_length"),
    ("07_compare_styles", "step_counts", "8;16", "'8;16': expected numbers with commas"),
    ("07_compare_styles", "batch_sizes", "1,0", "batch_sizes=0: must be an integer from 1"),
])  # fmt: skip
def test_a_value_out_of_range_is_named(declared, notebook, name, value, message):
    with pytest.raises(ValueError, match=message):
        checked(declared[notebook], **{name: value})


def test_what_is_left_to_the_notebook_is_no_value_out_of_range(declared):
    checked(declared["06_parallel_decoding"], dtype="auto", gen_steps=0, gen_block_length=0, style="ar", gen_cfg_scale=1.0)
    checked(declared["06_parallel_decoding"], objective="llada2", block_size=4, label_shift="yes", chat="no")
    checked(declared["02_llada1_pretrain"], num_attention_heads=3)  # the checkpoint tells the width
    checked(declared["07_compare_styles"], thresholds="", block_lengths="8,16", step_counts="16,32", batch_sizes="")


def test_flags_that_are_lists():
    assert ranges.parse_numbers("32,64,128") == (32, 64, 128)
    assert ranges.parse_numbers("0.3,0.5,0.2", float) == (0.3, 0.5, 0.2)
    with pytest.raises(ValueError, match="'32;64'.*commas"):
        ranges.parse_numbers("32;64")


@pytest.mark.parametrize("wrong, hint", [
    ({"temperature": -1.0}, "gen_temperature sets temperature"), ({"top_k": -1}, "gen_top_k sets top_k"),
    ({"top_p": 0.0}, "gen_top_p sets top_p"), ({"cfg_scale": -0.5}, "gen_cfg_scale sets cfg_scale"),
    ({"steps": 0}, "gen_steps sets steps"), ({"threshold": 1.5}, "gen_confidence_threshold sets threshold"),
    ({"block_length": 0}, "gen_block_length sets block_length"), ({"minimal_topk": 0}, "gen_minimal_topk sets minimal_topk"),
    ({"cap_start_ratio": 0.5}, "gen_cap_start_ratio sets cap_start_ratio, gen_cap_end_ratio sets cap_end_ratio"),
    ({"max_decode_per_step": 0}, "gen_max_decode_per_step sets max_decode_per_step"),
])  # fmt: skip
def test_an_error_also_names_the_notebooks_parameter(project, wrong, hint):
    with pytest.raises(ValueError, match="must be") as raised:
        DecodeConfig(**wrong)
    assert "gen_" not in str(raised.value)  # the library does not know the notebooks
    ranges.name_parameters(raised.value, read_parameters(project / "notebooks/06_parallel_decoding.ipynb"))
    assert str(raised.value).endswith(f"(in this notebook {hint})")


def test_only_parameters_that_the_notebook_declares_are_named(project):
    declared = {number: read_parameters(project / f"notebooks/{name}.ipynb") for number, name in (
        ("02", "02_llada1_pretrain"), ("05", "05_llada2_sft"), ("07", "07_compare_styles"),
    )}  # fmt: skip

    def named(message: str, number: str) -> str:
        error = ValueError(message)
        ranges.name_parameters(error, declared[number])
        return str(error).removeprefix(message)

    assert named("block_size=12 does not divide seq_len=16", "02") == ""  # seq_len is what 02 calls it, too
    assert named("block_size=12 does not divide seq_len=16", "05") == (
        " (in this notebook llada2_block_size sets block_size, max_seq_len sets seq_len)"
    )
    assert named("block_length=0: must be positive", "07") == (
        " (in this notebook gen_block_length or llada1_block_length or block_lengths sets block_length)"
    )
    assert named("draws=0: must be at least 1", "02") == " (in this notebook bound_draws sets draws)"
    assert named("the rows=3 of something else", "02") == named("no setting at all", "02") == ""


def test_every_parameter_of_the_table_is_declared_and_has_another_name_than_its_setting(project):
    declared = {name for file in (project / "notebooks").glob("0*.ipynb") for name in read_parameters(file)}
    assert {name for names in ranges.PARAMETERS_OF.values() for name in names} <= declared
    assert not any(setting in names for setting, names in ranges.PARAMETERS_OF.items())


def test_cells_without_a_kernel_name_the_parameter_too():
    with pytest.raises(ValueError, match="gen_steps sets steps"), ranges.naming_parameters(["gen_steps"]):
        DecodeConfig(steps=0)

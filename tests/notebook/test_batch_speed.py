"""Speed in batches: what is counted, against cases by hand and PyTorch's counter of operations; where two curves cross."""

import pytest
from small import BOS, EOS, MASK, checkpoint_of, tiny
from torch.utils.flop_counter import FlopCounterMode

from dllm_core import show
from dllm_core.compute.work import decoding_flops
from dllm_core.config import DecodeConfig
from dllm_core.notebook.batch_speed import MeteredModel, crossing, measure
from dllm_core.samplers import generate

PROMPTS = [[BOS, 5, 6, 7, 8], [BOS, 9, 4, 4, 4]]  # as long as one block of 4 and a token
EVERYTHING = DecodeConfig("llada2", max_new_tokens=7, block_length=4, threshold=0.0, eos_early_stop=False)


class Words:
    mask_token_id, eos_token_id, pad_token_id = MASK, EOS, 0

    def decode(self, tokens, skip_special_tokens=False):
        return ""


def counted(config: DecodeConfig) -> MeteredModel:
    meter = MeteredModel(tiny())
    generate(checkpoint_of(meter, Words()), PROMPTS, config)
    return meter


def test_ar_runs_the_prompt_once_and_then_a_token_at_a_time():
    meter = counted(DecodeConfig("ar", max_new_tokens=7, eos_early_stop=False))
    assert (meter.forwards, meter.predictions) == (7, 2 * 7)
    assert meter.positions == 2 * (5 + 6)


def test_llada2_runs_each_block_again_until_it_is_full():
    """The first pass runs the prompt's block and the next one, 8 positions; the following one the block just filled, whose
    keys and values are to be stored, and the last."""
    meter = counted(EVERYTHING)
    assert (meter.forwards, meter.positions, meter.predictions) == (2, 2 * (8 + 8), 2 * (3 + 4))
    one_by_one = counted(DecodeConfig("llada2", max_new_tokens=7, block_length=4, threshold=1.0, eos_early_stop=False))
    assert one_by_one.forwards == 7
    assert one_by_one.positions == 2 * (8 + 4 + 4 + 8 + 4 + 4 + 4)
    assert one_by_one.predictions == 2 * (3 + 2 + 1 + 4 + 3 + 2 + 1)


def test_flops_are_those_of_the_products_with_weights():
    with FlopCounterMode(display=False) as counter:
        meter = counted(EVERYTHING)
    products = {str(operation): flops for operation, flops in counter.get_flop_counts()["Global"].items()}
    assert decoding_flops(meter.model, meter.positions, meter.predictions) == products["aten.mm"]


@pytest.mark.parametrize("style", ["ar", "llada2"])
def test_a_larger_batch_reads_the_weights_less_often(style):
    loaded = checkpoint_of(tiny(), Words())
    config = DecodeConfig(style, max_new_tokens=3, block_length=4, threshold=1.0, eos_early_stop=False)
    rows = measure({"x": (loaded, config)}, PROMPTS * 2, (1, 4))
    assert [(row["batch"], row["tokens"], row["forward passes"]) for row in rows] == [(1, 12, 12), (4, 12, 3)]
    weights = 4 * loaded.model.num_parameters / 1e6
    assert [row["MB of weights per token"] for row in rows] == pytest.approx([weights, weights / 4])
    assert rows[0]["MFLOP per token"] == pytest.approx(rows[1]["MFLOP per token"])  # equal lengths: nothing is padded
    assert show.batch_speed(rows, 2.0).png() and "x, batch 4" in str(show.batch_speed(rows))


def test_where_two_curves_cross():
    paces = {"AR": (100, 200, 400), "LLaDA 2": (400, 400, 200)}
    rows = [
        {"name": name, "batch": batch, "tokens per second": pace}
        for name, of_name in paces.items()
        for batch, pace in zip((1, 4, 16), of_name, strict=True)
    ]
    assert crossing(rows, "LLaDA 2", "AR") == pytest.approx(4 * 2**1.0)  # twice as fast at 4, half as fast at 16
    assert crossing(rows, "AR", "LLaDA 2") is None  # behind from the start
    assert crossing(rows[:2] + rows[3:5], "LLaDA 2", "AR") is None  # ahead to the end

"""Which position predicts which token, as the patterns of training read it."""

import pytest
import torch
from traces import is_png

from dllm_core import patterns, show

DOCUMENT, POSITION = torch.zeros(1, 4, dtype=torch.long), torch.arange(4)[None]


def arrows(pattern, masked=(True, True, True, False)) -> str:
    picture = show.prediction_arrows({"here": pattern}, "abcd", masked)
    assert is_png(picture)
    return picture.text.removeprefix("here: ")


def test_ar_predicts_every_token_but_the_first_at_the_position_before():
    assert arrows(patterns.causal(DOCUMENT, POSITION)) == "b at x_0[0], c at x_0[1], d at x_0[2]"


def test_without_a_shift_a_masked_token_is_predicted_at_its_own_position():
    pattern = patterns.block_diffusion(DOCUMENT, POSITION, 2)
    assert arrows(pattern) == "a at x_t[0], b at x_t[1], c at x_t[2]"


def test_with_a_shift_a_blocks_first_token_is_predicted_in_the_clean_half():
    pattern = patterns.block_diffusion(DOCUMENT, POSITION, 2, label_shift=True)
    assert arrows(pattern) == "b at x_t[0], c at x_0[1]"


def test_a_pattern_of_another_length_or_of_two_views_is_refused():
    with pytest.raises(ValueError, match="here: .*4 tokens"):
        arrows(patterns.causal(DOCUMENT[:, :3], POSITION[:, :3]))
    with pytest.raises(ValueError, match="one noisy view"):
        arrows(patterns.block_diffusion(DOCUMENT, POSITION, 2, views=2))

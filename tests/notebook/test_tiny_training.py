"""The tiny training: what it returns, and that its loss over [x_t ; x_0] is the one of the paper. What it shows of right and
wrong losses, `notebooks/solutions.ipynb` asserts."""

import pytest
import torch
from small import tiny

from dllm_core import reference
from dllm_core.notebook import check
from dllm_core.notebook.tiny_training import BLOCK_SIZE, block_loss, counting, train_tiny


def test_the_same_seed_makes_the_same_curves_and_the_global_random_state_stays():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    documents = [torch.tensor([1, 2, 3, 4]), torch.tensor([4, 3, 2, 1]), torch.tensor([2, 2, 3, 3])]
    curves = [train_tiny(reference.llada1_loss, documents, steps=2, seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(torch.rand(3), expected)
    assert curves[0] == curves[1] != curves[2]
    assert (len(curves[0].training), len(curves[0].bound)) == (2, 3)


def test_without_documents_to_measure_on_it_says_so():
    with pytest.raises(ValueError, match="3 documents for steps=3: give more"):
        train_tiny(reference.llada1_loss, counting(3), steps=3)


@torch.no_grad()
def test_the_loss_of_one_pass_is_that_of_block_by_block():
    model, x_0 = tiny(), torch.arange(20) % 7
    masked = torch.arange(20) % 3 > 0
    expected = reference.llada2_loss(model, x_0, masked, 1 / 0.7, BLOCK_SIZE, 16) / 20
    one_pass = block_loss(check.block_mask.right)(model, x_0, 16, 0.7, masked)
    torch.testing.assert_close(one_pass, expected)

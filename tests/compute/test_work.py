"""The formula of the work against PyTorch's own counter of the operations that run, forward and backward."""

import pytest
import torch
from small import MASK, VOCAB, batch_of
from torch.utils.flop_counter import FlopCounterMode

from dllm_core import Diffusion, ModelConfig, NoiseSchedule, Transformer, ar_loss, patterns
from dllm_core.compute.work import Work, training_work

BAND = NoiseSchedule.band(0.05, 0.95)
TRAININGS = {  # name: (objective, block size, label shift of the objective)
    "AR": (ar_loss, None),
    "LLaDA 1": (Diffusion(NoiseSchedule(), MASK), None),
    "LLaDA 1, both views": (Diffusion(BAND, MASK, complementary=True), None),
    "LLaDA 2": (Diffusion(NoiseSchedule(), MASK), 16),
    "LLaDA 2, both views": (Diffusion(BAND, MASK, complementary=True), 16),
    "LLaDA 2, both views, label shift": (Diffusion(BAND, MASK, True, complementary=True), 16),
}


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("name", TRAININGS)
def test_the_formula_agrees_with_the_counter(name, kv_heads):
    objective, block_size = TRAININGS[name]
    model = Transformer(ModelConfig(VOCAB + 400, 64, 3, 4, num_key_value_heads=kv_heads, intermediate_size=192))
    batch = batch_of(*[[60, 50, 18]] * 6, prompt=20)
    with FlopCounterMode(display=False) as counter:
        loss = objective(model, batch, block_size=block_size, generator=torch.Generator().manual_seed(1))
        loss.total.backward()
    assert loss.work.flops == pytest.approx(counter.get_total_flops(), rel=0.02)


def test_a_case_counted_by_hand():
    """One row of two tokens in blocks of one with two views: six elements, of which two are clean."""
    config = ModelConfig(7, 4, 2, 2, num_key_value_heads=1, head_dim=6, intermediate_size=5)
    document, position = torch.zeros(1, 2, dtype=torch.long), torch.arange(2)[None]
    pattern = patterns.block_diffusion(document, position, 1, views=2)
    q, kv, o, mlp, head = 4 * 12, 2 * 4 * 6, 12 * 4, 3 * 4 * 5, 4 * 7
    first = 6 * (q + kv + o + mlp)
    last = 4 * q + 6 * kv + 3 * (o + mlp)  # queries of the views, three of which are read
    pairs = (2 * 2 * 4 + 2 * 2) + 2 * 2 * 4  # views × clean and own; clean × clean; of the last layer without these
    flops = 6 * (first + last + 3 * head) + 12 * pairs * 2 * 6
    assert training_work(config, pattern, predicted=3, noisy_only=True) == Work(6, flops)


def test_works_add_up():
    assert Work(2, 3.0) + Work(4, 5.0) == Work(6, 8.0)

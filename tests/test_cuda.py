"""What only a GPU can run: FlexAttention's kernels, CUDA graphs, a training step and a decoding there."""

import dataclasses

import pytest
import torch
from small import BOS, MASK, batch_of, checkpoint_of, packed, tiny

from dllm_core import patterns, train
from dllm_core.compute.attention import attend, block_mask, last_layer_mask
from dllm_core.compute.transfer import Fetched, to_device
from dllm_core.compute.trimming import trim_unscored
from dllm_core.config import DecodeConfig, ModelConfig, TrainConfig
from dllm_core.losses import Diffusion, ar_loss
from dllm_core.model import Transformer
from dllm_core.samplers import decode
from dllm_core.schedules import BlockSchedule, NoiseSchedule
from dllm_core.workshop.benchmark.decode import LLADA2, PLAIN_LOOP, Case, DecodeJobs

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
BAND = NoiseSchedule.band(0.05, 0.95)


@pytest.mark.parametrize("dtype, most", [(torch.float32, 1e-3), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("lengths", [[[200, 120, 33]], [[300], [150, 150]]])
def test_flex_attention_equals_the_dense_mask(lengths, dtype, most):
    batch = batch_of(*lengths, prompt=20).to("cuda")
    pattern = trim_unscored(patterns.block_diffusion(batch.document, batch.position, 32, 1, False), batch.scored)
    noisy, length = int((pattern.view[0] > 0).sum()), pattern.view.shape[1]
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(len(lengths), heads, length, 32, generator=generator).cuda().to(dtype).requires_grad_()
               for heads in (4, 2, 2))  # fmt: skip
    dense = lambda q, k, v: torch.nn.functional.scaled_dot_product_attention(
        q, k, v, attn_mask=pattern.mask()[:, None, : q.shape[2]], enable_gqa=True
    )
    for mask, queries in ((block_mask(pattern), length), last_layer_mask(block_mask(pattern), pattern, noisy)):
        output = attend(q[:, :, :queries], k, v, mask)
        wanted = dense(q[:, :, :queries], k, v)
        direction = torch.randn(output.shape, generator=generator).cuda().to(dtype)
        gradients = torch.autograd.grad((output * direction).sum(), (q, k, v))
        pairs = zip(gradients, torch.autograd.grad((wanted * direction).sum(), (q, k, v)), strict=True)
        for mine, other in [(output, wanted), *pairs]:
            assert (mine - other).norm() < most * other.norm()


@pytest.mark.parametrize("objective, size", [(ar_loss, None), (Diffusion(NoiseSchedule(), MASK), None),
                                             (Diffusion(BAND, MASK, complementary=True), 3)])  # fmt: skip
def test_training_goes_as_on_the_cpu(objective, size):
    config = TrainConfig(6, batch_size=2, seq_len=12, optimizer="muon", learning_rate=0.01, seed=1)
    losses = []
    for device in ("cpu", "cuda"):
        steps = train(tiny().to(device), packed(2), objective, dataclasses.replace(config),
                            blocks=BlockSchedule.constant(12, 6, size or 12))  # fmt: skip
        losses.append(torch.tensor([step.loss for step in steps]))
    torch.testing.assert_close(*losses, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("objective, size", [(ar_loss, None), (Diffusion(NoiseSchedule(), MASK), None),
                                             (Diffusion(BAND, MASK, complementary=True, cap_lambda=0.1), 3)])  # fmt: skip
def test_a_training_step_waits_for_nothing(objective, size):
    """PyTorch raises where an operation would wait for the device; it does not see the wait for an event, which the last
    step's numbers are. The first steps, which compile, are let off."""
    config = TrainConfig(30, batch_size=2, seq_len=12, micro_batch_size=1, optimizer="muon", embedding_noise=0.1,
                         embedding_noise_steps=30, dtype="bfloat16", activation_checkpointing=size is None)  # fmt: skip
    steps = train(tiny().to("cuda"), packed(2), objective, config, blocks=BlockSchedule.constant(12, 30, size or 12))
    for _ in range(15):
        next(steps)
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert [next(steps).step for _ in range(10)] == list(range(16, 26))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_what_is_sent_and_fetched_arrives():
    numbers = torch.arange(1000)
    for tensor in (numbers, numbers[None].expand(50, -1), numbers[::3], numbers[:0], numbers > 500, torch.tensor(3.0)):
        there = to_device(tensor, "cuda")
        assert there.is_cuda and there.dtype == tensor.dtype and torch.equal(there.cpu(), tensor)
    values = torch.arange(3.0, device="cuda")
    fetched = Fetched(values)
    values.add_(1)  # begun afterwards
    assert fetched.read() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("config", [DecodeConfig("ar", max_new_tokens=20), DecodeConfig("llada1", max_new_tokens=20),
                                    DecodeConfig("llada2", max_new_tokens=20, block_length=4, threshold=0.3)])  # fmt: skip
def test_a_decoding_writes_what_the_cpu_writes(config):
    """By graphs from the third forward of a shape on; the last decoding replays all of them."""
    prompts = [[BOS, 5, 6, 7, 8], [BOS, 9]]
    there = tiny().to("cuda")

    def written(model) -> list[list[tuple[int, int]]]:
        steps = decode(checkpoint_of(model), prompts, config)
        return [[(commit.position, commit.token) for commit in step.commits] for step in steps]

    wanted = written(tiny())
    for _ in range(4):
        assert written(there) == wanted


def test_replayed_graphs_decode_the_same_as_the_uncaptured_loop():
    torch.manual_seed(0)
    model = Transformer(ModelConfig(6400, 128, 4, 4, intermediate_size=384)).eval().to("cuda")
    bench = DecodeJobs(model, Case(2, 32, new=64))
    jobs = {name: bench.job(name) for name in (LLADA2, PLAIN_LOOP)}
    for _ in range(4):  # plainly, captured, replayed
        for name in (LLADA2, PLAIN_LOOP):
            jobs[name]()
        assert bench.equal(LLADA2, PLAIN_LOOP) > 0.99

"""The cost of a training before it begins: positions, arithmetic, memory and disk."""

import dataclasses

import pytest
import torch
from small import tiny_of

from dllm_core.config import ModelConfig, TrainConfig
from dllm_core.data.rows import Batch
from dllm_core.data.token_cache import TokenDataset
from dllm_core.data.tokenizer import load_tokenizer
from dllm_core.losses import ar_loss
from dllm_core.model import Transformer
from dllm_core.notebook.training_cost import estimate
from dllm_core.schedules import BlockSchedule


@pytest.fixture(scope="module")
def tokenizer(project):
    return load_tokenizer(project / "data/tokenizer")


def test_positions_count_the_clean_half_and_both_views(tokenizer):
    model, config = tiny_of(tokenizer), TrainConfig(10, batch_size=2, seq_len=16)
    blocks = BlockSchedule(16, 10, (0.3, 0.5, 0.2), (4,), (8,))  # 3 + 2 steps of block diffusion, 5 of full
    plain = estimate(model, config)
    assert plain.tokens == plain.positions == 320
    matrices = sum(parameter.numel() for parameter in model.parameters() if parameter.ndim == 2)  # tied head: once
    assert plain.flops == 6 * matrices * 320 + 12 * 10 * 2 * 16 * 16 * 32  # steps, rows, queries, keys, width of a layer
    assert estimate(model, config, blocks=blocks).positions == 320 + 5 * 32
    assert estimate(model, config, blocks=blocks, views=2).positions == 2 * 320 + 5 * 32
    assert plain.seconds > 0 and "320" not in str(plain)


def test_activations_are_what_autograd_keeps(tokenizer):
    """Within a third, of a model wide enough that its masks and indices do not count; half the rows, half of it; and
    checkpointing keeps little."""
    shape = ModelConfig(len(tokenizer), 256, 3, 4, intermediate_size=704)
    model, config = Transformer(shape), TrainConfig(1, batch_size=4, seq_len=64, dtype="bfloat16")
    kept = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # the tensor too, so that its address stays taken
        return tensor

    tokens = torch.randint(5, len(tokenizer), (4, 64))
    row = Batch(tokens, torch.zeros_like(tokens), torch.arange(64).expand(4, 64), torch.ones(4, 64, dtype=torch.bool))
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        ar_loss(model, row)
    size = sum(size for address, (size, _) in kept.items() if address not in weights)
    held = estimate(model, config).activation_bytes
    assert size / 1.1 < held < 1.5 * size
    assert estimate(model, dataclasses.replace(config, micro_batch_size=2)).activation_bytes == held // 2
    assert estimate(model, dataclasses.replace(config, activation_checkpointing=True)).activation_bytes < 0.6 * held


def test_memory_and_disk_follow_the_optimiser_and_the_kept_checkpoints(tokenizer):
    model = tiny_of(tokenizer)
    size = model.num_parameters
    adamw = estimate(model, TrainConfig(1))
    assert adamw.memory_bytes == 16 * size and adamw.disk_bytes == 4 * (3 + 1 + 3) * size
    matrices = 4 * 32 * 32 + 3 * 32 * 64
    assert estimate(model, TrainConfig(1, optimizer="muon")).memory_bytes == 16 * size - 4 * matrices
    assert estimate(model, TrainConfig(1, keep_best=3)).disk_bytes == adamw.disk_bytes + 8 * size
    documents = TokenDataset.of([[1, 2, 3]], [[False, True, True]], pad_token_id=0, eos_token_id=2)
    assert estimate(model, TrainConfig(1), documents=documents).disk_bytes - adamw.disk_bytes == 3 * 4 + 8 + 3

"""The Transformer: obeys its mask, knows relative places only, and its cache changes nothing."""

import pytest
import torch
import torch.nn.functional as F
from small import MASK, VOCAB, batch_of, documents_of, logits_of, tiny

from dllm_core import patterns
from dllm_core.compute import trimming
from dllm_core.compute.kv_cache import KVCache
from dllm_core.compute.trimming import trim_unscored
from dllm_core.config import ModelConfig
from dllm_core.model import RMSNorm, Transformer, rotate
from dllm_core.reference import block_logits


def run(model, tokens, pattern) -> torch.Tensor:
    with torch.inference_mode():
        return model.logits(model(tokens, pattern.position, pattern.mask()))


def test_rms_norm_by_hand():
    norm = RMSNorm(2, eps=0.5, gain=2.0)
    assert norm(torch.tensor([3.0, 4.0])).tolist() == pytest.approx(
        [6 / 13**0.5, 8 / 13**0.5]
    )  # mean square 12.5 + 0.5


def test_rotation_by_hand():
    """Pairs are (i, i + D/2); position p turns the first pair by p, the next by p · theta^(−1/2)."""
    model = Transformer(ModelConfig(5, 8, 1, 2, rope_theta=100.0, max_position_embeddings=4))
    x = torch.tensor([1.0, 0.0, 0.0, 1.0]).view(1, 1, 1, 4)
    turned = rotate(x, model.rope_cos[3], model.rope_sin[3]).flatten()
    cos, sin = torch.cos(torch.tensor([3.0, 0.3])), torch.sin(torch.tensor([3.0, 0.3]))
    torch.testing.assert_close(turned, torch.stack([cos[0], -sin[1], sin[0], cos[1]]))


def test_only_distances_matter():
    model, tokens = tiny(), [3, 4, 5, 6]
    here = logits_of(model, tokens, lambda q, k: True)
    there = logits_of(model, tokens, lambda q, k: True, positions=[20, 21, 22, 23])
    other = logits_of(model, tokens, lambda q, k: True, positions=[0, 2, 4, 6])
    torch.testing.assert_close(here, there, atol=1e-4, rtol=1e-4)
    assert (here - other).abs().max() > 0.01


def test_attention_with_shared_key_heads_equals_repeated_ones():
    shared = tiny()
    every = tiny(num_key_value_heads=4)
    state = shared.state_dict()
    for name, tensor in state.items():
        if "k_proj" in name or "v_proj" in name:
            state[name] = tensor.view(2, 4, 16).repeat_interleave(2, dim=0).reshape(16, 16)
    every.load_state_dict(state)
    result, expected = (logits_of(model, [3, 4, 5, 6, 7], lambda q, k: k <= q) for model in (shared, every))
    torch.testing.assert_close(result, expected)


def test_a_token_that_no_one_sees_changes_nothing():
    model = tiny()
    changed = [logits_of(model, [3, 4, token, 6, 7], lambda q, k: k != 2 or q == 2) for token in (5, 9)]
    torch.testing.assert_close(changed[0][[0, 1, 3, 4]], changed[1][[0, 1, 3, 4]], atol=0, rtol=0)
    assert (changed[0][2] - changed[1][2]).abs().max() > 0.01


def test_tied_head_is_one_tensor():
    tied, untied = tiny(), tiny(tie_word_embeddings=False)
    assert tied.lm_head.weight is tied.model.embed_tokens.weight
    assert untied.num_parameters - tied.num_parameters == VOCAB * 16


def test_logits_are_float32_under_autocast():
    model, hidden = tiny(), torch.randn(3, tiny().config.hidden_size)
    with torch.autocast("cpu", torch.bfloat16):
        logits, half = model.logits(hidden), model.logits(hidden.bfloat16())
    exact = hidden.double() @ model.lm_head.weight.double().T
    torch.testing.assert_close(logits, exact.float(), rtol=1e-5, atol=1e-6)  # of bfloat16: 0.004
    assert half.dtype == torch.float32


def test_qk_norm_and_its_first_gain():
    assert "model.layers.0.self_attn.q_norm.weight" not in tiny(qk_norm=False).state_dict()
    assert tiny(qk_norm_init=1.4).state_dict()["model.layers.1.self_attn.k_norm.weight"].unique().tolist() == [
        pytest.approx(1.4)
    ]


def test_embeddings_replace_tokens():
    model, (document, position) = tiny(), (torch.zeros(1, 3, dtype=torch.long), torch.arange(3)[None])
    pattern, tokens = patterns.causal(document, position), torch.tensor([[3, 4, 5]])
    with torch.inference_mode():
        plain = model(tokens, position, pattern.mask())
        embedded = model(torch.zeros_like(tokens), position, pattern.mask(), embeddings=model.model.embed_tokens(tokens))
    torch.testing.assert_close(plain, embedded)


@pytest.mark.parametrize("length, last", [(65, 64), (3, 64)])
def test_a_position_beyond_the_table_is_named(length, last):
    model, position = tiny(), torch.full((1, length), last)
    mask = torch.ones(1, length, 65, dtype=torch.bool)
    with pytest.raises(ValueError, match="position 64: beyond max_position_embeddings=64"):
        model(torch.zeros_like(position), position, mask, KVCache.empty(model.config, 1, 65))


def test_a_row_of_three_copies_may_be_longer_than_the_table():
    batch = batch_of([40])
    pattern = patterns.block_diffusion(batch.document, batch.position, 8, views=2)
    assert run(tiny(), batch.tokens.repeat(1, 3), pattern).shape == (1, 120, VOCAB)


# --- the cache ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [[7], [1] * 7, [3, 1, 2, 1]])
@torch.inference_mode()
def test_a_row_fed_piece_by_piece_gives_the_same_logits(pieces):
    model, tokens = tiny(), torch.randint(3, MASK, (2, 7), generator=torch.Generator().manual_seed(0))
    position = torch.arange(7).expand(2, 7)
    whole = run(model, tokens, patterns.causal(torch.zeros_like(tokens), position))
    cache, logits, start = KVCache.empty(model.config, 2, 7), [], 0
    for width in pieces:
        end = start + width
        mask = (torch.arange(end) <= position[:, start:end, None]).expand(2, width, end)
        logits.append(model.logits(model(tokens[:, start:end], position[:, start:end], mask, cache)))
        start = end
    torch.testing.assert_close(torch.cat(logits, dim=1), whole, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_the_last_slot_takes_what_padding_writes():
    """Two rows of unequal windows: the shorter row's padding must not overwrite its stored keys."""
    model = tiny()
    cache = KVCache.empty(model.config, 1, 4)
    tokens, position = torch.tensor([[3, 4, 5]]), torch.tensor([[0, 1, 2]])
    model(tokens, position, torch.ones(1, 3, 3, dtype=torch.bool).tril(), cache)
    before = [key.clone() for key in cache.keys]
    model(torch.tensor([[9, 9]]), torch.tensor([[0, 0]]), torch.ones(1, 2, 3, dtype=torch.bool), cache,
          slots=torch.tensor([[4, 4]]))  # fmt: skip
    for old, new in zip(before, cache.keys, strict=True):
        torch.testing.assert_close(old[:, :, :4], new[:, :, :4], atol=0, rtol=0)
        assert (old[:, :, 4] != new[:, :, 4]).any()


# --- patterns and model together ----------------------------------------------------------------------------------


def noised(batch, seed: int = 3) -> torch.Tensor:
    """[B, L]: about half of the scored tokens masked."""
    drawn = torch.rand(batch.tokens.shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    return batch.tokens.masked_fill(drawn & batch.scored, MASK)


@pytest.mark.parametrize("label_shift", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 12])
@pytest.mark.parametrize("prompt", [0, 3])
def test_one_pass_over_noisy_and_clean_equals_one_pass_per_block(monkeypatch, size, label_shift, prompt):
    """[x_t ; x_0] against K separate passes (LLaDA 2.0 Eq. 1), for two views that share the clean half, packed rows,
    padding and a prompt whose blocks are left out of the noisy views."""
    monkeypatch.setattr(trimming, "MULTIPLE", 1)
    model, batch = tiny(), batch_of([7, 5], [4, 3, 4], [12], prompt=prompt)
    untrimmed = patterns.block_diffusion(batch.document, batch.position, size, 2, label_shift)
    pattern = trim_unscored(untrimmed, batch.scored)
    views = [noised(batch), torch.where(batch.scored & (noised(batch) != MASK), MASK, batch.tokens)]
    copies = torch.stack([batch.tokens, *views], dim=1)
    tokens = copies[torch.arange(3)[:, None], pattern.view, pattern.source]
    together = run(model, tokens, pattern)
    wanted = batch.scored & pattern.scorable
    for row, columns in documents_of(batch):
        for number, view in enumerate(views):
            with torch.no_grad():
                alone = block_logits(model, batch.tokens[row, columns], view[row, columns], size, label_shift)
            read = together[row, pattern.predicted_at[row, number, columns]]
            chosen = wanted[row, columns]
            torch.testing.assert_close(read[chosen], alone[chosen], atol=1e-4, rtol=1e-4)


def test_one_block_equals_full_attention():
    """K = 1: the noisy half alone is Eq. 2, whatever stands in the clean half."""
    model, batch = tiny(), batch_of([8], [5, 3])
    x_t = noised(batch)
    both = run(model, torch.cat([x_t, batch.tokens], 1), patterns.block_diffusion(batch.document, batch.position, 8))
    alone = run(model, x_t, patterns.bidirectional(batch.document, batch.position))
    torch.testing.assert_close(both[:, :8], alone, atol=1e-5, rtol=1e-5)


def test_blocks_of_one_with_label_shift_equal_autoregression():
    model, batch = tiny(), batch_of([8], [5, 3])
    pattern = patterns.block_diffusion(batch.document, batch.position, 1, label_shift=True)
    both = run(model, torch.cat([noised(batch), batch.tokens], 1), pattern)
    causal = patterns.causal(batch.document, batch.position)
    alone = run(model, batch.tokens, causal)
    rows = torch.arange(2)[:, None]
    shifted, usual = both[rows, pattern.predicted_at[:, 0]], alone[rows, causal.predicted_at[:, 0]]
    torch.testing.assert_close(shifted[causal.scorable], usual[causal.scorable], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_later_text_changes_nothing_earlier(size):
    model, batch = tiny(), batch_of([8])
    pattern = patterns.block_causal(batch.document, batch.position, size)
    before = run(model, batch.tokens, pattern)[0]
    for column in range(8):
        tokens = batch.tokens.clone()
        tokens[0, column] = (tokens[0, column] - 2) % (MASK - 3) + 3
        moved = (run(model, tokens, pattern)[0] - before).abs().amax(dim=1) > 1e-6
        assert moved.tolist() == [q // size >= column // size for q in range(8)]


@pytest.mark.parametrize("half", ["noisy", "clean"])
def test_perturbing_a_block(half):
    """A clean block j moves the noisy blocks after j and the clean ones from j on; a noisy block moves itself alone."""
    model, batch, size = tiny(), batch_of([12]), 3
    pattern = patterns.block_diffusion(batch.document, batch.position, size)
    start = torch.cat([noised(batch), batch.tokens], dim=1)
    before = run(model, start, pattern)[0]
    for block in range(4):
        tokens = start.clone()
        column = block * size + 1 + (12 if half == "clean" else 0)
        tokens[0, column] = 5 if tokens[0, column] != 5 else 6
        moved = ((run(model, tokens, pattern)[0] - before).abs().amax(dim=1) > 1e-6).view(8, size).all(dim=1)
        still = ((run(model, tokens, pattern)[0] - before).abs().amax(dim=1) == 0).view(8, size).all(dim=1)
        noisy = [half == "noisy" and k == block or half == "clean" and k > block for k in range(4)]
        clean = [half == "clean" and k >= block for k in range(4)]
        assert moved.tolist() == noisy + clean and still.tolist() == [not m for m in noisy + clean]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 12])
def test_packing_changes_no_documents_logits(size):
    model, packed = tiny(), batch_of([5, 4, 3], [2, 9], width=14)
    x_t = noised(packed)
    pattern = patterns.block_diffusion(packed.document, packed.position, size)
    together = run(model, torch.cat([x_t, packed.tokens], dim=1), pattern)
    for row, columns in documents_of(packed):
        length = columns.stop - columns.start
        alone = patterns.block_diffusion(torch.zeros(1, length, dtype=torch.long), torch.arange(length)[None], size)
        tokens = torch.cat([x_t[row, columns], packed.tokens[row, columns]])[None]
        expected = run(model, tokens, alone)[0]
        logits = torch.cat([together[row, columns], together[row, 14 + columns.start : 14 + columns.stop]])
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


def test_cross_entropy_of_a_blank_model_is_log_v():
    model = tiny(initializer_range=0.0)
    out = logits_of(model, [3, 4, 5], lambda q, k: True)
    loss = F.cross_entropy(out, torch.tensor([3, 4, 5]))
    assert loss.item() == pytest.approx(torch.tensor(float(VOCAB)).log().item())


def test_reading_chosen_states_gives_those_of_the_full_pass():
    """The last layer's short cut: same states, same gradients."""
    model, rows, elements = tiny(), torch.tensor([0, 0, 1]), torch.tensor([1, 4, 2])
    tokens, position = torch.randint(0, 12, (2, 6)), torch.arange(6).expand(2, 6)
    mask = torch.ones(2, 6, 6, dtype=torch.bool).tril()
    gradients = []
    for read in (None, (rows, elements)):
        model.zero_grad()
        states = model(tokens, position, mask, read=read)
        states = states if read else states[rows, elements]
        uneven = torch.linspace(-1, 2, states.numel()).view(states.shape)  # the final norm keeps the sum of squares
        (states * uneven).sum().backward()
        gradients.append([states.detach(), *(p.grad.clone() for p in model.parameters())])
    for whole, short in zip(*gradients, strict=True):
        torch.testing.assert_close(whole, short, rtol=1e-4, atol=1e-5)

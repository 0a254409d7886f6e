"""Every form of attention against the plain one: values and gradients, on patterns as training makes them."""

import pytest
import torch
import torch.nn.functional as F
from small import batch_of, tiny

from dllm_core import patterns
from dllm_core.compute import attention, cpu
from dllm_core.compute.attention import (
    Halves,
    Tiles,
    attend,
    block_mask,
    first_query_tiles,
    last_layer_mask,
    prepare_mask,
)
from dllm_core.compute.cpu import onednn_matmul
from dllm_core.compute.trimming import trim_unscored

CPU = torch.device("cpu")
BATCH = batch_of([13, 9, 6], [28], [5, 5, 4, 8], prompt=3)


def inputs(pattern, heads: int = 4, groups: int = 2, size: int = 16) -> list[torch.Tensor]:
    generator, (batch, length) = torch.Generator().manual_seed(0), pattern.view.shape
    shapes = [(batch, count, length, size) for count in (heads, groups, groups)]
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


def plain(q, k, v, mask):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None], enable_gqa=True)


def with_gradients(function, tensors, mask):
    value = function(*tensors, mask)
    weights = torch.randn(value.shape, generator=torch.Generator().manual_seed(1))
    return value, *torch.autograd.grad((value * weights).sum(), tensors)


def patterns_of(batch, label_shift: bool = False) -> dict[str, patterns.AttentionPattern]:
    labels = batch.document, batch.position
    return {
        "causal": patterns.causal(*labels),
        "full": patterns.bidirectional(*labels),
        "blocks": patterns.block_causal(*labels, 4),
        "diffusion": patterns.block_diffusion(*labels, 4, 1, label_shift),
        "views": patterns.block_diffusion(*labels, 4, 2, label_shift),
        "needed": trim_unscored(patterns.block_diffusion(*labels, 4, 2, label_shift), batch.scored),
    }


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("name", ["causal", "full", "blocks", "diffusion", "views", "needed"])
def test_every_form_equals_dense_attention(name, groups, monkeypatch):
    pattern = patterns_of(BATCH)[name]
    tensors = inputs(pattern, groups=groups)
    wanted = with_gradients(plain, tensors, pattern.mask())
    dense = pattern.mask()
    tiles = tiles_of(dense)
    monkeypatch.setattr(attention, "TILE", 8)
    for mask in (tiles, tiles_of(dense), prepare_mask(pattern)):
        for mine, other in zip(with_gradients(attend, tensors, mask), wanted, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")  # its kernel is for CUDA
@pytest.mark.parametrize("name", ["causal", "full", "blocks", "diffusion", "views", "needed"])
def test_flex_attention_has_the_same_rule(name):
    pattern = patterns_of(BATCH)[name]
    q, k, v = (part.detach() for part in inputs(pattern))
    torch.testing.assert_close(
        attend(q, k, v, block_mask(pattern)), plain(q, k, v, pattern.mask()), rtol=1e-4, atol=1e-5
    )


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", ["diffusion", "views", "needed"])
def test_the_last_layer_may_leave_out_clean_queries(name):
    pattern = patterns_of(BATCH)[name]
    q, k, v = inputs(pattern)
    noisy = int((pattern.view[0] > 0).sum())
    assert 0 < noisy < q.shape[2]
    wanted = with_gradients(lambda *parts: plain(*parts)[:, :, :noisy], (q, k, v), pattern.mask())
    asking = lambda q, *rest: attend(q[:, :, :noisy], *rest)
    mask, queries = last_layer_mask(prepare_mask(pattern), pattern, noisy)
    for mine, other in zip(with_gradients(asking, (q, k, v), mask), wanted, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
    flexible, same = last_layer_mask(block_mask(pattern), pattern, noisy)
    output = asking(*(part.detach() for part in (q, k, v)), flexible)  # its gradient is for CUDA
    torch.testing.assert_close(output, wanted[0], rtol=1e-4, atol=1e-5)
    assert queries == same == noisy
    assert last_layer_mask(pattern.mask(), pattern, noisy)[1] == q.shape[2]  # dense: all are queries


@pytest.mark.parametrize("label_shift", [False, True])
def test_the_halves_hold_every_open_cell(label_shift):
    """Nothing that the dense mask opens is lost, and what is left out is closed in it."""
    for views in (1, 2, 3):
        untrimmed = patterns.block_diffusion(BATCH.document, BATCH.position, 4, views, label_shift)
        pattern = trim_unscored(untrimmed, BATCH.scored)
        dense, parts = pattern.mask(), prepare_mask(pattern)
        size, noisy = parts.size, parts.size * views
        clean, noisy_part = whole(parts.clean), whole(parts.noisy)
        assert torch.equal(clean, dense[:, noisy:, noisy:])
        assert clean.sum() + noisy_part.sum() == dense.sum()
        for view in range(views):
            queries = slice(view * size, (view + 1) * size)
            wanted = torch.cat([dense[:, queries, noisy:], dense[:, queries, queries]], dim=2)
            assert torch.equal(noisy_part[view::views], wanted)


def whole(tiles: Tiles) -> torch.Tensor:
    """The mask that was cut."""
    mask = torch.zeros(tiles.shape, dtype=torch.bool)
    for queries, keys, bias in tiles.tiles:
        mask[:, queries, keys] = bias == 0 if tiles.materialize else bias
    return mask


def tiles_of(mask: torch.Tensor) -> Tiles:
    return Tiles.of(lambda queries: mask[:, queries], mask.shape)


def test_a_tile_holds_the_keys_that_one_of_its_queries_sees(monkeypatch):
    monkeypatch.setattr(attention, "TILE", 4)
    causal = torch.ones(1, 6, 6, dtype=torch.bool).tril()
    tiles = tiles_of(causal).tiles
    assert [(queries, keys) for queries, keys, _ in tiles] == [(slice(0, 4), slice(0, 4)), (slice(4, 8), slice(0, 6))]
    assert torch.equal(tiles[1][2] == 0, causal[:, 4:])
    apart = torch.tensor([[[True, False, False, True]] * 2])
    ((_, keys, bias),) = tiles_of(apart).tiles
    assert keys.tolist() == [0, 3] and (bias == 0).all()


@pytest.mark.parametrize("label_shift", [False, True])
def test_flex_attention_knows_its_tiles(label_shift):
    """The tiles of 128 × 128 that are listed for a long row are those in which the dense mask opens something."""
    batch = batch_of([200, 120, 33], [353], prompt=40)
    pattern = trim_unscored(patterns.block_diffusion(batch.document, batch.position, 32, 1, label_shift), batch.scored)
    noisy, dense = int((pattern.view[0] > 0).sum()), pattern.mask()
    assert noisy % 128 and dense.shape[1] % 128
    whole = F.pad(dense, (0, -dense.shape[2] % 128, 0, -dense.shape[1] % 128))
    tiles = whole.unflatten(2, (-1, 128)).unflatten(1, (-1, 128)).any(dim=4).any(dim=2)
    flex_mask = block_mask(pattern)
    assert torch.equal(flex_mask.to_dense()[:, 0].bool(), tiles) and not tiles.all()
    first = first_query_tiles(flex_mask, noisy)
    assert torch.equal(first.to_dense()[:, 0].bool(), tiles[:, : -(-noisy // 128)])
    assert first.shape[-2:] == (noisy, dense.shape[2])


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("size", [4, 24])  # of a head: the kernels want 16 at least
def test_flex_attention_of_a_long_row_without_clean_queries(size):
    batch = batch_of([200, 120, 33], [353], prompt=40)
    pattern = trim_unscored(patterns.block_diffusion(batch.document, batch.position, 32, 2, False), batch.scored)
    noisy, length = int((pattern.view[0] > 0).sum()), pattern.view.shape[1]
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, heads, length, size, generator=generator) for heads in (4, 2, 2))
    wanted = plain(q, k, v, pattern.mask())
    with torch.inference_mode():
        mask = block_mask(pattern)
        torch.testing.assert_close(attend(q, k, v, mask), wanted, rtol=1e-4, atol=1e-5)
        first, queries = last_layer_mask(mask, pattern, noisy)
        output = attend(q[:, :, :queries], k, v, first)
    torch.testing.assert_close(output, wanted[:, :, :noisy], rtol=1e-4, atol=1e-5)


def test_only_a_block_diffusion_is_halved():
    for name, pattern in patterns_of(BATCH).items():
        assert isinstance(prepare_mask(pattern), Halves) == (name in ("diffusion", "views", "needed"))


@pytest.mark.parametrize("groups", [2, 4])
@pytest.mark.parametrize("name", ["causal", "full", "blocks", "diffusion", "views", "needed"])
def test_long_rows_are_not_written_down(monkeypatch, name, groups):
    """Tile by tile through flash attention, in all layers and, of a block diffusion, in the last."""
    for limit in ({"MAX_SCORES": 0}, {"MAX_BATCH_SCORES": 28 * 28}):
        with monkeypatch.context() as context:
            for constant, value in limit.items():
                context.setattr(attention, constant, value)
            pattern = patterns_of(BATCH)[name]
            tensors, mask = inputs(pattern, groups=groups), prepare_mask(pattern)
        parts = (mask.clean, mask.noisy) if isinstance(mask, Halves) else (mask,)
        assert not any(part.materialize for part in parts)
        wanted = with_gradients(plain, tensors, pattern.mask())
        for mine, other in zip(with_gradients(attend, tensors, mask), wanted, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)
        if isinstance(mask, Halves):
            noisy = int((pattern.view[0] > 0).sum())
            last, _ = last_layer_mask(mask, pattern, noisy)
            plainly = lambda *parts, noisy=noisy: plain(*parts)[:, :, :noisy]
            asking = lambda q, *rest, noisy=noisy: attend(q[:, :, :noisy], *rest)
            wanted = with_gradients(plainly, tensors, pattern.mask())
            for mine, other in zip(with_gradients(asking, tensors, last), wanted, strict=True):
                torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_no_mask_is_built_in_one_piece(monkeypatch):
    """Of a row of 512 and its noisy half no more than a tile's rows are ever there."""
    batch, query_counts = batch_of([300, 212]), []
    of = patterns.MaskTerms.of.__func__

    def note_queries(cls, q, k):
        query_counts.append(q[0].shape[1])
        return of(cls, q, k)

    monkeypatch.setattr(patterns.MaskTerms, "of", classmethod(note_queries))
    prepare_mask(patterns.block_diffusion(batch.document, batch.position, 32))
    monkeypatch.setattr(attention, "MAX_SCORES", 0)
    causal = prepare_mask(patterns.causal(batch.document, batch.position))
    assert sum(seen.untyped_storage().nbytes() for _, _, seen in causal.tiles) < 0.6 * 512 * 512
    assert max(query_counts) == attention.TILE and len(query_counts) == 12


def test_half_precision_under_autocast():
    pattern = patterns_of(BATCH)["views"]
    tensors = [part.detach().bfloat16().requires_grad_() for part in inputs(pattern)]
    wanted = with_gradients(plain, [part.detach().float().requires_grad_() for part in tensors], pattern.mask())
    with torch.autocast("cpu", torch.bfloat16):
        results = with_gradients(attend, tensors, prepare_mask(pattern))
    for mine, other in zip(results, wanted, strict=True):
        assert mine.dtype == torch.bfloat16 and (mine - other).norm() < 0.02 * other.norm()


@torch.no_grad()
@pytest.mark.parametrize("name", ["causal", "views"])
def test_a_model_gives_the_same_whichever_form_it_gets(name):
    model, pattern = tiny(), patterns_of(BATCH)[name]
    tokens = BATCH.tokens.gather(1, pattern.source)
    states = [
        model(tokens, pattern.position, mask) for mask in (pattern.mask(), prepare_mask(pattern), block_mask(pattern))
    ]
    for other in states[1:]:
        torch.testing.assert_close(other, states[0], rtol=1e-4, atol=1e-4)


def test_products_are_float32s_and_the_setting_is_left_as_it_was():
    setting = torch.backends.mkldnn.matmul
    before = setting.fp32_precision
    a, b = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) for shape in ((64, 32), (32, 48)))
    with onednn_matmul(64, 512, CPU):
        with onednn_matmul(1, 512, CPU):
            inner = setting.fp32_precision
        inside, product = setting.fp32_precision, a @ b
    assert inner == inside == ("bf16" if cpu.onednn_keeps_float32() else before)
    assert setting.fp32_precision == before
    torch.testing.assert_close(product, (a.double() @ b.double()).float(), rtol=1e-5, atol=1e-5)  # of bfloat16: 0.05
    with pytest.raises(KeyError), onednn_matmul(64, 512, CPU):
        raise KeyError
    assert setting.fp32_precision == before
    with onednn_matmul(cpu.MIN_ROWS - 1, 4096, CPU), onednn_matmul(64, 128, CPU):
        assert setting.fp32_precision == before
    with onednn_matmul(64, 512, torch.device("cuda")):  # there PyTorch would refuse to compile FlexAttention
        assert setting.fp32_precision == before


def test_onednn_is_not_used_where_it_would_round(monkeypatch):
    monkeypatch.setattr(cpu, "onednn_keeps_float32", lambda: False)
    before = torch.backends.mkldnn.matmul.fp32_precision
    with onednn_matmul(64, 512, CPU):
        assert torch.backends.mkldnn.matmul.fp32_precision == before

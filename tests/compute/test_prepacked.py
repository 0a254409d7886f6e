"""Prepacked weights change how a product is computed, never what; and they follow the weights."""

import gc
import time

import pytest
import torch
from small import BOS, checkpoint_of, tiny
from torch import nn

from dllm_core.compute.cuda_graphs import for_inference
from dllm_core.compute.kv_cache import KVCache
from dllm_core.compute.prepacked import PrepackedLinear, _layouts, prepacked, prepacking_works
from dllm_core.config import DecodeConfig
from dllm_core.samplers import decode

pytestmark = pytest.mark.skipif(not prepacking_works(torch.float32), reason="nothing is prepacked here")
STYLES = {"ar": {}, "llada1": {"steps": 8}, "llada2": {"block_length": 4, "threshold": 0.3}}


@pytest.fixture
def everything(monkeypatch):
    """Prepack also the small matrices of small models."""
    monkeypatch.setattr("dllm_core.compute.prepacked.MIN_WEIGHTS", 1)


@pytest.mark.parametrize("rows", [1, 3, 32, 130])
@pytest.mark.parametrize("dtype, close", [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_a_prepacked_product_is_the_product(rows, dtype, close):
    if not prepacking_works(dtype):
        pytest.skip(f"this processor prepacks no {dtype}")
    torch.manual_seed(0)
    linear, x = nn.Linear(96, 200, bias=False, dtype=dtype), torch.randn(2, rows, 96, dtype=dtype)
    with torch.inference_mode():
        product = PrepackedLinear(linear.weight)(x)
    assert product.dtype == dtype and product.shape == (2, rows, 200)
    torch.testing.assert_close(product.double(), x.double() @ linear.weight.double().T, atol=close, rtol=close)


def test_only_large_matrices_are_prepacked_and_the_rest_is_shared(monkeypatch):
    model = tiny(4, vocab=200)
    monkeypatch.setattr("dllm_core.compute.prepacked.MIN_WEIGHTS", model.lm_head.weight.numel())
    twin = prepacked(model)
    assert twin.model is model.model
    kinds = {name: type(module) for name, module in twin.named_modules()}
    assert kinds["lm_head"] is PrepackedLinear and kinds["model.layers.0.self_attn.q_proj"] is nn.Linear
    assert twin.training == model.training
    assert type(model.lm_head) is nn.Linear and twin.lm_head.weight.data_ptr() == model.lm_head.weight.data_ptr()
    monkeypatch.setattr("dllm_core.compute.prepacked.MIN_WEIGHTS", model.lm_head.weight.numel() + 1)
    assert prepacked(model) is model


def test_the_prepacked_copy_gives_the_same_states_and_logits(everything):
    model = tiny(4)
    tokens = torch.randint(3, 12, (2, 9))
    position = torch.arange(9).expand(2, 9)
    mask = torch.ones(2, 9, 9, dtype=torch.bool).tril()
    with torch.inference_mode():
        twin = prepacked(model)
        assert sum(type(module) is PrepackedLinear for module in twin.modules()) == 1 + 7 * len(model.model.layers)
        for read in (None, (torch.tensor([0, 1]), torch.tensor([3, 8]))):
            states = [of(tokens, position, mask, KVCache.empty(of.config, 2, 9), read=read) for of in (model, twin)]
            torch.testing.assert_close(*states, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(model.logits(states[0]), twin.logits(states[0]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("style", STYLES)
def test_decoding_with_and_without_prepacking_writes_the_same(everything, monkeypatch, style):
    config = DecodeConfig(style, max_new_tokens=8, **STYLES[style])
    prompts, model = [[BOS, 5, 6, 7, 8], [BOS, 9]], tiny(4)
    written, calls = [], []
    for twin in (prepacked, lambda model: model):

        def count(model, twin=twin):
            calls.append(model)
            return twin(model)

        monkeypatch.setattr("dllm_core.compute.cuda_graphs.prepacked", count)
        steps = list(decode(checkpoint_of(model), prompts, config))
        written.append([(step.row, [(c.position, c.token) for c in step.commits]) for step in steps])
    assert len(calls) == 2
    assert written[0] == written[1] and any(commits for _, commits in written[0])


def changes():
    def step(model):
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
        model(torch.tensor([[1, 2]]), torch.tensor([[0, 1]]), torch.ones(1, 2, 2, dtype=torch.bool)).sum().backward()
        optimizer.step()

    def each(model):
        for parameter in model.parameters():
            parameter.detach().add_(1)

    def loaded(model):
        model.load_state_dict(tiny(5).state_dict())

    def reordered(model):  # unseen by its version
        weight = model.model.layers[0].mlp.up_proj.weight
        weight.data[:] = weight.data.flip(0)

    def moved(model):
        model.to(torch.bfloat16).to(torch.float32)

    def replaced(model):
        up_proj = model.model.layers[0].mlp.up_proj
        up_proj.weight = nn.Parameter(torch.ones_like(up_proj.weight))

    def born_in_inference(model):
        with torch.inference_mode():
            replaced(model)

    return [step, each, loaded, reordered, moved, replaced, born_in_inference]


@pytest.mark.parametrize("change", changes(), ids=lambda change: change.__name__)
def test_the_prepacked_copy_follows_the_model(everything, change):
    model = tiny(4)
    first = prepacked(model)
    known = first.model.layers[0].mlp.up_proj.layout
    assert prepacked(model).model.layers[0].mlp.up_proj.layout is known
    change(model)
    second, x = prepacked(model), torch.randn(3, model.config.hidden_size)
    with torch.inference_mode():
        expected, twin = (of.model.layers[0].mlp.up_proj(x) for of in (model, second))
        torch.testing.assert_close(expected, twin, atol=1e-5, rtol=1e-5)
        assert not torch.allclose(first.model.layers[0].mlp.up_proj(x), twin, atol=1e-5)


def test_modules_replaced_by_the_user_are_not_prepacked(everything):
    class Adapted(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    model, seen = tiny(4), []
    prepacked(model)
    mlp, other = (layer.mlp for layer in model.model.layers)
    mlp.up_proj = Adapted(16, mlp.up_proj.out_features, bias=False)
    mlp.down_proj.register_forward_hook(lambda *_: seen.append("hook"))
    other.forward = lambda x: seen.append("forward") or x
    model.model.norm = nn.Identity()
    twin = prepacked(model)
    mine, second = (layer.mlp for layer in twin.model.layers)
    assert mine.up_proj is mlp.up_proj and mine.down_proj is mlp.down_proj and second is other
    assert twin.model.norm is model.model.norm and type(mine.gate_proj) is PrepackedLinear
    assert model.model.layers[0].mlp is mlp  # the model itself is as it was
    inputs = torch.tensor([[1, 2]]), torch.tensor([[0, 1]]), torch.ones(1, 2, 2, dtype=torch.bool)
    with torch.inference_mode():
        torch.testing.assert_close(model(*inputs), twin(*inputs), atol=1e-5, rtol=1e-5)
    assert seen == ["hook", "forward"] * 2


def test_nothing_is_prepacked_where_it_cannot_be(everything, monkeypatch):
    model = tiny(4)
    with torch.autocast("cpu", torch.bfloat16), for_inference(model) as form:
        assert form is model
    biased, whole = nn.Linear(16, 16), tiny(4).double()
    assert prepacked(biased) is biased and prepacked(whole) is whole
    monkeypatch.setattr("dllm_core.compute.prepacked.prepacking_works", lambda dtype: False)
    assert prepacked(model) is model


@pytest.mark.parametrize("product", [RuntimeError("not compiled in"), 1.01])
def test_a_processor_without_such_products_is_known(monkeypatch, product):
    class Operations:
        @staticmethod
        def _reorder_linear_weight(weight, rows):
            return weight

        @staticmethod
        def _linear_pointwise(x, weight, *_):
            if isinstance(product, Exception):
                raise product
            return x @ weight.T * product

    drawn = torch.get_rng_state()
    prepacking_works.cache_clear()
    monkeypatch.setattr(torch.ops, "mkldnn", Operations)
    assert not prepacking_works(torch.float32)
    prepacking_works.cache_clear()
    assert torch.equal(torch.get_rng_state(), drawn)


def test_layouts_go_with_their_weights(everything):
    model = tiny(4)
    prepacked(model)
    before = len(_layouts)
    del model
    gc.collect()
    assert len(_layouts) <= before - 15


def test_time_to_prepack_counts_as_time_of_decoding(everything, monkeypatch):
    clock = [0.0]

    def prepack_for_five_seconds(model):
        clock[0] += 5
        return model

    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr("dllm_core.compute.cuda_graphs.prepacked", prepack_for_five_seconds)
    first = next(decode(checkpoint_of(tiny(4)), [[BOS, 5]], DecodeConfig("ar", max_new_tokens=2)))
    assert first.seconds == 5

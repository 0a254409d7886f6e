"""Looking a value up: which token it is, what the heads attend to, and what is masked meanwhile."""

from dataclasses import replace

import pytest
import torch
from small import tiny

from dllm_core import patterns
from dllm_core.checkpoints.formats import load_checkpoint
from dllm_core.notebook import lookup
from dllm_core.notebook.grading import Question, load_questions
from dllm_core.show.attention.lookup import lookup_heads


@pytest.fixture(scope="module")
def loaded(project):
    return {name: load_checkpoint(project / f"weights/tiny-{name}") for name in ("ar", "llada2")}


@pytest.mark.parametrize("prompt, answer, target, source", [
    ("读一读：小雨43分，小敏2分。小雨得了多少分？", "读完知道，小雨43分。", "4", "雨43"),
    ("小青74分，小宝9分。小宝和小青得了多少分？", "小宝9分，小青74分。", "9", "宝9分"),
    ("周五买字典，周二数火车。周二做什么？", "周二数火车。", "数", "二数火"),
])
def test_the_value_is_what_stands_once_behind_its_key(loaded, prompt, answer, target, source):
    (case,) = lookup.lookups(loaded["ar"], [Question("reading", prompt, answer)])
    decode = loaded["ar"].tokenizer.decode
    assert decode(case.tokens[case.target]) == target
    assert decode(case.tokens[case.source - 1 : case.source + 2]) == source
    assert decode(case.tokens[case.start :]) == f"{answer}<|im_end|>"


def test_an_answer_that_repeats_nothing_is_left_out(loaded):
    assert lookup.lookups(loaded["ar"], [Question("recall", "天空是什么颜色？", "蓝。")]) == []


def test_blocks_are_counted_from_the_answer_where_the_model_counts_them_so(loaded, monkeypatch):
    """What a checkpoint reads is what it meets in decoding: of the value's block the masks, of the blocks before it all."""
    seen, llada2 = [], loaded["llada2"]
    real = lookup.attention_weights
    monkeypatch.setattr(lookup, "attention_weights", lambda m, x, *rest: seen.append((x, rest[1])) or real(m, x, *rest))
    case = lookup.Lookup(tuple(range(20, 40)), start=5, target=14, source=3)
    mask, later = llada2.tokenizer.mask_token_id, lookup.CONDITIONS["key visible, the rest masked"]
    for grid, begin, end in (("start", 12, 16), ("answer", 13, 17)):
        info = replace(llada2.info, block_size=4, grid=grid)
        lookup.read(replace(llada2, info=info), [case], later)
        tokens, attention = seen.pop()
        assert tokens[0].tolist() == [*range(20, 34), *[mask] * (end - 14)]
        assert attention[0, end - 1].all() and not attention[0, begin - 1, begin:].any()


def test_the_weights_are_those_of_the_forward():
    """Weights times values, through the output projection, are what each layer's attention returns."""
    model, tokens, position = tiny(), torch.randint(3, 16, (1, 9)), torch.arange(9)[None]
    mask = patterns.block_causal(torch.zeros_like(tokens), position, 4).mask()
    outputs = []
    hooks = [layer.self_attn.register_forward_hook(lambda m, args, y: outputs.append((args[0], y))) for layer in model.model.layers]
    hidden, weights = lookup.attention_weights(model, tokens, position, mask)
    assert torch.equal(hidden, model(tokens, position, mask))
    for hook in hooks:
        hook.remove()
    for layer, of_layer, (x, y) in zip(model.model.layers, weights, outputs, strict=False):
        v = layer.self_attn.split_heads(layer.self_attn.v_proj(x)).repeat_interleave(2, dim=1)
        mine = layer.self_attn.o_proj((of_layer @ v[0]).transpose(0, 1).flatten(1))
        assert torch.allclose(mine, y[0], atol=1e-5)
        assert torch.allclose(of_layer.sum(dim=-1), torch.ones(4, 9), atol=1e-5)
        assert not of_layer.masked_select(~mask).any()


def test_a_masked_key_takes_the_attention_away(loaded, project):
    """The small weights that come with the project: with its key written the value is found, with a masked key not."""
    questions = [q for q in load_questions(str(project / "data/sft_valid.jsonl")) if q.group == "reading"]
    found = lookup.lookups(loaded["ar"], questions)
    assert len(found) == 60
    ar = lookup.read(loaded["ar"], found)
    written, follows, before = (lookup.read(loaded["llada2"], found, masks) for masks in lookup.CONDITIONS.values())
    assert ar.right > 0.9 and ar.attention.max() > 0.7
    assert min(written.right, follows.right) > 0.85 and before.right < 0.5
    assert written.attention.max() > 0.7 and before.attention.max() < 0.5
    picture = lookup_heads({"AR": ar, "LLaDA 2": before})
    assert "AR: head" in str(picture) and picture.png()

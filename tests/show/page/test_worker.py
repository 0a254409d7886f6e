"""What else the page's engine answers: the top of a step, attention, tokens, random numbers, errors, a stop."""

import json

import pytest
import torch
from engine_page import LENGTH, ask, decode_by_python, differences, open_checkpoints, open_page

from dllm_core.compute.cpu import rotate
from dllm_core.data.chat import chat_prompt
from dllm_core.data.tokenizer import encode_text
from dllm_core.show.html import asset
from dllm_core.trace import Edit, Trace

HOSTILE = [
    "", "<|im_end|>", "a<|mask|>b<|im_start|>user\n", "<|endoftext|", "🙂👩‍👩‍👧", "𝒳𠀀",
    "e\u0301\u0300a\u0308", "שלום مرحبا",
    "\u202eabc\u202c", "\x00\x01\x1b\x7f", "\r\n\n\r\t", "\ufeff\u200b\u00a0", "  the  them ", " A The THE", "ß ﬁ Å Å",
    "abcxyz " * 3000, "好" * 20000, "z" * 3000, "<script>alert(1)</script>&amp;",
    "____", "\\u4f60", "st an er ist", "ſtK",
]  # fmt: skip


@pytest.fixture(scope="module")
def checkpoints() -> dict:
    return open_checkpoints()


@pytest.fixture(scope="module")
def page(browser, checkpoints, tmp_path_factory):
    return open_page(browser, checkpoints, tmp_path_factory.mktemp("page"))


def request(**values) -> dict:
    """A request to decode, of LLaDA 2 unless another is named."""
    settings = {"style": "llada2", "block_length": 8, "max_new_tokens": LENGTH, **values.pop("settings", {})}
    return {"do": "decode", "id": "run", "model": "llada2", "settings": settings, **values}


def test_the_whole_top_of_a_step(page, checkpoints):
    prompt = chat_prompt(checkpoints["ar"].tokenizer, "你好！")
    for name, settings in (("llada2", {}), ("llada2", {"cfg_scale": 1.0}), ("ar", {}), ("llada1", {"steps": 3})):
        [(_, trace)] = decode_by_python(name, checkpoints[name], name, [prompt], {**settings, "alternatives": 19})
        ask(page, request(model=name, prompt=prompt, settings=trace.settings))
        for step in (trace.steps[0], trace.steps[-1]):
            commit = step.commits[-1]
            top = ask(page, {"do": "top", "id": "run", "step": step.index, "position": commit.position})[-1]["top"]
            expected = [[commit.token, commit.confidence], *map(list, commit.alternatives)]
            assert differences(expected, [entry[:2] for entry in top["tokens"]]) == []
            assert top["tokens"][0][2] == trace.vocabulary[commit.token]
    assert "step 99" in ask(page, {"do": "top", "id": "run", "step": 99, "position": 20})[-1]["error"]
    assert "position 99" in ask(page, {"do": "top", "id": "run", "step": 0, "position": 99})[-1]["error"]


def test_remembered_logits_spare_a_forward_where_the_tokens_are_the_same(page):
    changed = [
        {"threshold": 0.9},
        {"threshold": 0.9},
        {"threshold": 0.2},
        {"temperature": 0.8, "seed": 3},
        {"cfg_scale": 0.7},
    ]
    reused = []
    for settings in changed:
        steps = [answer for answer in ask(page, request(text="今天好不好？", settings=settings)) if "step" in answer]
        reused.append([answer["reused"] for answer in steps])
        assert all(answer["step"]["seconds"] > 0 for answer in steps)
        assert all(len(answer["entropies"]) >= len(answer["step"]["commits"]) for answer in steps)
    assert not any(reused[0]) and all(reused[1])
    assert reused[2][0] and reused[3][0]


def test_attention_of_a_layer(page, checkpoints):
    prompt = chat_prompt(checkpoints["ar"].tokenizer, "Who are you?")
    for name, layer in (("llada2", 1), ("odd", 1)):
        model = checkpoints[name].model
        seen = next(a["begun"]["initial"] for a in ask(page, request(model=name, prompt=prompt)) if "begun" in a)
        got = ask(page, {"do": "attention", "id": "run", "step": 0, "layer": layer})[-1]["attention"]
        length = got["length"]
        position, inputs = torch.arange(length)[None], []
        mask = position[0][:, None] // 8 >= position // 8
        norm = model.model.layers[layer].input_layernorm
        hook = norm.register_forward_hook(lambda *parts, inputs=inputs: inputs.append(parts[2]))
        with torch.inference_mode():
            model(torch.tensor([seen[:length]]), position, mask[None])
            attention, rope = model.model.layers[layer].self_attn, (model.rope_cos[:length], model.rope_sin[:length])
            q, k = (attention.split_heads(project(inputs[0])) for project in (attention.q_proj, attention.k_proj))
            q, k = rotate(attention.q_norm(q), *rope), rotate(attention.k_norm(k), *rope)
            k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
            scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~mask, -torch.inf)
        hook.remove()
        p = torch.tensor(got["p"]).view(got["heads"], length, length)
        assert (p - scores.softmax(dim=-1)[0]).abs().max() < 1e-5
    assert "layer 9" in ask(page, {"do": "attention", "id": "run", "step": 0, "layer": 9})[-1]["error"]


def test_stop_ends_after_the_step_in_work_and_keeps_the_steps(page):
    long = request(text="你好", model="ar", settings={"style": "ar", "max_new_tokens": 500, "eos_early_stop": False})
    script = """(request) => ask(request, ({ step }) => step?.index === 2 && tell({ do: "stop", id: request.id }))"""
    answers = page.evaluate(script, long)
    steps = [answer for answer in answers if "step" in answer]
    assert answers[-1]["stopped"] and 3 <= len(steps) == len(answers[-1]["trace"]["steps"]) < 500


def test_a_text_with_gaps_and_what_the_model_does_not_know(page, checkpoints):
    answers = ask(page, request(model="llada1", gaps="小言是__，㐀㐁你________。㐀", text="hi"))
    trace, tokenizer = Trace.from_json(answers[-1]["trace"]), checkpoints["ar"].tokenizer
    assert answers[0]["unknown"] == ["㐀", "㐁"]
    parts = ["小言是", "，㐀㐁你", "。㐀"]
    ids = [encode_text(tokenizer, part).ids for part in parts]
    expected = [*chat_prompt(tokenizer, "hi"), *ids[0], 3, 3, *ids[1], *[3] * 8, *ids[2]]
    assert trace.initial == expected and trace.settings["steps"] == 10 and 3 not in trace.final
    assert ask(page, {"do": "encode", "id": "run", "model": "ar", "text": "你the㐀"})[-1]["encoded"] == {
        "tokens": encode_text(tokenizer, "你the㐀").ids, "texts": ["你", "t", "he", "<|unk|>"], "unknown": ["㐀"],
    }  # fmt: skip


WRONG = [
    ({"do": "x"}, "x: no such action"),
    ({"model": "x"}, "model x: is not open"),
    ({"text": "\ud800"}, "prompt: '\\ud800' is half a surrogate pair"),
    ({"prompt": []}, "prompt: is empty"),
    ({"prompt": [1, 3]}, "prompt: holds the mask token (3) at 1"),
    ({"gaps": "no gap"}, "gaps: the text has none"),
    ({"tokens": [1, 5]}, "tokens: hold no mask (3)"),
    ({"settings": {"style": "x"}}, 'style="x": must be ar, llada1, llada2'),
    ({"settings": {"max_new_tokens": 5000}}, "more than max_position_embeddings=2048"),
    ({"settings": {"cap_start_ratio": 0.5}}, "cap_end_ratio=null: must be set with cap_start_ratio"),
    ({"settings": {"style": "llada1"}}, "block_length=8: must be a divisor of max_new_tokens=12"),
    ({"settings": {"style": "llada1", "block_length": 6, "steps": 5}}, "steps=5: must be a multiple of the 2 blocks"),
    ({"settings": {"style": "ar", "cfg_scale": 1}}, "cfg_scale=1: must be 0"),
    ({"settings": {"tresh": 1}}, "tresh: is no setting"),
]


def test_an_edit_that_cannot_be_made_is_refused_in_pythons_words(page, checkpoints):
    prompt = [1, 5, 6, 7]
    for position, action, token in (
        (1, "mask", None), (16, "mask", None), (-1, "mask", None), (9, "swap", 5), (9, "take", 3), (9, "write", None),
        (9, "forbid", 1320), (9, "mask", 7), (9, "take", -1),
    ):  # fmt: skip
        edit = Edit(0, position, action, token)
        with pytest.raises(ValueError) as refused:
            decode_by_python("ar", checkpoints["ar"], "ar", [prompt], {}, [edit])
        settings = {"style": "ar", "block_length": None}
        found = ask(page, request(model="ar", prompt=prompt, settings=settings, edits=[vars(edit)]))[-1]
        assert found["error"] == str(refused.value)
    behind = Edit(0, 9, "take", 7)
    with pytest.raises(ValueError, match="from left to right") as refused:
        decode_by_python("ar", checkpoints["ar"], "ar", [prompt], {}, [behind])
    assert ask(page, request(model="ar", prompt=prompt, settings=settings, edits=[vars(behind)]))[-1]["error"] == str(
        refused.value
    )


@pytest.mark.parametrize("changes, message", WRONG, ids=lambda value: value if isinstance(value, str) else "")
def test_what_cannot_be_done_is_named(page, changes, message):
    assert message in ask(page, request(**{"text": "hi", **changes}))[-1]["error"]


# random numbers and tokens -------------------------------------------------------------------------------------------


def test_random_numbers_are_torchs(page):
    """Of tensors small and large, whole numbers of float64 and float32 one after the other."""
    for seed in (0, 1, 42, 2**31 - 1, 2**32 + 5, 2**53 - 1):
        generator, expected = torch.Generator().manual_seed(seed), []
        for shape, dtype in (
            ((1000,), torch.float64),
            ((3,), torch.float32),
            ((10, 100), torch.float32),
            ((1,), torch.float64),
        ):
            expected += torch.rand(shape, dtype=dtype, generator=generator).flatten().tolist()
        script = """(seed) => { const g = new Generator(seed), times = (n, draw) => Array.from({ length: n }, draw);
            return [...times(1000, () => g.double()), ...times(1003, () => g.float()), g.double()]; }"""
        page.add_script_tag(content=asset("page/random.js")) if seed == 0 else None
        assert page.evaluate(script, seed) == expected


@pytest.fixture(scope="module")
def in_page(page, checkpoints):
    """The page with the tokenizer as `tokenizer`."""
    page.add_script_tag(content="const fail = (message) => { throw new Error(message); };")
    page.add_script_tag(content=asset("page/tokenizer.js"))
    file = json.loads(checkpoints["ar"].tokenizer.backend_tokenizer.to_str())
    page.evaluate("(file) => { window.tokenizer = new Tokenizer(file); }", file)
    return page


def test_every_text_of_the_corpus_and_hostile_ones_have_the_same_tokens(project, in_page, checkpoints):
    tokenizer, texts = checkpoints["ar"].tokenizer, list(HOSTILE)
    for name in ("sft_test", "sft_valid", "pretrain_sample", "sft_sample", "pretrain_valid"):
        for line in (project / f"data/{name}.jsonl").read_text("utf-8").splitlines():
            entry = json.loads(line)
            texts += [turn["content"] for turn in entry.get("conversations", ())] + [
                entry[key] for key in ("text",) if key in entry
            ]
    assert len(texts) > 3000
    ids = [encode_text(tokenizer, text).ids for text in texts]
    for text, expected, found in zip(
        texts, ids, in_page.evaluate("(texts) => texts.map((t) => tokenizer.encode(t))", texts), strict=True
    ):
        assert found == expected, text[:200]
    for skip in (False, True):
        found = in_page.evaluate(
            "([ids, skip]) => ids.map((some) => tokenizer.decode(some, skip))", [[*ids, list(range(1320))], skip]
        )
        assert found == [tokenizer.decode(some, skip_special_tokens=skip) for some in [*ids, list(range(1320))]]


def test_the_chat_template_writes_the_same_tokens(in_page, checkpoints):
    tokenizer = checkpoints["ar"].tokenizer
    said = [
        [("user", "你好")],
        [("user", "Hi"), ("assistant", "Hello!\n"), ("user", "the end")],
        [("system", ""), ("user", " a\n")],
    ]
    for turns in said:
        messages = [{"role": role, "content": content} for role, content in turns]
        found = in_page.evaluate("(messages) => tokenizer.chat(messages)", messages)
        assert found == tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    for text in HOSTILE:
        assert in_page.evaluate("(content) => tokenizer.chat([{ role: 'user', content }])", text) == chat_prompt(
            tokenizer, text
        )


def test_another_kind_of_tokenizer_is_refused_by_name(in_page, checkpoints):
    file = json.loads(checkpoints["ar"].tokenizer.backend_tokenizer.to_str())
    unigram, bytes_ = {**file["model"], "type": "Unigram"}, {**file["model"], "byte_fallback": True}
    for changes, name in (
        ({"model": unigram}, "model Unigram"), ({"model": bytes_}, "model.byte_fallback"),
        ({"normalizer": {"type": "NFC"}}, "normalizer NFC"), ({"decoder": {"type": "ByteLevel"}}, "decoder ByteLevel"),
        ({"pre_tokenizer": {"type": "ByteLevel"}}, "pre_tokenizer ByteLevel"),
    ):  # fmt: skip
        script = "(file) => { try { new Tokenizer(file); } catch (error) { return error.message; } }"
        assert in_page.evaluate(script, {**file, **changes}) == f"tokenizer.json: {name} is not read by the page"

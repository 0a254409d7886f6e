"""The model that runs in the page against Python's: random numbers, tokens, and every step of some hundred decodings.

Python decodes at the time of the test, the page's worker decodes the same in Chromium, and the two records are compared.
"""

import base64
import json
from dataclasses import replace
from itertools import product

import pytest
import torch
from safetensors.torch import save
from small import HANG_LIMIT

from dllm_core.checkpoints.formats import load_checkpoint
from dllm_core.checkpoints.hf_config import hf_config
from dllm_core.compute.cpu import rotate
from dllm_core.config import DecodeConfig, ModelConfig
from dllm_core.data.chat import chat_prompt
from dllm_core.data.tokenizer import encode_text
from dllm_core.model import Transformer
from dllm_core.samplers import generate, infill
from dllm_core.show.html import asset
from dllm_core.trace import Edit, Trace

ENGINE = ("random", "products", "model", "tokenizer", "policies", "sampling", "decoders", "worker")
PROMPTS = ["你好！", "3加5", "Who are you?", "你会什么"]
GAPS = ["小言____语言模型", "____是数字", "I am a ____ model.", "你____，很高兴____"]
LENGTH = 12
SAMPLED = [
    {"temperature": 1.0, "seed": 1},
    {"temperature": 0.7, "top_k": 5, "seed": 2},
    {"temperature": 1.3, "top_p": 0.8, "seed": 3},
    {"temperature": 1.0, "top_k": 20, "top_p": 0.6, "seed": 2**40 + 7},
]
CAPS = {"cap_start_ratio": 0.2, "cap_end_ratio": 0.6}
SETTINGS = {
    "ar": [{}, {"eos_early_stop": False}, {"use_cache": False}, {"alternatives": 0}, {"max_new_tokens": 1}, *SAMPLED,
           {"temperature": 0.5, "seed": 0}],
    "llada1": [
        {}, {"steps": 4}, {"steps": 6, "block_length": 6}, {"block_length": 4}, {"steps": 3, "block_length": 4},
        {"remasking": "random"}, {"remasking": "random", "steps": 6, "block_length": 6, "seed": 5}, {"cfg_scale": 1.0},
        {"cfg_scale": 0.5, "steps": 6, "block_length": 6}, {"eos_early_stop": False, "steps": 5}, {"draft": False},
        *SAMPLED, {"temperature": 1.0, "remasking": "random", "cfg_scale": 0.5, "steps": 4},
    ],
    "llada2": [
        {}, {"threshold": 0.5}, {"threshold": 0.0}, {"threshold": None}, {"threshold": None, "steps": 2},
        {"threshold": 0.97, "steps": 3}, {"threshold": 0.97, "minimal_topk": 2}, CAPS, {**CAPS, "max_decode_per_step": 2},
        {"max_decode_per_step": 1}, {"threshold": 0.3, "max_decode_per_step": 3}, {"cfg_scale": 1.0},
        {"cfg_scale": 0.5, "block_length": 4, "use_cache": False}, {"eos_early_stop": False, "threshold": 0.7},
        {"use_cache": False}, {"block_length": 4}, {"block_length": 16}, {"block_length": None}, {"max_new_tokens": 5},
        {"alternatives": 0, "draft": False}, *SAMPLED, {"temperature": 0.5, "cfg_scale": 1.0, "seed": 9},
    ],
    "gaps": [{}, {"steps": 2}, {"cfg_scale": 1.0}, {"remasking": "random"}, *SAMPLED[:3]],
    "other": [{}, {"block_length": 4, "use_cache": False}, {"cfg_scale": 1.0}, {"temperature": 1.0, "seed": 4}],
}  # fmt: skip
HOSTILE = [
    "", "<|im_end|>", "a<|mask|>b<|im_start|>user\n", "<|endoftext|", "🙂👩‍👩‍👧", "𝒳𠀀", "e\u0301\u0300a\u0308", "שלום مرحبا",
    "\u202eabc\u202c", "\x00\x01\x1b\x7f", "\r\n\n\r\t", "\ufeff\u200b\u00a0", "  the  them ", " A The THE", "ß ﬁ Å Å",
    "abcxyz " * 3000, "好" * 20000, "z" * 3000, "<script>alert(1)</script>&amp;", "____", "\\u4f60", "st an er ist", "ſtK",
]  # fmt: skip

PAGE = """<meta charset="utf-8"><script type="module">
const worker = new Worker(URL.createObjectURL(new Blob([document.getElementById("engine").textContent])));
const waiting = new Map(), last = ["opened", "encoded", "trace", "top", "attention", "error"];
worker.onerror = (error) => { throw new Error(error.message); };
worker.onmessage = ({ data }) => {
  const request = waiting.get(data.id);
  request.answers.push(data.attention ? { attention: { ...data.attention, p: Array.from(data.attention.p) } } : data);
  request.heard?.(data);
  if (last.some((name) => name in data)) request.done(request.answers);
};
window.ask = (request, heard) => new Promise((done) => {
  if (request.weights) request.weights = Uint8Array.from(atob(request.weights), (c) => c.charCodeAt(0)).buffer;
  waiting.set(request.id, { answers: [], heard, done });
  worker.postMessage(request);
});
window.tell = (request) => worker.postMessage(request);
</script>"""


# the models ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoints(project):
    """Name → checkpoint: the three shipped ones, variants in how they are read, and one of another shape."""
    named = {style: load_checkpoint(project / f"weights/tiny-{style}") for style in ("ar", "llada1", "llada2")}
    for name, changes in {"shift": {"label_shift": True}, "grid": {"grid": "answer"}}.items():
        named[name] = replace(named["llada2"], info=replace(named["llada2"].info, **changes))
    both = replace(named["shift"].info, grid="answer")
    named |= {"both": replace(named["llada2"], info=both)}
    named |= {"shift1": replace(named["llada1"], info=replace(named["llada1"].info, label_shift=True))}
    torch.manual_seed(0)
    shape = ModelConfig(1320, 24, 2, 4, 2, 6, 40, 64, 100.0, 1e-5, qk_norm=False, attention_bias=True,
                        initializer_range=0.6, tie_word_embeddings=False)  # fmt: skip
    odd = Transformer(shape).eval()
    for layer in odd.model.layers:
        for part in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
            torch.nn.init.normal_(part.bias)
    return named | {"odd": replace(named["llada2"], model=odd)}


def opening(name: str, checkpoint) -> dict:
    """The message that opens a checkpoint in the page: float16 as shipped, float32 for the odd one."""
    state = checkpoint.model.state_dict()
    if checkpoint.model.config.tie_word_embeddings:
        state = {key: value.half() for key, value in state.items() if key != "lm_head.weight"}
    weights = base64.b64encode(save({key: value.contiguous() for key, value in state.items()})).decode("ascii")
    config = hf_config(checkpoint.model.config, checkpoint.info, checkpoint.tokenizer)
    tokenizer = json.loads(checkpoint.tokenizer.backend_tokenizer.to_str())
    return {"do": "open", "id": f"open {name}", "name": name, "weights": weights, "config": config, "tokenizer": tokenizer}


@pytest.fixture(scope="module")
def page(browser, checkpoints, tmp_path_factory):
    """A page with the engine in a worker, and in the page itself; all checkpoints are open."""
    engine = "\n".join(asset(f"page/{name}.js") for name in ENGINE)
    path = tmp_path_factory.mktemp("page") / "engine.html"
    path.write_text(f'{PAGE}<script id="engine">{engine}</script>', "utf-8")
    page = browser.new_page()
    page.set_default_timeout(HANG_LIMIT * 1000)
    page.context.set_offline(True)
    page.goto(path.as_uri())
    for name, checkpoint in checkpoints.items():
        answer = page.evaluate("(request) => ask(request)", opening(name, checkpoint))[-1]
        assert answer.get("opened") == name, answer
    yield page
    page.close()


# the decodings -------------------------------------------------------------------------------------------------------


def decode_by_python(name: str, checkpoint, style: str, prompts: list, settings: dict, edits=()) -> list[tuple]:
    """[(name, trace)] of the prompts: together where nothing is sampled."""
    base = {"alternatives": 3, "draft": True, "max_new_tokens": LENGTH}
    if style == "gaps":
        config = DecodeConfig(style="llada1", **{**base, **settings})
        return [(name, infill(checkpoint, tokens, config, edits)) for tokens in prompts]
    base |= {"block_length": 8} if style == "llada2" else {}
    config = DecodeConfig(style=style, **{**base, **settings})
    is_random = config.temperature or config.remasking == "random"
    groups = [[prompt] for prompt in prompts] if is_random else [prompts]
    return [(name, trace) for group in groups for trace in generate(checkpoint, group, config, edits)]


def with_gaps(tokenizer, text: str) -> list[int]:
    parts = [encode_text(tokenizer, part).ids for part in text.split("____")]
    tokens = [tokenizer.bos_token_id, *parts[0]]
    for part in parts[1:]:
        tokens += [tokenizer.mask_token_id] * 3 + part
    return tokens


@pytest.fixture(scope="module")
def decodings(checkpoints) -> list[tuple[str, Trace]]:
    """(checkpoint, trace): some hundred of all styles and settings, without edits."""
    tokenizer = checkpoints["ar"].tokenizer
    prompts = [chat_prompt(tokenizer, text) for text in PROMPTS]
    gaps = [with_gaps(tokenizer, text) for text in GAPS]
    jobs = [(style, style, prompts, settings) for style in ("ar", "llada1", "llada2") for settings in SETTINGS[style]]
    jobs += [("llada1", "gaps", gaps, settings) for settings in SETTINGS["gaps"]]
    jobs += [(name, "llada2", prompts, settings) for name, settings in product(("shift", "grid", "both", "odd"), SETTINGS["other"])]
    jobs += [("shift1", "llada1", prompts[:2], {}), ("odd", "llada1", prompts[:2], {}), ("odd", "ar", prompts[:2], {})]
    return [
        result for name, style, asked, settings in jobs
        for result in decode_by_python(name, checkpoints[name], style, asked, settings)
    ]  # fmt: skip


def decode_by_page(page, decodings: list[tuple[str, Trace]]) -> list[list[dict]]:
    """The worker's answers to each decoding."""
    requests = []
    for number, (name, trace) in enumerate(decodings):
        given = {"prompt": trace.prompt} if trace.prompt else {"tokens": trace.initial}
        edits = [vars(edit) for edit in trace.edits]
        requests.append({"do": "decode", "id": number, "model": name, "settings": trace.settings, "edits": edits, **given})
    script = "async (requests) => { const all = []; for (const r of requests) all.push(await ask(r)); return all; }"
    return page.evaluate(script, requests)


def differences(expected, found, path: str = "") -> list[str]:
    """Where two records differ: probabilities by 1e-5 or more, entropies by 1e-4, all else at all."""
    if isinstance(expected, dict) and isinstance(found, dict) and expected.keys() == found.keys():
        own = [name for name in expected if name not in ("seconds", "row")]
        return [d for name in own for d in differences(expected[name], found[name], f"{path} {name}")]
    if isinstance(expected, list | tuple) and isinstance(found, list) and len(expected) == len(found):
        return [d for i, pair in enumerate(zip(expected, found)) for d in differences(*pair, f"{path} {i}")]
    if isinstance(expected, float) and isinstance(found, float | int):
        if abs(expected - found) < (1e-4 if path.endswith("entropy") else 1e-5):
            return []
    return [] if expected == found else [f"{path}: {str(expected)[:200]} is {str(found)[:200]} in the page"]


def test_every_step_of_every_decoding_equals_pythons(page, decodings):
    assert len(decodings) >= 300
    wrong = {}
    for number, ((name, trace), answers) in enumerate(zip(decodings, decode_by_page(page, decodings), strict=True)):
        found = answers[-1].get("trace", answers[-1])
        if problems := differences(trace.to_json(), found):
            wrong[number, name, trace.style] = problems[:2]
    assert not wrong, f"{len(wrong)} of {len(decodings)}: {json.dumps(list(map(str, wrong.items())), indent=1)}"


def branches(trace: Trace, eos: int) -> list[list[Edit]]:
    """Edits of every action for a decoding: of a kept and of an open position, of several at a time, behind the end."""
    first, last = trace.steps[0].commits[0], trace.steps[-1].commits[-1]
    other = first.alternatives[0][0]
    lists = [
        [Edit(1, first.position, "take", other, "why not")],
        [Edit(1, first.position, "forbid", first.token)],
        [Edit(0, first.position, "forbid", first.token), Edit(1, first.position, "forbid", other)],
        [Edit(2, first.position, "mask")],
        [Edit(len(trace.steps), last.position, "mask"), Edit(len(trace.steps), last.position, "forbid", last.token)],
        [Edit(len(trace.steps), first.position, "write", other), Edit(1, first.position, "write", eos)][:1],
        [Edit(1, first.position, "write", eos, "an end")],
    ]
    if trace.style != "ar":
        masks = [i for i, token in enumerate(trace.initial) if token == trace.mask_token_id]
        lists += [
            [Edit(0, masks[-1], "write", other), Edit(0, masks[-2], "take", eos)],
            [Edit(1, masks[2], "write", 9), Edit(1, masks[0], "mask"), Edit(2, masks[0], "write", 9), Edit(2, masks[2], "mask")],
            [Edit(0, position, "write", 10) for position in masks[1:]],
            [Edit(3, position, "mask") for position in masks],
        ]
    return lists


def test_a_branch_equals_pythons(page, checkpoints):
    """Edits of every action, in every style, sampled or not; a budget and several blocks among them."""
    tokenizer = checkpoints["ar"].tokenizer
    prompt, gaps = chat_prompt(tokenizer, PROMPTS[0]), with_gaps(tokenizer, GAPS[3])
    jobs = [
        ("ar", "ar", prompt, {}), ("ar", "ar", prompt, SAMPLED[0]), ("llada1", "llada1", prompt, {"steps": 6}),
        ("llada1", "llada1", prompt, {"block_length": 4, "steps": 9}), ("llada1", "llada1", prompt, {"remasking": "random"}),
        ("llada1", "gaps", gaps, {"steps": 4}), ("llada2", "llada2", prompt, {"block_length": 4}),
        ("llada2", "llada2", prompt, {**CAPS, "threshold": 0.7, "eos_early_stop": False}), ("both", "llada2", prompt, {}),
        ("llada2", "llada2", prompt, {"threshold": None, "steps": 5, "cfg_scale": 0.5}), ("llada2", "llada2", prompt, SAMPLED[1]),
    ]  # fmt: skip
    made, refused = [], 0
    for name, style, asked, settings in jobs:
        [(_, plain)] = decode_by_python(name, checkpoints[name], style, [asked], settings)
        for edits in branches(plain, tokenizer.eos_token_id):
            try:
                made += decode_by_python(name, checkpoints[name], style, [asked], settings, edits)
            except ValueError as error:  # a step that is not reached: the page says the same
                refused += 1
                given = {"tokens": asked} if style == "gaps" else {"prompt": asked}
                request = {"do": "decode", "id": "refused", "model": name, "settings": plain.settings, **given}
                request["edits"] = [vars(edit) for edit in edits]
                assert page.evaluate("(request) => ask(request)", request)[-1]["error"] == str(error)
    assert len(made) >= 90 and {edit.action for _, trace in made for edit in trace.edits} == {"take", "write", "mask", "forbid"}
    wrong = {}
    for number, ((name, trace), answers) in enumerate(zip(made, decode_by_page(page, made), strict=True)):
        if problems := differences(trace.to_json(), answers[-1].get("trace", answers[-1])):
            wrong[number, name, trace.style, str(trace.edits)] = problems[:2]
    assert not wrong, f"{len(wrong)} of {len(made)}: {json.dumps(list(map(str, wrong.items())), indent=1)}"


# the rest of the worker ----------------------------------------------------------------------------------------------


def request(**values) -> dict:
    """A request to decode, of LLaDA 2 unless another is named."""
    settings = {"style": "llada2", "block_length": 8, "max_new_tokens": LENGTH, **values.pop("settings", {})}
    return {"do": "decode", "id": "run", "model": "llada2", "settings": settings, **values}


def ask(page, message: dict) -> list[dict]:
    return page.evaluate("(request) => ask(request)", message)


def test_the_whole_top_of_a_step(page, checkpoints):
    prompt = chat_prompt(checkpoints["ar"].tokenizer, PROMPTS[0])
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
    changed = [{"threshold": 0.9}, {"threshold": 0.9}, {"threshold": 0.2}, {"temperature": 0.8, "seed": 3}, {"cfg_scale": 0.7}]
    reused = []
    for settings in changed:
        steps = [answer for answer in ask(page, request(text="今天好不好？", settings=settings)) if "step" in answer]
        reused.append([answer["reused"] for answer in steps])
        assert all(answer["step"]["seconds"] > 0 for answer in steps)
        assert all(len(answer["entropies"]) >= len(answer["step"]["commits"]) for answer in steps)
    assert not any(reused[0]) and all(reused[1])
    assert reused[2][0] and reused[3][0]


def test_attention_of_a_layer(page, checkpoints):
    prompt = chat_prompt(checkpoints["ar"].tokenizer, PROMPTS[2])
    for name, layer in (("llada2", 1), ("odd", 1)):
        model = checkpoints[name].model
        seen = next(a["begun"]["initial"] for a in ask(page, request(model=name, prompt=prompt)) if "begun" in a)
        got = ask(page, {"do": "attention", "id": "run", "step": 0, "layer": layer})[-1]["attention"]
        length = got["length"]
        position, inputs = torch.arange(length)[None], []
        mask = position[0][:, None] // 8 >= position // 8
        hook = model.model.layers[layer].input_layernorm.register_forward_hook(lambda *parts: inputs.append(parts[2]))
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
    ({"text": "\ud800"}, "is half a surrogate pair"), ({"prompt": []}, "prompt: is empty"), ({"model": "x"}, "model x: is not open"),
    ({"prompt": [1, 3]}, "prompt: holds the mask token (3) at 1"), ({"gaps": "no gap"}, "gaps: the text has none"),
    ({"tokens": [1, 5]}, "tokens: hold no mask (3)"), ({"settings": {"style": "x"}}, 'style="x": must be ar, llada1, llada2'),
    ({"settings": {"max_new_tokens": 5000}}, "more than max_position_embeddings=2048"), ({"do": "x"}, "x: no such action"),
    ({"settings": {"cap_start_ratio": 0.5}}, "cap_end_ratio=null: must be set with cap_start_ratio"),
    ({"settings": {"style": "llada1"}}, "block_length=8: must be a divisor of max_new_tokens=12"),
    ({"settings": {"style": "llada1", "block_length": 6, "steps": 5}}, "steps=5: must be a multiple of the 2 blocks"),
    ({"settings": {"tresh": 1}}, "tresh: is no setting"), ({"settings": {"style": "ar", "cfg_scale": 1}}, "cfg_scale=1: must be 0"),
    ({"edits": [{"step": 0, "position": 1, "action": "mask"}]}, "edits: mask at step 0, position 1: this position is of the prompt"),
    ({"edits": [{"step": 0, "position": 25, "action": "take", "token": 3}]}, "the token is the mask; use the action mask"),
]  # fmt: skip


@pytest.mark.parametrize("changes, message", WRONG, ids=lambda value: value if isinstance(value, str) else "")
def test_what_cannot_be_done_is_named(page, changes, message):
    script = "(request) => { if (request.text) request.text = JSON.parse(`\"${request.text}\"`); return ask(request); }"
    assert message in page.evaluate(script, request(**changes))[-1]["error"]


# random numbers and tokens -------------------------------------------------------------------------------------------


def test_random_numbers_are_torchs(page):
    """Of tensors small and large, whole numbers of float64 and float32 one after the other."""
    for seed in (0, 1, 42, 2**31 - 1, 2**32 + 5, 2**53 - 1):
        generator, expected = torch.Generator().manual_seed(seed), []
        for shape, dtype in (((1000,), torch.float64), ((3,), torch.float32), ((10, 100), torch.float32), ((1,), torch.float64)):
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
            texts += [turn["content"] for turn in entry.get("conversations", ())] + [entry[key] for key in ("text",) if key in entry]
    assert len(texts) > 3000
    ids = [encode_text(tokenizer, text).ids for text in texts]
    for text, expected, found in zip(texts, ids, in_page.evaluate("(texts) => texts.map((t) => tokenizer.encode(t))", texts), strict=True):
        assert found == expected, text[:200]
    for skip in (False, True):
        found = in_page.evaluate("([ids, skip]) => ids.map((some) => tokenizer.decode(some, skip))", [[*ids, list(range(1320))], skip])
        assert found == [tokenizer.decode(some, skip_special_tokens=skip) for some in [*ids, list(range(1320))]]


def test_the_chat_template_writes_the_same_tokens(in_page, checkpoints):
    tokenizer = checkpoints["ar"].tokenizer
    said = [[("user", "你好")], [("user", "Hi"), ("assistant", "Hello!\n"), ("user", "the end")], [("system", ""), ("user", " a\n")]]
    for turns in said:
        messages = [{"role": role, "content": content} for role, content in turns]
        found = in_page.evaluate("(messages) => tokenizer.chat(messages)", messages)
        assert found == tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    for text in HOSTILE:
        assert in_page.evaluate("(content) => tokenizer.chat([{ role: 'user', content }])", text) == chat_prompt(tokenizer, text)


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

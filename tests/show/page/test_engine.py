"""The model that runs in the page against Python's: every step of some hundred decodings, and of branches of them.

Python decodes at the time of the test, the page's worker decodes the same, and the two records are compared.
"""

import json
from itertools import product

import pytest
from engine_page import ask, decode_by_python, differences, open_checkpoints, open_page

from dllm_core.data.chat import chat_prompt
from dllm_core.data.tokenizer import encode_text
from dllm_core.trace import Edit, Trace

PROMPTS = ["你好！", "3加5", "Who are you?", "你会什么"]
GAPS = ["小言____语言模型", "____是数字", "I am a ____ model.", "你____，很高兴____"]
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
        {"threshold": 0.97, "steps": 3}, {"threshold": 0.97, "minimal_topk": 2},
        CAPS, {**CAPS, "max_decode_per_step": 2},
        {"max_decode_per_step": 1}, {"threshold": 0.3, "max_decode_per_step": 3}, {"cfg_scale": 1.0},
        {"cfg_scale": 0.5, "block_length": 4, "use_cache": False}, {"eos_early_stop": False, "threshold": 0.7},
        {"use_cache": False}, {"block_length": 4}, {"block_length": 16}, {"block_length": None}, {"max_new_tokens": 5},
        {"alternatives": 0, "draft": False}, *SAMPLED, {"temperature": 0.5, "cfg_scale": 1.0, "seed": 9},
    ],
    "gaps": [{}, {"steps": 2}, {"cfg_scale": 1.0}, {"remasking": "random"}, *SAMPLED[:3]],
    "other": [{}, {"block_length": 4, "use_cache": False}, {"cfg_scale": 1.0}, {"temperature": 1.0, "seed": 4}],
}  # fmt: skip


@pytest.fixture(scope="module")
def checkpoints() -> dict:
    return open_checkpoints()


@pytest.fixture(scope="module")
def page(browser, checkpoints, tmp_path_factory):
    return open_page(browser, checkpoints, tmp_path_factory.mktemp("page"))


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
    jobs += [
        (name, "llada2", prompts, settings)
        for name, settings in product(("shift", "grid", "both", "odd"), SETTINGS["other"])
    ]
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
        requests.append(
            {"do": "decode", "id": number, "model": name, "settings": trace.settings, "edits": edits, **given}
        )
    script = "async (requests) => { const all = []; for (const r of requests) all.push(await ask(r)); return all; }"
    return page.evaluate(script, requests)


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
        [Edit(len(trace.steps), first.position, "write", other)],
        [Edit(1, first.position, "write", eos, "an end")],
    ]
    if trace.style != "ar":
        masks = [i for i, token in enumerate(trace.initial) if token == trace.mask_token_id]
        lists += [
            [Edit(0, masks[-1], "write", other), Edit(0, masks[-2], "take", eos)],
            [
                Edit(1, masks[2], "write", 9),
                Edit(1, masks[0], "mask"),
                Edit(2, masks[0], "write", 9),
                Edit(2, masks[2], "mask"),
            ],
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
        ("llada1", "llada1", prompt, {"block_length": 4, "steps": 9}),
        ("llada1", "llada1", prompt, {"remasking": "random"}),
        ("llada1", "gaps", gaps, {"steps": 4}), ("llada2", "llada2", prompt, {"block_length": 4}),
        ("llada2", "llada2", prompt, {**CAPS, "threshold": 0.7, "eos_early_stop": False}),
        ("llada2", "llada2", prompt, {"threshold": None, "steps": 5, "cfg_scale": 0.5}),
        ("llada2", "llada2", prompt, SAMPLED[1]), ("both", "llada2", prompt, {}),
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
                assert ask(page, request)[-1]["error"] == str(error)
    assert len(made) >= 90 and {edit.action for _, trace in made for edit in trace.edits} == {
        "take",
        "write",
        "mask",
        "forbid",
    }
    wrong = {}
    for number, ((name, trace), answers) in enumerate(zip(made, decode_by_page(page, made), strict=True)):
        if problems := differences(trace.to_json(), answers[-1].get("trace", answers[-1])):
            wrong[number, name, trace.style, str(trace.edits)] = problems[:2]
    assert not wrong, f"{len(wrong)} of {len(made)}: {json.dumps(list(map(str, wrong.items())), indent=1)}"

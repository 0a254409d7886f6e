"""Edits by hand: slow loops that apply them by the rules, each action in each style by hand, what never changes, errors."""

import dataclasses
import json
import math
import random

import pytest
import torch
from small import BOS, EOS, MASK, VOCAB, checkpoint_of, logits_of, tiny
from test_samplers import HOT, STYLES, Words, close, confident, slow_prediction, tokens_and_commits

from dllm_core.config import DecodeConfig
from dllm_core.policies import tokens_per_step
from dllm_core.samplers import decode, decode_gaps, generate, infill, new_trace
from dllm_core.trace import ACTIONS, Edit, Trace

PROMPT = [BOS, 5, 6]  # in the first of LLaDA 2's blocks of 4
ALL = {**STYLES, **HOT}


def branch(model, config, *edits, prompt=PROMPT, label_shift=False) -> Trace:
    return generate(checkpoint_of(model, Words(), label_shift), [prompt], config, edits)[0]


def timeless(trace: Trace) -> list:
    return [dataclasses.replace(step, seconds=0.0) for step in trace.steps]


def on_the_way(trace: Trace) -> list[list[int]]:
    """The sequence after 0, 1, 2, … steps."""
    return [trace.tokens_at(k) for k in range(len(trace.steps) + 1)]


# --- the rules, written out slowly ---------------------------------------------------------------------------------


def slow(model, prompt, config: DecodeConfig, edits, label_shift) -> tuple[list[int], list[dict[int, int]]]:
    """Greedy decoding of one sequence without a cache: each step looks at the tokens alone, and at how many steps in a
    row its block has had."""
    size = {"ar": 1, "llada1": config.block_length or config.max_new_tokens, "llada2": config.block_length}[config.style]
    origin = 0 if config.style == "llada2" else len(prompt)
    end = len(prompt) + config.max_new_tokens
    length = -(-end // size) * size if config.style == "llada2" else end
    tokens, commits, forbidden, last, in_a_row = prompt + [MASK] * (length - len(prompt)), [], set(), None, 0
    total = tokens.count(MASK)
    while True:
        for edit in edits:
            if edit.step == len(commits):
                by_hand(tokens, edit, forbidden, config.style)
        answer = tokens[len(prompt) : end]
        ended = config.eos_early_stop and EOS in answer and MASK not in answer[: answer.index(EOS)]
        if MASK not in answer or ended:
            return tokens[:end], commits
        first = len(prompt) + answer.index(MASK)
        start = first - (first - origin) % size
        in_a_row = in_a_row + 1 if start == last else 0
        last = start
        p = probabilities(model, tokens, start, size, prompt, config, label_shift, forbidden)
        open_ = [i for i in range(start, start + size) if tokens[i] == MASK]
        confidence = {i: p[i].max().item() for i in open_}
        best = sorted(open_, key=lambda i: -confidence[i])
        chosen = best[: how_many(config, open_, confidence, in_a_row, tokens.count(MASK), total)]
        for i in chosen:
            tokens[i] = int(p[i].argmax())
        commits.append({i: tokens[i] for i in sorted(chosen) if i < end})


def by_hand(tokens, edit, forbidden, style):
    if edit.action == "forbid":
        forbidden.add((edit.position, edit.token))
        if tokens[edit.position] != edit.token:
            return
    new = edit.token if edit.action in ("take", "write") else MASK
    if tokens[edit.position] != new and style == "ar":
        tokens[edit.position :] = [MASK] * len(tokens[edit.position :])
    tokens[edit.position] = new


def probabilities(model, tokens, start, size, prompt, config, label_shift, forbidden):
    if config.style == "ar":
        out = logits_of(model, tokens[:start], lambda q, k: k <= q)
        p = torch.cat([out[:1], out])
        p[:, MASK] = -torch.inf
    else:
        shown = tokens if config.style == "llada1" else tokens[: start + size]
        allowed = (lambda q, k: True) if config.style == "llada1" else (lambda q, k: k // size <= q // size)
        p = slow_prediction(model, shown, allowed, label_shift, config.cfg_scale, len(prompt)).log()
    for position, token in forbidden:
        if position < len(p):
            p[position, token] = -torch.inf
    return p.softmax(dim=-1)


def how_many(config, open_, confidence, in_a_row, masked, total) -> int:
    if config.style == "ar":
        return 1
    if config.style == "llada1":
        blocks = config.max_new_tokens // (config.block_length or config.max_new_tokens)
        left = (config.steps or config.max_new_tokens) // blocks - in_a_row
        return tokens_per_step(len(open_), min(max(left, 1), len(open_)))[0]
    quotas = tokens_per_step(config.block_length, config.steps or config.block_length)
    least = min(max(quotas[in_a_row] if in_a_row < len(quotas) else 0, config.minimal_topk), len(open_))
    above = sum(p > (math.inf if config.threshold is None else config.threshold) for p in confidence.values())
    count = max(above, least)
    if config.cap_start_ratio is not None:
        ratio = config.cap_start_ratio + (config.cap_end_ratio - config.cap_start_ratio) * (1 - masked / total)
        count = min(count, max(1, math.floor(ratio * masked)))
    return count


def drawn_edits(draw: random.Random, trace: Trace, style: str) -> list[Edit]:
    """One to three edits of a decoding, each made where the branch before it had come to."""
    edits, steps, first = [], len(trace.steps), len(trace.prompt)
    for step in sorted(draw.randrange(steps + 1) for _ in range(draw.randint(1, 3)))[:1] * draw.randint(1, 3):
        tokens = trace.tokens_at(step)
        last = tokens.index(MASK) if style == "ar" and MASK in tokens else len(tokens) - 1
        position = draw.randint(first, max(first, last))
        action = draw.choice(ACTIONS)
        token = tokens[position] if action == "forbid" and tokens[position] != MASK else draw.randrange(3, MASK)
        edits.append(Edit(step, position, action, None if action == "mask" else token))
        if style == "ar":  # a second edit could stand behind the masks of the first
            break
    return edits


@pytest.mark.parametrize("label_shift", [False, True])
@pytest.mark.parametrize("style", STYLES)
def test_branches_equal_the_slow_loop(style, label_shift):
    draw = random.Random(style)
    for seed in range(8):
        model, early = tiny(seed), seed % 2 == 0
        config = dataclasses.replace(STYLES[style], eos_early_stop=early, use_cache=seed % 4 < 3)
        if config.style != "ar" and seed % 3 == 2:
            config = dataclasses.replace(config, cfg_scale=1.5)
        edits = drawn_edits(draw, branch(model, config, label_shift=label_shift), config.style)
        trace = branch(model, config, *edits, label_shift=label_shift)
        tokens, commits = slow(model, PROMPT, config, edits, label_shift)
        assert tokens_and_commits(trace) == (tokens, commits), (seed, edits)
        assert trace.written()[-1] == sum(token != MASK for token in trace.final[3:]) or EOS in trace.final


# --- by hand -------------------------------------------------------------------------------------------------------

# Positions 3 to 8 are decoded: the token and its probability, whatever stands elsewhere.
CHOICES = [(0, 0.5)] * 3 + [(7, 0.95), (8, 0.6), (9, 0.7), (10, 0.92), (11, 0.93), (12, 0.5)]
BY_HAND = {
    "ar": DecodeConfig("ar", max_new_tokens=6),
    "llada1": DecodeConfig("llada1", max_new_tokens=6, steps=3),
    "llada2": DecodeConfig("llada2", max_new_tokens=6, block_length=3, threshold=0.9),
}


def scripted(style: str):
    """Position i prefers CHOICES[i]; AR reads its predictions one element before."""
    return confident(CHOICES[1:] + CHOICES[:1] if style == "ar" else CHOICES)


@pytest.mark.parametrize("style, edit, steps", [
    # after two steps AR has written 7 and 8
    ("ar", Edit(2, 3, "take", 4), [{3: 7}, {4: 8}, {4: 8}, {5: 9}, {6: 10}, {7: 11}, {8: 12}]),
    ("ar", Edit(2, 5, "write", 4), [{3: 7}, {4: 8}, {6: 10}, {7: 11}, {8: 12}]),
    ("ar", Edit(2, 3, "mask"), [{3: 7}, {4: 8}, {3: 7}, {4: 8}, {5: 9}, {6: 10}, {7: 11}, {8: 12}]),
    ("ar", Edit(2, 4, "forbid", 8), [{3: 7}, {4: 8}, {4: 0}, {5: 9}, {6: 10}, {7: 11}, {8: 12}]),
    ("ar", Edit(2, 4, "forbid", 7), [{3: 7}, {4: 8}, {5: 9}, {6: 10}, {7: 11}, {8: 12}]),
    ("ar", Edit(6, 8, "mask"), [{3: 7}, {4: 8}, {5: 9}, {6: 10}, {7: 11}, {8: 12}, {8: 12}]),
    # LLaDA 1 writes two a step: 3 and 7, 6 and 5, 4 and 8
    ("llada1", Edit(1, 3, "take", 4), [{3: 7, 7: 11}, {5: 9, 6: 10}, {4: 8, 8: 12}]),
    ("llada1", Edit(1, 8, "write", 4), [{3: 7, 7: 11}, {5: 9, 6: 10}, {4: 8}]),
    ("llada1", Edit(1, 3, "mask"), [{3: 7, 7: 11}, {3: 7, 5: 9, 6: 10}, {4: 8, 8: 12}]),  # five in the two steps left
    ("llada1", Edit(2, 7, "mask"), [{3: 7, 7: 11}, {5: 9, 6: 10}, {4: 8, 7: 11, 8: 12}]),
    ("llada1", Edit(1, 6, "forbid", 10), [{3: 7, 7: 11}, {4: 8, 5: 9}, {6: 0, 8: 12}]),
    ("llada1", Edit(1, 3, "forbid", 7), [{3: 7, 7: 11}, {4: 8, 5: 9, 6: 10}, {3: 0, 8: 12}]),
    ("llada1", Edit(3, 5, "mask"), [{3: 7, 7: 11}, {5: 9, 6: 10}, {4: 8, 8: 12}, {5: 9}]),  # a step more than planned
    # LLaDA 2 writes 3; 5; 4; then in the next block 6 and 7; 8
    ("llada2", Edit(1, 4, "take", 4), [{3: 7}, {5: 9}, {6: 10, 7: 11}, {8: 12}]),
    ("llada2", Edit(3, 8, "write", 4), [{3: 7}, {5: 9}, {4: 8}, {6: 10, 7: 11}]),
    ("llada2", Edit(4, 3, "mask"), [{3: 7}, {5: 9}, {4: 8}, {6: 10, 7: 11}, {3: 7}, {8: 12}]),  # back, and on
    ("llada2", Edit(4, 6, "mask"), [{3: 7}, {5: 9}, {4: 8}, {6: 10, 7: 11}, {6: 10}, {8: 12}]),
    ("llada2", Edit(4, 7, "forbid", 11), [{3: 7}, {5: 9}, {4: 8}, {6: 10, 7: 11}, {8: 12}, {7: 0}]),
    ("llada2", Edit(5, 3, "mask"), [{3: 7}, {5: 9}, {4: 8}, {6: 10, 7: 11}, {8: 12}, {3: 7}]),
])  # fmt: skip
def test_each_action_by_hand(style, edit, steps):
    trace = branch(scripted(style), BY_HAND[style], edit)
    assert [{commit.position: commit.token for commit in step.commits} for step in trace.steps] == steps
    assert trace.edits == [edit] and MASK not in trace.final
    states = on_the_way(trace)
    before, after = branch(scripted(style), BY_HAND[style]).tokens_at(edit.step), states[edit.step]
    if edit.action in ("take", "write"):
        assert after[edit.position] == edit.token == trace.final[edit.position]
    elif edit.action == "mask" or before[edit.position] == edit.token:
        assert after[edit.position] == MASK
    else:
        assert after == before
    for k, step in enumerate(trace.steps):  # each step fills masks of the state before it, and nothing else
        assert all(states[k][commit.position] == MASK for commit in step.commits)
        assert step.masked == trace.tokens_at(k + 1).count(MASK) or k + 1 == edit.step


@pytest.mark.parametrize("style", BY_HAND)
def test_a_start_that_is_written_whole_needs_no_step(style):
    whole = [Edit(0, position, "write", 4) for position in range(3, 9)]
    trace = branch(scripted(style), BY_HAND[style], *whole)
    assert trace.steps == [] and trace.final == [BOS, 5, 6] + [4] * 6 and trace.written() == [6]
    opened = branch(scripted(style), BY_HAND[style], *whole, Edit(0, 8, "mask"))
    assert opened.final == [BOS, 5, 6] + [4] * 5 + [12] and len(opened.steps) == 1


@pytest.mark.parametrize("style", BY_HAND)
def test_an_end_written_by_hand_ends_the_answer_and_a_mask_opens_it_again(style):
    config = BY_HAND[style]
    ended = branch(scripted(style), config, Edit(0, 3, "write", EOS))
    assert ended.steps == [] and ended.ended and ended.tokens == 1
    opened = branch(scripted(style), config, Edit(0, 3, "write", EOS), Edit(0, 3, "mask"))
    assert timeless(opened) == timeless(branch(scripted(style), config))


def test_gaps_take_edits():
    tokens = [BOS, MASK, 6, MASK, MASK, 8]
    model = checkpoint_of(confident(CHOICES[3:]), Words())
    config = DecodeConfig("llada1", steps=3)
    edits = [Edit(1, 4, "take", 5), Edit(2, 1, "mask"), Edit(2, 1, "forbid", 8)]
    trace = infill(model, tokens, config, edits)
    assert on_the_way(trace) == [
        tokens, [BOS, MASK, 6, MASK, 5, 8], [BOS, MASK, 6, 10, 5, 8], [BOS, 0, 6, 10, 5, 8]
    ]  # fmt: skip
    assert trace.edits == edits and trace.steps[0].commits[0].token == 11  # what the person replaced
    with pytest.raises(ValueError, match="position 2: this position is of the prompt or was given"):
        infill(model, tokens, config, [Edit(0, 2, "mask")])
    with pytest.raises(ValueError, match="position 2"):
        list(decode_gaps(model, tokens, config, [Edit(0, 2, "mask")]))


# --- what an edit leaves alone -------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ALL)
def test_an_edit_that_changes_nothing_leaves_the_trace_equal(style):
    for seed in range(3):
        model, config = tiny(seed), dataclasses.replace(ALL[style], alternatives=2, draft=True)
        plain = branch(model, config)
        edits = []
        for k in range(len(plain.steps) + 1):
            tokens = plain.tokens_at(k)
            edits += [Edit(k, i, "mask") if t == MASK else Edit(k, i, "take", t) for i, t in enumerate(tokens) if i > 2]
        assert timeless(branch(model, config, *edits)) == timeless(plain)


@pytest.mark.parametrize("style", ALL)
def test_a_branch_equals_its_parent_up_to_its_edit(style):
    draw = random.Random(style)
    for seed in range(3):
        model, config = tiny(seed), dataclasses.replace(ALL[style], alternatives=2, draft=True)
        parent = branch(model, config)
        for step in range(len(parent.steps) + 1):
            tokens = parent.tokens_at(step)
            position = draw.choice([i for i, token in enumerate(tokens) if i > 2 and token != MASK] or [3])
            trace = branch(model, config, Edit(step, position, "write", 3 + (tokens[position] - 2) % 12))
            assert timeless(trace)[:step] == timeless(parent)[:step]
            states = on_the_way(trace)
            assert states[:step] == on_the_way(parent)[:step] and states[step] != tokens


@pytest.mark.parametrize("style", ALL)
def test_a_forbidden_token_never_appears_at_its_position(style):
    for seed in range(3):
        model = tiny(seed)
        config = dataclasses.replace(ALL[style], alternatives=VOCAB, draft=True, eos_early_stop=False)
        final = branch(model, config).final
        for position in range(3, len(final)):
            edits = [Edit(0, position, "forbid", final[position])]
            trace = branch(model, config, *edits)
            assert all(tokens[position] != final[position] for tokens in on_the_way(trace))
            for step in trace.steps:
                assert (position, final[position]) not in {(at, token) for at, token, _ in step.draft}
                for commit in step.commits:
                    if commit.position == position:
                        assert dict(commit.alternatives)[final[position]] == 0 and sum(
                            [commit.confidence, *(p for _, p in commit.alternatives)]
                        ) == pytest.approx(1, abs=1e-5)
    everything = [Edit(0, 4, "forbid", token) for token in range(VOCAB) if token not in (9, MASK)]
    assert branch(tiny(1), config, *everything).final[4] == 9


@pytest.mark.parametrize("style", [name for name in STYLES if name != "ar"])
def test_a_branch_with_a_cache_equals_one_without(style):
    config = dataclasses.replace(STYLES[style], alternatives=2, draft=True, eos_early_stop=False)
    for seed in range(3):
        model = tiny(seed)
        last = len(branch(model, config).steps)
        edits = [Edit(last, 4, "mask"), Edit(last, 9, "mask"), Edit(last, 7, "write", 8)]
        close(branch(model, config, *edits), branch(model, dataclasses.replace(config, use_cache=False), *edits))


# --- the record and the errors -------------------------------------------------------------------------------------


def test_a_branch_is_saved_and_repeats_from_its_record_alone(tmp_path):
    config = STYLES["llada2"]
    edits = [Edit(2, 4, "take", 5, why="试试 <b>"), Edit(1, 3, "forbid", 8), Edit(2, 5, "mask")]
    trace = branch(tiny(), config, *edits)
    assert trace.edits == [edits[1], edits[0], edits[2]] and {5, 8} <= set(trace.vocabulary)
    loaded = Trace.load(trace.save(tmp_path / "branch.json"))
    assert loaded == trace
    again = branch(tiny(), DecodeConfig(**loaded.settings), *loaded.edits, prompt=loaded.prompt)
    assert timeless(again) == timeless(trace)


def test_a_trace_from_before_there_were_edits_still_loads(tmp_path):
    trace = branch(tiny(), STYLES["llada1"])
    record = trace.to_json()
    del record["edits"]
    (tmp_path / "old.json").write_text(json.dumps(record))
    assert Trace.load(tmp_path / "old.json") == trace and trace.edits == []


@pytest.mark.parametrize("change, words", [
    ({"position": 99}, "within the sequence"), ({"position": "4"}, "position must be int"), ({"step": 99}, "step"),
    ({"step": -1}, "step"), ({"action": "jump"}, "take, write, mask, forbid"), ({"token": "a"}, "token must be"),
    ({"token": None}, "need a token"), ({"why": 3}, "why must be str"), ({"odd": 1}, "odd"), ({"position": 1}, "prompt"),
], ids=str)  # fmt: skip
def test_a_saved_edit_that_cannot_be_is_named(tmp_path, change, words):
    record = branch(tiny(), STYLES["llada2"], Edit(1, 4, "take", 5)).to_json()
    record["edits"][0].update(change)
    (tmp_path / "bad.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=f"bad.json: not a decoding trace .*{words}"):
        Trace.load(tmp_path / "bad.json")


@pytest.mark.parametrize("edit, words", [
    (Edit(0, 12, "mask"), "mask at step 0, position 12: position must be within the sequence of 12"),
    (Edit(0, -1, "mask"), "position -1: position must be within"),
    (Edit(0, 2, "take", 4), "take 4 at step 0, position 2: this position is of the prompt"),
    (Edit(0, 4, "swap", 4), "swap 4 at step 0, position 4: action must be one of take, write, mask, forbid"),
    (Edit(0, 4, "take", VOCAB), f"token must be within the vocabulary of {VOCAB}"),
    (Edit(0, 4, "forbid", -1), "token must be within the vocabulary"),
    (Edit(0, 4, "write", MASK), "the token is the mask; use the action mask"),
    (Edit(0, 4, "take"), "take, write and forbid need a token"),
    (Edit(0, 4, "mask", 4), "mask has none"),
    (Edit(99, 4, "mask"), "mask at step 99, position 4: this step is never reached; the decoding has"),
    (Edit(-1, 4, "mask"), "at step -1"),
], ids=str)  # fmt: skip
def test_an_edit_that_cannot_be_made_is_named(edit, words):
    with pytest.raises(ValueError, match=words):
        branch(tiny(), STYLES["llada2"], edit)


def test_where_no_edit_can_be():
    checkpoint = checkpoint_of(tiny(), Words())
    with pytest.raises(ValueError, match="edits: are of one sequence, not of a batch of 2"):
        list(decode(checkpoint, [PROMPT, PROMPT], STYLES["llada2"], [Edit(0, 4, "mask")]))
    with pytest.raises(ValueError, match="position 5: AR writes from left to right"):
        branch(tiny(), STYLES["ar"], Edit(1, 5, "write", 4))
    with pytest.raises(ValueError, match="vocabulary"):
        new_trace(checkpoint, PROMPT, STYLES["ar"], [Edit(1, 5, "write", 400)])

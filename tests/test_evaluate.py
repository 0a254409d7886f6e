"""Likelihoods on a toy small enough to enumerate; scores and speeds by hand."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from small import BOS, EOS, MASK, VOCAB, batch_of, block_logits, documents_of, logits_of, tiny

from dllm_core import answers
from dllm_core.answers import answer_all, exact_match, speed, wilson
from dllm_core.batches import Batch
from dllm_core.config import DecodeConfig
from dllm_core.evaluate import Estimate, ar_nll, bound, conditional_nll
from dllm_core.objectives import ar_loss
from dllm_core.trace import Trace

PROMPT, ANSWER = [1, 7], [4, 11, 4, 8]
L = len(ANSWER)


class Words:
    """A tokenizer of which only ids and decoding are asked."""

    mask_token_id, eos_token_id, pad_token_id = MASK, EOS, 0

    def decode(self, tokens, skip_special_tokens=False):
        return " ".join(str(t) for t in tokens if not (skip_special_tokens and t <= EOS))


def subset_losses(predict, length: int) -> dict[frozenset, dict[int, float]]:
    """For every set of masked places the loss of each, predict(masked) → [length] losses."""
    places = range(length)
    sets = itertools.chain.from_iterable(itertools.combinations(places, n) for n in range(1, length + 1))
    return {frozenset(s): {i: float(predict(s)[i]) for i in s} for s in sets}


def exact_bound(losses: dict, length: int) -> float:
    """E over l ~ U{1..L} and sets of l places of L/l · Σ losses: each set weighs 1 / (l · C(L, l)), in nats."""
    return sum(sum(each.values()) / (len(s) * math.comb(length, len(s))) for s, each in losses.items())


def exact_nll(losses: dict, length: int) -> float:
    """−log of the mean over all orders of Π p(x_σi | x_σ<i): the exact likelihood of an any-order model."""
    total = 0.0
    for order in itertools.permutations(range(length)):
        total += math.exp(-sum(losses[frozenset(order[i:])][order[i]] for i in range(length)))
    return -math.log(total / math.factorial(length))


def full_losses(model) -> dict:
    def predict(masked):
        tokens = PROMPT + [MASK if i in masked else token for i, token in enumerate(ANSWER)]
        log_p = logits_of(model, tokens, lambda q, k: True).log_softmax(dim=-1)
        return [-log_p[len(PROMPT) + i, token] for i, token in enumerate(ANSWER)]

    return subset_losses(predict, L)


def toy_batch(rows: int = 1) -> Batch:
    tokens = torch.tensor([PROMPT + ANSWER]).repeat(rows, 1)
    position = torch.arange(tokens.shape[1]).expand_as(tokens)
    return Batch(tokens, torch.zeros_like(tokens), position, position >= len(PROMPT))


def test_the_enumeration_itself():
    """A model whose predictions do not depend on the rest: every order, and the bound, give the same sum."""
    losses = subset_losses(lambda masked: [0.1, 0.2, 0.4], 3)
    assert exact_bound(losses, 3) == pytest.approx(0.7) and exact_nll(losses, 3) == pytest.approx(0.7)
    assert exact_bound({frozenset({0}): {0: 2.0}}, 1) == 2.0


@pytest.mark.parametrize("seed", range(4))
def test_the_bound_lies_above_the_exact_likelihood(seed):
    losses = full_losses(tiny(seed))
    gap = exact_bound(losses, L) - exact_nll(losses, L)
    assert gap > 0.01  # Jensen's gap, of a model whose orders disagree


def test_exactly_l_and_iid_t_agree_with_the_enumeration():
    model = tiny(1)
    exact = exact_bound(full_losses(model), L)
    by_count = conditional_nll(model, PROMPT, ANSWER, MASK, draws=4000, batch_size=500)
    by_time = bound(model, [toy_batch(2000)], MASK, draws=20)
    assert by_count.error < 0.1 and by_time.error * L < 0.1
    assert by_count.mean == pytest.approx(exact, abs=4 * by_count.error)
    assert by_time.mean * L == pytest.approx(exact, abs=4 * by_time.error * L + 0.002 * exact)  # t from 0.001 on
    assert (by_count.tokens, by_count.draws, by_time.tokens) == (L, 4000, 2000 * L)
    assert str(by_count).endswith(" nats") and str(by_time).endswith(" nats/token")


@pytest.mark.parametrize("kind", ["cosine", "cosine_squared"])
def test_the_bound_does_not_depend_on_the_schedule(kind):
    model = tiny(1)
    found = bound(model, [toy_batch(1000)], MASK, draws=10, kind=kind)
    assert found.mean * L == pytest.approx(exact_bound(full_losses(model), L), abs=4 * found.error * L + 0.01)


def test_block_by_block_bound():
    """Blocks of 2 on the grid of the document: the sum of the blocks' bounds, each given the clean blocks before it."""
    model, row = tiny(2), PROMPT + ANSWER
    exact = 0.0
    for start in (2, 4):

        def predict(masked, start=start):
            x_t = [MASK if i - start in masked else token for i, token in enumerate(row)]
            log_p = block_logits(model, row, x_t, 2).log_softmax(dim=-1)
            return [-log_p[start + i, row[start + i]] for i in range(2)]

        exact += exact_bound(subset_losses(predict, 2), 2)
    found = bound(model, [toy_batch(1000)], MASK, block_size=2, draws=10)
    assert found.mean * L == pytest.approx(exact, abs=4 * found.error * L + 0.002 * exact)


def test_blocks_of_one_with_label_shift_bound_ar_exactly():
    model, batches = tiny(), [batch_of(*[[9, 4], [13]] * 60)]
    exact = ar_nll(model, batches)
    found = bound(model, batches, MASK, block_size=1, draws=20, label_shift=True)
    assert found.tokens == exact.tokens
    assert found.mean == pytest.approx(exact.mean, abs=4 * found.error) and found.error < 0.05


def test_bounds_of_two_models_share_their_masks():
    batches = [batch_of([9, 4]), batch_of([7], seed=1)]
    first, again = (bound(tiny(), batches, MASK, draws=3) for _ in range(2))
    assert first == again
    assert bound(tiny(), batches, MASK, draws=3, seed=1) != first
    # a model a hair away differs by a hair, far below the error of the draws
    near = tiny()
    with torch.no_grad():
        near.model.norm.weight[0] += 1e-4
    assert abs(bound(near, batches, MASK, draws=3).mean - first.mean) < 1e-2 * first.error


def test_a_blank_models_bound_is_log_v():
    found = bound(tiny(initializer_range=0.0), [batch_of(*[[16]] * 200)], MASK, draws=8)
    assert found.mean == pytest.approx(math.log(VOCAB), abs=4 * found.error)


def test_the_bound_is_measured_on_the_full_range_of_times(monkeypatch):
    made = []
    make = evaluate.NoiseSchedule
    monkeypatch.setattr(evaluate, "NoiseSchedule", lambda *a, **k: made.append(make(*a, **k)) or made[-1])
    for size in (None, 4):
        bound(tiny(), [batch_of([8])], MASK, block_size=size, draws=1)
    assert all(s.t_min <= 1e-3 and s.t_max == 1.0 and s.weighting == "elbo" for s in made) and len(made) == 2


def test_the_first_token_may_be_given_as_ar_must():
    batches = [batch_of([9, 4], [6])]
    assert bound(tiny(), batches, MASK, draws=1).tokens == 19
    assert bound(tiny(), batches, MASK, draws=1, first_given=True).tokens == 16 == ar_nll(tiny(), batches).tokens


def test_ar_likelihood_is_exact_and_knows_no_batches():
    model, batch = tiny(), batch_of([9, 4], [6], [5, 5], prompt=1)
    total = 0.0
    for row, columns in documents_of(batch):
        tokens = batch.tokens[row, columns]
        log_p = logits_of(model, tokens.tolist(), lambda q, k: k <= q).log_softmax(dim=-1)
        total -= sum(log_p[i - 1, tokens[i]].item() for i in range(1, len(tokens)))
    found = ar_nll(model, [batch])
    assert found.mean == pytest.approx(total / found.tokens, rel=1e-5) and found.draws == 0 and found.error == 0
    rows = ar_nll(model, [batch.rows(i, i + 1) for i in range(3)])
    assert rows.mean == pytest.approx(found.mean, rel=1e-5) and rows.error > 0
    assert found.tokens == ar_loss(model, batch).count
    # a batch in which nothing is scored says nothing
    assert ar_nll(model, [batch, batch_of([3], prompt=3)]).mean == pytest.approx(found.mean)


def test_batch_size_changes_no_likelihood():
    means = [conditional_nll(tiny(), PROMPT, ANSWER, MASK, draws=20, batch_size=size).mean for size in (1, 7, 32)]
    assert means == pytest.approx([means[0]] * 3, rel=1e-5)


def test_every_count_of_masks_is_drawn_evenly(monkeypatch):
    """The l masked places of the draws are stratified over 1..L."""
    model, seen = tiny(), []
    forward = model.forward
    monkeypatch.setattr(
        model, "forward", lambda tokens, *rest: (seen.append((tokens == MASK).sum(1)), forward(tokens, *rest))[1]
    )
    conditional_nll(model, PROMPT, ANSWER, MASK, draws=40)
    assert torch.cat(seen).bincount().tolist() == [0, 10, 10, 10, 10]


def test_conditional_likelihood_with_label_shift_reads_a_row_earlier():
    """One answer token: −log p of the row before it, with the answer's place masked."""
    model = tiny()
    out = logits_of(model, [*PROMPT, MASK], lambda q, k: True).log_softmax(dim=-1)
    shifted, plain = (conditional_nll(model, PROMPT, [9], MASK, draws=2, label_shift=s).mean for s in (True, False))
    assert shifted == pytest.approx(-out[1, 9].item(), rel=1e-5) and plain == pytest.approx(-out[2, 9].item(), rel=1e-5)


# --- scores -------------------------------------------------------------------------------------------------------


def test_wilson_interval():
    assert wilson(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)


def test_exact_match_per_group():
    scores = exact_match(["copy", "sort", "copy", "copy"], ["ab", "12", "c d", "e"], [" ab\n", "21", "c  d", "e"])
    assert [(s.group, s.right, s.count) for s in scores] == [("copy", 2, 3), ("sort", 0, 1)]
    assert scores[0].share == pytest.approx(2 / 3) and scores[0].interval == wilson(2, 3)
    with pytest.raises(ValueError):
        exact_match(["copy"], ["a", "b"], ["a"])


def test_answers_come_back_in_the_order_asked():
    prompts = [[1, 5, 6, 7, 8, 9], [1], [1, 5, 6], [1, 5], [1, 9, 9, 9]]
    config = DecodeConfig("ar", max_new_tokens=3)
    traces = answer_all(tiny(), prompts, config, Words(), batch_size=2)
    assert [trace.prompt for trace in traces] == prompts
    alone = [answer_all(tiny(), [prompt], config, Words())[0].final for prompt in prompts]
    assert [trace.final for trace in traces] == alone


def test_speed_sums_what_its_traces_say(monkeypatch):
    class Counted(Trace):
        @property
        def tokens(self):
            return self.prompt[0]

        @property
        def forwards(self):
            return self.prompt[1]

        @property
        def seconds(self):
            return self.prompt[2]

    def fake(model, prompts, config, tokenizer, label_shift):
        assert len(prompts) == 1 and not config.draft and not config.alternatives
        return [Counted("ar", prompts[0], [], MASK, EOS)]

    monkeypatch.setattr(answers, "generate", fake)
    found = speed(None, [[6, 3, 0.5], [4, 7, 1.5]], DecodeConfig("llada2", alternatives=2, draft=True), None)
    assert found == {"tokens": 10, "forwards": 10, "seconds": 2.0, "tokens_per_forward": 1.0, "tokens_per_second": 5.0}


def test_a_measured_speed():
    found = speed(tiny(), [[BOS, 5, 6]], DecodeConfig("ar", max_new_tokens=4, eos_early_stop=False), Words())
    assert found["forwards"] == 4 and 1 <= found["tokens"] <= 4 and found["seconds"] > 0


def test_an_estimate_prints_its_unit():
    estimate = Estimate(1.23456, 0.01, 100, 8)
    assert str(estimate) == "1.2346 ± 0.0100 nats/token" and str(replace(estimate, unit="nats")).endswith("0.0100 nats")

"""Likelihoods: on a toy small enough to enumerate, and two estimators against each other."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from small import MASK, VOCAB, batch_of, documents_of, logits_of, tiny

from dllm_core import likelihood as likelihood_module
from dllm_core.common.errors import DataError
from dllm_core.data.batches import Batch
from dllm_core.likelihood import Estimate, ar_nll, conditional_nll, nll_bound, spread_over_draws
from dllm_core.losses import ar_loss
from dllm_core.noise import corrupt_exactly
from dllm_core.reference import block_logits
from dllm_core.schedules import NoiseSchedule

PROMPT, ANSWER = [1, 7], [4, 11, 4, 8]
L = len(ANSWER)


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


@pytest.mark.parametrize("seed", [0, 2, 3])
def test_every_estimate_agrees_with_the_enumeration_and_lies_above_the_exact_value(seed):
    model = tiny(seed)
    losses = full_losses(model)
    mean, least = exact_bound(losses, L), exact_nll(losses, L)
    by_count = conditional_nll(model, PROMPT, ANSWER, MASK, draws=4000, batch_size=500)
    by_time, by_masks = (
        nll_bound(model, [toy_batch(1000)], MASK, draws=16, estimator=name) for name in ("iid_t", "exact_masks")
    )
    for estimate, tokens, most, sure in ((by_count, 1, 0.1, 4), (by_masks, L, 0.03, 4), (by_time, L, 0.25, 0)):
        value, error = estimate.mean * tokens, estimate.error * tokens
        assert error < most and value == pytest.approx(mean, abs=4 * error + 0.002 * mean)  # iid t from 0.001 on
        assert value - sure * error > least, "the bound must lie above the exact value"
    assert (by_count.tokens, by_count.draws, by_time.tokens, by_masks.draws) == (L, 4000, 1000 * L, 16)
    assert str(by_count).endswith(" nats") and str(by_masks).endswith(" nats/token")
    assert by_masks.error < by_time.error  # what exactly l is for


@pytest.mark.parametrize("schedule_name", ["cosine", "cosine_squared"])
def test_the_bound_does_not_depend_on_the_schedule(schedule_name):
    model = tiny(1)
    estimate = nll_bound(model, [toy_batch(1000)], MASK, draws=10, kind=schedule_name)
    assert estimate.mean * L == pytest.approx(exact_bound(full_losses(model), L), abs=4 * estimate.error * L + 0.01)


@pytest.mark.parametrize("estimator", ["iid_t", "exact_masks"])
def test_block_by_block_bound(estimator):
    """Blocks of 2 on the grid of the document: the sum of the blocks' bounds, each given the clean blocks before it."""
    model, row = tiny(2), PROMPT + ANSWER
    exact = 0.0
    for start in (2, 4):

        def predict(masked, start=start):
            x_t = torch.tensor([MASK if i - start in masked else token for i, token in enumerate(row)])
            with torch.no_grad():
                log_p = block_logits(model, torch.tensor(row), x_t, 2).log_softmax(dim=-1)
            return [-log_p[start + i, row[start + i]] for i in range(2)]

        exact += exact_bound(subset_losses(predict, 2), 2)
    estimate = nll_bound(model, [toy_batch(1000)], MASK, block_size=2, draws=10, estimator=estimator)
    assert estimate.mean * L == pytest.approx(exact, abs=4 * estimate.error * L + 0.002 * exact)


@pytest.mark.parametrize("estimator", ["iid_t", "exact_masks"])
def test_a_bound_on_the_grid_of_the_answer(estimator):
    """Blocks of 4 from the answer on, after a prompt of 2: the answer is one block. From the start it is two."""
    model, count = tiny(2), len(PROMPT)
    sees = lambda q, k: k < count or q >= count  # a prompt's token sees the prompt, an answer's sees all

    def predict(masked):
        tokens = PROMPT + [MASK if i in masked else token for i, token in enumerate(ANSWER)]
        log_p = logits_of(model, tokens, sees).log_softmax(dim=-1)
        return [-log_p[count + i, token] for i, token in enumerate(ANSWER)]

    exact = exact_bound(subset_losses(predict, L), L)
    options = {"block_size": 4, "draws": 10, "estimator": estimator, "first_given": True}
    estimate = nll_bound(model, [toy_batch(1000)], MASK, grid="answer", **options)
    assert estimate.mean * L == pytest.approx(exact, abs=4 * estimate.error * L + 0.002 * exact)
    assert nll_bound(model, [toy_batch(1000)], MASK, **options).mean != estimate.mean


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("block_size", [None, 2, 4, 8])
def test_the_two_estimators_agree(block_size, shift):
    """Packed documents of many lengths, prompts given, padding, and more than one batch."""
    batches = [batch_of([9, 4], [6, 3, 5], [14], prompt=2, seed=s) for s in range(2)]
    batches = [Batch(*(part.repeat(10, 1) for part in (b.tokens, b.document, b.position, b.scored))) for b in batches]
    options = {"block_size": block_size, "label_shift": shift, "draws": 32}
    by_time, by_masks = (nll_bound(tiny(3), batches, MASK, estimator=name, **options) for name in ("iid_t", "exact_masks"))
    assert by_time.tokens == by_masks.tokens == 2 * 10 * (9 + 8 + 12)
    assert 0 < by_masks.error < by_time.error < 0.15
    assert by_masks.mean == pytest.approx(by_time.mean, abs=4 * math.hypot(by_time.error, by_masks.error) + 0.005)


def test_another_estimator_is_refused():
    with pytest.raises(ValueError, match="estimator='iid': must be 'iid_t' or 'exact_masks'"):
        nll_bound(tiny(), [batch_of([4])], MASK, estimator="iid")


def test_an_evaluation_of_nothing_says_so():
    nothing = batch_of([4], prompt=4)
    for batches in ([], [nothing]):
        with pytest.raises(DataError, match="evaluation: no token is scored; take longer rows"):
            ar_nll(tiny(), batches)
        with pytest.raises(DataError, match="evaluation: no token is scored; take longer rows"):
            nll_bound(tiny(), batches, MASK)
    with pytest.raises(DataError, match="evaluation: no token is scored"):
        conditional_nll(tiny(), PROMPT, [], MASK)


def test_a_likelihood_that_is_no_number_is_an_error():
    model = tiny()
    model.model.norm.weight.data[3] = math.nan
    for measure in (lambda: ar_nll(model, [batch_of([4])]), lambda: nll_bound(model, [batch_of([4])], MASK),
                    lambda: conditional_nll(model, PROMPT, ANSWER, MASK)):  # fmt: skip
        with pytest.raises(FloatingPointError, match="the likelihood is nan: .* take weights saved before"):
            measure()


@pytest.mark.parametrize("draws", [0, -2, 1.5])
def test_no_draw_is_refused(draws):
    with pytest.raises(ValueError, match=f"draws={draws}: must be an integer from 1"):
        nll_bound(tiny(), [batch_of([4])], MASK, draws=draws)
    with pytest.raises(ValueError, match=f"draws={draws}: must be an integer from 1"):
        conditional_nll(tiny(), PROMPT, ANSWER, MASK, draws=draws)


@pytest.mark.parametrize("draws", [1, 3])
def test_blocks_of_one_with_label_shift_are_ar_exactly(draws):
    """One token a block: l is always 1, so that every draw is AR's own sum, prompts and packing or not."""
    for prompt in (0, 3):
        batches = [batch_of([9, 4], [13], prompt=prompt), batch_of([5, 5, 2], prompt=prompt, seed=1)]
        exact = ar_nll(tiny(), batches)
        estimate = nll_bound(tiny(), batches, MASK, block_size=1, draws=draws, label_shift=True, estimator="exact_masks")
        assert estimate.tokens == exact.tokens
        assert estimate.mean == pytest.approx(exact.mean, rel=1e-6) and estimate.error < 1e-6


def test_blocks_of_one_with_label_shift_come_to_ar_by_iid_t():
    model, batches = tiny(), [batch_of(*[[9, 4], [13]] * 60)]
    exact = ar_nll(model, batches)
    estimate = nll_bound(model, batches, MASK, block_size=1, draws=60, label_shift=True)
    assert estimate.tokens == exact.tokens
    assert estimate.mean == pytest.approx(exact.mean, abs=4 * estimate.error) and estimate.error < 0.05


def test_exactly_l_of_each_group_are_masked_and_any_of_them():
    """Groups of 3, 1 and (in the next row) 2 maskable tokens; l = 2, 1, 1."""
    groups = torch.tensor([[0, 0, 0, 0, 1, 1], [0, 0, 0, -1, -1, -1]])
    maskable = torch.tensor([[1, 0, 1, 1, 0, 1], [1, 1, 0, 0, 0, 0]], dtype=torch.bool)
    x_0, generator = torch.arange(3, 15).view(2, 6), torch.Generator().manual_seed(0)
    counts = torch.zeros(2, 6)
    for _ in range(600):
        view = corrupt_exactly(x_0, maskable, MASK, groups, torch.tensor([0.34, 0.99, 0.49]), generator)
        assert view.masked[0, :4].sum() == 2 and view.masked[0, 5] and view.masked[1].sum() == 1
        assert not view.masked[~maskable].any() and torch.equal(view.x_t == MASK, view.masked)
        assert torch.equal(view.x_t[~view.masked], x_0[~view.masked])
        counts += view.masked
    assert view.weight[view.masked].tolist() == [1.5, 1.5, 1.0, 2.0]
    # each of the three with chance 2/3, each of the two with 1/2: within four standard deviations of 600 throws
    assert counts[0, [0, 2, 3]].tolist() == pytest.approx([400] * 3, abs=47)
    assert counts[1, :2].tolist() == pytest.approx([300] * 2, abs=49)


def test_numbers_are_spread_over_groups_and_over_draws():
    groups = torch.tensor([[0, 0, 1, 2], [0, 1, 1, -1]])
    maskable = torch.tensor([[1, 1, 0, 1], [1, 1, 1, 0]], dtype=torch.bool)  # group 1 of the first row: nothing to mask
    u = spread_over_draws(groups, maskable, 5, torch.Generator().manual_seed(0))
    assert u.shape == (5, 5) and (0 <= u).all() and (u < 1).all()
    assert all(sorted((first * 4).int().tolist()) == [0, 1, 2, 3] for first in u[:1, [0, 2, 3, 4]])
    for number in u.T[[0, 2, 3, 4]]:  # each of five equal strata once
        assert sorted((number * 5).int().tolist()) == [0, 1, 2, 3, 4]
    # so a group of five meets every l as often
    assert sorted((1 + (u[:, 0] * 5).floor()).tolist()) == [1, 2, 3, 4, 5]


def test_bounds_of_two_models_share_their_masks():
    batches = [batch_of([9, 4]), batch_of([7], seed=1)]
    first, again = (nll_bound(tiny(), batches, MASK, draws=3) for _ in range(2))
    assert first == again
    assert nll_bound(tiny(), batches, MASK, draws=3, seed=1) != first
    # a model a hair away differs by a hair, far below the error of the draws
    near = tiny()
    with torch.no_grad():
        near.model.norm.weight[0] += 1e-4
    assert abs(nll_bound(near, batches, MASK, draws=3).mean - first.mean) < 1e-2 * first.error


def test_a_blank_models_bound_is_log_v():
    estimate = nll_bound(tiny(initializer_range=0.0), [batch_of(*[[16]] * 200)], MASK, draws=8)
    assert estimate.mean == pytest.approx(math.log(VOCAB), abs=4 * estimate.error)


def test_the_bound_is_measured_on_the_full_range_of_times(monkeypatch):
    schedules = []

    def recorded(*args, **kwargs):
        schedules.append(NoiseSchedule(*args, **kwargs))
        return schedules[-1]

    monkeypatch.setattr(likelihood_module, "NoiseSchedule", recorded)
    for size in (None, 4):
        nll_bound(tiny(), [batch_of([8])], MASK, block_size=size, draws=1)
    assert all(s.t_min <= 1e-3 and s.t_max == 1.0 and s.weighting == "elbo" for s in schedules) and len(schedules) == 2


def test_the_first_token_may_be_unscored_as_in_ar():
    batches = [batch_of([9, 4], [6])]
    assert nll_bound(tiny(), batches, MASK, draws=1).tokens == 19
    assert nll_bound(tiny(), batches, MASK, draws=1, first_given=True).tokens == 16 == ar_nll(tiny(), batches).tokens


def test_ar_likelihood_is_exact_and_knows_no_batches():
    model, batch = tiny(), batch_of([9, 4], [6], [5, 5], prompt=1)
    total = 0.0
    for row, columns in documents_of(batch):
        tokens = batch.tokens[row, columns]
        log_p = logits_of(model, tokens.tolist(), lambda q, k: k <= q).log_softmax(dim=-1)
        total -= sum(log_p[i - 1, tokens[i]].item() for i in range(1, len(tokens)))
    estimate = ar_nll(model, [batch])
    assert estimate.mean == pytest.approx(total / estimate.tokens, rel=1e-5)
    assert estimate.draws == 0 and estimate.error == 0
    rows = ar_nll(model, [batch.rows(i, i + 1) for i in range(3)])
    assert rows.mean == pytest.approx(estimate.mean, rel=1e-5) and rows.error > 0
    assert estimate.tokens == ar_loss(model, batch).count
    # a batch in which nothing is scored says nothing
    assert ar_nll(model, [batch, batch_of([3], prompt=3)]).mean == pytest.approx(estimate.mean)


def test_batch_size_changes_no_likelihood():
    means = [conditional_nll(tiny(), PROMPT, ANSWER, MASK, draws=20, batch_size=size).mean for size in (1, 7, 32)]
    assert means == pytest.approx([means[0]] * 3, rel=1e-5)


def test_few_rows_of_logits_at_a_time_change_no_likelihood(monkeypatch):
    whole = conditional_nll(tiny(), PROMPT, ANSWER, MASK, draws=20)
    monkeypatch.setattr(likelihood_module, "logits_rows", lambda *_: 3)
    parts = conditional_nll(tiny(), PROMPT, ANSWER, MASK, draws=20)
    assert (parts.mean, parts.error) == pytest.approx((whole.mean, whole.error), rel=1e-6)


def test_every_count_of_masks_is_drawn_evenly(monkeypatch):
    """The l masked places of the draws are stratified over 1..L."""
    model, seen = tiny(), []
    forward = model.forward
    count = lambda tokens, *rest, **more: (seen.append((tokens == MASK).sum(1)), forward(tokens, *rest, **more))[1]
    monkeypatch.setattr(model, "forward", count)
    conditional_nll(model, PROMPT, ANSWER, MASK, draws=40)
    assert torch.cat(seen).bincount().tolist() == [0, 10, 10, 10, 10]


def test_conditional_likelihood_with_label_shift_reads_a_row_earlier():
    """One answer token: −log p of the row before it, with the answer's place masked."""
    model = tiny()
    out = logits_of(model, [*PROMPT, MASK], lambda q, k: True).log_softmax(dim=-1)
    shifted, plain = (conditional_nll(model, PROMPT, [9], MASK, draws=2, label_shift=s).mean for s in (True, False))
    assert shifted == pytest.approx(-out[1, 9].item(), rel=1e-5) and plain == pytest.approx(-out[2, 9].item(), rel=1e-5)


def test_an_estimate_prints_its_unit():
    estimate = Estimate(1.23456, 0.01, 100, 8)
    assert str(estimate) == "1.2346 ± 0.0100 nats/token" and str(replace(estimate, unit="nats")).endswith("0.0100 nats")

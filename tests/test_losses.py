"""Losses: what a blank model costs, what a slow version finds, and what must not change them."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from small import MASK, VOCAB, Blank, batch_of, documents_of, logits_of, tiny

from dllm_core import losses as losses_module
from dllm_core import patterns, reference
from dllm_core.compute import forward, trimming
from dllm_core.compute.trimming import trim_unscored
from dllm_core.data.batches import Batch
from dllm_core.losses import Diffusion, Loss, ar_loss, correct_token_entropy
from dllm_core.noise import Noised, corrupt
from dllm_core.schedules import ALPHAS, NoiseSchedule

LOG_V = math.log(VOCAB)
HALF = NoiseSchedule(t_min=0.5 - 1e-6, t_max=0.5 + 1e-6)  # t = 1/2 throughout: weights 2, probability 1/2
BAND = NoiseSchedule.band(0.05, 0.95)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def alone(batch: Batch, row: int, columns: slice) -> Batch:
    """One document of a batch as a batch of its own."""
    parts = (batch.tokens, torch.zeros_like(batch.document), batch.position, batch.scored)
    return Batch(*(part[row : row + 1, columns] for part in parts))


# --- uniform logits -----------------------------------------------------------------------------------------------


def mean_and_error(losses: list[Loss]) -> tuple[float, float]:
    means = torch.tensor([float(loss.mean) for loss in losses])
    return means.mean().item(), means.std().item() / len(means) ** 0.5


@pytest.mark.parametrize("block_size", [None, 1, 4, 16])
@pytest.mark.parametrize("band, complementary", [((1e-3, 1.0), False), ((0.05, 0.95), False), ((0.05, 0.95), True)])
@pytest.mark.parametrize("schedule_name", sorted(ALPHAS))
def test_uniform_logits_cost_log_v_times_the_schedules_constant(schedule_name, band, complementary, block_size):
    schedule = NoiseSchedule.band(*band, schedule_name, draw_method="stratified")
    constant = (band[1] - band[0]) / (schedule.t_max - schedule.t_min)  # (alpha(t_a) − alpha(t_b)) / (t_b − t_a)
    objective = Diffusion(schedule, MASK, complementary=complementary, one_t_per="row")
    batch = batch_of(*[[16]] * 512)
    losses = [objective(Blank(), batch, block_size=block_size, generator=seeded(seed)) for seed in range(8)]
    mean, error = mean_and_error(losses)
    assert error < 0.03 * LOG_V
    assert mean == pytest.approx(LOG_V * constant, abs=5 * error + 1e-4)
    assert losses[0].count == 512 * 16


@pytest.mark.parametrize("label_shift", [False, True])
@pytest.mark.parametrize("one_t_per", ["row", "document", "block"])
def test_uniform_logits_cost_log_v_in_every_arrangement(one_t_per, label_shift):
    """Packed rows, prompts and padding; the mean is over what may be masked alone."""
    batch = batch_of(*[[9, 6], [5, 3, 4]] * 150, prompt=2)
    objective = Diffusion(BAND, MASK, label_shift, complementary=True, one_t_per=one_t_per)
    losses = [objective(Blank(), batch, block_size=4, generator=seeded(seed)) for seed in range(8)]
    mean, error = mean_and_error(losses)
    assert mean == pytest.approx(LOG_V, abs=5 * error) and error < 0.03
    assert losses[0].count == batch.scored.sum()


def test_uniform_logits_cost_log_v_for_ar():
    batch = batch_of([9, 6], [5, 3], prompt=0)
    loss = ar_loss(Blank(), batch)
    assert loss.mean.item() == pytest.approx(LOG_V) and loss.count == 8 + 5 + 4 + 2


def test_uniform_weights_count_each_masked_token_once():
    objective = Diffusion(NoiseSchedule(weighting="uniform", t_min=0.4, t_max=0.4 + 1e-6), MASK)
    model = Blank()
    loss = objective(model, batch_of([4000]), generator=seeded())
    masked = (model.calls[0][0] == MASK).sum().item()
    assert loss.total.item() == pytest.approx(masked * LOG_V, rel=1e-5) and abs(masked - 1600) < 200


# --- AR -----------------------------------------------------------------------------------------------------------


def test_ar_loss_is_the_sum_over_documents_of_next_token_losses():
    model, batch = tiny(), batch_of([5, 4], [3], prompt=2)
    total, count = 0.0, 0
    for row, columns in documents_of(batch):
        tokens, scored = batch.tokens[row, columns], batch.scored[row, columns]
        out = logits_of(model, tokens.tolist(), lambda q, k: k <= q)
        losses = F.cross_entropy(out[:-1], tokens[1:], reduction="none")
        total, count = total + losses[scored[1:]].sum().item(), count + int(scored[1:].sum())
    loss = ar_loss(model, batch)
    assert loss.total.item() == pytest.approx(total, rel=1e-5) and loss.count == count == 6


@torch.no_grad()
def test_ar_loss_is_the_reference_ones_over_documents():
    model, batch = tiny(), batch_of([9, 4], [6])
    loss = ar_loss(model, batch)
    documents = [batch.tokens[row, columns] for row, columns in documents_of(batch)]
    total = sum(reference.ar_loss(model, x) * (len(x) - 1) for x in documents)
    assert float(loss.total) == pytest.approx(total.item(), rel=1e-5)
    assert loss.count == sum(len(x) - 1 for x in documents)


def test_packing_leaves_the_ar_loss():
    model, packed = tiny(), batch_of([5, 4, 3], width=14)
    parts = [alone(packed, row, columns) for row, columns in documents_of(packed)]
    whole, losses = ar_loss(model, packed), [ar_loss(model, part) for part in parts]
    assert whole.total.item() == pytest.approx(sum(loss.total.item() for loss in losses), rel=1e-5)
    assert whole.count == sum(loss.count for loss in losses)


# --- the losses against the reference -------------------------------------------------------------------------------


def gradient(model, loss: torch.Tensor) -> torch.Tensor:
    """All gradients of a loss, one after another."""
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()))])


def test_full_diffusion_equals_the_reference_of_equation_3():
    """One document, t and mask drawn by the library: the same loss, and the same gradient."""
    model, batch = tiny(), batch_of([11])
    for seed in range(3):
        fast = Diffusion(NoiseSchedule(), MASK)(model, batch, generator=seeded(seed)).mean
        view, _ = corrupt(batch.tokens, batch.scored, NoiseSchedule(), MASK, seeded(seed), batch.document)
        t = 1 / view.weight[0, 0].item()
        slow = reference.llada1_loss(model, batch.tokens[0], MASK, t, view.masked[0])
        assert fast.item() == pytest.approx(slow.item(), rel=1e-5) and fast > 0
        torch.testing.assert_close(gradient(model, fast), gradient(model, slow), atol=1e-5, rtol=1e-4)


def test_the_reference_of_equation_3_draws_noise():
    """A blank model costs log V in the mean; t and mask come from the generator alone."""
    blank, x_0, draws = tiny(initializer_range=0.0), batch_of([32]).tokens[0], seeded()
    losses = torch.stack([reference.llada1_loss(blank, x_0, MASK, generator=draws) for _ in range(400)]).detach()
    error = (losses.std() / 20).item()
    assert losses.mean().item() == pytest.approx(LOG_V, abs=4 * error) and error < 0.25
    again = reference.llada1_loss(blank, x_0, MASK, generator=seeded())
    assert again.item() == losses[0].item()


@pytest.mark.parametrize("one_t_per", ["document", "block"])
@pytest.mark.parametrize("label_shift", [False, True])
@pytest.mark.parametrize("complementary", [False, True])
@pytest.mark.parametrize("block_size", [None, 1, 3, 4])
@pytest.mark.parametrize("grain, prompt", [(16, 2), (1, 5)])
def test_block_diffusion_equals_the_reference_of_equation_1(
    monkeypatch, grain, prompt, block_size, complementary, label_shift, one_t_per
):
    """Packed documents with prompts against one document after another, block after block: sum and gradient. With grain 1
    the prompts' noisy blocks are left out."""
    monkeypatch.setattr(trimming, "MULTIPLE", grain)
    model, batch = tiny(), batch_of([7, 5], [4, 8], prompt=prompt)
    objective = Diffusion(BAND, MASK, label_shift, complementary, one_t_per=one_t_per)
    if grain == 1 and block_size:
        views = 1 + complementary
        assert objective.pattern(batch, block_size, views).view.shape[1] < (views + 1) * 12
    loss = objective(model, batch, block_size=block_size, generator=seeded(5))
    maskable = batch.scored & (batch.position > 0) if label_shift else batch.scored
    views = corrupt(batch.tokens, maskable, BAND, MASK, seeded(5), objective.groups(batch, block_size))
    views = views if complementary else views[:1]
    total = 0.0
    for row, columns in documents_of(batch):
        for view in views:
            x_0, masked, weight = (part[row, columns] for part in (batch.tokens, view.masked, view.weight))
            total += reference.llada2_loss(model, x_0, masked, weight, block_size or 99, MASK, label_shift) / len(views)
    assert loss.total.item() == pytest.approx(total.item(), rel=1e-4)
    torch.testing.assert_close(gradient(model, loss.total), gradient(model, total), atol=1e-4, rtol=1e-3)
    assert loss.count == maskable.sum()


def test_a_block_as_long_as_the_row_is_full_diffusion(monkeypatch):
    monkeypatch.setattr(trimming, "MULTIPLE", 1)
    model, batch = tiny(), batch_of([12], [7, 5])
    objective = Diffusion(NoiseSchedule(), MASK)
    losses = [objective(model, batch, block_size=size, generator=seeded()).total.item() for size in (None, 12, 99)]
    assert losses[0] == losses[1] == losses[2]
    blank = Blank()
    objective(blank, batch, block_size=12, generator=seeded())
    assert blank.calls[0][0].shape == (2, 12)  # no clean half
    objective(blank, batch, block_size=6, generator=seeded())
    assert blank.calls[1][0].shape == (2, 18)  # the last block's clean copy would be seen by nobody


def test_blocks_of_one_with_label_shift_cost_what_ar_costs():
    """At t = 1/2 the two complementary views score every token once with weight 1: then the sum is AR's, exactly."""
    model, batch = tiny(), batch_of([8, 4], [12], prompt=1)
    objective = Diffusion(HALF, MASK, label_shift=True, complementary=True)
    exact = ar_loss(model, batch)
    for seed in range(3):
        loss = objective(model, batch, block_size=1, generator=seeded(seed))
        assert loss.total.item() == pytest.approx(exact.total.item(), rel=1e-5) and loss.count == exact.count


def test_complementary_views_score_each_token_once():
    batch = batch_of([8, 4], prompt=1)
    for block_size in (None, 4):
        loss = Diffusion(HALF, MASK, complementary=True)(Blank(), batch, block_size=block_size, generator=seeded())
        assert loss.total.item() == pytest.approx(int(batch.scored.sum()) * LOG_V, rel=1e-5)


@pytest.mark.parametrize("block_size", [None, 4])
def test_more_views_cost_the_mean_of_what_each_costs_alone(block_size):
    """Two draws with their inverses and one view with everything masked, against five forwards of one view."""
    batch, model = batch_of([12, 9], [16], prompt=3), tiny()
    options = {"block_size": block_size, "generator": seeded()}
    many = Diffusion(BAND, MASK, complementary=True, draws=2, all_masked=True)(model, batch, **options)
    single, generator = Diffusion(BAND, MASK), seeded()
    pattern, groups = single.pattern(batch, block_size), single.groups(batch, block_size)
    draws = [corrupt(batch.tokens, batch.scored, BAND, MASK, generator, groups) for _ in range(2)]
    everything = batch.tokens.masked_fill(batch.scored, MASK)
    views = [*draws[0], *draws[1], Noised(everything, batch.scored, torch.ones(batch.tokens.shape))]
    alone = [single.score(model, batch, [view], pattern) for view in views]
    assert torch.allclose(many.total, sum(loss.total for loss in alone) / 5, rtol=1e-5)
    assert many.count == alone[0].count


@pytest.mark.parametrize("block_size", [None, 4])
def test_a_teacher_gives_each_masked_token_its_distribution_after_the_clean_ones(block_size):
    """Documents of their own, one masked token at a time, against the teacher's plain causal pass."""
    model, teacher = tiny(), tiny(1)
    batch = batch_of([7, 5], [9])  # a first token is scored, too: no AR model predicts it, it is its own target
    objective = Diffusion(NoiseSchedule(), MASK, teacher=teacher, teacher_share=0.25)
    pattern = objective.pattern(batch, block_size)
    for row, columns in documents_of(batch):
        tokens = batch.tokens[row, columns].tolist()
        p = logits_of(teacher, tokens, lambda q, k: k <= q).softmax(dim=-1)
        for i in range(len(tokens)):
            masked = torch.zeros_like(batch.scored)
            masked[row, columns.start + i] = True
            view = Noised(batch.tokens.masked_fill(masked, MASK), masked, torch.ones(masked.shape))
            soft = objective.score(model, batch, [view], pattern).total
            hard = replace(objective, teacher=None).score(model, batch, [view], pattern).total
            logits, _ = objective._predict(model, batch, [view], pattern, 0.0, None)
            of_teacher = hard if i == 0 else -(p[i - 1] * logits[0].log_softmax(dim=-1)).sum()
            assert torch.allclose(soft, 0.75 * hard + 0.25 * of_teacher, rtol=1e-4)


def test_a_teachers_forward_is_work_without_a_backward_pass():
    batch, model = batch_of([12, 9], [16], prompt=3), tiny()
    taught = Diffusion(NoiseSchedule(), MASK, teacher=model, teacher_share=0.5)
    one, both = (objective(model, batch, generator=seeded()) for objective in (replace(taught, teacher=None), taught))
    extra = ar_loss(model, batch).work
    assert both.work.positions == one.work.positions + extra.positions
    assert both.work.flops == pytest.approx(one.work.flops + extra.flops / 3)


def test_complementary_views_share_one_clean_half(monkeypatch):
    monkeypatch.setattr(trimming, "MULTIPLE", 1)
    model, batch = Blank(), batch_of([12])
    Diffusion(BAND, MASK, complementary=True)(model, batch, block_size=4, generator=seeded())
    tokens, _, mask, _ = model.calls[0]
    assert torch.equal(tokens[:, 24:], batch.tokens[:, :8])  # one clean half, without the last block that nobody sees
    (_, _, clean), (_, _, noisy) = *mask.clean.tiles, *mask.noisy.tiles
    assert clean.shape == (1, 8, 8)
    assert noisy.shape == (2, 12, 8 + 12)  # a view looks at the clean half and at itself, not at the other view
    assert torch.equal((tokens[:, :12] == MASK) ^ (tokens[:, 12:24] == MASK), batch.scored)


@pytest.mark.parametrize("block_size", [None, 4])
def test_few_shapes_and_the_same_loss(monkeypatch, block_size):
    """What is computed comes in multiples; what is learned does not change."""
    batch, results, shapes = batch_of([16, 12, 8, 5], [41], prompt=3), [], []
    for grain, reads in ((1, 1), (16, 64)):
        monkeypatch.setattr(trimming, "MULTIPLE", grain)
        monkeypatch.setattr(forward, "LOGITS_MULTIPLE", reads)
        model = tiny()
        layer = model.model.layers[0]
        layer.register_forward_hook(lambda _, inputs, __: shapes.append(inputs[0].shape[1]))
        model.lm_head.register_forward_hook(lambda _, inputs, __: shapes.append(len(inputs[0])))
        loss = Diffusion(BAND, MASK, complementary=True)(model, batch, block_size=block_size, generator=seeded())
        results.append((loss.total, gradient(model, loss.total)))
    # elements in the first layer, then states in the head; a half of 40 becomes 41, the row's length, instead of 48
    assert shapes == ([41, 67, 41, 128] if block_size is None else [122, 67, 123, 128])
    for mine, other in zip(*results, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("label_shift", [False, True])
def test_the_last_layers_clean_half_is_only_keys_and_values(label_shift):
    """Unless a prediction is read there, as that of a block's first token under the label shift."""
    model, batch, seen = tiny(), batch_of([12, 9], [21]), {}
    last = model.model.layers[-1].self_attn
    for name in ("q_proj", "k_proj"):
        getattr(last, name).register_forward_hook(lambda _, inputs, __, name=name: seen.update({name: inputs[0].shape[1]}))
    Diffusion(BAND, MASK, label_shift=label_shift)(model, batch, block_size=4, generator=seeded())
    noisy = int((trim_unscored(patterns.block_diffusion(batch.document, batch.position, 4), batch.scored).view[0] > 0).sum())
    assert seen["k_proj"] > noisy and seen["q_proj"] == (seen["k_proj"] if label_shift else noisy)


def test_a_prompt_is_neither_noised_nor_scored():
    batch = batch_of([8, 6], [9], prompt=4)
    for block_size in (None, 2):
        for seed in range(10):
            model = Blank()
            Diffusion(NoiseSchedule(), MASK)(model, batch, block_size=block_size, generator=seeded(seed))
            tokens, position, _, _ = model.calls[0]
            assert not (tokens[position < 4] == MASK).any()


def test_random_length_cuts_a_share_of_the_batches():
    batch = batch_of([16])

    def widths(share):
        model, objective, generator = Blank(), Diffusion(NoiseSchedule(), MASK, random_length=share), seeded()
        for _ in range(600):
            objective(model, batch, generator=generator)
        return torch.tensor([call[0].shape[1] for call in model.calls])

    always, sometimes = widths(1.0), widths(0.1)
    assert always.unique().tolist() == list(range(1, 17))  # uniform on 1..L
    assert always.float().mean().item() == pytest.approx(8.5, abs=5 * 4.61 / 600**0.5)
    assert 0.05 < (sometimes < 16).float().mean().item() < 0.15
    assert (widths(0.0) == 16).all()


def test_noise_is_added_only_to_the_mask_embedding():
    model, batch = tiny(), batch_of([12])
    seen = []
    forward = model.forward
    model.forward = lambda tokens, position, mask, embeddings=None, read=None, last=None: (
        seen.append((tokens, embeddings)) or forward(tokens, position, mask, embeddings=embeddings, read=read, last=last)
    )
    objective = Diffusion(BAND, MASK)
    quiet = objective(model, batch, block_size=4, generator=seeded())
    loud = objective(model, batch, block_size=4, generator=seeded(), embedding_noise=0.5)
    assert seen[0][1] is None and quiet.total != loud.total
    tokens, embeddings = seen[1]
    moved = (embeddings - model.model.embed_tokens(tokens)).detach()
    assert torch.equal(moved.abs().sum(dim=-1) > 0, tokens == MASK)
    assert moved[tokens == MASK].std().item() == pytest.approx(0.5, rel=0.25)


# --- sums and counts ----------------------------------------------------------------------------------------------


def by_token(x_0, maskable, schedule, mask_token_id, generator=None, groups=None):
    """A noise that depends on the tokens alone, so that any arrangement of the same documents has the same masks."""
    masked = maskable & (x_0 % 2 == 0)
    other, weight = maskable & ~masked, 1 + x_0.float() / 10
    return (
        Noised(x_0.masked_fill(masked, mask_token_id), masked, weight),
        Noised(x_0.masked_fill(other, mask_token_id), other, 3 - weight / 2),
    )


@pytest.mark.parametrize("per_answer", [False, True])
@pytest.mark.parametrize("block_size", [None, 3])
def test_accumulation_and_packing_leave_the_loss(monkeypatch, per_answer, block_size):
    """The mean over a batch, over its rows one by one, and over its documents packed otherwise."""
    monkeypatch.setattr(losses_module, "corrupt", by_token)
    model, objective = tiny(), Diffusion(BAND, MASK, complementary=True, per_answer=per_answer)
    batch = batch_of([7, 5], [3, 4], [12], prompt=2)

    def mean(batches):
        losses = [objective(model, part, block_size=block_size) for part in batches]
        return sum(loss.total for loss in losses).item() / sum(loss.count for loss in losses)

    whole = mean([batch])
    assert mean([batch.rows(row, row + 1) for row in range(3)]) == pytest.approx(whole, rel=1e-5)
    assert mean([alone(batch, row, columns) for row, columns in documents_of(batch)]) == pytest.approx(whole, rel=1e-5)
    joined = Batch(*(part.flatten()[None] for part in (batch.tokens, batch.document, batch.position, batch.scored)))
    numbers = (joined.position == 0).long().cumsum(1) - 1
    joined = replace(joined, document=torch.where(joined.document < 0, -1, numbers))
    assert mean([joined]) == pytest.approx(whole, rel=1e-5)


def test_per_answer_is_the_mean_of_the_answers_means(monkeypatch):
    monkeypatch.setattr(losses_module, "corrupt", by_token)
    batch = batch_of([9, 4], [6], prompt=2)
    loss = Diffusion(BAND, MASK, per_answer=True)(Blank(), batch)
    means = []
    for row, columns in documents_of(batch):
        tokens, scored = batch.tokens[row, columns], batch.scored[row, columns]
        masked = scored & (tokens % 2 == 0)
        means.append(((1 + tokens[masked] / 10).sum() * LOG_V / scored.sum()).item())
    assert loss.count == 3 and loss.mean.item() == pytest.approx(sum(means) / 3, rel=1e-5)


def test_a_batch_without_scored_tokens_costs_nothing():
    model, batch = tiny(), batch_of([5], prompt=5)
    for loss in (ar_loss(model, batch), *(Diffusion(BAND, MASK)(model, batch, block_size=s) for s in (None, 2))):
        assert loss.total.item() == loss.count == loss.mean.item() == 0


# --- CAP ----------------------------------------------------------------------------------------------------------


def test_cap_by_hand():
    """Three predictions, right, right and wrong: the entropies of the first two, nothing of the third."""
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.5], [0.0, 3.0, 0.0]], requires_grad=True)
    entropy, right = correct_token_entropy(logits, torch.tensor([0, 1, 2]))
    assert right == 2

    def entropy_of(row):
        p = [math.exp(x) / sum(map(math.exp, row)) for x in row]
        return p, -sum(q * math.log(q) for q in p)

    (p, first), (_, second) = entropy_of([2.0, 0.0, 0.0]), entropy_of([0.0, 1.0, 0.5])
    assert entropy.item() == pytest.approx(first + second, rel=1e-6)
    entropy.backward()
    # dH/dz_i = −p_i (log p_i + H); the wrong prediction gets none
    assert logits.grad[0].tolist() == pytest.approx([-q * (math.log(q) + first) for q in p], rel=1e-5)
    assert logits.grad[2].tolist() == [0, 0, 0] and logits.grad[0, 0] < 0  # descending it sharpens


def test_cap_temperature():
    logits = torch.tensor([[2.0, 0.0]])
    p = 1 / (1 + math.exp(-1.0))  # at temperature 2
    expected = -(p * math.log(p) + (1 - p) * math.log(1 - p))
    assert correct_token_entropy(logits, torch.tensor([0]), 2.0)[0].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("complementary", [False, True])
def test_cap_adds_lambda_times_the_mean_entropy_of_the_right(complementary):
    model, batch = tiny(), batch_of([12], [7, 5])
    with torch.no_grad():  # copy the token's own embedding into its neighbourhood: a model that is sometimes right
        model.lm_head.weight[5:9] *= 3
    simple = Diffusion(BAND, MASK, complementary=complementary)
    both = replace(simple, cap_lambda=0.1)
    without, loss = (objective(model, batch, block_size=4, generator=seeded(2)) for objective in (simple, both))
    views = corrupt(batch.tokens, batch.scored, BAND, MASK, seeded(2), batch.document)
    entropies = []
    for row, columns in documents_of(batch):
        for view in views if complementary else views[:1]:
            x_0, x_t = batch.tokens[row, columns], view.x_t[row, columns]
            log_p = reference.block_logits(model, x_0, x_t, 4).detach().log_softmax(dim=-1)
            right = view.masked[row, columns] & (log_p.argmax(dim=-1) == x_0)
            entropies += (-(log_p.exp() * log_p).sum(dim=-1))[right].tolist()
    assert entropies, "the toy must be right somewhere"
    mean = sum(entropies) / len(entropies)
    assert loss.mean.item() == pytest.approx(without.mean.item() + 0.1 * mean, rel=1e-4)
    assert loss.parts["diffusion"] / loss.count == pytest.approx(without.mean.item(), rel=1e-5)
    assert loss.parts["cap"] / loss.count == pytest.approx(mean, rel=1e-4)


def test_cap_where_nothing_is_right():
    batch = batch_of([6])
    batch = replace(batch, tokens=batch.tokens.clamp(min=3))  # a blank model's argmax is token 0: never right
    loss = Diffusion(BAND, MASK, cap_lambda=0.1)(Blank(), batch, generator=seeded())
    assert torch.isfinite(loss.total) and loss.parts["cap"] == 0


# --- bad settings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "schedule", [NoiseSchedule(), NoiseSchedule.band(0.1, 0.95), NoiseSchedule.band(0.3, 1.0, "cosine")]
)
def test_complementary_needs_a_symmetric_band_below_one(schedule):
    with pytest.raises(ValueError, match="complementary.*symmetric about 1/2"):
        Diffusion(schedule, MASK, complementary=True)


@pytest.mark.parametrize("schedule_name", sorted(ALPHAS))
def test_complementary_with_a_symmetric_band(schedule_name):
    Diffusion(NoiseSchedule.band(0.05, 0.95, schedule_name), MASK, complementary=True)


def test_unknown_time_group_is_named():
    with pytest.raises(ValueError, match="one_t_per='token'"):
        Diffusion(BAND, MASK, one_t_per="token")


@pytest.mark.parametrize(
    "wrong", [{"random_length": 1.5}, {"random_length": -0.1}, {"cap_lambda": -0.1}, {"cap_temperature": 0.0}]
)
def test_settings_out_of_range_are_named(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name}={value}: must be "):
        Diffusion(BAND, MASK, **wrong)

"""The checks: right functions pass, each likely mistake is named, and whatever else a function does is explained."""

import pytest
import torch

from dllm_core import reference
from dllm_core.noise import corrupt
from dllm_core.notebook import check
from dllm_core.notebook.check.exercise import Exercise
from dllm_core.schedules import NoiseSchedule

EXERCISES = [getattr(check, name) for name in check.__all__]
MISTAKES = [(exercise, words) for exercise in EXERCISES for words in exercise.mistakes]


def name_of(value) -> str:
    return getattr(value, "name", value)


def said(capsys, exercise: Exercise, function) -> str:
    """The one line that a wrong function gets."""
    assert exercise(function) is False
    printed = capsys.readouterr().out
    assert printed.startswith(f"✗ {exercise.name}: ") and printed.count("\n") == 1
    return printed


# --- right functions ------------------------------------------------------------------------------------------------


def bernoulli(x_0, t, mask_token_id, generator):
    return torch.where(torch.bernoulli(torch.full(x_0.shape, t), generator=generator).bool(), mask_token_id, x_0)


def from_above(x_0, t, mask_token_id, generator):
    x_t = x_0.clone()
    x_t[torch.rand(x_0.shape, generator=generator) >= 1 - t] = mask_token_id
    return x_t


def by_tokens(length, block_size):
    """The rule, asked pair by pair."""
    mask = torch.zeros(2 * length, 2 * length, dtype=torch.bool)
    for q in range(2 * length):
        for k in range(2 * length):
            (q_clean, q_token), (k_clean, k_token) = divmod(q, length), divmod(k, length)
            before = q_token // block_size - k_token // block_size
            mask[q, k] = (before == 0 and q_clean == k_clean) or (before > 0 and k_clean)
    return mask


def row_by_row(confidence, masked, threshold):
    commit = torch.zeros_like(masked)
    for row, (values, open_) in enumerate(zip(confidence.tolist(), masked.tolist(), strict=True)):
        candidates = [(value, i) for i, (value, is_open) in enumerate(zip(values, open_, strict=True)) if is_open]
        above = [i for value, i in candidates if value > threshold]
        commit[row, above or [i for _, i in sorted(candidates)[-1:]]] = True
    return commit


def stacked(checkpoints, k):
    states = [state for _, state in sorted(checkpoints, key=lambda checkpoint: checkpoint[0])[:k]]
    mean_of = lambda name: torch.stack([state[name].float() for state in states]).mean(dim=0)
    return {name: mean_of(name).to(tensor.dtype) for name, tensor in states[0].items()}


def views_as_lists(drawn, maskable, t):
    return [[maskable & drawn, torch.tensor(1 / t)], [maskable & ~drawn, torch.tensor(1 / (1 - t))]]


@pytest.mark.parametrize("exercise, function", [
    *((exercise, exercise.right) for exercise in EXERCISES),
    (check.corrupt, bernoulli), (check.corrupt, from_above), (check.block_mask, by_tokens),
    (check.commit_above_threshold, row_by_row), (check.top_k_merge, stacked),
    (check.complementary_views, views_as_lists),
], ids=name_of)  # fmt: skip
def test_a_right_function_passes(exercise, function, capsys):
    assert exercise(function) is True
    assert capsys.readouterr().out == f"✓ {exercise.name}: right in all {len(exercise.cases)} cases\n"


def test_the_loss_is_held_against_the_reference():
    assert check.llada1_loss.right is reference.llada1_loss


@pytest.mark.parametrize("t", [0.3, 0.8])
def test_the_views_are_the_librarys(t):
    """`corrupt` draws what it masks; with the same numbers and t, both views and weights are those of the exercise."""
    maskable, seed = torch.arange(50)[None] >= 4, 3
    schedule = NoiseSchedule(t_min=t - 1e-6, t_max=t)
    views = corrupt(torch.ones(1, 50, dtype=torch.long), maskable, schedule, 9, torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(seed)
    _, u = torch.rand(1, generator=generator), torch.rand(50, generator=generator)  # of t, and of the tokens
    for view, (masked, weight) in zip(views, check.complementary_views.right(u < t, maskable[0], t), strict=True):
        assert torch.equal(view.masked[0], masked) and float(view.weight[0, 0]) == pytest.approx(weight, rel=1e-4)


# --- likely mistakes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exercise, words", MISTAKES, ids=name_of)
def test_a_likely_mistake_is_named(exercise, words, capsys):
    assert said(capsys, exercise, exercise.mistakes[words]).endswith(f". Likely: {words}\n")


def test_the_first_entry_that_differs_is_shown(capsys):
    def leaky(length, block_size):
        mask = check.block_mask.right(length, block_size)
        mask[length - 1, 2 * length - 1] = True  # one entry alone: no mistake that has a name
        return mask

    assert said(capsys, check.block_mask, leaky) == (
        "✗ block_mask: 8 tokens in blocks of 4: the result[7, 15] (x_t[7] of block 1 looks at x_0[7] of block 1) "
        "is True, expected False (1 of 256 entries differ)\n"
    )


def test_a_second_t_is_named(capsys):
    def loss(model, x_0, mask_token_id, t, masked):
        return reference.llada1_loss(model, x_0, mask_token_id, t, masked) * t / torch.rand(())

    assert "two calls with equal arguments differ: 1/t must be of the t that is given" in said(
        capsys, check.llada1_loss, loss
    )


def test_numbers_that_do_not_come_from_the_generator_are_named(capsys):
    def corrupt(x_0, t, mask_token_id, generator):
        return x_0.masked_fill(torch.rand(len(x_0)) < t, mask_token_id)

    assert "draw every random number from the generator" in said(capsys, check.corrupt, corrupt)


# --- whatever else a function does ------------------------------------------------------------------------------------


def unfinished(*arguments): ...


def still_dots(*arguments):
    return ...


def raises(*arguments):
    raise ZeroDivisionError("by t\nand more")


def takes_nothing():
    return 1


@pytest.mark.parametrize("exercise", EXERCISES, ids=name_of)
@pytest.mark.parametrize("function, words", [
    (unfinished, "it returns nothing; replace the ... by code that returns"),
    (still_dots, "it returns nothing; replace the ... by code that returns"),
    (raises, "it stops with ZeroDivisionError: by t, in the line `raise ZeroDivisionError("),
    (takes_nothing, "it stops with TypeError: takes_nothing() takes 0 positional arguments but"),
    (3, "give the function itself, without calling it: check."),
    (lambda *arguments: "text", "it returns str, expected"),
    (lambda *arguments: torch.zeros(1, 2, 3, 4), "has the shape [1, 2, 3, 4], expected"),
], ids=name_of)  # fmt: skip
def test_what_is_no_result_is_explained(exercise, function, words, capsys):
    printed = said(capsys, exercise, function)
    if exercise.name in ("top_k_merge", "complementary_views") and "shape" in words:
        words = "it returns Tensor, expected"  # they return several tensors
    assert words in printed


def test_a_result_of_another_type_is_explained(capsys):
    mask = lambda *arguments: check.block_mask.right(*arguments).float()
    assert "holds floats, expected booleans" in said(capsys, check.block_mask, mask)
    loss = lambda *arguments: reference.llada1_loss(*arguments).item()
    assert "no gradient flows through the result" in said(capsys, check.llada1_loss, loss)


def in_place_corrupt(x_0, t, mask_token_id, generator):
    return x_0.masked_fill_(torch.rand(len(x_0), generator=generator) < t, mask_token_id)


def in_place_loss(model, x_0, mask_token_id, t, masked):
    loss = reference.llada1_loss(model, x_0, mask_token_id, t, masked)
    x_0[masked] = mask_token_id
    return loss


def in_place_merge(checkpoints, k):
    checkpoints.sort(key=lambda checkpoint: checkpoint[0])
    total = checkpoints[0][1]
    for _, state in checkpoints[1:k]:
        for name in total:
            total[name] += state[name]
    return {name: tensor / k for name, tensor in total.items()}


def in_place_commit(confidence, masked, threshold):
    confidence[~masked] = -1
    return check.commit_above_threshold.right(confidence, masked, threshold)


@pytest.mark.parametrize("exercise, function, name", [
    (check.corrupt, in_place_corrupt, "x_0"), (check.llada1_loss, in_place_loss, "x_0"),
    (check.top_k_merge, in_place_merge, "checkpoints[0]"),
    (check.commit_above_threshold, in_place_commit, "confidence"),
], ids=name_of)  # fmt: skip
def test_a_changed_input_is_named(exercise, function, name, capsys):
    assert f"it changes its input {name}" in said(capsys, exercise, function)

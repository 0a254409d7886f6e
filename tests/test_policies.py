"""Which positions are committed, and why: confidences made by hand."""

import pytest
import torch

from dllm_core.policies import REASONS, commit_above_threshold, commit_budget, commit_top_k, ranks, tokens_per_step

CONFIDENCE = torch.tensor([[0.95, 0.3, 0.99, 0.6, 0.91]])
ALL = torch.ones(1, 5, dtype=torch.bool)


def reasons(choice) -> list[str]:
    """ "." where nothing is committed, else the reason."""
    pairs = zip(choice.reasons[0].tolist(), choice.commit[0].tolist(), strict=True)
    return [REASONS[reason] if is_committed else "." for reason, is_committed in pairs]


def counts(*values: int) -> torch.Tensor:
    return torch.tensor(values)


@pytest.mark.parametrize(
    "count, steps, expected",
    [
        (10, 4, [3, 3, 2, 2]),
        (8, 4, [2, 2, 2, 2]),
        (3, 5, [1, 1, 1, 0, 0]),
        (7, 1, [7]),
        (5, 3, [2, 2, 1]),
        (0, 2, [0, 0]),
    ],
)
def test_spread_gives_the_remainder_to_the_earliest_steps(count, steps, expected):
    assert tokens_per_step(count, steps) == expected


def test_ranks_leave_out_what_is_not_masked_and_break_ties_by_position():
    confidence = torch.tensor([[0.5, 0.9, 0.5, 0.7], [0.1, 0.2, 0.3, 0.4]])
    masked = torch.tensor([[True, False, True, True], [True, True, True, True]])
    result = ranks(confidence, masked)
    assert result[0][masked[0]].tolist() == [1, 2, 0] and result[0, 1] == 3
    assert result[1].tolist() == [3, 2, 1, 0]


def test_scheduled_keeps_the_most_confident_masked():
    masked = torch.tensor([[True, True, False, True, True]])
    choice = commit_top_k(CONFIDENCE, masked, counts(2))
    assert reasons(choice) == ["schedule", ".", ".", ".", "schedule"] and choice.held_back.tolist() == [0]
    assert not commit_top_k(CONFIDENCE, masked, counts(0)).commit.any()
    assert torch.equal(commit_top_k(CONFIDENCE, masked, counts(9)).commit, masked)


def test_every_position_above_the_threshold():
    choice = commit_above_threshold(CONFIDENCE, ALL, 0.9, counts(1))
    assert reasons(choice) == ["threshold", ".", "threshold", ".", "threshold"]


def test_the_threshold_itself_is_not_above():
    choice = commit_above_threshold(torch.tensor([[0.5, 0.75]]), torch.ones(1, 2, dtype=torch.bool), 0.75, counts(1))
    assert reasons(choice) == [".", "fallback"]


def test_fallback_to_the_most_confident_where_too_few_are_above():
    commits = commit_above_threshold(CONFIDENCE, ALL, 0.97, counts(3))
    assert reasons(commits) == ["fallback", ".", "threshold", ".", "fallback"]
    assert reasons(commit_above_threshold(CONFIDENCE, ALL, 1.0, counts(1))) == [".", ".", "fallback", ".", "."]
    # enough are above: the schedule asks for no more
    assert reasons(commit_above_threshold(CONFIDENCE, ALL, 0.9, counts(3))).count("threshold") == 3


def test_committed_positions_are_never_chosen_again():
    masked = torch.tensor([[False, True, False, True, False]])
    assert reasons(commit_above_threshold(CONFIDENCE, masked, 0.9, counts(1))) == [".", ".", ".", "fallback", "."]
    commits = commit_above_threshold(CONFIDENCE, masked, 0.2, counts(1))
    assert reasons(commits) == [".", "threshold", ".", "threshold", "."]


def test_without_a_threshold_only_the_schedule_decides():
    assert reasons(commit_above_threshold(CONFIDENCE, ALL, None, counts(2))) == ["schedule", ".", "schedule", ".", "."]


def test_threshold_zero_commits_everything():
    assert commit_above_threshold(CONFIDENCE, ALL, 0.0, counts(1)).commit.all()


def test_a_budget_keeps_the_most_confident_and_counts_those_held_back():
    choice = commit_above_threshold(CONFIDENCE, ALL, 0.9, counts(1), counts(2))
    assert reasons(choice) == ["budget", ".", "budget", ".", "."] and choice.held_back.tolist() == [1]
    # a budget that holds nothing back leaves the reason
    choice = commit_above_threshold(CONFIDENCE, ALL, 0.9, counts(1), counts(3))
    assert reasons(choice).count("threshold") == 3 and choice.held_back.tolist() == [0]
    # it also caps the fallback
    choice = commit_above_threshold(CONFIDENCE, ALL, 1.0, counts(4), counts(2))
    assert reasons(choice) == ["fallback", ".", "fallback", ".", "."] and choice.held_back.tolist() == [0]


def test_rows_are_decided_independently():
    confidence = torch.tensor([[0.95, 0.2, 0.1], [0.5, 0.4, 0.3]])
    masked = torch.ones(2, 3, dtype=torch.bool)
    choice = commit_above_threshold(confidence, masked, 0.9, counts(1, 2), counts(3, 3))
    assert choice.commit.tolist() == [[True, False, False], [True, True, False]]


def test_budget_grows_linearly_with_progress():
    total = counts(40, 40, 40, 40)
    most = commit_budget(counts(40, 20, 10, 1), total, 0.25, 0.75, None)
    # shares 0.25, 0.5, 0.625, 0.7375 of what is still masked, never below one
    assert most.tolist() == [10, 10, 6, 1]


def test_a_hard_cap():
    assert commit_budget(counts(40, 3), counts(40, 40), None, None, 4).tolist() == [4, 3]
    assert commit_budget(counts(40, 20), counts(40, 40), 0.25, 0.75, 7).tolist() == [7, 7]
    assert commit_budget(counts(40), counts(40), None, None, None) is None


@pytest.mark.parametrize("share", [tenth / 10 for tenth in range(1, 11)])
def test_a_constant_share_is_not_rounded_below_itself(share):
    """0.7 of 10 is 7, whatever binary fractions make of it."""
    masked = torch.arange(10, 100, 10)
    wanted = [round(share * 10) * n // 10 for n in masked.tolist()]
    assert commit_budget(masked, masked + 10, share, share, None).tolist() == wanted

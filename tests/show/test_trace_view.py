"""The walk over a trace's positions: it equals the record at every step."""


import pytest
from traces import ALL, ar, branched, expected_cells, infilled, llada1, llada2, step

from dllm_core.show.trace_view import (
    cells,
    drawn_length,
    edit_words,
    first_difference,
    masked_after,
    reasons,
    spread_steps,
    summary,
    times,
    trace_labels,
)
from dllm_core.trace import Edit


def test_clock_and_labels():
    assert times(llada1()) == [0, 2, 4] and times(ar(), "seconds") == [0, 0.25, 0.5, 0.75]
    assert trace_labels([ar(), llada2(), llada2()]) == ["AR", "LLaDA 2 (1)", "LLaDA 2 (2)"]
    assert spread_steps(3, 24) == [0, 1, 2, 3] and len(spread_steps(512, 24)) == 24
    assert spread_steps(512, 24)[0] == 0 and spread_steps(512, 24)[-1] == 512


@pytest.mark.parametrize("make", [*ALL, infilled])
def test_cells_equal_the_record_at_every_step(make):
    trace = make()
    for k in range(len(trace.steps) + 1):
        shown = cells(trace, k)
        assert masked_after(trace, k) == sum(cell.state == "masked" for cell in shown)
        for cell, want in zip(shown, expected_cells(trace, k), strict=True):
            assert (cell.state, cell.token) == (want["state"], want["token"]), (k, cell)
            assert cell.commit == (want["past"][-1][1] if want["past"] else None)
    assert [cell.state for cell in cells(trace, len(trace.steps), since=0)].count("before") == 0


def test_what_a_person_changed_is_told_from_what_the_model_wrote():
    trace = branched()
    states = [[cell.state for cell in cells(trace, k)] for k in range(5)]
    assert states[2] == ["prompt", "prompt", "before", "before", "masked", "by hand", "masked", "masked"]
    assert states[3][4:] == ["now", "by hand", "now", "masked"]
    assert states[4][4:] == ["before", "by hand", "before", "by hand"]
    assert [masked_after(trace, k) for k in range(5)] == [6, 4, 3, 1, 0]
    assert [states[k].count("masked") for k in range(5)] == [6, 4, 3, 1, 0]
    masked, taken = cells(trace, 2)[4:6]
    assert masked.edit == trace.edits[1] and masked.commit is None and masked.guess is None
    assert taken.edit == trace.edits[0] and taken.token == 6 and taken.commit is None
    assert summary(trace).endswith("per forward pass, 4 changed by hand")
    assert edit_words(trace, Edit(2, 5, "forbid", 3, "why\n")) == (
        "forbid 你 at position 5: this token was forbidden here by hand (why↵)"
    )


def test_in_ar_what_stands_behind_an_edit_is_masked_again():
    trace = ar()
    trace.edits = [Edit(3, 3, "take", 4)]
    assert [cell.state for cell in cells(trace, 3)] == ["prompt", "prompt", "before", "by hand", "masked", "masked"]
    assert masked_after(trace, 3) == 2 and trace.written() == [0, 1, 2, 2]


def test_the_first_difference_of_two_branches():
    parent, branch = llada2(), branched()
    assert first_difference(parent, branch) == first_difference(branch, parent) == (2, [4, 5])
    assert first_difference(parent, llada2()) is None
    stopped = llada2()
    stopped.steps = stopped.steps[:2]
    assert first_difference(stopped, parent) == (3, [5])
    with pytest.raises(ValueError, match="do not begin with the same tokens"):
        first_difference(parent, ar())


def test_what_a_step_left_open_has_its_guess():
    assert [cell.guess for cell in cells(llada2(), 2)] == [None] * 5 + ["你", "好", "好"]
    assert [cell.edited for cell in cells(llada2(), 4)] == [False] * 4 + [True, False, True, False]


def test_drawing_ends_at_another_end_of_the_answer():
    trace = ar()
    trace.eos_token_id, trace.other_ends = 99, [trace.eos_token_id]
    assert drawn_length(trace) == 5


def test_drawing_ends_at_the_eos_where_only_filling_follows():
    trace = ar()
    assert drawn_length(trace) == 5  # a mask that was never decoded stands behind its eos
    trace.steps.append(step(3, [(5, 0, 0.9)], 0, (5, 6)))
    assert drawn_length(trace) == 5
    trace.steps[-1] = step(3, [(5, 3, 0.9)], 0, (5, 6))
    assert drawn_length(trace) == len(trace.initial) == 6


def test_reasons_in_words_carry_the_settings():
    assert reasons(llada2())["threshold"] == "its confidence was above the threshold 0.9"
    assert reasons(llada1())["schedule"].endswith("it was among the most confident")
    assert reasons(infilled())["schedule"].endswith("it was drawn at random")
    assert reasons(ar())["fallback"] == "too few were above the threshold: it was among the most confident"

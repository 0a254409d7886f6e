"""The walk over a trace's positions: it equals the record at every step."""


import pytest
from traces import ALL, ar, expected_cells, infilled, llada1, llada2, step

from dllm_core.show.trace_view import cells, drawn_length, masked_after, reasons, spread_steps, times, trace_labels


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

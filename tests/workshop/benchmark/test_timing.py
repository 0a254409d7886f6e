"""Side-by-side timing: the ratio is taken within a round, jobs that time themselves are believed."""

from dllm_core.workshop.benchmark.timing import compare, take_turns


def test_every_job_runs_in_every_round_and_the_warm_ones_do_not_count():
    ran = []
    jobs = {"a": lambda: ran.append("a"), "b": lambda: ran.append("b")}
    seconds = take_turns(jobs, rounds=3, warm=2)
    assert ran.count("a") == ran.count("b") == 5
    assert len(seconds["a"]) == len(seconds["b"]) == 3
    assert ran[:4] == ["b", "a", "a", "b"]  # the order turns round


def test_a_job_that_times_itself_is_believed():
    assert take_turns({"a": lambda: 2.5}, rounds=2)["a"] == [2.5, 2.5]


def test_ratios_are_taken_round_by_round():
    row = compare("decode", "case", "fast", "slow", {"fast": [1.0, 2.0, 4.0], "slow": [3.0, 4.0, 4.0]})
    assert row["ratio"] == {"median": 2.0, "low": 1.0, "high": 3.0}
    assert row["seconds"]["fast"] == {"median": 2.0, "low": 1.0, "high": 4.0}


def test_further_figures_stand_in_the_row():
    row = compare("train", "case", "a", "b", {"a": [1.0], "b": [3.0]}, target="at least 2", peak=1.5)
    assert row["ratio"]["median"] == 3.0 and row["more"] == {"peak": 1.5} and row["target"] == "at least 2"

"""Records of files: which values have a declared type, and what is said of one that has not."""

import pytest

from dllm_core.common.errors import UsageError
from dllm_core.common.records import check_fields, fits


@pytest.mark.parametrize("kind, right, wrong", [
    (int, [3, -1, 10**30], [3.0, "3", True, None]),
    (float, [3, 0.5], ["3", True, float("nan"), float("inf"), None]),
    (bool, [True], [1, "yes"]),
    (str, [""], [3, b""]),
    (int | None, [None, 3], ["", 3.5]),
    (str | int, ["a", 3], [None, 1.5]),
    (list[int], [[], [1, 2]], [(1, "2"), [None], "12", 3, {}]),
    (dict[str, int], [{}, {"a": 1}], [{"a": "1"}, {1: 1}, [], "a"]),
    (tuple[int, float], [[1, 2], (1, 0.5)], [[1], [1, 2, 3], [0.5, 1]]),
    (tuple[tuple[int, int], ...], [[], [[1, 2]], ((1, 2), (3, 4))], [[1, 2], [[1]]]),
    (dict, [{1: []}], [[]]),
    (object, [None, 3, []], []),
], ids=str)  # fmt: skip
def test_values_of_a_type(kind, right, wrong):
    assert all(fits(value, kind) for value in right)
    assert not any(fits(value, kind) for value in wrong)


@pytest.mark.parametrize("record, words", [
    ([1], "file: expected names with values"), ({}, "file: n must be given"),
    ({"n": 1, "m": 2}, "'m': no such key; there are"),
    ({"n": "1"}, "file: n must be int, not '1'"), ({"n": 1, "s": [1]}, r"file: s must be list\[str\], not \[1\]"),
])  # fmt: skip
def test_a_field_that_does_not_fit_is_named(record, words):
    with pytest.raises(UsageError, match=words):
        check_fields(record, {"n": int, "s": list[str]}, "file", UsageError, needed={"n"})


def test_a_huge_value_is_shown_in_part():
    bomb: list = ["x"]
    for _ in range(40):
        bomb = [bomb, bomb]  # as an alias of YAML makes it
    with pytest.raises(UsageError) as error:
        check_fields({"n": bomb}, {"n": int}, "file", UsageError)
    assert len(str(error.value)) < 2000

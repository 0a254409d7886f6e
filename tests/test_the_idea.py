"""Notebook 00: its claims hold at other seeds; its checks accept the folded answers and refuse wrong ones."""

import json
import re

import pytest
import torch

EXERCISES = ("reverse-exercise", "exactly-exercise")  # the cells that a reader fills in


@pytest.fixture(scope="module")
def notebook(project) -> dict[str, str]:
    """The source of each cell by its id, in order."""
    cells = json.loads((project / "notebooks/00_the_idea.ipynb").read_text("utf-8"))["cells"]
    return {cell["id"]: "".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"} | {
        "answers": "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    }


def run(notebook: dict[str, str], seed: int, answers: dict[str, str]) -> dict:
    """Execute the notebook's code with `answers` in place of the cells that they name; return its variables."""
    scope = {"display": lambda *_: None}
    dtype = torch.get_default_dtype()
    try:
        for name, source in notebook.items():
            if name != "answers":
                exec(answers.get(name, source), scope)  # noqa: S102
                scope |= {"draws": 2000, "seed": seed} if name == "parameters" else {}
    finally:
        torch.set_default_dtype(dtype)
    return scope


@pytest.mark.parametrize("seed", [1, 2])
def test_its_claims_hold_and_the_folded_answers_are_right(notebook, seed, capsys):
    answers = re.findall(r"```python\n(.*?)```", notebook["answers"], re.DOTALL)
    run(notebook, seed, dict(zip(EXERCISES, answers, strict=True)))
    assert capsys.readouterr().out.count("right: ") == 2


def test_an_exercise_that_is_not_written_yet_stops_nothing(notebook, capsys):
    run(notebook, 3, {})
    assert capsys.readouterr().out.count("is yours to write") == 2


HEADS = {
    "reverse-exercise": "def reverse_step(x_t, x_0, s, t, generator):",
    "exactly-exercise": "def draw_exactly_l(model, x_0, generator):",
}
DRAWN = "torch.rand(x_t.shape, generator=generator)"
EXACTLY = "l, order = torch.randint(1, L + 1, (draws, 1)), torch.rand(draws, L).argsort(dim=1)"


@pytest.mark.parametrize("exercise, body, message", [
    ("reverse-exercise", [f"return torch.where((x_t == MASK) & ({DRAWN} < t - s), x_0, x_t)"], "it must be s"),
    ("reverse-exercise", [f"return torch.where({DRAWN} < s, MASK, x_0)"], "a clean token has changed"),
    ("reverse-exercise", [f"return torch.where((x_t == MASK) & ({DRAWN} > s / t), A, x_t)"], "not that of x_0"),
    ("exactly-exercise", [EXACTLY, "return masked_loss(model, x_0, order < l) / l[:, 0]"], "the mean is"),
    ("exactly-exercise", [EXACTLY, "return masked_loss(model, x_0, order < l) * L / l"], "it must be .draws."),
])  # fmt: skip
def test_a_wrong_answer_is_named(notebook, exercise, body, message):
    wrong = "\n    ".join([HEADS[exercise], *body])
    with pytest.raises(AssertionError, match=message):
        run(notebook, 0, {exercise: wrong})

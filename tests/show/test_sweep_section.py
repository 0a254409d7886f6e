"""A sweep in a notebook: its section of RESULTS.md, whole."""

import pytest

from dllm_core import show
from dllm_core.common.errors import UsageError

PAGE = """# Results

Made by hand: `dllm sweep all`.

## A toy

**Does it help?**

Yes, `much`.

![A toy](figures/sweep_toy.png)

a caption

| cell | block | exact match | FLOP |
|---|---:|---|---|
| a\\|b | 4 | 0.500 (0.400–0.600) | 1.6e+13 |
| – | 16 | 1.000 | 1.6e+13 |

`dllm sweep toy` · seeds 0, 1

## Later

**When?**

*Not run yet: `dllm sweep later`.*

## Speed, side by side

Nothing of a sweep: `dllm sweep toy`.
"""


@pytest.fixture
def results(workspace):
    for name in ("toy", "later", "new"):
        path = workspace / f"notebooks/sweeps/{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (workspace / "figures").mkdir()
    (workspace / "figures/sweep_toy.png").write_bytes(show.mask_picture([[1]]).png())
    (workspace / "RESULTS.md").write_text(PAGE, "utf-8")
    return workspace


def test_a_sweep_is_its_section_with_picture_and_table(results):
    words, picture, caption, table, origin = show.sweep("toy")
    assert words.text == "**Does it help?**\n\nYes, `much`." and caption.text == "a caption"
    data, about = picture._repr_mimebundle_()
    assert data == {"image/png": (results / "figures/sweep_toy.png").read_bytes(), "text/plain": "A toy"}
    assert about == {"needs_background": "light"}
    _, _, first, second = table.text.splitlines()
    assert first.split() == ["a|b", "4", "0.500", "(0.400–0.600)", "1.6e+13"] and second.startswith("–   ")
    assert first.index("4") == second.index("6")  # numbers end at the same column
    assert second.split()[-2:] == ["1.000", "1.6e+13"]  # as it stands in the page
    assert origin.text == "`dllm sweep toy` · seeds 0, 1"
    assert [str(part) for part in show.sweep("toy", brief=True)] == [f"{words.text}\n\n{origin.text}"]
    assert show.sweep("later", brief=True) == show.sweep("later")


def test_a_sweep_without_records_names_the_command(results):
    (words,) = show.sweep("later")
    assert words.text == "**When?**\n\n*Not run yet: `dllm sweep later`.*"
    (words,) = show.sweep("new")
    assert "`dllm sweep new`" in words.text
    (results / "RESULTS.md").unlink()
    assert "`dllm sweep toy`" in show.sweep("toy")[0].text
    with pytest.raises(UsageError, match="no sweep 'tyo' in notebooks/sweeps; there are later, new, toy"):
        show.sweep("tyo")


def test_every_sweep_of_the_project_has_its_section(project, monkeypatch):
    monkeypatch.chdir(project)
    for path in (project / "notebooks/sweeps").glob("*.yaml"):
        shown = show.sweep(path.stem)
        unfinished = "Not run yet" in str(shown[-1])
        assert unfinished or any(hasattr(item, "markdown") for item in shown), path.stem
        assert all(item._repr_mimebundle_() for item in shown)

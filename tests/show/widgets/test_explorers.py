"""The explorers of schedules, noise and packing: static without a person, and right for every choice."""

import re

import pytest
from IPython.display import display
from IPython.utils.capture import capture_output
from traces import packing_explorer

from dllm_core.show.widgets import explorers as widgets
from dllm_core.show.widgets.controls import NO_KERNEL

EXPLORERS = (widgets.schedule_explorer, widgets.block_explorer, widgets.noise_explorer, packing_explorer)


@pytest.mark.parametrize("explorer", EXPLORERS)
def test_explorers_are_static_without_an_interactive_display(explorer):
    bundle = explorer(interactive=False)._repr_mimebundle_()
    bundle = bundle[0] if isinstance(bundle, tuple) else bundle
    page = bundle.get("text/html", "")
    assert bundle.get("image/png", b"").startswith(b"\x89PNG") or "<img" in page or "░" in page
    assert bundle["text/plain"] and "<script" not in page


@pytest.mark.parametrize("explorer", EXPLORERS)
def test_a_saved_notebook_holds_the_still_form_and_words_beside_the_widget(explorer):
    with capture_output() as captured:
        display(explorer(interactive=True))
    still, widget = (output.data for output in captured.outputs)
    assert ("<img" in still["text/html"] or "░" in still["text/html"]) and NO_KERNEL in still["text/html"]
    assert still["text/plain"] and widget["text/plain"] == NO_KERNEL
    assert "application/vnd.jupyter.widget-view+json" in widget


@pytest.mark.parametrize("explorer", EXPLORERS)
def test_controls_are_named_and_explained(explorer):
    _, title, controls, _, stage = explorer(interactive=True).children
    assert title.value and all(control.description and control.tooltip for control in controls.children) and stage.children


def test_explorers_show_errors_and_recover():
    *_, controls, complaint, stage = widgets.block_explorer(interactive=True).children
    up = controls.children[4]
    up.value = "3, 5"
    assert "must divide the length 256" in complaint.value
    up.value = "<b>"
    assert "&lt;b&gt;" in complaint.value
    up.value = "16, 32"
    assert complaint.value == "" and 'alt="block size' in stage.children[0].value


def test_raising_t_only_masks_more_and_the_complement_is_the_rest():
    texts, maskable = list("abcdefgh"), [False, False] + [True] * 6
    *_, controls, _, stage = widgets.noise_explorer(texts, maskable, interactive=True).children
    masked_of = lambda child: [sign == "░" for sign in re.findall(r">([^<>])</span>", child.value)]
    last = [False] * 8
    for t in (0.1, 0.4, 0.7, 0.99):
        controls.children[0].value = t
        first, complement = map(masked_of, stage.children)
        assert all(after or not before for before, after in zip(last, first, strict=True))
        assert [a != b for a, b in zip(first, complement, strict=True)] == maskable
        last = first
    controls.children[2].value = False
    assert len(stage.children) == 1


def test_the_noise_explorer_begins_with_the_views_that_are_asked_for():
    both, one = (widgets.noise_explorer("abcd", None, which, interactive=False).text for which in (True, False))
    assert "complementary view" in both and "complementary view" not in one


@pytest.mark.parametrize(
    "fill, words", [("block", "filled to blocks"), ("random", "random tail"), ("batch", "one to a row")]
)
def test_the_packing_explorer_begins_with_the_padding_that_is_asked_for(fill, words):
    assert words in packing_explorer(interactive=False, fill=fill).text
    assert words not in packing_explorer(interactive=False, fill=None).text
    with pytest.raises(ValueError, match="fill='eos': must be one of None, 'block', 'random', 'batch'"):
        packing_explorer(interactive=False, fill="eos")


def test_packing_explorer_draws_every_layout():
    *_, controls, complaint, stage = packing_explorer(interactive=True).children
    for name in widgets.LAYOUTS:
        controls.children[0].value = name
        assert complaint.value == "" and f"{name}:" in stage.children[0].value.replace("&amp;", "&")
    controls.children[0].value = widgets.FILLED
    assert re.search(r"whole, packed: \d+ % prompt, \d+ % answer, 0 % EOS padding", stage.children[0].value)
    assert re.search(r"LLaDA 2\): \d+ % prompt, \d+ % answer, [1-9]\d* % EOS padding", stage.children[0].value)

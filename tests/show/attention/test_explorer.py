"""The attention explorer: every cell and every forward equals what the library computes, also in the browser."""

import base64
import itertools
import json
import re
import zlib

import pytest
import torch
from small import HANG_LIMIT
from traces import HOSTILE

from dllm_core import show
from dllm_core.show.attention.scenes import (
    DECODERS,
    PATTERNS,
    POEM,
    RULES,
    decoding_scene,
    training_pattern,
    training_scene,
)


@pytest.mark.parametrize("name", PATTERNS)
def test_open_cells_are_those_of_the_pattern(name):
    for length, size, documents in itertools.product((6, 8), (1, 2, 4), (1, 2)):
        cells = training_scene(name, POEM[:length], size, documents)["frames"][0]["cells"]
        drawn = torch.tensor([[RULES[code][0] for code in row] for row in cells])
        assert torch.equal(drawn, training_pattern(name, length, size, documents).mask()[0])


def test_the_rule_of_a_cell_is_named():
    cells = training_scene(PATTERNS[4], POEM[:8], 2, documents=2)["frames"][0]["cells"]  # x_t 0–7, twin 8–15, x_0 16–23
    named = lambda q, k: RULES[cells[q][k]][1]
    assert named(2, 3) == "own block" and named(2, 16) == "earlier clean" and named(2, 18) == "own answer"
    assert named(2, 0) == named(18, 2) == "noise from outside" and named(2, 10) == "other noisy view"
    assert named(0, 18) == named(16, 18) == "later block" and named(4, 0) == named(20, 0) == "other document"


def test_a_prediction_is_shown_where_the_pattern_reads_it():
    causal = training_scene("causal", "abcd", 1)["elements"]
    assert [element["says"] for element in causal] == [["b"], ["c"], ["d"], []]  # labels shifted by one
    noisy = training_scene(PATTERNS[3], POEM[:8], 4)["elements"]
    assert any(element["masked"] for element in noisy[:8]) and not any(element["masked"] for element in noisy[8:])
    for element in noisy[:8]:
        assert element["says"] == ([POEM[element["token"]]] if element["masked"] else [])
        assert (element["text"] == "░") == element["masked"]
    twins = training_scene(PATTERNS[4], POEM[:8], 4)["elements"]
    assert [element["masked"] for element in twins[:8]] == [not element["masked"] for element in twins[8:16]]


def test_decoders_forwards_agree_with_the_cache():
    ar = decoding_scene(DECODERS[0], POEM[:8], 0)["frames"]
    assert [frame["fed"] for frame in ar] == [[0, 1], [2], [3], [4], [5], [6]]
    assert ar[2]["cells"][3] == "cccfwwww" and ar[2]["cells"][2] == "k" * 8 and ar[2]["cells"][4] == "r" * 8
    full = decoding_scene(DECODERS[1], POEM[:8], 0)["frames"]
    assert all(row == "f" * 8 for frame in full for row in frame["cells"])
    for frame in decoding_scene(DECODERS[2], POEM[:12], 4)["frames"]:
        fed, last = frame["fed"], max(frame["fed"])
        assert last % 4 == 3 and min(fed) % 4 == 0
        for q in fed:
            seen = [k for k, code in enumerate(frame["cells"][q]) if RULES[code][0]]
            assert seen == [k for k in range(12) if k // 4 <= q // 4]
            assert all((frame["cells"][q][k] == "f") == (k in fed) for k in seen)
        assert all(frame["known"][:4])


def test_every_answer_token_is_written_once():
    for name in DECODERS:
        written = [position for frame in decoding_scene(name, POEM[:12], 4)["frames"]
                   for position, said in enumerate(frame["says"]) if said]  # fmt: skip
        assert sorted(written) == list(range(4, 12))


def test_attention_errors_name_the_argument():
    with pytest.raises(ValueError, match="the text has 3 tokens"):
        show.attention("abc")
    with pytest.raises(ValueError, match="none of them divides the length 9"):
        show.attention(lengths=(9,), block_sizes=(2, 4))
    with pytest.raises(ValueError, match="pattern='x'"):
        show.attention(pattern="x")
    with pytest.raises(ValueError, match="9 documents do not fit"):
        show.attention_picture(POEM[:8], documents=9)


def test_attention_is_one_piece_with_a_picture_in_it():
    explorer = show.attention(POEM, lengths=(8,), block_sizes=(4,), documents=(1,))
    bare = re.sub(r"<(script|style).*?</\1>", "", explorer.html, flags=re.DOTALL)
    assert bare.count('src="data:image/png') == 1 and "causal" in explorer.text
    assert set(re.findall(r"\w+://[\w.]+", explorer.html)) == {"http://www.w3.org"}  # a name space, never asked for
    record = json.loads(re.search(r"start\(root, (\{.*\})\);", explorer.html).group(1))
    assert {key.split("|")[0] for key in record["scenes"]} == {*PATTERNS, *DECODERS}
    assert len(explorer.html) < 300_000
    packed = json.loads(re.search(r"start\(root, (\{.*\})\);", show.attention().html).group(1))["deflate"]
    assert set(json.loads(zlib.decompress(base64.b64decode(packed)))) == set(record)


@pytest.fixture(scope="module")
def page(browser):
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.set_default_timeout(HANG_LIMIT * 1000)
    return page


def opened(page, tmp_path, **options):
    page.problems, page.asked = [], []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda message: message.type in ("error", "warning") and page.problems.append(message.text))
    page.on("request", lambda request: page.asked.append(request.url))
    picture = show.attention(**options).html
    path = tmp_path / "x.html"
    path.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>x</title><main><h1>x</h1>{picture}</main></html>',
        "utf-8",
    )
    page.goto(path.as_uri())
    page.wait_for_selector(".dllm-attention .why b")
    return page


def test_every_cell_shows_its_rule_by_mouse_and_by_keyboard(page, tmp_path):
    opened(page, tmp_path, lengths=(8,), block_sizes=(4,), documents=(1,))
    assert page.locator(".dllm-still").count() == 0
    cells = training_scene(PATTERNS[3], POEM[:8], 4)["frames"][0]["cells"]
    grid, why = page.locator("[role=application]"), page.locator(".why")
    grid.focus()
    for key in ["ArrowUp"] * 16 + ["Home"]:
        page.keyboard.press(key)
    for q in range(16):
        for k in range(16):
            open_, name, _ = RULES[cells[q][k]]
            assert f"{'✓ open' if open_ else '✗ closed'}: {name}" == why.locator("b").inner_text()
            page.keyboard.press("ArrowRight")
        page.keyboard.press("Home")
        page.keyboard.press("ArrowDown")
    box = page.locator("[role=application] svg").bounding_box()
    unit = box["width"] / (24 * 2.4 + 16 * 24 + 4)
    at = lambda index: unit * (24 * 2.4 + 24 * index + 12)
    page.mouse.move(box["x"] + at(11), box["y"] + at(1))  # x_t, first block → its own clean copy
    assert (
        "own answer" in why.inner_text()
        and "(token 2, x_t" in why.inner_text()
        and "(token 4, x_0)" in why.inner_text()
    )
    assert page.locator(".chip.seen").count() == sum(RULES[code][0] for code in cells[1])
    assert page.problems == [] and [url for url in page.asked if not url.startswith("file:")] == []


def test_decoding_steps_forward_by_forward(page, tmp_path):
    opened(page, tmp_path, lengths=(8,), block_sizes=(4,), pattern=DECODERS[2])
    frames = decoding_scene(DECODERS[2], POEM[:8], 4)["frames"]
    page.locator("[role=application]").focus()
    for number, frame in enumerate(frames, 1):
        message = page.locator(".bar").nth(1).inner_text()
        assert f"forward {number} of {len(frames)}: computes {len(frame['fed'])} of 8 positions" in message
        assert all(said in message for said in frame["says"] if said)
        page.keyboard.press(".")
    page.keyboard.press("End")
    page.get_by_role("button", name="◀ forward").click()
    assert f"forward {len(frames) - 1} of" in page.locator(".bar").nth(1).inner_text()
    page.get_by_label("pattern").select_option("causal")
    assert page.get_by_label("block size (tokens)").is_hidden() and page.get_by_text("forward ▶").is_hidden()
    assert page.problems == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_violation(page, axe, tmp_path, theme):
    page.emulate_media(color_scheme=theme, reduced_motion="reduce")
    opened(page, tmp_path, lengths=(8,), block_sizes=(4,))
    page.evaluate(axe)
    for pattern in (PATTERNS[3], DECODERS[2]):
        page.get_by_label("pattern").select_option(pattern)
        violations = page.evaluate("axe.run()")["violations"]
        assert [(violation["id"], violation["impact"], violation["nodes"][0]["html"]) for violation in violations] == []


def test_hostile_tokens_stay_letters(page, tmp_path):
    tokens = [HOSTILE, "</script><script>window.hit=1//", "\u202e", "😀", "a", "b", "c", "d"]
    opened(page, tmp_path, text=tokens, lengths=(8,), block_sizes=(4,), pattern="causal")
    assert HOSTILE in page.locator("svg").first.inner_html().replace("&lt;", "<").replace("&gt;", ">")
    assert page.evaluate("window.hit") is None and page.locator("img").count() == 0 and page.problems == []

"""The decoding player against hand-made traces: what it shows equals the record, in every form that it takes."""

import base64
import html
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from small import HANG_LIMIT
from traces import ALL, EOS, HOSTILE, MASK, WORDS, ar, branched, expected_cells, infilled, llada1, llada2, long, step

from dllm_core import show
from dllm_core.show.player.page import record
from dllm_core.show.player.static import STATIC_STEPS
from dllm_core.show.trace_view import cells as trace_cells
from dllm_core.show.trace_view import masked_after as trace_masked
from dllm_core.show.trace_view import reasons, times, waits
from dllm_core.trace import Trace


def test_player_refuses_what_it_cannot_show():
    with pytest.raises(ValueError, match="one to 3"):
        show.player()
    with pytest.raises(ValueError, match="2 for 1 traces"):
        show.player(ar(), labels=["a", "b"])
    with pytest.raises(ValueError, match="'forwards' or 'seconds'"):
        show.player(ar(), clock="hours")
    with pytest.raises(TypeError, match="expected a Trace, got list"):
        show.player([ar()])


def test_record_keeps_every_commit_and_only_changed_drafts():
    data = record(llada2(), "x")
    assert [[c[:4] for c in s["commits"]] for s in data["steps"]][1] == [[4, 3, 0.5, "fallback"]]
    assert [s["drafts"] for s in data["steps"]][1:] == [
        [[5, 1, 1], [3, 4, 4], [300, 200, 100]], [[7], [EOS], [950]], [[7], [EOS], [800]],
    ]  # fmt: skip
    assert data["steps"][2]["held"] == 1 and data["forwards"] == [0, 1, 2, 3, 4]
    assert data["finished"] and not record(replace(llada2(), steps=llada2().steps[:2]), "x")["finished"]


def test_html_holds_hostile_text_as_data_and_no_address():
    bundle = show.player(*(make() for make in ALL), labels=[HOSTILE, "\u202eb", "c"])._repr_mimebundle_()
    page = bundle["text/html"]
    assert "<img src=x" not in page and page.count("<script") == 1 and page.count("</script") == 1
    assert "\u202e" not in page and "\u202e" not in bundle["text/plain"]
    assert [
        hit for hit in re.findall(r"(?:https?:)?//[\w.]+", re.sub(r"base64,[^\"]*", "", page))
        if "w3.org" not in hit and not hit.startswith("// ")
    ] == []  # fmt: skip
    data = re.search(r"start\(root, (\{.*\})\);\n\}\)", page).group(1)
    assert "<" not in data and len(json.loads(data)["traces"]) == 3
    assert "░" in bundle["text/plain"]


def test_record_and_static_form_hold_what_was_changed_by_hand():
    data = record(branched(), "x")
    assert data["edits"] == [
        [2, 5, 6, "take", HOSTILE], [2, 4, None, "mask", ""], [2, 4, 3, "forbid", ""], [4, 7, 3, "write", ""],
    ]  # fmt: skip
    assert data["finished"] and data["written"] == [0, 2, 3, 5, 6] and record(ar(), "x")["edits"] == []
    assert data["steps"][3]["drafts"] == [[], [], []] and data["steps"][2]["drafts"] == [[7], [EOS], [800]]
    bare = re.sub(r' style="[^"]*"', "", show.player(branched()).html)
    assert "<u>" + html.escape(HOSTILE) + "</u>" in bare and "<u>你</u>" in bare
    assert "by hand after step 2: mask at position 4: masked again by hand" in bare


def test_static_form_survives_without_script_and_style():
    bundle = show.player(llada2())._repr_mimebundle_()
    page = bundle["text/html"]
    assert base64.b64encode(bundle["image/png"]).decode("ascii") in page  # for what shows no HTML: slides, PDF
    bare = re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL)
    assert bare.count("<details") == 5 and "style=" in bare
    assert "4 filled" not in bare and "step 2: 1 filled, 3 masked" in bare
    assert html.escape(HOSTILE) in bare
    assert re.search(r'<img class="dllm-paper" src="data:image/png;base64,iVBOR[^"]+" alt="LLaDA 2: four moments', bare)
    naked = re.sub(r' style="[^"]*"', "", bare)
    assert "<b>你</b>" in naked and "<span>░░░</span>" in naked  # new and masked read without any style


def test_the_piece_for_pages_and_widgets_holds_no_picture():
    assert "<img" not in show.player(llada2()).html and "<img" not in show.player(llada2()).page()


def test_long_traces_are_packed_and_small():
    trace = long()
    page = show.player(trace)._repr_mimebundle_()["text/html"]
    assert '"deflate"' in page and len(page.encode()) < 3_000_000
    assert 4 <= page.count("<details") <= STATIC_STEPS
    many = ar()
    many.initial = [1, 3] + [MASK] * 300
    many.steps = [step(i, [(2 + i, 4, 0.9)], 299 - i, (2 + i, 3 + i), reason="ar") for i in range(300)]
    assert show.player(many).html.count("<details") == STATIC_STEPS
    assert show.player(many, many, many).html.count("<details") <= STATIC_STEPS


def test_save_html_gif_png(tmp_path):
    from PIL import Image

    page = show.save_html(tmp_path / "a" / "x.html", ar(), llada2(), title=HOSTILE)
    assert HOSTILE not in page.read_text("utf-8") and "default-src 'none'" in page.read_text("utf-8")
    moving = Image.open(show.gif(llada2(), tmp_path / "x.gif"))
    assert moving.n_frames == 5
    assert Image.open(show.gif(llada2(), tmp_path / "y.gif", legend=False)).height < moving.height
    strip, single, other = (
        Image.open(show.png(llada2(), tmp_path / f"{i}.png", steps=steps, width=300))
        for i, steps in enumerate([[0, 4], [4], [0]])
    )
    assert strip.width == single.width == 600 and single.height == other.height
    assert single.height < strip.height < 2 * single.height  # the legend stands once
    assert single.convert("RGB").tobytes() != other.convert("RGB").tobytes()
    with pytest.raises(ValueError, match="from 0 to 4"):
        show.png(llada2(), tmp_path / "z.png", steps=[5])
    assert not list(tmp_path.glob("*.partial")) and not (tmp_path / "z.png").exists()


def test_a_gif_of_a_long_decoding_has_fewer_frames(tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.setattr("dllm_core.show.strip.MOST_CELLS", 3 * len(ar().final))
    many = replace(ar(), steps=ar().steps * 3)
    assert Image.open(show.gif(many, tmp_path / "x.gif", frames=7)).n_frames == 6  # at least


def test_frames_of_an_infilling_draw_the_complete_text(tmp_path):
    assert show.gif(infilled(), tmp_path / "x.gif", prompt=False).stat().st_size > 0
    assert "你░好░你" in show.player(infilled()).text


def open_page(browser, path, ready=".dllm-bar", script="", **options):
    """A page with the network off; `problems` are its console's errors, `asked` what it wanted to load."""
    page = browser.new_page(**options)
    page.set_default_timeout(HANG_LIMIT * 1000)
    page.context.set_offline(True)
    page.problems, page.asked = [], []
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("console", lambda message: message.type in ("error", "warning") and page.problems.append(message.text))
    page.on("request", lambda request: page.asked.append(request.url))
    if script:
        page.add_init_script(script)
    page.goto(path.as_uri())
    page.wait_for_selector(ready)
    return page


def clean(page) -> bool:
    """Nothing hostile ran, nothing was complained about, nothing but the file itself was loaded."""
    return page.evaluate("window.hit") is None and page.problems == [] and len(page.asked) == 1


def cells(page, side=0):
    """(class names, text, label, what the panel says) of every token of one trace."""
    return page.evaluate(
        """(n) => { const side = document.querySelectorAll('.dllm-side')[n], why = document.querySelector('.dllm-why');
        return [...side.querySelectorAll('.dllm-cell')].map(cell => {
          cell.dispatchEvent(new MouseEvent('mouseover', { bubbles: true }));
          return [cell.className.split(' '), cell.textContent, cell.getAttribute('aria-label'), why.innerText];
        }); }""", side,
    )  # fmt: skip


@pytest.mark.parametrize("make", [*ALL, infilled])
def test_every_cell_equals_the_record_at_every_step(browser, tmp_path, make):
    trace = make()
    page = open_page(browser, show.save_html(tmp_path / "x.html", trace))
    for k in range(len(trace.steps) + 1):
        pairs = zip(cells(page), expected_cells(trace, k), strict=True)
        for position, ((kinds, text, label, reason), want) in enumerate(pairs):
            assert {"masked", "now", "before", "prompt"} & set(kinds) == {want["state"]}, (k, position)
            assert ("inblock" in kinds) == want["in block"]
            assert f"position {position}" in reason and f"position {position}" in label
            if want["past"]:
                index, commit = want["past"][-1]
                assert text == show.visible(WORDS[commit.token])
                assert f"step {index + 1}, confidence {commit.confidence:.2f}, {commit.reason}" in label
                assert f"filled in step {index + 1} (forward {times(trace)[index + 1]})" in reason
                words = reasons(trace)[commit.reason].format(
                    filled=sum(c.reason == commit.reason for c in trace.steps[index].commits),
                    held=trace.steps[index].held_back,
                )
                assert f"Why: {words} ({commit.reason})." in reason
                assert f"Confidence {commit.confidence:.3f}" in reason
                for other, share in commit.alternatives:
                    assert f"{show.visible(WORDS[other])} {share:.3f}" in reason
                assert ("edited" in kinds) == (len(want["past"]) > 1 or commit.reason == "edit")
                assert ("It replaced:" in reason) == (len(want["past"]) > 1)
            elif want["state"] == "prompt":
                assert text == show.visible(WORDS[want["token"]]) and "prompt, never masked" in reason
            elif want["draft"]:
                _, token, share = want["draft"]
                assert text == show.visible(WORDS[token]) and "guess" in kinds
                assert f"The model's guess: {text} {share:.3f}" in reason and "Why not kept: " in reason
            else:
                assert text == "·" and "guess" not in reason
        page.locator(".dllm-player").press("ArrowRight")
    assert clean(page)
    page.close()


def test_why_a_guess_was_not_kept(browser, tmp_path):
    page = open_page(browser, show.save_html(tmp_path / "x.html", llada1(), llada2()))
    said = {}
    for time in (2, 3):
        page.locator("input").fill(str(time))
        for side in (0, 1):
            said |= {(time, side, position): row[3] for position, row in enumerate(cells(page, side))}
    assert waits(llada1())["share"].format(filled=2) in said[2, 0, 2]
    assert waits(llada2())["below"] in said[3, 1, 6] and waits(llada2())["held"] in said[3, 1, 7]
    assert "Guesses before: 好 0.100 (step 2) → ⟨eos⟩ 0.950 (step 3)" in said[3, 1, 7]
    page.close()


def test_three_traces_share_a_clock(browser, tmp_path):
    traces = [make() for make in ALL]
    traces[2].steps = [replace(s, seconds=1.0 + s.index) for s in traces[2].steps]
    page = open_page(browser, show.save_html(tmp_path / "x.html", *traces))
    for unit in ("forwards", "seconds"):
        page.get_by_label("clock", exact=True).select_option(unit)
        ticks = sorted({time for trace in traces for time in times(trace, unit)})
        assert page.locator("input").get_attribute("max") == str(len(ticks) - 1)
        page.locator(".dllm-player").press("Home")
        for tick in ticks:
            for n, trace in enumerate(traces):
                k = max(i for i, time in enumerate(times(trace, unit)) if time <= tick)
                state = page.locator(".dllm-state").nth(n).inner_text()
                assert state.startswith(f"step {k} of {len(trace.steps)} · {times(trace)[k]} forward passes")
                assert ("finished" in state) == (k == len(trace.steps))
                assert f"{trace.steps[k - 1].masked if k else trace.initial.count(MASK)} masked" in state
            page.locator(".dllm-player").press("ArrowRight")
    page.get_by_label("clock", exact=True).select_option("seconds")
    assert "3.00 s of 4.00 s" in (page.locator("input").fill("6"), page.locator(".dllm-clock").inner_text())[1]
    assert clean(page)
    page.close()


def test_curves_follow_the_cursor(browser, tmp_path):
    trace = llada1()
    trace.steps = [replace(s, confidence=0.25 + 0.5 * s.index, entropy=1.5 - s.index) for s in trace.steps]
    page = open_page(browser, show.save_html(tmp_path / "x.html", trace))
    shown, places = [], []
    for _ in range(3):
        shown.append(page.locator(".dllm-values").all_inner_texts())
        places.append([float(line.get_attribute("x1")) for line in page.locator("figure line").all()])
        page.locator(".dllm-player").press("ArrowRight")
    assert shown == [["4", "–", "–", "–"], ["2", "1.00", "0.25", "1.50"], ["0", "1.00", "0.75", "0.50"]]
    assert places == [[0] * 4, [150] * 4, [300] * 4]
    box = page.locator("figure svg:not(.dllm-dash)").first.bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.6, box["y"] + 10)
    assert page.locator(".dllm-clock").inner_text() == "2 of 4 forward passes"
    page.close()


def test_branches_side_by_side(browser, tmp_path):
    parent, branch = llada2(), branched()
    path = show.save_html(tmp_path / "x.html", parent, branch, labels=["A", HOSTILE])
    page = open_page(browser, path)
    assert "by hand" in page.locator(".dllm-legend").text_content()
    line = page.locator(".dllm-differs")
    assert line.count() == 1 and line.inner_text().startswith("first difference from A: after step 2, position 4, ░ for 你")
    line.locator("button").click()
    for k in range(5):
        page.evaluate("(k) => { for (const box of document.querySelectorAll('.dllm-bar input')) { box.value = k; "
                      "box.dispatchEvent(new Event('input')); } }", k)  # fmt: skip
        for side, trace in enumerate((parent, branch)):
            shown = cells(page, side)
            names = {"by hand": "hand"}
            for (kinds, text, label, why), want in zip(shown, trace_cells(trace, k), strict=True):
                assert names.get(want.state, want.state) in kinds, (k, side, want)
                assert text == (want.guess or ("·" if want.state == "masked" else want.text)) or want.state == "masked"
                assert ("differs" in kinds) == (side == 1 and k >= 2 and want.position in (4, 5))
                assert want.state != "by hand" or ("by hand" in label and "by hand" in why)
        state = page.locator(".dllm-state").nth(1)
        assert f"{trace_masked(branch, k)} masked" in state.inner_text()
    page.locator(".dllm-side").nth(1).locator(".dllm-cell").nth(2).click()
    page.locator(".dllm-why").get_by_role("button", name="show that step").click()
    assert "step 1 of 4" in state.inner_text()
    page.locator(".dllm-player").press("End")
    why = cells(page, 1)
    assert HOSTILE in why[5][3] and "taken by hand" in why[5][3] and "It replaced" not in why[4][3]
    assert clean(page)


def test_keys_views_and_the_kept_token(browser, tmp_path):
    page = open_page(browser, show.save_html(tmp_path / "x.html", llada2()))
    player, panel, cell = (
        page.locator(".dllm-player"),
        page.locator(".dllm-why"),
        page.locator(".dllm-cells .dllm-cell"),
    )
    player.press("c")  # from the start, the view by step shows the finished text
    assert page.locator(".dllm-clock").inner_text() == "4 of 4 forward passes"
    assert cell.nth(5).get_attribute("data-step") == "3" and "color-mix" in cell.nth(5).get_attribute("style")
    player.press("c")
    assert cell.nth(5).get_attribute("data-step") == ""
    for key, at in (("Home", 0), (".", 1), ("PageDown", 4), (",", 3), ("PageUp", 0), ("End", 4), ("ArrowLeft", 3)):
        player.press(key)
        assert page.locator(".dllm-clock").inner_text() == f"{at} of 4 forward passes"
    assert cell.nth(6).inner_text() == "好" and "remasked" not in cell.nth(6).get_attribute("class")
    player.press("g")
    assert "remasked" in cell.nth(6).get_attribute("class").split()
    assert "changed" in cell.nth(7).get_attribute("class").split() and "changed" not in cell.nth(6).get_attribute(
        "class"
    )
    assert "3 guessed · 2 masked again · kept: 1 (budget) · 1 held back" in page.locator(".dllm-state").inner_text()
    player.press("g")
    assert cell.nth(6).inner_text() == "·"
    player.press("z")
    assert page.evaluate("getComputedStyle(document.querySelector('.dllm-player')).fontSize") == "19.6px"
    page.locator(".dllm-cell[tabindex='0']").focus()
    page.keyboard.press("ArrowRight")
    assert "position 3" in panel.inner_text()
    page.keyboard.press("Enter")
    player.press("Home")
    assert "position 3: masked at the start" in panel.inner_text() and "Its block comes first" in panel.inner_text()
    assert cell.nth(3).get_attribute("aria-selected") == "true"
    player.press("End")
    assert "position 3, token 8: filled in step 1" in panel.inner_text()
    page.get_by_role("button", name="show that step").focus()
    page.keyboard.press("Enter")
    assert page.locator(".dllm-clock").inner_text() == "1 of 4 forward passes"
    player.press("Escape")
    assert "Point at a token" in panel.inner_text()
    page.get_by_label("speed").select_option("4")
    player.press(" ")
    page.get_by_text("finished").wait_for()
    page.get_by_role("button", name="play").wait_for()
    assert clean(page)
    page.close()


def test_every_control_is_reached_by_tab(browser, tmp_path):
    page = open_page(browser, show.save_html(tmp_path / "x.html", llada1(), llada2()))
    reached = []
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate("""() => { const now = document.activeElement, box = getComputedStyle(now);
            return [now.getAttribute('aria-label') || now.textContent, box.outlineStyle]; }""")
        )
    names = [name for name, _ in reached]
    for name in ("play", "to the start", "one step back", "one step on", "to the end", "position on the clock", "clock",
                 "speed", "color", "guesses", "size", "settings", "keys"):  # fmt: skip
        assert name in names
    assert sum(name.startswith("position ") and ":" in name for name in names) >= 2  # one token of each trace
    assert all(outline != "none" for name, outline in reached if name in ("play", "clock", "keys"))
    page.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_readable_in_both_themes(browser, tmp_path, theme):
    page = open_page(
        browser, show.save_html(tmp_path / "x.html", llada2()), color_scheme=theme, reduced_motion="reduce"
    )
    contrasts = []
    for keys in ("", "ArrowRight", "ArrowRight", "g", "c", "End"):
        page.locator(".dllm-player").press(keys) if keys else None
        contrasts += page.evaluate("""() => {
          const canvas = document.createElement('canvas'); canvas.width = canvas.height = 1;
          const pen = canvas.getContext('2d', { willReadFrequently: true });
          const light = (colors) => {
            pen.clearRect(0, 0, 1, 1);
            for (const color of colors) { pen.fillStyle = color; pen.fillRect(0, 0, 1, 1); }
            const [r, g, b] = [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3)
              .map(v => v / 255).map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
            return .2126 * r + .7152 * g + .0722 * b;
          };
          const paper = getComputedStyle(document.querySelector('.dllm-player')).backgroundColor;
          return [...document.querySelectorAll('.dllm-cell, .dllm-state, .dllm-small, figcaption, .dllm-axis')].map(node => {
            const style = getComputedStyle(node);
            const [a, b] = [light([paper, style.backgroundColor, style.color]), light([paper, style.backgroundColor])];
            return (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
          });
        }""")
    assert min(contrasts) >= 4.5 and not math.isnan(min(contrasts))
    moving = (
        "[...document.querySelectorAll('.dllm-player *')].filter(n => getComputedStyle(n).transitionDuration != '0s')"
    )
    assert page.evaluate(f"{moving}.length") == 0
    page.evaluate("document.body.dataset.jpThemeLight = 'false'")  # JupyterLab's theme wins over the system's
    paper = page.evaluate("getComputedStyle(document.querySelector('.dllm-player')).backgroundColor")
    page.evaluate("document.body.dataset.jpThemeLight = 'true'")
    assert paper != page.evaluate("getComputedStyle(document.querySelector('.dllm-player')).backgroundColor")
    page.close()


@pytest.mark.parametrize(("theme", "width"), [("light", 1280), ("dark", 900)])
def test_axe_finds_no_violation(browser, axe, tmp_path, theme, width):
    page = player_with(browser, tmp_path, [tailed(), tailed(), llada2()], width, theme, bypass_csp=True)
    page.evaluate(axe)
    page.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
    for keys in ("ArrowRight", "g", "End", "c"):
        page.locator(".dllm-player").press(keys)
        violations = page.evaluate("axe.run()")["violations"]
        assert [(violation["id"], violation["impact"], violation["nodes"][0]["html"]) for violation in violations] == []
    page.close()


def test_a_long_trace_in_the_browser(browser, tmp_path):
    trace = long()
    path = show.save_html(tmp_path / "x.html", trace)
    assert path.stat().st_size < 3_000_000
    page = open_page(browser, path)
    for k in (0, 1, 300, 511, 512):
        page.locator("input").fill(str(k))
        shown = page.evaluate(
            "[...document.querySelectorAll('.dllm-cells .dllm-cell')].map(c => [c.className, c.textContent])"
        )
        assert len(shown) == 1024
        committed = {commit.position for commit in trace.steps[k - 1].commits} if k else set()
        drafts = {p: token for p, token, _ in trace.steps[k - 1].draft} if k else {}
        for position, ((kinds, text), token) in enumerate(zip(shown, trace.tokens_at(k), strict=True)):
            assert ("now" in kinds.split()) == (position in committed)
            seen = drafts.get(position) if token == trace.mask_token_id else token
            assert text == ("·" if seen is None else trace.vocabulary[seen])
    assert clean(page)
    page.close()


def test_a_long_live_trace_shows_its_end(browser, tmp_path):
    path = show.save_html(tmp_path / "x.html", long(256, 128))
    text = path.read_text("utf-8")
    assert '"deflate"' in text  # it starts after it was unpacked
    path.write_text(text.replace('<div class="dllm-player"', '<div data-at="end" class="dllm-player"'), "utf-8")
    page = open_page(browser, path)
    assert page.locator(".dllm-clock").inner_text() == "128 of 128 forward passes" and clean(page)
    page.close()


def test_without_decompression_the_static_form_stays(browser, tmp_path):
    path = show.save_html(tmp_path / "x.html", long(256, 128))
    assert '"deflate"' in path.read_text("utf-8")
    page = open_page(browser, path, ready=".dllm-static", script="delete window.DecompressionStream")
    page.get_by_text("cannot unpack").wait_for()
    assert page.locator("details").count() >= 4 and page.problems == []
    page.close()


def notebook_page(tmp_path, *shown) -> Path:
    """What `jupyter nbconvert --to html` makes of a notebook with these outputs, without its own addresses."""
    import nbformat
    from nbconvert import HTMLExporter

    v4 = nbformat.v4
    outputs = [v4.new_output("display_data", {"text/html": item._repr_mimebundle_()["text/html"]}) for item in shown]
    notebook = v4.new_notebook(cells=[v4.new_code_cell("show", outputs=outputs)])
    body, _ = HTMLExporter().from_notebook_node(notebook)
    path = tmp_path / "made.html"
    path.write_text(re.sub(r'<script[^>]*src="https?:[^"]*"[^>]*></script>', "", body), "utf-8")
    return path


def test_two_players_in_an_exported_notebook(browser, tmp_path):
    path = notebook_page(tmp_path, show.player(llada1()), show.player(llada2(), ar()))
    page = open_page(browser, path)
    first, second = page.locator(".dllm-player").all()
    second.press("End")
    assert first.locator(".dllm-clock").inner_text() == "0 of 4 forward passes"
    assert second.locator(".dllm-clock").inner_text() == "4 of 4 forward passes" and second.locator(".dllm-side").count() == 2
    first.press("ArrowRight")
    assert first.locator(".dllm-cells .now").count() == 2 and page.locator(".dllm-static").count() == 0
    assert page.evaluate("window.hit") is None
    assert not [
        text for text in page.problems if "ERR_INTERNET_DISCONNECTED" not in text
    ]  # the exporter's own addresses
    page.close()


def test_without_scripts_a_picture_and_the_steps_are_shown(browser, tmp_path):
    path = notebook_page(tmp_path, show.player(llada2()))
    page = open_page(browser, path, ready=".dllm-static", java_script_enabled=False)
    assert page.locator(".dllm-player img").bounding_box()["width"] > 300
    assert page.locator(".dllm-static details").count() == 5 and page.locator(".dllm-bar").count() == 0
    assert "step 4: 2 filled, 1 masked" in page.locator(".dllm-static").inner_text()
    page.close()


# how it looks ------------------------------------------------------------------------------------------------------

SIZES = [(1280, "light"), (900, "dark")]
STORY = {0: "<|endoftext|>", 1: "<|im_start|>", 2: "<|im_end|>", 3: "Tell", 4: " me", 5: " understanding", 6: " a", 7: " story", 9: "<|mask|>"}


def tailed(length=24, words=STORY) -> Trace:
    """A LLaDA 1 decoding that fills an answer of four tokens, and the rest with eos, from its end to its beginning."""
    steps = [
        step(i, [(p, 5 + p % 3 if p < 7 else EOS, 0.9)], p - 3, (3, 3 + length), [(3, 4, 0.5)], "schedule")
        for i, p in enumerate(range(2 + length, 2, -1))
    ]
    return Trace("llada1", [1, 3, 4], [1, 3, 4] + [MASK] * length, MASK, EOS, steps, {"threshold": 0.9}, words, "")


def player_with(browser, tmp_path, traces, width=1280, theme="light", **options):
    options |= {"viewport": {"width": width, "height": 720}, "color_scheme": theme}
    return open_page(browser, show.save_html(tmp_path / "x.html", *traces), **options)


CELLS = ".dllm-cells > .dllm-cell:not(.tail)"
PLACES = """() => Object.fromEntries(['.dllm-why', '.dllm-side', '.dllm-cells', 'CELLS', '.dllm-curves'].map(name =>
  [name, [...document.querySelectorAll(name)].filter(n => n.offsetWidth).map(n => {
    const box = n.getBoundingClientRect(); return [box.x, box.y + scrollY, box.width, box.height].map(Math.round).join(' '); })]))""".replace("CELLS", CELLS)


@pytest.mark.parametrize(("width", "theme"), SIZES)
@pytest.mark.parametrize("count", [1, 3])
def test_nothing_moves_while_it_plays(browser, tmp_path, width, theme, count):
    traces = [replace(tailed(), steps=tailed().steps[:-5]), llada2(), ar()][:count]
    page = player_with(browser, tmp_path, traces, width, theme)
    player, seen, limits = page.locator(".dllm-player"), [], set()
    for _ in range(4):
        page.locator(".dllm-cells .dllm-cell").nth(4).hover()
        seen.append(page.evaluate(PLACES))
        limits.add(tuple(page.locator(".dllm-axis").all_inner_texts()))
        player.press("PageDown")
    first = seen[0]
    for places in seen:  # cells behind an end fold; nothing moves
        assert set(places[CELLS]) <= set(first[CELLS])
        assert places | {CELLS: []} == first | {CELLS: []}
    widths = page.evaluate("[...document.querySelectorAll('.dllm-cells > .dllm-cell:not(.tail)')].map(c => c.offsetWidth)")
    assert len(set(widths) - {0}) <= 2  # one of each script
    assert len(limits) == 1
    page.close()


def test_a_masked_cell_does_not_tell_what_comes(browser, tmp_path):
    page = player_with(browser, tmp_path, [tailed()])
    looks = page.evaluate("[...document.querySelectorAll('.dllm-cells > .dllm-cell')].map(c => [c.offsetWidth, c.className.replace(' last', '')])")
    assert len({tuple(look) for look in looks}) == 1
    page.close()


def test_the_filling_behind_the_end_folds_into_one_cell(browser, tmp_path):
    page = player_with(browser, tmp_path, [tailed()])
    player, shown = page.locator(".dllm-player"), page.locator(".dllm-cells .dllm-cell:visible")
    before = page.locator(".dllm-curves").bounding_box()["y"]
    player.press("End")
    assert shown.all_inner_texts()[-1] == "⟨eos⟩ × 19" and page.locator(".dllm-curves").bounding_box()["y"] == before
    shown.last.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.textContent") == "⟨eos⟩ × 19"  # none is behind it
    page.keyboard.press("Enter")
    assert shown.all_inner_texts()[-20:] == ["⟨eos⟩"] * 20 and page.locator(".picked").count() == 0
    page.keyboard.press("Enter")
    assert page.locator(".picked").count() == 1 and "filled in step" in page.locator(".dllm-why").inner_text()
    assert "⟨eos⟩ × 20" in show.player(tailed()).html and clean(page)
    page.close()


@pytest.mark.parametrize(("width", "theme"), SIZES)
def test_the_reason_and_the_tokens_are_in_sight_together(browser, tmp_path, width, theme):
    many = tailed(90, STORY | {3: "讲", 4: "一", 6: "个"})
    page = player_with(browser, tmp_path, [many], width, theme)
    page.mouse.wheel(0, 90)
    cell = page.locator(".dllm-cells > .dllm-cell").nth(3)
    cell.click()
    why, top = page.locator(".dllm-why").bounding_box(), cell.bounding_box()["y"]
    assert 0 <= why["y"] and why["y"] + why["height"] <= top < 720
    heights = set()
    for key in ("End", "Home", "ArrowRight"):
        page.locator(".dllm-player").press(key)
        heights.add(page.locator(".dllm-why").bounding_box()["height"])
    assert heights == {why["height"]} and not page.locator(".dllm-legend").is_visible()
    page.close()


def test_the_prompt_is_one_line_that_opens(browser, tmp_path):
    trace = tailed()
    trace = replace(trace, prompt=[1] + [3, 4] * 60, initial=[1] + [3, 4] * 60 + [MASK] * 4, steps=[])
    page = player_with(browser, tmp_path, [trace], 900)
    line = page.locator(".dllm-prompt")
    assert line.bounding_box()["height"] < 34
    page.get_by_role("button", name="whole prompt").click()
    assert line.bounding_box()["height"] > 60 and page.locator(".dllm-prompt .dllm-cell").count() == 121
    page.close()
    page = player_with(browser, tmp_path, [tailed()], 900)
    assert page.get_by_role("button", name="whole prompt").count() == 0  # it is in sight
    page.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_token_of_a_word_is_cut(browser, tmp_path, theme):
    page = player_with(browser, tmp_path, [tailed()], theme=theme)
    fit = """[...document.querySelectorAll('.dllm-cells > .dllm-cell')].map(cell => {
      const text = document.createRange(); text.selectNodeContents(cell);
      const [inner, outer] = [text.getBoundingClientRect(), cell.getBoundingClientRect()];
      return [inner.left >= outer.left && inner.right <= outer.right && inner.top >= outer.top - 1 && inner.bottom <= outer.bottom + 1, cell.title];
    })"""
    for key in ("Home", "End", "ArrowLeft"):
        page.locator(".dllm-player").press(key)
        assert all(whole for whole, _ in page.evaluate(fit))
    assert "␣understanding" in [title for _, title in page.evaluate(fit)]
    page.close()


def test_a_style_has_one_colour_and_line_and_its_second_side_another_line(browser, tmp_path):
    lines = """[...document.querySelectorAll('.dllm-side')].map(side => { const path = side.querySelector('.dllm-dash path');
      return [side.querySelector('bdi').textContent.slice(0, 7), path.getAttribute('stroke'), path.getAttribute('stroke-dasharray')]; })"""
    looks = {}
    for traces in ([llada2()], [ar(), llada1(), llada2()], [llada2(), llada2(), llada1()]):
        page = player_with(browser, tmp_path, traces)
        for name, *look in page.evaluate(lines):
            looks.setdefault(name[:7], []).append(tuple(look))
        curve = page.evaluate("[...document.querySelector('.dllm-plot svg').querySelectorAll('path:not(.dllm-dot)')].map(p => p.getAttribute('stroke-dasharray'))")
        assert curve == [dashes for _, _, dashes in page.evaluate(lines)]
        page.close()
    assert {name: {stroke for stroke, _ in look} for name, look in looks.items()} == {
        "AR": {"var(--ar)"}, "LLaDA 1": {"var(--llada1)"}, "LLaDA 2": {"var(--llada2)"},
    }  # fmt: skip
    assert looks["LLaDA 2"][0] == looks["LLaDA 2"][1] == looks["LLaDA 2"][2] != looks["LLaDA 2"][3]
    assert len({look for each in looks.values() for look in each}) == 4


def test_words_fit_the_state(browser, tmp_path):
    ended = replace(llada2(), initial=llada2().initial + [MASK] * 4)
    ended.steps = [replace(one, masked=one.masked + 4) for one in llada2().steps]
    ended.steps[3] = replace(ended.steps[3], commits=(*ended.steps[3].commits[:1],))
    page = player_with(browser, tmp_path, [ended])
    player = page.locator(".dllm-player")
    assert "not been worked on yet" in cells(page)[9][3]
    player.press("End")
    assert "The answer ended before it" in cells(page)[9][3]
    assert "5 masked" in page.locator(".dllm-state").inner_text()
    assert "finished: masks stay only behind its end" in page.locator(".dllm-state").inner_text()
    assert "token 1 (<|im_start|>)" in cells(page)[0][3]
    assert "all behind the end" in show.player(ended).html and "⟨bos⟩ is &lt;|im_start|&gt;." in show.player(ended).html
    page.close()
    page = player_with(browser, tmp_path, [replace(ended, steps=ended.steps[:1])])
    page.locator(".dllm-player").press("End")
    assert "stopped: no further step" in page.locator(".dllm-state").inner_text()
    assert "stopped before its block" in cells(page)[9][3]
    page.close()


# a decoding that runs ----------------------------------------------------------------------------------------------

FED = "(traces) => document.querySelector('.dllm-player').player.update({ clock: 'forwards', traces })"


def test_a_running_decoding_is_fed_and_keeps_what_the_viewer_chose(browser, tmp_path):
    whole = record(llada2(), "x")

    def after(steps, **more):
        cut = {name: whole[name][: steps + 1] for name in ("forwards", "seconds", "written")}
        return whole | cut | {"steps": whole["steps"][:steps], "running": True, "finished": False} | more

    page = player_with(browser, tmp_path, [llada2()])

    def feed(*traces):
        page.evaluate(FED, traces)

    clock, state = page.locator(".dllm-clock"), page.locator(".dllm-state").first
    feed(after(0))
    for steps in (1, 2):  # it follows
        feed(after(steps))
        assert clock.inner_text() == f"{steps} of {steps} forward passes so far" and state.inner_text().startswith(f"step {steps} ·")
        assert not {"finished", "stopped"} & set(re.findall(r"\w+", state.inner_text())) and "✓" not in page.inner_text(".dllm-side")
        assert page.locator(".dllm-axis.across").first.inner_text().split("\n")[-1] == "at most 6 forward passes"
        assert float(page.evaluate("parseFloat(document.querySelector('.dllm-progress div').style.width)")) < 100
    page.get_by_label("size").select_option("1.4")
    page.get_by_label("clock", exact=True).select_option("seconds")
    page.get_by_label("speed").select_option("2")
    page.locator(".dllm-cells .dllm-cell").nth(4).click()
    page.locator(".dllm-player").press("g")
    page.evaluate("window.box = document.activeElement")
    page.locator(".dllm-player").press("ArrowLeft")
    focus = page.evaluate("document.activeElement.className")
    chosen = "[...document.querySelectorAll('select')].map(select => select.value)"
    before = page.evaluate(chosen)
    feed(after(3), record(ar(), "y"))
    assert page.evaluate(chosen) == before and page.evaluate("document.activeElement.className") == focus
    assert page.locator(".picked").count() == 1 and "x, position 4" in page.locator(".dllm-why").inner_text()
    assert state.inner_text().startswith("step 1 ·") and page.locator(".dllm-side").count() == 2
    feed(whole)
    assert state.inner_text().startswith("step 1 of 4") and page.locator(".dllm-side").count() == 1
    page.locator(".dllm-player").press("End")
    assert "finished" in state.inner_text() and "so far" not in clock.inner_text() and clean(page)
    page.close()

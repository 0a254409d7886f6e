"""The page in Chromium, opened from disk without a network: what it decodes, shows, saves and opens, and who can use it."""

import functools
import http.server
import json
import re
import threading
from dataclasses import asdict, replace

import pytest
from small import HANG_LIMIT
from traces import ALL, HOSTILE, infilled

from dllm_core.checkpoints.bundled import BUNDLED
from dllm_core.checkpoints.formats import load_checkpoint
from dllm_core.cli.main import main
from dllm_core.common.yaml_file import read_yaml
from dllm_core.config import DecodeConfig
from dllm_core.notebook.asking import generate_answers, mask_gaps, prompt_ids
from dllm_core.samplers import generate, infill
from dllm_core.show.html import asset
from dllm_core.show.page.page import INTERFACE, WORDS, page_data, save_page
from dllm_core.show.player.page import record
from dllm_core.trace import Edit, Trace

QUESTION, STORY = "Dear friend, who made you?", "Write a story about a kind mouse, the road and some tea."
RECORDED = {"alternatives": 3, "draft": True}
LIMIT = min(HANG_LIMIT, 300)  # seconds
WIDTHS = {900: 720, 1280: 720, 1920: 1080}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return save_page(tmp_path_factory.mktemp("page") / "page.html")


@pytest.fixture(scope="module")
def shipped(project):
    names = {"ar": "tiny-ar", "llada1": "tiny-llada1", "llada2": "tiny-llada2"}
    assert set(names.values()) == set(BUNDLED.values())
    return {style: load_checkpoint(project / "weights" / name) for style, name in names.items()}


class Opened:
    """The page in a browser with the network off; problems: errors of its console, asked: addresses that it wanted."""

    def __init__(self, browser, path, hash="", **options):
        self.page = browser.new_page(**({"viewport": {"width": 1280, "height": 720}} | options))
        self.page.set_default_timeout(LIMIT * 1000)
        self.page.context.set_offline(True)
        self.problems, self.asked = [], []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", lambda message: self.problems.append(message.text))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri() + hash)
        self.idle()

    def ask(self, code, value=None):
        return self.page.evaluate(code, value)

    def until(self, code):
        """Wait until an expression is true; the page forbids the evaluation that Playwright's own wait needs."""
        for _ in range(LIMIT * 20):
            if self.ask(code):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"never: {code}; the page says {self.ask('byId(`note`).textContent')!r}")

    def idle(self):
        self.until("typeof studio === 'object' && Boolean(studio.player) && !studio.running && !studio.later")

    def start(self, prompt, *sides):
        self.ask("([prompt, sides]) => studio.start(sides.map((side) => asRequest(prompt, side)))", [prompt, sides])
        self.idle()

    def traces(self):
        return [Trace.from_json(trace) for trace in self.ask("studio.sides.map(({ trace }) => trace)")]

    def pick(self, token, side=0):
        """Click the last cell of a side that shows this text. A second click would let a kept token go."""
        self.ask("studio.player.why.release()")
        self.page.locator(".dllm-side").nth(side).locator(".dllm-cell", has_text=re.compile(f"^{token}$")).last.click()
        self.until("byId('card-top').children.length === 20")

    def saved(self, button, tmp_path):
        with self.page.expect_download() as download:
            self.page.click(button)
        download.value.save_as(tmp_path / download.value.suggested_filename)
        return tmp_path / download.value.suggested_filename

    def close(self):
        assert self.problems == [] and [url for url in self.asked if not url.startswith(("file:", "blob:"))] == []
        assert self.ask("window.hit") is None
        self.page.close()


@pytest.fixture
def opened(browser, path):
    page = Opened(browser, path)
    yield page
    page.close()


def rounded(value, digits=4):
    """Numbers as close as two orders of one sum leave them."""
    if isinstance(value, float):
        return round(value, digits)
    if isinstance(value, list | tuple):
        return [rounded(each, digits) for each in value]
    return value


def assert_same(page_trace, python_trace):
    """Equal step by step; probabilities differ by less than 1e-5, and seconds are each machine's own."""
    one, other = page_trace.to_json(), python_trace.to_json()
    assert [one[name] for name in ("prompt", "initial", "text", "style")] == [
        other[name] for name in ("prompt", "initial", "text", "style")
    ]
    assert len(one["steps"]) == len(other["steps"])
    for a, b in zip(one["steps"], other["steps"], strict=True):
        assert [(c["position"], c["token"], c["reason"]) for c in a["commits"]] == [
            (c["position"], c["token"], c["reason"]) for c in b["commits"]
        ]
        assert [c["confidence"] for c in a["commits"]] == pytest.approx([c["confidence"] for c in b["commits"]], abs=1e-5)
        assert [d[:2] for d in a["draft"]] == [d[:2] for d in b["draft"]]
        assert a["entropy"] == pytest.approx(b["entropy"], abs=1e-4) and list(a["block"]) == list(b["block"])


# the file ----------------------------------------------------------------------------------------------------------


def test_the_file_names_no_address_and_allows_no_request(path):
    text = path.read_text("utf-8")
    bare = re.sub(r'<script type="text/plain" id="weights.*?</script>', "", text)
    assert set(re.findall(r"https?://[\w./]+", bare)) <= {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in bare and "connect-src" not in bare and 'src="' not in bare


def test_every_word_is_there_in_two_languages_and_used():
    words = read_yaml(WORDS)
    code = asset("page/page.html") + "".join(asset(f"page/{name}.js") for name in INTERFACE)
    for key, pair in words["words"].items():
        assert len(pair) == 2 and all(pair), key
        assert set(re.findall(r"\{\w+\}", pair[0])) == set(re.findall(r"\{\w+\}", pair[1])), key
        assert f'"{key}"' in code or key.startswith("edit_"), f"{key} is not used"
    used = set(re.findall(r'say\("(\w+)"', code)) | set(re.findall(r'data-(?:say|name|title|hint)="(\w+)"', code))
    assert used <= set(words["words"])
    assert len(words["tour"]) == 6 and all(len(stop["text"]) == len(stop["title"]) == 2 for stop in words["tour"])
    assert set(words["controls"]) == set(page_data()["controls"])


@pytest.mark.parametrize("arguments, written", [([], ["page.html"]), (["--folder", "site"], ["index.html", "tiny-ar.safetensors"])])
def test_the_command_writes_a_file_or_a_folder(project, tmp_path, monkeypatch, capsys, arguments, written):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dllm_core.show.page.page.root", lambda: project)
    assert main(["page", *arguments]) == 0
    folder = tmp_path / "site" if arguments else tmp_path
    assert all((folder / name).is_file() for name in written) and written[0] in capsys.readouterr().out


def test_the_command_refuses_a_file_and_a_folder_and_missing_weights(workspace, capsys):
    assert main(["page", "a.html", "--folder", "b"]) == 2 and "either FILE or" in capsys.readouterr().err
    assert main(["page"]) == 2 and "missing" in capsys.readouterr().err
    assert not (workspace / "page.html").exists()


# what it decodes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [*ALL, infilled])
def test_the_record_for_the_player_is_pythons(opened, make):
    trace = replace(make(), text="")
    shown = opened.ask("([trace, label]) => recordOf(trace, label, false)", [trace.to_json(), "x"])
    expected = json.loads(json.dumps(record(trace, "x")))
    for name in expected:
        if name not in ("settings", "rate"):
            assert rounded(shown[name]) == rounded(expected[name]), name


@pytest.mark.parametrize("style", ["ar", "llada1", "llada2"])
def test_an_answer_equals_pythons(opened, shipped, style):
    opened.start(QUESTION, {"style": style, "max_new_tokens": 16})
    size = 8 if style == "llada2" else None
    config = DecodeConfig(style, 16, block_length=size, **RECORDED)
    (python,) = generate_answers(shipped[style], [QUESTION], config)
    assert_same(opened.traces()[0], python)
    running = opened.ask("byId('running').innerText")
    assert running == python.text and running


def test_gaps_are_filled_as_python_fills_them(opened, shipped):
    question, text = "颠倒“身耳钟”的顺序。", "颠倒以后，“___”变成“钟耳身”。"
    opened.start(f"{question}\n{text}", {"style": "llada1"})
    tokenizer = shipped["llada1"].tokenizer
    tokens = prompt_ids(tokenizer, question, True) + mask_gaps(tokenizer, text)
    assert_same(opened.traces()[0], infill(shipped["llada1"], tokens, DecodeConfig("llada1", **RECORDED)))


def test_another_threshold_reads_recorded_logits(opened):
    opened.start(QUESTION, {"style": "llada2", "threshold": 0.9})
    forwards = opened.ask("studio.sides[0].trace.steps.length")
    opened.page.locator("#threshold").fill("0.95")
    opened.page.wait_for_timeout(250)
    opened.idle()
    assert opened.ask("studio.sides[0].trace.settings.threshold") == 0.95
    assert 0 < opened.ask("studio.sides[0].reused") <= forwards + 8
    assert "read from recorded logits" in opened.ask("byId('progress').textContent")


def test_stop_and_a_second_decode(opened):
    opened.page.locator("#styles").get_by_text("LLaDA 1").click()
    opened.until("studio.running && studio.sides[0].trace?.steps.length > 1")
    assert opened.ask("byId('decode').textContent") == "Stop"
    opened.page.click("#decode")
    opened.idle()
    assert 1 < opened.ask("studio.sides[0].trace.steps.length") < 64
    opened.page.fill("#prompt", QUESTION)
    opened.page.press("#prompt", "Enter")
    opened.page.fill("#prompt", STORY)  # the second is not lost while the first runs
    opened.page.press("#prompt", "Enter")
    opened.idle()
    assert opened.ask("studio.sides.length") == 1 and opened.ask("studio.sides[0].request.prompt") == STORY


# stepping in -------------------------------------------------------------------------------------------------------


def test_another_candidate_goes_on_as_a_branch(opened):
    opened.pick("␣mouse")
    opened.page.fill("#card-reason", "a story of a wolf")
    opened.page.locator("#card-top button", has_text="␣wolf").click()
    opened.idle()
    first, branch = opened.traces()
    assert "mouse found" in first.text and "wolf found" in branch.text
    assert "a story of a wolf" in opened.ask("byId('branches').innerText")
    assert "first difference from LLaDA 2" in opened.ask("document.querySelector('.dllm-differs').innerText")
    assert opened.ask("studio.sides[1].reused") > 0


@pytest.mark.parametrize("style", ["ar", "llada1", "llada2"])
def test_a_token_replaced_at_step_2_gives_what_pythons_decoder_gives(opened, shipped, style):
    settings = {"style": style, "max_new_tokens": 16} | ({"threshold": 0.95} if style == "llada2" else {})
    opened.start(QUESTION, settings)
    ((position, *_), *_) = opened.ask("studio.sides[0].trace.steps[1].commits.map(({ position }) => [position])")
    wolf = shipped[style].tokenizer.encode(" wolf", add_special_tokens=False)[0]
    edit = Edit(2, position, "take", wolf, "why not")
    opened.ask("(edit) => studio.branch(studio.sides[0], edit)", asdict(edit))
    opened.idle()
    size = 8 if style == "llada2" else None
    config = DecodeConfig(**settings, block_length=size, **RECORDED)
    prompt = prompt_ids(shipped[style].tokenizer, QUESTION, True)
    (python,) = generate(shipped[style], [prompt], config, edits=[edit])
    branch = opened.traces()[1]
    assert_same(branch, python)
    assert branch.edits == python.edits == [edit]


def test_mask_forbid_and_write(opened):
    opened.pick("␣mouse")
    opened.page.locator("#card-top li", has_text="␣mouse").locator("button").last.click()
    opened.idle()
    assert "mouse found" not in opened.traces()[1].text
    opened.pick("␣mouse")
    opened.page.click("#card-mask")
    opened.idle()
    assert opened.traces()[2].text == opened.traces()[0].text  # it decides the same again
    opened.pick("␣mouse")
    opened.page.fill("#card-text", "no such token")
    opened.page.press("#card-text", "Enter")
    assert "no token of this model" in opened.ask("byId('note').textContent")
    opened.page.fill("#card-text", " wolf")
    opened.page.press("#card-text", "Enter")
    opened.idle()
    assert opened.ask("studio.sides.length") == 3 and " wolf" in opened.traces()[2].text
    opened.page.get_by_label("remove LLaDA 2, branch").last.click()
    assert opened.ask("studio.sides.length") == 2


def test_a_prompt_token_cannot_be_changed(opened):
    opened.page.locator(".dllm-cells .dllm-cell").first.click()
    assert opened.ask("byId('card').hidden") and "was given" in opened.ask("byId('card-hint').textContent")


# views, words and links --------------------------------------------------------------------------------------------


def test_every_preset_and_every_stop_of_the_tour(opened):
    for button in opened.page.locator("#presets button").all():
        button.click()
        opened.idle()
        assert "Not possible" not in opened.ask("byId('note').textContent")
    assert "longer than" in opened.ask("byId('note').textContent")
    opened.page.click("#tour-begin")
    for number in range(1, 7):
        opened.idle()
        assert opened.ask("byId('tour-stop').textContent") == f"{number} of 6"
        if number < 6:
            opened.page.click("#tour-next")
    assert not opened.ask("byId('view-map').hidden")
    opened.page.click("#tour-close")
    assert opened.ask("byId('tour').hidden")


def test_the_heat_map_and_the_cells_are_linked(opened):
    opened.page.locator("#views").get_by_text("Heat map").click()
    box = opened.page.locator("#map").bounding_box()
    opened.page.mouse.click(box["x"] + box["width"] * 2.5 / 48, box["y"] + box["height"] * 1.5 / 6)
    first = opened.ask("studio.player.sides[0].record.initial.indexOf(3)")
    assert opened.ask("[studio.player.sides[0].k, studio.picked.position]") == [2, first + 2]
    opened.page.press("#map", "ArrowRight")
    opened.page.press("#map", "ArrowUp")
    assert opened.ask("[studio.player.sides[0].k, studio.picked.position]") == [1, first + 3]
    for measure in ("entropy", "changed"):
        opened.page.select_option("#map-measure", measure)
        assert opened.ask("heatMap.values.length") == 6
    values = opened.ask("[...heatMap.values.flatMap((row) => [...row.values()])]")
    assert set(values) <= {0, 1}


def test_attention_is_that_of_the_model(opened):
    opened.pick("␣mouse")
    opened.page.locator("#views").get_by_text("Attention").click()
    opened.until("byId('attention-most').textContent.startsWith('most')")
    bars = opened.ask("[...document.querySelectorAll('.dllm-cell')].map((cell) => Number(cell.style.getPropertyValue('--attention')))")
    assert max(bars) == 1 and min(bars) >= 0
    opened.page.select_option("#layer", "3")
    opened.until("attention.place && byId('attention-most').textContent.startsWith('most')")


def test_unknown_characters_and_an_empty_prompt_are_told(opened):
    opened.page.fill("#prompt", "请用三句话解释 😀")
    assert "unknown to this model" in opened.ask("byId('note').textContent")
    opened.page.fill("#prompt", " ")
    assert "empty" in opened.ask("byId('note').textContent")


def test_chinese(opened):
    opened.page.click("#language")
    assert opened.ask("document.documentElement.lang") == "zh" and opened.ask("byId('decode').textContent") == "解码"
    english = opened.ask("""[...document.querySelectorAll('[data-say]')].filter((node) => node.textContent === DATA.words[node.dataset.say][0]
      && DATA.words[node.dataset.say][0] !== DATA.words[node.dataset.say][1]).length""")
    assert english == 0


def test_a_link_brings_back_the_whole_state(browser, path, opened):
    opened.start(QUESTION, {"style": "llada2", "threshold": 0.3})
    opened.pick("␣small")
    opened.page.locator("#card-top button").nth(4).click()
    opened.idle()
    opened.page.click("#language")
    opened.ask("studio.player.seek(2)")
    opened.page.wait_for_timeout(500)
    other = Opened(browser, path, opened.ask("location.hash"))
    assert [trace.text for trace in other.traces()] == [trace.text for trace in opened.traces()]
    assert other.ask("[language, studio.player.sides[0].k, studio.sides[0].request.settings.threshold]") == [1, 2, 0.3]
    other.close()
    broken = Opened(browser, path, "#side=%7B&side=%7B%22style%22%3A%22x%22%7D&step=x")
    assert "mouse" in broken.traces()[0].text  # as without a link
    broken.close()


def test_hostile_text_is_text(opened):
    opened.start(HOSTILE, {"style": "llada2"})
    assert HOSTILE in opened.ask("byId('prompt').value")


# saving ------------------------------------------------------------------------------------------------------------


def test_save_and_open(browser, opened, tmp_path, shipped):
    from PIL import Image

    opened.start(QUESTION, {"style": "llada2"})
    saved = opened.saved("#save-json", tmp_path)
    trace = Trace.load(saved)
    config = DecodeConfig("llada2", 32, block_length=8, **RECORDED)
    assert_same(trace, generate_answers(shipped["llada2"], [QUESTION], config)[0])
    moving = Image.open(opened.saved("#save-gif", tmp_path))
    assert moving.n_frames == len(trace.steps) + 1
    frames = []
    for number in range(moving.n_frames):
        moving.seek(number)
        frames.append(moving.convert("RGB").tobytes())
    assert len(set(frames)) == len(frames)
    assert Image.open(opened.saved("#save-png", tmp_path)).width > 800
    alone = browser.new_page()
    alone.goto(opened.saved("#save-html", tmp_path).as_uri())
    alone.wait_for_selector(".dllm-bar")
    assert alone.locator(".dllm-cells .dllm-cell").count() == len(trace.initial)
    alone.close()
    opened.start(STORY, {"style": "ar", "max_new_tokens": 8})
    opened.page.set_input_files("#files", saved)
    opened.idle()
    assert opened.traces()[0] == trace
    opened.page.locator(".dllm-cells .dllm-cell").last.click()
    assert "opened from a file" in opened.ask("byId('card-hint').textContent")
    (tmp_path / "bad.json").write_text('{"steps": 3}')
    opened.page.set_input_files("#files", tmp_path / "bad.json")
    opened.until("byId('note').textContent.startsWith('bad.json: not a decoding trace')")


def test_the_text_is_copied_with_its_lines(browser, path):
    page = Opened(browser, path)
    page.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.page.click("#copy")
    page.until("byId('note').textContent === 'copied'")
    assert page.ask("navigator.clipboard.readText()") == page.traces()[0].text
    page.close()


# who can use it ----------------------------------------------------------------------------------------------------


def test_by_keyboard_alone(opened):
    keys, reached = opened.page.keyboard, []
    for _ in range(80):
        keys.press("Tab")
        reached.append(opened.ask("document.activeElement.id || document.activeElement.name || document.activeElement.className || ''"))
    for name in ("tour-begin", "save-html", "open", "language", "prompt", "style", "threshold", "decode", "beside", "copy", "view"):
        assert name in reached, name
    assert any("dllm-cell" in name for name in reached)
    opened.ask("document.querySelector('.dllm-cell[tabindex=\"0\"]').focus()")
    keys.press("ArrowRight")
    keys.press("Enter")
    opened.until("byId('card-top').children.length === 20")
    opened.ask("byId('card-top').focus()")
    for _ in range(3):  # never, then the second candidate
        keys.press("Tab")
    keys.press("Enter")
    opened.idle()
    assert opened.ask("studio.sides.length") == 2


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(browser, path, axe, theme):
    page = Opened(browser, path, color_scheme=theme, bypass_csp=True)
    page.ask(axe)
    for view in ("Token", "Heat map", "Attention"):
        page.pick("␣mouse") if view == "Token" else page.page.locator("#views").get_by_text(view).click()
        violations = page.ask("axe.run()")["violations"]
        assert [(each["id"], each["nodes"][0]["html"]) for each in violations] == []
    page.page.click("#more summary")
    page.page.click("#tour-begin")
    page.idle()
    violations = page.ask("axe.run()")["violations"]
    assert [(each["id"], each["nodes"][0]["html"]) for each in violations] == []
    page.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_it_fits(browser, path, width):
    page = Opened(browser, path, viewport={"width": width, "height": WIDTHS[width]}, reduced_motion="reduce")
    sizes = page.ask("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert sizes[0] <= sizes[1]
    cells = page.ask("[...document.querySelectorAll('.dllm-cells .dllm-cell')].at(-1).getBoundingClientRect().bottom")
    assert width < 1000 or cells <= WIDTHS[width]  # every token is in sight
    moving = "[...document.querySelectorAll('*')].filter((n) => getComputedStyle(n).transitionDuration !== '0s').length"
    assert page.ask(moving) == 0
    page.close()


def test_the_folder_on_a_web_server(browser, project, tmp_path, monkeypatch):
    from dllm_core.show.page.page import save_folder

    save_folder(tmp_path)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    monkeypatch.setattr(handler.func, "log_message", lambda *_: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = browser.new_page()
        asked = []
        page.on("request", lambda request: asked.append(request.url.rsplit("/", 1)[-1]))
        page.goto(f"http://127.0.0.1:{server.server_port}/index.html")
        for _ in range(LIMIT * 20):
            if page.evaluate("Boolean(studio.player) && !studio.running"):
                break
            page.wait_for_timeout(50)
        assert page.evaluate("studio.sides[0].trace.text").startswith("Once there was")
        assert "tiny-llada2.safetensors" in asked and "tiny-ar.safetensors" not in asked  # only the model in use
        page.close()
        server.shutdown()

"""The page in which the shipped models run: one HTML file that needs no network, or the same with the weights beside it.

Python writes the data, words and tables that it uses itself; the scripts of this folder decode in a worker and feed the
decoding player.
"""

import base64
from pathlib import Path
from string import Template

from dllm_core.checkpoints.bundled import BUNDLED
from dllm_core.common.errors import RunError
from dllm_core.common.files import json_text, read_json, write_whole
from dllm_core.common.paths import root
from dllm_core.common.yaml_file import read_yaml
from dllm_core.config import OBJECTIVES, DecodeConfig
from dllm_core.show.html import SPECIAL, asset
from dllm_core.show.player.page import SCRIPTS as PLAYER
from dllm_core.show.trace_view import STYLE_NAMES, reasons, waits
from dllm_core.show.widgets.request import ANSWER, CONTROLS, OFF_AT_ZERO, SETTINGS, used
from dllm_core.trace import Trace

ENGINE = ("random", "products", "model", "tokenizer", "policies", "sampling", "decoders", "worker")
INTERFACE = ("words", "records", "form", "studio", "card", "views", "gif", "save", "main")
WORDS = Path(__file__).with_name("words.yaml")
RECORDED = {"alternatives": 3, "draft": True}  # what the player shows of a step
LENGTH, TRAINED = 32, 128  # positions of an answer; of the rows that the shipped models were trained on
MAIN = ("threshold", "temperature")  # settings that are not folded
ALONE = (
    "default-src 'none'; script-src 'unsafe-inline' blob:; worker-src blob:; style-src 'unsafe-inline'; img-src blob:"
)
WEIGHTS = "model.safetensors"


def page(files: dict[str, str] | None = None) -> str:
    """The HTML document. files: style → address of its weights relative to the page; None: all weights are in the page.

    Its content security policy allows no request at all, and with `files` those to the page's own server. Raises
    RunError where the shipped weights are missing.
    """
    weights = "" if files else "\n".join(_embedded(style) for style in reversed(OBJECTIVES))
    return Template(asset("page/page.html")).substitute(
        policy=f"{ALONE}; connect-src 'self'" if files else ALONE,
        palette=asset("palette.css"),
        player_css=asset("palette.css") + asset("player/player.css"),
        css=asset("page/page.css"),
        data=_escaped(json_text(page_data(files), separators=(",", ":"))),
        engine=_joined(f"page/{name}.js" for name in ENGINE),
        player_js=_joined(PLAYER),
        script=_joined(f"page/{name}.js" for name in INTERFACE),
        weights=weights,
    )


def save_page(path: str | Path) -> Path:
    """Write the page as one file. Returns its path; raises RunError where the shipped weights are missing."""
    return write_whole(path, page())


def save_folder(folder: str | Path) -> list[Path]:
    """Write the page as index.html with the weights beside it, for a web server. Returns the paths."""
    folder = Path(folder)
    weights = [
        write_whole(folder / f"{_name(style)}.safetensors", _file(style, WEIGHTS).read_bytes()) for style in OBJECTIVES
    ]
    files = {style: path.name for style, path in zip(OBJECTIVES, weights, strict=True)}
    return [write_whole(folder / "index.html", page(files)), *weights]


def page_data(files: dict[str, str] | None = None) -> dict:
    """What the scripts need beside the weights, as JSON: models, tokenizer, tables and words."""
    words = read_yaml(WORDS)
    tokenizer = read_json(_file("llada2", "tokenizer.json"))
    configs = {style: read_json(_file(style, "config.json")) for style in OBJECTIVES}
    special = [entry["content"] for entry in tokenizer["added_tokens"]]
    settings = [name for name in CONTROLS if name in SETTINGS and name != "style"]
    return {
        "words": words["words"],
        "chinese": words["controls"],
        "presets": words["presets"],
        "tour": words["tour"],
        "styles": {style: STYLE_NAMES[style] for style in OBJECTIVES},
        "controls": {name: _control(name) for name in settings},
        "main": MAIN,
        "used": {style: [name for name in settings if name in used(ANSWER, style)] for style in OBJECTIVES},
        "offAtZero": OFF_AT_ZERO,
        "defaults": {style: _defaults(style, configs[style], settings) for style in OBJECTIVES},
        "recorded": RECORDED,
        "trained": TRAINED,
        "models": configs,
        "tokenizer": tokenizer,
        "control": {tokenizer["model"]["vocab"][content]: content for content in special},
        "special": SPECIAL,
        "reasons": {style: _reasons(style) for style in OBJECTIVES} | {"llada1 random": _reasons("llada1", "random")},
        "waits": waits(_empty("llada2")),
        "templates": {"page": asset("player/page.html"), "piece": asset("player/player.html")},
        "files": files,
    }


def _control(name: str) -> dict:
    """The slider or number of a setting, as the panel of the notebooks has it."""
    control = CONTROLS[name]
    limits = {key: control.options[key] for key in ("min", "max", "step") if key in control.options}
    return {"label": control.label, "help": control.help, "step": 1} | limits


def _defaults(style: str, config: dict, settings: list[str]) -> dict:
    """`DecodeConfig`'s values, with the block size that the model was trained with."""
    values = DecodeConfig(style, LENGTH, block_length=config["dllm"]["checkpoint"]["block_size"]).to_dict()
    return {name: values[name] for name in settings}


def _empty(style: str, remasking: str = "low_confidence") -> Trace:
    return Trace(style, [], [], 0, 0, settings={"remasking": remasking})


def _reasons(style: str, remasking: str = "low_confidence") -> dict[str, str]:
    return reasons(_empty(style, remasking))


def _name(style: str) -> str:
    return f"tiny-{style}"


def _file(style: str, name: str) -> Path:
    """A file of a shipped model. Raises RunError where it is missing."""
    assert _name(style) in BUNDLED.values()
    path = root() / "weights" / _name(style) / name
    if not path.is_file():
        raise RunError(
            f"{path}: missing; the page runs the weights that come with the project, so write it in a clone of it"
        )
    return path


def _embedded(style: str) -> str:
    text = base64.b64encode(_file(style, WEIGHTS).read_bytes()).decode("ascii")
    return f'<script type="text/plain" id="weights-{style}">{text}</script>'


def _joined(names) -> str:
    """Scripts in order. None holds the end of a script element."""
    return "\n".join(map(asset, names)).replace("</script", "<\\/script")


def _escaped(text: str) -> str:
    return text.replace("<", "\\u003c")

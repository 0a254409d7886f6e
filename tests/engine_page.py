"""The page's engine for its tests: checkpoints, the page whose worker runs them, and the same decoding by Python."""

import base64
import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save
from small import HANG_LIMIT, ROOT

from dllm_core.checkpoints.formats import load_checkpoint
from dllm_core.checkpoints.hf_config import hf_config
from dllm_core.config import DecodeConfig, ModelConfig
from dllm_core.model import Transformer
from dllm_core.samplers import generate, infill
from dllm_core.show.html import asset
from dllm_core.show.page.page import ENGINE

LENGTH = 12  # of an answer
PAGE = """<meta charset="utf-8"><script type="module">
const worker = new Worker(URL.createObjectURL(new Blob([document.getElementById("engine").textContent])));
const waiting = new Map(), last = ["opened", "encoded", "trace", "top", "attention", "error"];
worker.onerror = (error) => { throw new Error(error.message); };
worker.onmessage = ({ data }) => {
  const request = waiting.get(data.id);
  request.answers.push(data.attention ? { attention: { ...data.attention, p: Array.from(data.attention.p) } } : data);
  request.heard?.(data);
  if (last.some((name) => name in data)) request.done(request.answers);
};
window.ask = (request, heard) => new Promise((done) => {
  if (request.weights) request.weights = Uint8Array.from(atob(request.weights), (c) => c.charCodeAt(0)).buffer;
  waiting.set(request.id, { answers: [], heard, done });
  worker.postMessage(request);
});
window.tell = (request) => worker.postMessage(request);
</script>"""


def open_checkpoints() -> dict:
    """Name → checkpoint: the three shipped ones, variants in how they are read, and one of another shape."""
    named = {style: load_checkpoint(ROOT / f"weights/tiny-{style}") for style in ("ar", "llada1", "llada2")}
    for name, changes in {"shift": {"label_shift": True}, "grid": {"grid": "answer"}}.items():
        named[name] = replace(named["llada2"], info=replace(named["llada2"].info, **changes))
    named["both"] = replace(named["llada2"], info=replace(named["shift"].info, grid="answer"))
    named["shift1"] = replace(named["llada1"], info=replace(named["llada1"].info, label_shift=True))
    torch.manual_seed(0)
    shape = ModelConfig(1320, 24, 2, 4, 2, 6, 40, 64, 100.0, rms_norm_eps=1e-5, qk_norm=False, attention_bias=True,
                        initializer_range=0.6, tie_word_embeddings=False)  # fmt: skip
    odd = Transformer(shape).eval()
    for layer in odd.model.layers:
        for part in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
            torch.nn.init.normal_(part.bias)
    return named | {"odd": replace(named["llada2"], model=odd)}


def opening(name: str, checkpoint) -> dict:
    """The message that opens a checkpoint in the page: float16 as shipped, float32 for the odd one."""
    state = checkpoint.model.state_dict()
    if checkpoint.model.config.tie_word_embeddings:
        state = {key: value.half() for key, value in state.items() if key != "lm_head.weight"}
    weights = base64.b64encode(save({key: value.contiguous() for key, value in state.items()})).decode("ascii")
    config = hf_config(checkpoint.model.config, checkpoint.info, checkpoint.tokenizer)
    tokenizer = json.loads(checkpoint.tokenizer.backend_tokenizer.to_str())
    return {
        "do": "open",
        "id": f"open {name}",
        "name": name,
        "weights": weights,
        "config": config,
        "tokenizer": tokenizer,
    }


def open_page(browser, checkpoints: dict, folder: Path):
    """A page from disk, without a network, with the engine in a worker in which the checkpoints are open."""
    engine = "\n".join(asset(f"page/{name}.js") for name in ENGINE)
    path = folder / "engine.html"
    path.write_text(f'{PAGE}<script id="engine">{engine}</script>', "utf-8")
    page = browser.new_page()
    page.set_default_timeout(HANG_LIMIT * 1000)
    page.context.set_offline(True)
    page.goto(path.as_uri())
    for name, checkpoint in checkpoints.items():
        answer = ask(page, opening(name, checkpoint))[-1]
        assert answer.get("opened") == name, answer
    return page


def ask(page, message: dict) -> list[dict]:
    """All answers of the worker to a request."""
    return page.evaluate("(request) => ask(request)", message)


def decode_by_python(name: str, checkpoint, style: str, prompts: list, settings: dict, edits=()) -> list[tuple]:
    """[(name, trace)] of the prompts: together where nothing is sampled."""
    base = {"alternatives": 3, "draft": True, "max_new_tokens": LENGTH}
    if style == "gaps":
        config = DecodeConfig(style="llada1", **{**base, **settings})
        return [(name, infill(checkpoint, tokens, config, edits)) for tokens in prompts]
    base |= {"block_length": 8} if style == "llada2" else {}
    config = DecodeConfig(style=style, **{**base, **settings})
    is_random = config.temperature or config.remasking == "random"
    groups = [[prompt] for prompt in prompts] if is_random else [prompts]
    return [(name, trace) for group in groups for trace in generate(checkpoint, group, config, edits)]


def differences(expected, found, path: str = "") -> list[str]:
    """Where two records differ: probabilities by 1e-5 or more, entropies by 1e-4, all else at all."""
    if isinstance(expected, dict) and isinstance(found, dict) and expected.keys() == found.keys():
        own = [name for name in expected if name not in ("seconds", "row")]
        return [d for name in own for d in differences(expected[name], found[name], f"{path} {name}")]
    if isinstance(expected, list | tuple) and isinstance(found, list) and len(expected) == len(found):
        return [d for i, pair in enumerate(zip(expected, found)) for d in differences(*pair, f"{path} {i}")]
    is_number = isinstance(expected, float) and isinstance(found, float | int)
    most = 1e-4 if path.endswith("entropy") else 1e-5
    is_equal = abs(expected - found) < most if is_number else expected == found
    return [] if is_equal else [f"{path}: {str(expected)[:200]} is {str(found)[:200]} in the page"]

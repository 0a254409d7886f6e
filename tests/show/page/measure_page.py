"""How fast the model runs in the page, beside PyTorch on one thread; run `python tests/show/page/measure_page.py`.

Needs Chromium. Not a test: times belong to a machine. The two take turns, so that load falls on both. A forward is of a whole
sequence without a cache, or of its last block of 16 with the earlier ones cached; logits are of the last block. The last column is
the ratio of the medians.
"""

import os
import shutil
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from playwright.sync_api import sync_playwright
from small import ROOT
from test_engine import ENGINE, opening

from dllm_core.checkpoints.formats import load_checkpoint
from dllm_core.compute.kv_cache import KVCache
from dllm_core.show.html import asset

BLOCK, LENGTHS, ROUNDS, WARM = 16, (16, 64, 128), 30, 5
TIMED = """
let model;
onmessage = ({ data: { weights, config, tokens, useCache } }) => {
  if (config) model = new Transformer(config, Uint8Array.from(atob(weights), (c) => c.charCodeAt(0)).buffer);
  else {
    const reads = tokens.map((_, position) => position).slice(-16), began = performance.now();
    model.memory.clear(); // else nothing would be computed
    model.logits(tokens, reads, { size: 16, offset: 0 }, useCache);
    postMessage(performance.now() - began);
  }
};"""
PAGE = """(engine) => {
  const worker = new Worker(URL.createObjectURL(new Blob([engine])));
  window.send = (request) => worker.postMessage(request);
  window.time = (request) => new Promise((done) => {
    worker.onmessage = ({ data }) => done(data);
    worker.postMessage(request);
  });
}"""


@torch.inference_mode()
def python_forward(model, tokens: list[int], use_cache: bool, cache: KVCache) -> float:
    """Milliseconds of one forward, with the logits of the last block."""
    began, length = time.perf_counter(), len(tokens)
    first = length - BLOCK if use_cache else 0
    position, key = torch.arange(first, length)[None], torch.arange(length)
    mask = key // BLOCK <= (position // BLOCK)[..., None]
    read = torch.zeros(BLOCK, dtype=torch.long), torch.arange(length - BLOCK, length) - first
    model.logits(model(torch.tensor([tokens[first:]]), position, mask, cache, position, read=read))
    return 1000 * (time.perf_counter() - began)


def main():
    torch.set_num_threads(1)
    checkpoint = load_checkpoint(ROOT / "weights/tiny-llada2")
    engine = "\n".join(asset(f"page/{name}.js") for name in ENGINE) + TIMED
    print(f"load of the machine {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; medians of {ROUNDS}, in ms")
    with sync_playwright() as play:
        chromium = os.environ.get("DLLM_CHROMIUM") or shutil.which("chromium")
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.evaluate(PAGE, engine)
        opened = opening("llada2", checkpoint)
        page.evaluate("(request) => send(request)", {"weights": opened["weights"], "config": opened["config"]})
        print(f"{'tokens':>6} {'cache':>6} {'page':>8} {'PyTorch':>8} {'ratio':>6}")
        for length in LENGTHS:
            tokens = [5 + i * 7 % 1000 for i in range(length - BLOCK)] + [checkpoint.tokenizer.mask_token_id] * BLOCK
            for use_cache in (False, True):
                cache, took = KVCache.empty(checkpoint.model.config, 1, length), {"page": [], "python": []}
                python_forward(checkpoint.model, tokens, False, cache)  # fills it
                for _ in range(ROUNDS + WARM):
                    request = {"tokens": tokens, "useCache": use_cache}
                    took["page"].append(page.evaluate("(request) => time(request)", request))
                    took["python"].append(python_forward(checkpoint.model, tokens, use_cache, cache))
                ours, theirs = (statistics.median(values[WARM:]) for values in took.values())
                print(f"{length:>6} {'yes' if use_cache else 'no':>6} {ours:>8.2f} {theirs:>8.2f} {ours / theirs:>6.2f}", flush=True)
        browser.close()


if __name__ == "__main__":
    main()

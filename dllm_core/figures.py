"""The chosen pictures that the README shows, made from the trained chain: `python -m dllm_core.figures`."""

import argparse
from pathlib import Path

from dllm_core import show
from dllm_core.chat import chat_prompt
from dllm_core.config import DecodeConfig
from dllm_core.decode import generate
from dllm_core.paths import resolve
from dllm_core.runs import load
from dllm_core.trace import Trace


def answer(checkpoint: str, prompt: str, config: DecodeConfig) -> Trace:
    """The trace of a chat checkpoint's answer to `prompt`."""
    found = load(checkpoint)
    return generate(
        found.model, [chat_prompt(found.tokenizer, prompt)], config, found.tokenizer, found.checkpoint.label_shift
    )[0]


def main(argv: list[str] | None = None) -> list[Path]:
    """Write figures/decoding.gif and figures/decoding.png: LLaDA 2 answering, step by step."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default="weights/diffusion_llada2_sft_best.pt")
    parser.add_argument("--prompt", default="你是谁？")
    parser.add_argument("--threshold", type=float, default=0.9)
    parser.add_argument("--block-length", type=int, default=16)
    given = parser.parse_args(argv)
    config = DecodeConfig(
        style="llada2", max_new_tokens=64, block_length=given.block_length, threshold=given.threshold, draft=True
    )
    trace = answer(given.checkpoint, given.prompt, config)
    folder = resolve("figures")
    return [show.gif(trace, folder / "decoding.gif"), show.png(trace, folder / "decoding.png")]


if __name__ == "__main__":
    for path in main():
        print(path)

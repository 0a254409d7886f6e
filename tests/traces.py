"""Hand-made decodings in the three styles, editing and hostile texts included, that the drawing tests share."""

import random
from dataclasses import replace

from dllm_core.trace import Commit, DecodeStep, Edit, Trace

MASK, EOS = 9, 2
HOSTILE = '<img src=x onerror="window.hit=1">'
WORDS = {0: "<|endoftext|>", 1: "<|im_start|>", 2: "<|im_end|>", 3: "你", 4: "好", 5: "</script><script>window.hit=1//",
         6: HOSTILE, 7: "\u202eabc", 8: "😀", 9: "<|mask|>"}  # fmt: skip


def step(index, commits, masked, block, draft=(), reason="threshold", forwards=1, seconds=None, held_back=0):
    records = tuple(Commit(p, t, c, reason, ((3, 0.25), (6, 0.125))) for p, t, c in commits)
    return DecodeStep(index, 0, forwards, 0.25 * (index + 1) if seconds is None else seconds, block, records, masked,
                      0.5, 0.75, tuple(draft), held_back)  # fmt: skip


def ar():
    steps = [step(i, [(2 + i, token, 0.9)], 3 - i, (2 + i, 3 + i), reason="ar") for i, token in enumerate((4, 3, EOS))]
    return Trace("ar", [1, 3], [1, 3] + [MASK] * 4, MASK, EOS, steps, {"temperature": 0.0}, WORDS, "好你")


def llada1():
    steps = [
        step(0, [(5, EOS, 0.99), (3, 6, 0.8)], 2, (2, 6), [(2, 3, 0.4), (4, 3, 0.1)], "schedule", forwards=2),
        step(1, [(2, 5, 0.7), (4, 7, 0.6)], 0, (2, 6), (), "schedule", forwards=2),
    ]
    settings = {"steps": 2, "remasking": "low_confidence", "threshold": 0.9}
    return Trace("llada1", [1, 3], [1, 3] + [MASK] * 4, MASK, EOS, steps, settings, WORDS, "hostile")


def llada2():
    steps = [
        step(0, [(2, 4, 0.95), (3, 8, 0.91)], 4, (0, 4), reason="threshold"),
        step(1, [(4, 3, 0.5)], 3, (4, 8), [(5, 3, 0.3), (6, 4, 0.2), (7, 4, 0.1)], "fallback"),
        step(2, [(5, 6, 0.97)], 2, (4, 8), [(6, 4, 0.2), (7, EOS, 0.95)], "budget", held_back=1),
        step(3, [(6, EOS, 0.99), (4, 5, 0.8)], 1, (4, 8), [(7, EOS, 0.8)], "edit"),
    ]
    return Trace("llada2", [1, 3], [1, 3] + [MASK] * 6, MASK, EOS, steps, {"threshold": 0.9}, WORDS, "")


def infilled():
    """Gaps in the middle, no prompt; the order was drawn at random."""
    steps = [
        step(0, [(3, 4, 0.4)], 1, (0, 5), [(1, 3, 0.6)], "schedule"),
        step(1, [(1, 8, 0.9)], 0, (0, 5), (), "schedule"),
    ]
    settings = {"remasking": "random"}
    return Trace("llada1", [], [3, MASK, 4, MASK, 3], MASK, EOS, steps, settings, WORDS)


def branched():
    """llada2() changed by hand behind its second step: one token taken, one masked again, one forbidden."""
    steps = [
        *llada2().steps[:2],
        step(2, [(4, 8, 0.6), (6, 4, 0.95)], 1, (4, 8), [(7, EOS, 0.8)]),
        step(3, [(7, EOS, 0.99)], 0, (4, 8)),
    ]
    edits = [Edit(2, 5, "take", 6, HOSTILE), Edit(2, 4, "mask"), Edit(2, 4, "forbid", 3), Edit(4, 7, "write", 3)]
    return replace(llada2(), steps=steps, edits=edits)


ALL = (ar, llada1, llada2)


def is_png(picture) -> bool:
    """Whether a notebook gets a PNG of the picture, on white, with its text."""
    data, about = picture._repr_mimebundle_()
    return data["image/png"].startswith(b"\x89PNG") and bool(data["text/plain"]) and about == {"needs_background": "light"}


def long(length: int = 1024, steps: int = 512, words: int = 6400) -> Trace:
    """A LLaDA 1 decoding whose every masked position has a guess at every step, of a confidence that wanders."""
    draw = random.Random(0)
    mask, eos = words, 2
    trace = Trace("llada1", [], [mask] * length, mask, eos, settings={"steps": steps},
                  vocabulary={i: chr(0x4E00 + i) for i in range(words)})  # fmt: skip
    guess = [draw.randrange(3, words) for _ in range(length)]
    sure = [0.02 + 0.3 * draw.random() for _ in range(length)]
    left = set(range(length))
    for k in range(steps):
        for p in left:
            sure[p] = min(0.999, max(0.001, sure[p] + draw.gauss(0.0015, 0.03)))
            guess[p] = draw.randrange(3, words) if draw.random() < 0.06 else guess[p]
        chosen = sorted(sorted(left, key=lambda p: -sure[p])[: length // steps])
        left -= set(chosen)
        commits = tuple(
            Commit(p, guess[p], sure[p], "schedule", tuple((draw.randrange(words), 0.1 / n) for n in (1, 2, 3)))
            for p in chosen
        )
        drafts = tuple((p, guess[p], sure[p]) for p in sorted(left))
        trace.steps.append(
            DecodeStep(k, 0, 1, 0.0123 * (k + 1), (0, length), commits, len(left), sum(sure) / length, 1.5, drafts)
        )
    return trace


def expected_cells(trace: Trace, k: int) -> list[dict]:
    """What the record says of every position after `k` steps."""
    cells = []
    for position, token in enumerate(trace.tokens_at(k)):
        past = [(s.index, commit) for s in trace.steps[:k] for commit in s.commits if commit.position == position]
        drafts = [(s.index, d) for s in trace.steps[:k] for d in s.draft if d[0] == position]
        state = "masked" if token == trace.mask_token_id else "prompt"
        if past:
            state = "now" if past[-1][0] == k - 1 else "before"
        block = trace.steps[max(k, 1) - 1].block
        cells.append({"state": state, "token": token, "past": past, "draft": drafts[-1][1] if drafts else None,
                      "in block": block[0] <= position < block[1]})  # fmt: skip
    return cells


def packing_explorer(interactive=None, fill="block"):
    """The explorer of packing, over 24 small documents."""
    from dllm_core.data.token_cache import TokenDataset
    from dllm_core.show.widgets import explorers

    rows = [[1, 5, 6, 7, EOS], [1, 8, EOS], [1, 9, 10, 11, 12, 13, EOS]] * 8
    scored = [[False, False] + [True] * (len(row) - 2) for row in rows]
    documents = TokenDataset.of(rows, scored, pad_token_id=0, eos_token_id=EOS)
    return explorers.packing_explorer(documents, length=32, block_size=4, fill=fill, interactive=interactive)

"""Decoders against slow loops written out here; caches, batches and guidance change nothing that they should not."""

import dataclasses
import math
import warnings

import pytest
import torch
from small import BOS, EOS, MASK, VOCAB, checkpoint_of, logits_of, tiny
from torch.utils._python_dispatch import TorchDispatchMode

from dllm_core import decoding_state, reference
from dllm_core.compute import cuda_graphs
from dllm_core.compute.cpu import logits_rows, max_with_index, top_k
from dllm_core.compute.cuda_graphs import Capture
from dllm_core.config import DecodeConfig, ModelConfig
from dllm_core.policies import tokens_per_step
from dllm_core.samplers import decode, decode_gaps, generate, infill, initial_tokens
from dllm_core.sampling import filter_logits, guide, predict_tokens
from dllm_core.trace import Trace

PROMPTS = [[BOS, 5, 6, 7, 8], [BOS, 9], [BOS, 4, 3, 9, 12, 11, 10, 7, 5]]  # unequal lengths, ends inside and at blocks
STYLES = {
    "ar": DecodeConfig("ar", max_new_tokens=7),
    "llada1": DecodeConfig("llada1", max_new_tokens=8, steps=8),
    "llada1 blocks": DecodeConfig("llada1", max_new_tokens=8, block_length=4, steps=4),
    "llada2": DecodeConfig("llada2", max_new_tokens=9, block_length=4, threshold=0.3),
    "llada2 schedule": DecodeConfig("llada2", max_new_tokens=9, block_length=3, threshold=None, steps=2),
    "llada2 budget": DecodeConfig(
        "llada2", max_new_tokens=9, block_length=8, threshold=0.1, cap_start_ratio=0.1, cap_end_ratio=0.6
    ),
}
HOT = {  # sampled: caches and static shapes still change nothing; a batch shares one generator, so rows alone differ
    "ar hot": DecodeConfig("ar", max_new_tokens=7, temperature=0.8, top_k=5),
    "llada1 random": DecodeConfig("llada1", max_new_tokens=8, steps=8, remasking="random"),
    "llada2 hot": DecodeConfig("llada2", max_new_tokens=9, block_length=4, threshold=0.3, temperature=0.8, top_k=5),
}
GUIDED = [(style, scale) for style in STYLES for scale in (0.0, 1.0) if not (style == "ar" and scale)]


class Words:
    mask_token_id, eos_token_id, pad_token_id = MASK, EOS, 0

    def decode(self, tokens, skip_special_tokens=False):
        return " ".join(str(t) for t in tokens if not (skip_special_tokens and t <= EOS))


class Scripted:
    """A model whose logits at a position are those of a table, whatever the tokens are."""

    def __init__(self, table: torch.Tensor):
        self.table, self.config = table, ModelConfig(table.shape[1], 8, 1, 2, max_position_embeddings=len(table))
        self.device, self.lm_head, self.forwards = table.device, torch.nn.Linear(1, 1), 0

    def __call__(self, tokens, position, mask, cache=None, slots=None, read=None):
        self.forwards += 1
        return position[read][..., None].float()

    def logits(self, hidden):
        return self.table[hidden[..., 0].long()]


def confident(choices: list[tuple[int, float]]) -> Scripted:
    """Position i prefers token `choices[i][0]` with about the probability `choices[i][1]`."""
    table = torch.zeros(len(choices), VOCAB)
    for row, (token, p) in enumerate(choices):
        table[row] = math.log((1 - p) / (VOCAB - 2))  # the mask's column never counts
        table[row, token] = math.log(p)
    return Scripted(table)


def traces(model, prompts, config, label_shift=False) -> list[Trace]:
    return generate(checkpoint_of(model, Words(), label_shift), prompts, config)


def close(first: Trace, second: Trace, tolerance: float = 1e-4) -> None:
    """Equal but for time, row and the last digits."""
    assert (first.prompt, first.initial, first.final) == (second.prompt, second.initial, second.final)
    assert len(first.steps) == len(second.steps)
    for a, b in zip(first.steps, second.steps, strict=True):
        for name in ("index", "forwards", "block", "masked", "held_back"):
            assert getattr(a, name) == getattr(b, name), name
        key = [(c.position, c.token, c.reason, [t for t, _ in c.alternatives]) for c in a.commits]
        assert key == [(c.position, c.token, c.reason, [t for t, _ in c.alternatives]) for c in b.commits]
        numbers = [a.confidence, a.entropy, *(c.confidence for c in a.commits), *(p for _, _, p in a.draft)]
        others = [b.confidence, b.entropy, *(c.confidence for c in b.commits), *(p for _, _, p in b.draft)]
        assert numbers == pytest.approx(others, abs=tolerance)


# --- from logits to a token ---------------------------------------------------------------------------------------


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_greedy_guess_by_hand():
    logits = torch.full((1, 1, VOCAB), -torch.inf)
    logits[0, 0, 4], logits[0, 0, 7], logits[0, 0, 5] = math.log(0.5), math.log(0.3), math.log(0.2)
    prediction = predict_tokens(logits, DecodeConfig("ar", alternatives=2), MASK, seeded())
    assert prediction.token.item() == 4 and prediction.confidence.item() == pytest.approx(0.5)
    assert prediction.measures[1].item() == pytest.approx(-sum(p * math.log(p) for p in (0.5, 0.3, 0.2)), rel=1e-5)
    assert prediction.top[0][0, 0].tolist() == [4, 7, 5]
    assert prediction.top[1][0, 0].tolist() == pytest.approx([0.5, 0.3, 0.2])


@pytest.mark.parametrize("temperature", [0.0, 1.0, 5.0])
def test_the_mask_is_never_chosen_and_takes_no_probability(temperature):
    logits = torch.zeros(1, 200, VOCAB)
    logits[..., MASK] = 50.0
    prediction = predict_tokens(logits, DecodeConfig(temperature=temperature), MASK, seeded())
    assert (prediction.token != MASK).all()
    assert prediction.confidence.unique().tolist() == [pytest.approx(1 / (VOCAB - 1))]


def test_confidence_is_the_unnoised_probability_before_temperature_and_filters():
    logits = torch.zeros(1, 500, VOCAB)
    logits[..., 4], logits[..., 5] = 3.0, 2.0
    p = logits[0, 0, :MASK].softmax(dim=-1)
    prediction = predict_tokens(logits, DecodeConfig(temperature=2.0, top_k=2), MASK, seeded())
    assert set(prediction.token.unique().tolist()) == {4, 5}
    torch.testing.assert_close(prediction.confidence, p[prediction.token])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_gumbel_samples_follow_the_softmax_at_the_temperature(temperature):
    row = torch.tensor([0.0, 1.0, 2.0, -1.0, *[-torch.inf] * (VOCAB - 4)])
    prediction = predict_tokens(row.repeat(1, 20_000, 1), DecodeConfig(temperature=temperature), MASK, seeded())
    expected = (row[:4] / temperature).softmax(dim=-1)
    shares = prediction.token.flatten().bincount(minlength=4) / 20_000
    assert ((shares - expected).abs() < 5 * (expected * (1 - expected) / 20_000).sqrt()).all()


@pytest.mark.parametrize("scale", [0.1, 3.0, 40.0])
def test_confidence_and_entropy_equal_those_of_the_full_softmax(scale):
    logits = torch.randn(30, 500, generator=seeded(), dtype=torch.float64) * scale
    p = logits.index_fill(-1, torch.tensor([7]), -torch.inf).softmax(dim=-1)
    prediction = predict_tokens(logits, DecodeConfig(), 7, seeded())
    assert torch.equal(prediction.token, p.argmax(dim=-1))
    torch.testing.assert_close(prediction.confidence.double(), p.amax(dim=-1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(prediction.measures[1].double(), torch.special.entr(p).sum(dim=-1), atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [6400, 6401])  # whole chunks, and not
def test_the_likeliest_is_the_first_of_equals(size):
    few = torch.randint(0, 4, (12, size), generator=seeded()).float()  # full of equals, within a chunk and across
    spread_out = torch.randn(12, size, generator=seeded())
    spread_out[0, 127] = spread_out[0, 128] = 9.0  # on either side of a border
    for logits in (few, -few, spread_out, torch.full((12, size), -1e30)):
        for mine, exact in zip(max_with_index(logits), logits.max(dim=-1), strict=True):
            assert torch.equal(mine, exact)


@pytest.mark.parametrize("size", [6400, 6401, 256])  # whole chunks, and not, and no more chunks than are wanted
def test_the_most_probable_tokens_come_in_order(size):
    logits = torch.stack([torch.randperm(size, generator=seeded(row)) for row in range(300)]).float()  # no equals
    for k in (1, 2, 5):
        for mine, exact in zip(top_k(logits, k), logits.topk(k, dim=-1), strict=True):
            assert torch.equal(mine, exact)


def test_predictions_return_to_their_positions():
    masked = torch.tensor([[False, True, True], [True, False, False]])
    prediction = predict_tokens(torch.randn(3, VOCAB, generator=seeded()), DecodeConfig(alternatives=1), MASK, seeded())
    placed = prediction.scatter(masked)
    parts = lambda of: (of.token, of.confidence, of.top[1])
    for of, at in zip(parts(prediction), parts(placed), strict=True):
        assert torch.equal(at[masked], of) and (at[~masked] == 0).all()


def test_sampling_follows_its_seed():
    logits = torch.zeros(1, 50, VOCAB)
    first, again, other = (
        predict_tokens(logits, DecodeConfig(temperature=1.0), MASK, seeded(s)).token.tolist() for s in (1, 1, 2)
    )
    assert first == again != other


def test_top_k_and_top_p():
    logits = torch.log(torch.tensor([[0.05, 0.4, 0.3, 0.15, 0.1]]))

    def kept(top_k, top_p, temperature=1.0):
        return (filter_logits(logits, top_k, top_p, temperature)[0] > -math.inf).nonzero().flatten().tolist()

    assert kept(2, 1.0) == [1, 2] and kept(9, 1.0) == [0, 1, 2, 3, 4] and kept(0, 1.0) == [0, 1, 2, 3, 4]
    assert kept(0, 0.6) == [1, 2] and kept(0, 0.75) == [1, 2, 3] and kept(0, 0.01) == [1]  # never none
    assert kept(3, 0.95) == [1, 2, 3] and kept(3, 0.8) == [
        1,
        2,
    ]  # the nucleus is taken among the k: 0.4 / 0.85 and 0.7 / 0.85
    assert kept(0, 0.6, temperature=5.0) == [1, 2, 3]  # flatter, so that it takes more to reach 0.6


def test_guidance_by_hand():
    conditional, unconditional = torch.tensor([2.0, 0.0]), torch.tensor([1.0, 1.0])
    assert guide(conditional, unconditional, 0.0).tolist() == [2.0, 0.0]
    assert guide(conditional, unconditional, 1.5).tolist() == [3.5, -1.5]


# --- slow versions ------------------------------------------------------------------------------------------------


def slow_prediction(model, tokens, allowed, label_shift, scale, prompt_length):
    """[S, V] probabilities of the token at each position, the mask left out."""
    out = logits_of(model, tokens, allowed)
    if scale:
        blind = logits_of(model, [MASK if i < prompt_length else t for i, t in enumerate(tokens)], allowed)
        out = blind + (scale + 1) * (out - blind)
    if label_shift:
        out = torch.cat([out[:1], out[:-1]])
    out[:, MASK] = -torch.inf
    return out.softmax(dim=-1)


def slow_llada1(model, prompt, config, label_shift):
    tokens, commits = prompt + [MASK] * config.max_new_tokens, []
    size = config.block_length or config.max_new_tokens
    blocks = config.max_new_tokens // size
    for number in range(blocks):
        block = range(len(prompt) + number * size, len(prompt) + (number + 1) * size)
        for quota in tokens_per_step(size, (config.steps or config.max_new_tokens) // blocks):
            p = slow_prediction(model, tokens, lambda q, k: True, label_shift, config.cfg_scale, len(prompt))
            confidence = {i: p[i].max().item() for i in block if tokens[i] == MASK}
            chosen = sorted(confidence, key=lambda i: -confidence[i])[:quota]
            for i in chosen:
                tokens[i] = int(p[i].argmax())
            commits.append({i: tokens[i] for i in chosen})
    return tokens, commits


def slow_llada2(model, prompt, config, label_shift):
    size, end = config.block_length, len(prompt) + config.max_new_tokens
    length = -(-end // size) * size
    tokens, commits = prompt + [MASK] * (length - len(prompt)), []
    for start in range(len(prompt) // size * size, length, size):
        quotas = tokens_per_step(size, config.steps or size)
        for quota in quotas + [0] * length:
            open_ = [i for i in range(start, start + size) if tokens[i] == MASK]
            if not open_ or MASK not in tokens[:end]:  # what is beyond the end is not asked for
                break
            p = slow_prediction(model, tokens[: start + size], lambda q, k: k // size <= q // size, label_shift,
                                config.cfg_scale, len(prompt))  # fmt: skip
            confidence = {i: p[i].max().item() for i in open_}
            best = sorted(open_, key=lambda i: -confidence[i])
            above = [i for i in best if config.threshold is not None and confidence[i] > config.threshold]
            least = min(max(quota, config.minimal_topk), len(open_))
            chosen = above if len(above) >= least else best[:least]
            for i in chosen:
                tokens[i] = int(p[i].argmax())
            commits.append({i: tokens[i] for i in chosen if i < end})
    return tokens[:end], commits


def slow_ar(model, prompt, config):
    tokens, commits = list(prompt), []
    for _ in range(config.max_new_tokens):
        p = slow_prediction(model, tokens, lambda q, k: k <= q, False, 0, 0)[-1]
        tokens.append(int(p.argmax()))
        commits.append({len(tokens) - 1: tokens[-1]})
    return tokens, commits


def tokens_and_commits(trace: Trace):
    return trace.final, [{c.position: c.token for c in step.commits} for step in trace.steps]


@pytest.mark.parametrize("label_shift", [False, True])
@pytest.mark.parametrize("scale", [0.0, 1.5])
@pytest.mark.parametrize("style", ["llada1", "llada1 blocks", "llada2", "llada2 schedule"])
def test_diffusion_decoding_equals_the_slow_loop(style, scale, label_shift):
    config = dataclasses.replace(STYLES[style], cfg_scale=scale, eos_early_stop=False)
    slow = slow_llada1 if config.style == "llada1" else slow_llada2
    for seed, prompt in enumerate(PROMPTS):
        model = tiny(seed)
        (trace,) = traces(model, [prompt], config, label_shift)
        assert tokens_and_commits(trace) == slow(model, prompt, config, label_shift)
        assert all(step.forwards == (2 if scale else 1) for step in trace.steps)


def test_ar_decoding_equals_the_slow_loop():
    config = dataclasses.replace(STYLES["ar"], eos_early_stop=False)
    for seed, prompt in enumerate(PROMPTS):
        model = tiny(seed)
        assert tokens_and_commits(traces(model, [prompt], config)[0]) == slow_ar(model, prompt, config)


REFERENCE = {
    "ar": lambda model, prompts: reference.decode_ar(model, prompts, 7, MASK),
    "llada1": lambda model, prompts: reference.decode_llada1(model, prompts, 8, 8, 8, MASK),
    "llada1 blocks": lambda model, prompts: reference.decode_llada1(model, prompts, 8, 4, 4, MASK),
    "llada1 uneven": lambda model, prompts: reference.decode_llada1(model, prompts, 10, 5, 6, MASK),
    "llada2": lambda model, prompts: reference.decode_llada2(model, prompts, 9, 4, 0.3, MASK),
}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("style", REFERENCE)
def test_the_reference_decoders_write_what_the_library_writes(style, seed):
    """For prompts of one length; the last block of LLaDA 2 is computed whole and cut."""
    prompts, model = [[BOS, 5, 6, 7, 8], [BOS, 9, 3, 3, 4]], tiny(seed)
    uneven = DecodeConfig("llada1", max_new_tokens=10, block_length=5, steps=6)
    config = dataclasses.replace(STYLES.get(style, uneven), eos_early_stop=False)
    written = REFERENCE[style](model, torch.tensor(prompts))
    assert written.tolist() == [trace.final for trace in traces(model, prompts, config)]


# --- cached equals uncached, batched equals single ----------------------------------------------------------------


@pytest.mark.parametrize("label_shift", [False, True])
@pytest.mark.parametrize(
    "style, scale",
    [(style, scale) for style, scale in GUIDED if not style.startswith("llada1")]
    + [("ar hot", 0.0), ("llada2 hot", 0.0)],
)
def test_cached_equals_uncached_to_the_logits(monkeypatch, style, scale, label_shift):
    seen = []

    def spy(logits, *rest):
        seen.append(logits.clone())
        return predict_tokens(logits, *rest)

    monkeypatch.setattr(decoding_state, "predict_tokens", spy)
    config = dataclasses.replace((STYLES | HOT)[style], cfg_scale=scale, eos_early_stop=False)
    model, results = tiny(4), []
    for use_cache in (True, False):
        seen.clear()
        decoded = traces(model, PROMPTS, dataclasses.replace(config, use_cache=use_cache), label_shift)
        results.append((decoded, list(seen)))
    for cached, full in zip(results[0][0], results[1][0], strict=True):
        close(cached, full)
    assert len(results[0][1]) == len(results[1][1]) > 3
    for cached, full in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(cached, full, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("style, scale", [*GUIDED, *((style, 0.0) for style in HOT)])
def test_few_rows_of_logits_at_a_time_change_nothing(monkeypatch, style, scale):
    """Neither tokens and runners-up nor what is sampled."""
    config = dataclasses.replace((STYLES | HOT)[style], cfg_scale=scale, alternatives=2, draft=True)
    whole = traces(tiny(4), PROMPTS, config)
    monkeypatch.setattr(decoding_state, "logits_rows", lambda *_: 2)
    for parts, at_once in zip(traces(tiny(4), PROMPTS, config), whole, strict=True):
        close(parts, at_once, tolerance=1e-6)


class Largest(TorchDispatchMode):
    """Watches the numbers in the largest tensor that any operation gives."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tensors = result if isinstance(result, tuple | list) else [result]
        self.numel = max([self.numel, *(tensor.numel() for tensor in tensors if isinstance(tensor, torch.Tensor))])
        return result


@pytest.mark.parametrize("scale", [0.0, 1.0])
def test_memory_does_not_grow_with_the_positions_of_a_large_vocabulary(scale):
    """64 positions are predicted at once; of a small vocabulary all logits are computed at once."""
    vocab = 153_600
    model = tiny(vocab=vocab)
    most = logits_rows(vocab, model.device) * vocab
    assert model.lm_head.weight.numel() < most < 64 * vocab and logits_rows(6400, model.device) >= 512
    config = DecodeConfig("llada2", 32, block_length=32, threshold=None, steps=1, cfg_scale=scale, alternatives=3)
    with Largest() as largest:
        decoded = traces(model, [[BOS] * 32, [BOS, 5] * 16], config)
    assert [trace.forwards for trace in decoded] == [1 + (scale > 0)] * 2
    assert largest.numel <= most


def test_the_cache_spares_the_finished_blocks():
    """Positions run per forward: with the cache, the block before and this one; without, everything so far."""
    model, widths = tiny(), []
    forward = model.forward
    model.forward = lambda tokens, *rest, **more: (widths.append(tokens.shape[1]), forward(tokens, *rest, **more))[1]
    config = DecodeConfig("llada2", max_new_tokens=12, block_length=4, threshold=0.0, eos_early_stop=False)
    for use_cache, expected in ((True, [8, 8, 8]), (False, [8, 12, 16])):
        widths.clear()
        list(decode(checkpoint_of(model), [PROMPTS[0][:4]], dataclasses.replace(config, use_cache=use_cache)))
        assert widths == expected
    widths.clear()
    list(decode(checkpoint_of(model), [PROMPTS[0]], DecodeConfig("ar", max_new_tokens=4, eos_early_stop=False)))
    assert widths == [5, 1, 1, 1]


@pytest.fixture
def static(monkeypatch):
    """Decode on the CPU by what CUDA graphs replay, without the graphs. Gives the shapes captured and the runs."""
    captured, runs = [], []
    begin, run = Capture.__init__, Capture.run
    monkeypatch.setattr(cuda_graphs, "GRAPH_DEVICES", ("cpu",))

    def note_shape(self, model, cache, inputs, pool=None):
        captured.append(inputs[0].shape)
        begin(self, model, cache, inputs, pool)

    monkeypatch.setattr(Capture, "__init__", note_shape)
    monkeypatch.setattr(Capture, "run", lambda *arguments: (runs.append(1), run(*arguments))[1])
    return captured, runs


@pytest.mark.parametrize("label_shift", [False, True])
@pytest.mark.parametrize("style, scale", [*GUIDED, *((style, 0.0) for style in HOT)])
def test_static_shapes_change_nothing(static, monkeypatch, style, scale, label_shift):
    """Keys up to the cache's end, all states of the window."""
    (captured, runs), counts = static, []
    monkeypatch.setattr(cuda_graphs, "WARMUP", 1)
    config = dataclasses.replace((STYLES | HOT)[style], cfg_scale=scale, draft=True)
    with pytest.MonkeyPatch.context() as plainly:
        plainly.setattr(cuda_graphs, "GRAPH_DEVICES", ())
        wanted = traces(tiny(4), PROMPTS, config, label_shift)
    assert not runs
    model = tiny(4)
    for _ in range(4):  # a later decoding has a cache of its own, which takes the place of one of its shape
        for plainly, replayed in zip(wanted, traces(model, PROMPTS, config, label_shift), strict=True):
            close(plainly, replayed)
        counts.append(len(captured))
    assert runs and counts[2] == counts[3]  # by the third every shape has been run; nothing is captured again


def test_decodings_side_by_side_share_no_memory(static):
    _, runs = static
    model, config = tiny(4), STYLES["llada2"]
    prompts = [PROMPTS[0], PROMPTS[0][::-1]]
    alone = [list(decode(checkpoint_of(model), [prompt], config)) for prompt in prompts]
    for _ in range(2):
        runs.clear()
        both = list(zip(*(decode(checkpoint_of(model), [prompt], config) for prompt in prompts), strict=False))
        assert runs and len(both) > 3
        for steps, wanted in zip(zip(*both, strict=True), alone, strict=True):
            for step, other in zip(steps, wanted, strict=False):
                assert [(c.position, c.token) for c in step.commits] == [(c.position, c.token) for c in other.commits]


def test_weights_that_moved_are_captured_again(static):
    captured, _ = static
    model, config = tiny(4), STYLES["ar"]
    for _ in range(3):
        traces(model, PROMPTS[:1], config, False)
    before = len(captured)
    traces(model, PROMPTS[:1], config, False)
    assert len(captured) == before > 0
    model.lm_head.weight.data = model.lm_head.weight.data.clone()
    traces(model, PROMPTS[:1], config, False)
    assert len(captured) > before


def test_large_forwards_and_those_under_autocast_are_not_captured(static, monkeypatch):
    captured, _ = static
    with torch.autocast("cpu", torch.bfloat16):
        traces(tiny(4), PROMPTS[:1], STYLES["llada1"], False)
    monkeypatch.setattr(cuda_graphs, "MAX_TOKENS", 1)
    traces(tiny(4), PROMPTS[:1], STYLES["llada2"], False)
    assert not captured
    traces(tiny(4), PROMPTS[:1], STYLES["ar"], False)
    assert set(captured) == {(1, 1)}


def test_few_captures_are_kept_and_what_a_stopped_decoding_captured(static, monkeypatch):
    captured, _ = static
    monkeypatch.setattr(cuda_graphs, "MAX_SHAPES", 1)
    model = tiny(4).train()  # as `load_checkpoint` leaves it
    config = dataclasses.replace(STYLES["llada1"], eos_early_stop=False)
    for prompt in PROMPTS:  # a length each, without a cache
        list(decode(checkpoint_of(model), [prompt], config))
    assert len(captured) == 3
    stopped = decode(checkpoint_of(model), [PROMPTS[-1]], config)
    next(stopped)
    stopped.close()
    list(decode(checkpoint_of(model), [PROMPTS[-1]], config))
    assert len(captured) == 3
    list(decode(checkpoint_of(model), [PROMPTS[0]], config))
    assert len(captured) == 4  # the first length's had given way


def test_what_a_capture_reads_lives_as_long_as_it_does(static, monkeypatch):
    """Of a cache not its keys and values alone: a later decoding's own is gone when that ends."""
    caches, begin = [], Capture.__init__
    monkeypatch.setattr(Capture, "__init__", lambda *arguments: (caches.append(arguments[2]), begin(*arguments))[1])
    model = tiny(4)
    config = DecodeConfig("llada2", max_new_tokens=9, block_length=3, threshold=None, eos_early_stop=False)
    for _ in range(4):  # a prompt's window comes once in each: captured when the cache is no longer the first one's
        list(decode(checkpoint_of(model), [PROMPTS[2]], config))
    ((_, known),) = cuda_graphs._idle[model]
    ((_, kept),) = known.items()
    assert len(caches) >= 3 and all(cache is kept.cache for cache in caches)


def test_a_cache_that_no_graph_uses_is_let_go(static):
    model = tiny(4)
    list(decode(checkpoint_of(model), [PROMPTS[0]], dataclasses.replace(STYLES["ar"], max_new_tokens=2)))
    ((_, known),) = cuda_graphs._idle[model]
    assert known == {}


def test_where_nothing_can_be_captured_decoding_warns_and_goes_on(static, monkeypatch):
    def refuse(*_):
        raise RuntimeError("operation not permitted")

    with monkeypatch.context() as plainly:
        plainly.setattr(cuda_graphs, "GRAPH_DEVICES", ())
        wanted = traces(tiny(4), PROMPTS, STYLES["llada2"], False)
    monkeypatch.setattr(Capture, "__init__", refuse)
    model = tiny(4)
    with pytest.warns(UserWarning, match="without CUDA graphs.*not permitted"):
        decoded = traces(model, PROMPTS, STYLES["llada2"], False)
    with warnings.catch_warnings(action="error"):  # said once: it is not tried again
        traces(model, PROMPTS, STYLES["llada2"], False)
    for plainly, other in zip(wanted, decoded, strict=True):
        close(plainly, other)


def test_the_head_reads_masked_positions_only():
    """And the last layer computes no others: rows of logits are as many as masks."""
    model, rows = tiny(), []
    head = model.logits
    model.logits = lambda hidden: (rows.append(tuple(hidden.shape)), head(hidden))[1]
    config = DecodeConfig("llada2", max_new_tokens=7, block_length=4, threshold=None, steps=2, eos_early_stop=False)
    list(decode(checkpoint_of(model), [[BOS, 5, 6, 7, 8]], config))
    assert rows == [(3, 16), (1, 16), (4, 16), (2, 16)]


def test_a_prompt_is_run_once_and_no_forward_only_stores():
    """The next block's first forward stores the finished block: forwards are as many as steps, positions are few."""
    model, windows = tiny(), []
    forward = model.forward
    model.forward = lambda tokens, position, *rest, **more: (
        windows.append((int(position[0, 0]), tokens.shape[1])), forward(tokens, position, *rest, **more),
    )[1]  # fmt: skip
    config = DecodeConfig("llada2", max_new_tokens=8, block_length=4, threshold=None, steps=2, eos_early_stop=False)
    steps = list(decode(checkpoint_of(model), [[BOS, *range(3, 14)]], config))
    assert windows == [(0, 16), (12, 4), (12, 8), (16, 4)] and len(steps) == len(windows)


@pytest.mark.parametrize("label_shift", [False, True])
@pytest.mark.parametrize("style, scale", GUIDED)
def test_batched_equals_single(style, scale, label_shift):
    uneven = False
    for seed in range(3):
        model = tiny(seed)
        with torch.no_grad():
            model.lm_head.weight[EOS] *= 2  # some rows end early and leave the batch
        config = dataclasses.replace(STYLES[style], cfg_scale=scale, draft=True, alternatives=2)
        together = traces(model, PROMPTS, config, label_shift)
        for row, (prompt, trace) in enumerate(zip(PROMPTS, together, strict=True)):
            close(trace, traces(model, [prompt], config, label_shift)[0])
            assert [step.row for step in trace.steps] == [row] * len(trace.steps)
            assert [step.index for step in trace.steps] == list(range(len(trace.steps)))
        uneven |= len({len(trace.steps) for trace in together}) > 1
    assert uneven, "the toy must let some rows leave the batch before others"


def test_a_longer_neighbour_changes_nothing():
    """Padding: beside a prompt six times as long."""
    for config in STYLES.values():
        alone, beside = traces(tiny(), [[BOS, 5]], config), traces(tiny(), [[BOS, 5], [BOS, *[7] * 11]], config)
        close(alone[0], beside[0])


# --- what is committed when ---------------------------------------------------------------------------------------


def commits(trace: Trace) -> list[list[tuple[int, str]]]:
    return [[(c.position, c.reason) for c in step.commits] for step in trace.steps]


LADDER = [(9, 0.5)] * 2 + [(3, 0.95), (4, 0.6), (5, 0.99), (6, 0.91), (7, 0.3), (8, 0.92)]  # a prompt of 2, then 6


def test_llada1_takes_the_most_confident_first():
    config = DecodeConfig("llada1", max_new_tokens=6, steps=4)
    (trace,) = traces(confident(LADDER), [[BOS, 9]], config)
    assert commits(trace) == [
        [(2, "schedule"), (4, "schedule")], [(5, "schedule"), (7, "schedule")], [(3, "schedule")], [(6, "schedule")],
    ]  # fmt: skip
    assert trace.answer == [3, 4, 5, 6, 7, 8] and [step.masked for step in trace.steps] == [4, 2, 1, 0]


def test_llada1_blocks_go_left_to_right():
    config = DecodeConfig("llada1", max_new_tokens=6, steps=4, block_length=3)
    (trace,) = traces(confident(LADDER), [[BOS, 9]], config)
    assert [[p for p, _ in step] for step in commits(trace)] == [[2, 4], [3], [5, 7], [6]]
    assert [step.block for step in trace.steps] == [(2, 5), (2, 5), (5, 8), (5, 8)]


def test_llada1_random_remasking_takes_any_order():
    config = DecodeConfig("llada1", max_new_tokens=6, remasking="random")
    orders = set()
    for seed in range(6):
        (trace,) = traces(confident(LADDER), [[BOS, 9]], dataclasses.replace(config, seed=seed))
        orders.add(tuple(position for step in commits(trace) for position, _ in step))
    assert len(orders) > 3 and all(sorted(order) == [2, 3, 4, 5, 6, 7] for order in orders)
    (trace,) = traces(confident(LADDER), [[BOS, 9]], config)
    for step in trace.steps:  # the recorded confidence is still the model's
        for commit in step.commits:
            assert commit.confidence == pytest.approx(LADDER[commit.position][1], abs=1e-5)


def test_llada2_commits_above_the_threshold_then_falls_back():
    config = DecodeConfig("llada2", max_new_tokens=6, block_length=8, threshold=0.9)
    (trace,) = traces(confident(LADDER), [[BOS, 9]], config)
    assert commits(trace) == [
        [(2, "threshold"), (4, "threshold"), (5, "threshold"), (7, "threshold")], [(3, "fallback")], [(6, "fallback")],
    ]  # fmt: skip
    assert trace.forwards == 3 and trace.tokens_per_forward == 2


def test_llada2_minimal_topk_is_a_floor_per_step():
    config = DecodeConfig("llada2", max_new_tokens=6, block_length=8, threshold=0.9, minimal_topk=2)
    (trace,) = traces(confident(LADDER), [[BOS, 9]], config)
    assert [len(step) for step in commits(trace)] == [4, 2]


def test_llada2_schedule_spreads_the_block_over_its_steps():
    config = DecodeConfig("llada2", max_new_tokens=6, block_length=8, threshold=None, steps=3)
    (trace,) = traces(confident(LADDER), [[BOS, 9]], config)
    assert [[p for p, _ in step] for step in commits(trace)] == [[2, 4, 7], [3, 5, 6]]  # 8 over 3: 3, 3, 2
    many = dataclasses.replace(config, steps=50)  # more steps than the block holds: one token each
    assert [len(step) for step in commits(traces(confident(LADDER), [[BOS, 9]], many)[0])] == [1] * 6


def test_llada2_threshold_zero_takes_one_step_a_block():
    config = DecodeConfig("llada2", max_new_tokens=6, block_length=4, threshold=0.0)
    (trace,) = traces(confident(LADDER), [[BOS, 9]], config)
    assert [[p for p, _ in step] for step in commits(trace)] == [[2, 3], [4, 5, 6, 7]]


def test_llada2_budget_and_hard_cap():
    config = DecodeConfig("llada2", max_new_tokens=6, block_length=8, threshold=0.9)
    shares = dataclasses.replace(config, cap_start_ratio=0.4, cap_end_ratio=1.0)  # 2 of 6, then 0.6 · 4 = 2
    (trace,) = traces(confident(LADDER), [[BOS, 9]], shares)
    assert commits(trace)[:2] == [[(2, "budget"), (4, "budget")], [(5, "threshold"), (7, "threshold")]]
    assert [step.held_back for step in trace.steps] == [2, 0, 0, 0]
    hard = dataclasses.replace(config, max_decode_per_step=1)
    (trace,) = traces(confident(LADDER), [[BOS, 9]], hard)
    assert [len(step) for step in commits(trace)] == [1] * 6 and trace.steps[0].held_back == 3


def test_llada2_budget_is_of_the_full_answer():
    """A quarter of all that is still masked, over three blocks: 12 → 3, 9 → 2 (one is left), 8 → 2, 6 → 1, …"""
    choices = [(9, 0.5)] * 4 + [(3 + i, 0.95) for i in range(12)]
    config = DecodeConfig(
        "llada2", 12, block_length=4, threshold=0.9, cap_start_ratio=0.25, cap_end_ratio=0.25, eos_early_stop=False
    )
    (trace,) = traces(confident(choices), [[BOS, 9, 9, 9]], config)
    assert [len(step.commits) for step in trace.steps] == [3, 1, 2, 1, 1, 1, 1, 1, 1]
    assert [step.masked for step in trace.steps] == [9, 8, 6, 5, 4, 3, 2, 1, 0]
    assert [step.held_back for step in trace.steps] == [1, 0, 2, 1, 0, 3, 2, 1, 0]


def test_the_block_grid_starts_at_position_zero():
    config = DecodeConfig("llada2", max_new_tokens=5, block_length=4, threshold=0.0, eos_early_stop=False)
    (trace,) = traces(tiny(), [[BOS, 5, 6, 7, 8]], config)
    assert [step.block for step in trace.steps] == [(4, 8), (8, 10)]
    assert trace.initial == [BOS, 5, 6, 7, 8, *[MASK] * 5]


@pytest.mark.parametrize("style", ["ar", "llada1", "llada2", "llada2 schedule", "llada2 budget"])
def test_an_answer_is_never_longer_than_asked_for(style):
    for prompt in PROMPTS:
        for most in (1, 2, 5):
            config = dataclasses.replace(STYLES[style], max_new_tokens=most, steps=None, draft=True)
            (trace,) = traces(tiny(), [prompt], config)
            end = len(prompt) + most
            positions = [c.position for step in trace.steps for c in step.commits]
            drafts = [position for step in trace.steps for position, _, _ in step.draft]
            assert len(trace.initial) == len(trace.final) == end and trace.tokens <= most
            assert max(positions + drafts) < end and all(step.block[1] <= end for step in trace.steps)
            assert [step.masked for step in trace.steps] == [
                trace.tokens_at(k).count(MASK) for k in range(1, len(trace.steps) + 1)
            ]


@pytest.mark.parametrize("style", ["llada2", "llada2 schedule", "llada2 budget"])
def test_where_an_answer_is_cut_changes_no_token_of_it(style):
    """LLaDA 2 decodes whole blocks: a shorter answer is the beginning of the one that completes the block."""
    config = dataclasses.replace(STYLES[style], block_length=8, eos_early_stop=False)
    for prompt in PROMPTS:
        whole = 16 - len(prompt) % 8
        (complete,) = traces(tiny(), [prompt], dataclasses.replace(config, max_new_tokens=whole))
        assert complete.steps[-1].masked == 0 and complete.steps[-1].block[1] % 8 == 0
        for most in range(whole - 7, whole):
            (cut,) = traces(tiny(), [prompt], dataclasses.replace(config, max_new_tokens=most))
            assert cut.final == complete.final[: len(cut.final)] and cut.forwards <= complete.forwards


def test_a_step_that_wrote_only_beyond_the_answer_counts():
    ladder = [(9, 0.5)] * 2 + [(3, 0.4), (5, 0.3), (6, 0.9), (7, 0.8)]
    config = DecodeConfig("llada2", max_new_tokens=2, block_length=6, threshold=None)
    (trace,) = traces(confident(ladder), [[BOS, 9]], config)
    assert [[c.token for c in step.commits] for step in trace.steps] == [[], [], [3], [5]]
    assert [step.masked for step in trace.steps] == [2, 2, 1, 0] and trace.tokens_per_forward == 0.5


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_prediction_that_is_no_number_is_an_error(style, wrong):
    model = tiny()
    model.model.norm.weight.data[3] = wrong
    with pytest.raises(FloatingPointError, match="predicts nan at positions .*take weights saved before"):
        traces(model, PROMPTS[:1], STYLES[style])


@pytest.mark.parametrize("end", [EOS, 11])
def test_decoding_stops_at_an_end_with_no_mask_before_it(end, monkeypatch):
    monkeypatch.setattr(Words, "end_token_ids", [EOS, 11], raising=False)
    ladder = [(9, 0.5)] * 2 + [(3, 0.95), (end, 0.97), (5, 0.4), (6, 0.5), (7, 0.3), (8, 0.6)]
    ar = DecodeConfig("ar", max_new_tokens=6)
    shifted = confident(ladder[1:] + [(3, 0.5)])  # AR reads a row earlier
    assert traces(shifted, [[BOS, 9]], ar)[0].forwards == 2
    assert traces(shifted, [[BOS, 9]], dataclasses.replace(ar, eos_early_stop=False))[0].forwards == 6
    for config in (
        DecodeConfig("llada1", max_new_tokens=6),
        DecodeConfig("llada2", max_new_tokens=6, block_length=8, threshold=None),
    ):
        (trace,) = traces(confident(ladder), [[BOS, 9]], config)
        assert trace.forwards == 2 and trace.ended and trace.answer == [3] and trace.tokens == 2
        (trace,) = traces(confident(ladder), [[BOS, 9]], dataclasses.replace(config, eos_early_stop=False))
        assert trace.forwards == 6 and trace.answer == [3]
    # a mask before the end: go on
    later = [(9, 0.5)] * 2 + [(3, 0.5), (end, 0.97), (5, 0.6), (6, 0.55)]
    (trace,) = traces(confident(later), [[BOS, 9]], DecodeConfig("llada1", max_new_tokens=4))
    assert [[p for p, _ in step] for step in commits(trace)] == [[3], [4], [5], [2]] and trace.answer == [3]


def test_temperature_samples_the_same_with_the_same_seed():
    for style in STYLES.values():
        hot = dataclasses.replace(style, temperature=1.5, eos_early_stop=False)
        first, again, other = (traces(tiny(), PROMPTS[:1], dataclasses.replace(hot, seed=s))[0].final for s in (1, 1, 2))
        assert first == again != other


def test_records_hold_runners_up_and_drafts():
    config = DecodeConfig("llada2", max_new_tokens=6, block_length=8, threshold=0.9, alternatives=2, draft=True)
    (trace,) = traces(confident(LADDER), [[BOS, 9]], config)
    first = trace.steps[0]
    assert [(p, t) for p, t, _ in first.draft] == [(3, 4), (6, 7)] and trace.steps[-1].draft == ()
    assert first.draft[0][2] == pytest.approx(0.6, abs=1e-5)
    for commit in first.commits:
        assert len(commit.alternatives) == 2 and commit.token not in [t for t, _ in commit.alternatives]
    assert first.confidence == pytest.approx(sum(p for _, p in LADDER[2:]) / 6, abs=1e-5)
    assert set(trace.vocabulary) >= {BOS, 9, MASK, 3, 4, 5, 6, 7, 8} and trace.text == "3 4 5 6 7 8"


def test_steps_come_one_by_one():
    """A generator: nothing is computed before it is asked for."""
    model = confident(LADDER)
    steps = decode(checkpoint_of(model), [[BOS, 9]], DecodeConfig("llada1", max_new_tokens=6))
    assert model.forwards == 0
    next(steps), next(steps)
    assert model.forwards == 2


# --- infilling ----------------------------------------------------------------------------------------------------


def test_infilling_changes_only_the_gaps():
    model, tokens = tiny(), [BOS, 5, MASK, MASK, 8, MASK, 10, EOS]
    before = list(tokens)
    trace = infill(checkpoint_of(model, Words()), tokens, DecodeConfig("llada1", max_new_tokens=99))
    assert tokens == before and trace.initial == before and trace.forwards == 3
    assert [t for t, start in zip(trace.final, before, strict=True) if start != MASK] == [BOS, 5, 8, 10, EOS]
    assert MASK not in trace.final and len(trace.answer) <= 3


@pytest.mark.parametrize("scale", [0.0, 2.0])
def test_infilling_equals_the_slow_version(scale):
    """The surest gap first, every token in sight; guided away from what would stand there were nothing given."""
    model, start = tiny(), [BOS, 5, MASK, MASK, 8, MASK, 10, EOS]
    trace = infill(checkpoint_of(model, Words()), start, DecodeConfig("llada1", cfg_scale=scale))
    expected, see = list(start), lambda q, k: True
    for _ in range(3):
        blind = [MASK if first != MASK else token for first, token in zip(start, expected, strict=True)]
        out, without = (logits_of(model, tokens, see) for tokens in (expected, blind))
        p = without + (scale + 1) * (out - without)
        p[:, MASK] = -torch.inf
        p = p.softmax(dim=-1)
        sure = max((i for i in range(8) if expected[i] == MASK), key=lambda i: p[i].max().item())
        expected[sure] = int(p[sure].argmax())
    assert trace.final == expected and trace.forwards == (6 if scale else 3)


def test_gaps_can_be_watched_step_by_step():
    model, tokens, config = tiny(), [BOS, 5, MASK, MASK, 8], DecodeConfig("llada1")
    steps = decode_gaps(checkpoint_of(model), tokens, config)
    first = next(steps)
    assert (len(first.commits), first.masked) == (1, 1) and first.commits[0].position in (2, 3)
    moves = lambda some: [(c.position, c.token) for step in some for c in step.commits]
    assert moves([first, *steps]) == moves(infill(checkpoint_of(model, Words()), tokens, config).steps)


def test_infilling_in_fewer_steps():
    trace = infill(checkpoint_of(tiny(), Words()), [BOS, MASK, MASK, 6, MASK], DecodeConfig("llada2", steps=2))
    assert [len(step.commits) for step in trace.steps] == [2, 1]


@pytest.mark.parametrize(
    "tokens, config, named",
    [
        ([BOS, 5], DecodeConfig(), "hold no mask"),
        ([BOS, MASK, 5], DecodeConfig(steps=2), "steps=2: must be at most the 1 masked"),
        ([MASK] * 65, DecodeConfig(), "65 positions: more than max_position_embeddings=64"),
    ],
)
def test_bad_infilling_is_named(tokens, config, named):
    with pytest.raises(ValueError, match=named):
        infill(checkpoint_of(tiny(), Words()), tokens, config)


# --- bad input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["ar", "llada1", "llada2"])
def test_bad_prompts_are_named(style):
    config = DecodeConfig(style, max_new_tokens=8, block_length=None if style == "ar" else 8)
    with pytest.raises(ValueError, match="prompt: is empty"):
        traces(tiny(), [[BOS], []], config)
    with pytest.raises(ValueError, match=r"holds the mask token \(16\) at 1; use infill"):
        traces(tiny(), [[BOS, MASK]], config)
    with pytest.raises(ValueError, match="positions: more than max_position_embeddings=64"):
        traces(tiny(), [[BOS] * 60], config)


def test_a_start_is_the_prompt_and_masks():
    assert initial_tokens([BOS, 5], DecodeConfig("ar", max_new_tokens=3), MASK) == [BOS, 5, MASK, MASK, MASK]
    assert len(initial_tokens([BOS] * 3, DecodeConfig("llada2", max_new_tokens=4, block_length=8), MASK)) == 7


def test_no_prompts_give_no_traces():
    assert traces(tiny(), [], STYLES["llada2"]) == []

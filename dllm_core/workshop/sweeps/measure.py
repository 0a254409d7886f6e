"""What a sweep asks of a trained checkpoint, as rows of plain numbers: likelihood, answers, first steps, merges, reversal, cost.

A row is {"kind", "settings": names of the settings that tell it from others, those settings, the numbers measured}. The
notebook notebooks/sweeps/measure.ipynb calls these; `results` pools their rows over seeds.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from safetensors.torch import load_file

from dllm_core import likelihood as evaluate
from dllm_core.checkpoints.formats import LoadedCheckpoint, mean_weights
from dllm_core.checkpoints.run_folder import RunFolder
from dllm_core.config import DecodeConfig
from dllm_core.data.batches import Batch, validation_batches
from dllm_core.data.token_cache import TokenDataset
from dllm_core.notebook.asking import generate_answers, mask_gaps, prompt_ids
from dllm_core.notebook.grading import Question, grade, speed, summary
from dllm_core.samplers import generate

Row = dict[str, object]


def _row(kind: str, settings: dict, **numbers) -> Row:
    return {"kind": kind, "settings": list(settings), **settings, **numbers}


def likelihood(
    loaded: LoadedCheckpoint, batches: list[Batch], block_sizes: Iterable[int], estimators: Iterable[str], draws: int, seed: int
) -> Iterator[Row]:
    """Nats per token of the same texts: exact for AR, the bound at each block size (0: one block) by each estimator.
    A document's first token is left out, as AR must."""
    if loaded.checkpoint.objective == "ar":
        found = evaluate.ar_nll(loaded.model, batches)
        yield _row("likelihood", {"block_size": 1, "estimator": "exact"}, mean=found.mean, error=found.error)
        return
    for size, estimator in itertools.product(block_sizes, estimators):
        found = evaluate.nll_bound(
            loaded.model, batches, loaded.tokenizer.mask_token_id, block_size=size or None, draws=draws, seed=seed,
            label_shift=loaded.checkpoint.label_shift, first_given=True, estimator=estimator,
        )  # fmt: skip
        yield _row("likelihood", {"block_size": size, "estimator": estimator}, mean=found.mean, error=found.error)


def answers(
    loaded: LoadedCheckpoint, items: list[Question], way: DecodeConfig, grid: dict[str, Sequence], keep_items: bool = False,
    kind: str = "answers",
) -> Iterator[Row]:  # fmt: skip
    """Exact match, pace and the look of the answers to `items` for each combination of the decoding settings in `grid`
    (names of `DecodeConfig`). keep_items: also which items were right, one character each, for paired intervals."""
    for values in itertools.product(*grid.values()):
        settings = dict(zip(grid, values, strict=True))
        try:
            config = replace(way, **settings)
        except ValueError:  # a combination that this style does not have, such as more steps than tokens
            continue
        _, traces = grade(loaded, items, config)
        found = summary(items, traces)
        tokens = lambda text: len(loaded.tokenizer.encode(text, add_special_tokens=False))
        wanted = [tokens(item.answer) if item.length is None else item.length for item in items]
        found["too_long"] = sum(len(t.answer) > n for t, n in zip(traces, wanted, strict=True)) / len(items)
        found["groups"] = {score["group"]: [score["right"], score["count"]] for score in found["groups"]}
        right = found.pop("right")
        found |= {"right": "".join("01"[hit] for hit in right)} if keep_items else {}
        yield _row(kind, {name: -1 if value is None else value for name, value in settings.items()}, **found)


def own_items(loaded: LoadedCheckpoint, documents: TokenDataset, count: int, way: DecodeConfig) -> list[Question]:
    """The first prompt of each of `count` conversations with the checkpoint's own answer, written one token a forward.
    Where no answer is the only right one, `answers` then counts how many a setting leaves as they are."""
    prompts = [tokens[: int(scored.argmax())].tolist() for tokens, scored in itertools.islice(documents, count)]
    careful = way if way.style == "ar" else replace(way, threshold=None, steps=None)
    traces = generate_answers(loaded, prompts, careful, batch_size=32)
    pairs = zip(prompts, traces, strict=True)
    return [Question("own", tuple(prompt), trace.text, len(trace.answer)) for prompt, trace in pairs]


def speeds(contestants: Sequence[tuple[LoadedCheckpoint, DecodeConfig]], items: list[Question], rounds: int = 3) -> Iterator[Row]:
    """Answer tokens through eos per forward and per second, batch 1, all contestants in one process: in each of `rounds`
    every one answers the same questions in turn; medians, and the least and the greatest ratio to the first one."""
    found: dict[str, list[dict]] = {way.style: [] for _, way in contestants}
    for turn in range(rounds + 1):  # the first is a warm-up
        for loaded, way in contestants:
            pace = speed(loaded, [item.prompt for item in items], way)
            found[way.style] += [pace] * bool(turn)
    first = found[contestants[0][1].style]
    for style, paces in found.items():
        ratios = sorted(a["tokens_per_second"] / b["tokens_per_second"] for a, b in zip(paces, first, strict=True))
        per_second = sorted(pace["tokens_per_second"] for pace in paces)
        yield _row(
            "speed", {"style": style}, tokens_per_forward=paces[0]["tokens_per_forward"],
            tokens_per_second=per_second[rounds // 2], times=ratios[rounds // 2], least=ratios[0], most=ratios[-1],
        )  # fmt: skip


def training(run: RunFolder) -> Iterator[Row]:
    """What the training took: steps, tokens read, seconds (validation and drawing left out). No row without metrics."""
    for line in run.metrics()[-1:]:
        yield _row("training", {}, trained_steps=line["step"], tokens=line["tokens"], seconds=round(line["seconds"], 1))


def first_steps(run: RunFolder) -> Iterator[Row]:
    """How a training began: loss (nats per scored token) and gradient norm of its first fifty steps."""
    lines = run.metrics()
    mean = lambda part: sum(line["loss"] for line in part) / max(len(part), 1)
    yield _row(
        "first_steps", {}, step_1=lines[0]["loss"], step_10=mean(lines[:10]), step_50=mean(lines[40:50]),
        norm_10=max(line["grad_norm"] for line in lines[:10]),
    )  # fmt: skip


def merges(
    loaded: LoadedCheckpoint, counts: Iterable[int], measure: Callable[[torch.nn.Module], evaluate.Estimate]
) -> Iterator[Row]:
    """The last weights (k = 0) beside the mean of the k checkpoints best on validation (LLaDA 2.0 §4.3), each measured
    on the same masks. The model is left with its last weights."""
    run, model = RunFolder(loaded.path), loaded.model
    last = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kept = run.checkpoints()
    for k in (0, *counts):
        if k > len(kept):
            raise ValueError(f"merge of {k} checkpoints: {run.folder} kept {len(kept)}; raise llada2_topk_merge_k in 03")
        if k:
            model.load_state_dict(mean_weights([load_file(file) for _, file in kept[:k]]), strict=False)
        found = measure(model)
        yield _row("merge", {"k": k}, mean=found.mean, error=found.error)
    model.load_state_dict(last)


def reversal(
    loaded: LoadedCheckpoint, facts: list[tuple[str, str]], seen: str, asked: str, way: DecodeConfig, draws: int, seed: int,
    direction: str,
) -> Iterator[Row]:  # fmt: skip
    """Facts (k, v) told as the sentence `seen`, asked by the beginning of the sentence `asked`, both with {k} and {v};
    `asked` ends with what is to be found, {k}, and a full stop. direction: how they were told, in words.

    By decoding: the share of facts whose continuation begins with k. By likelihood: the share whose k, given the rest, is
    likeliest among all facts' k, in `asked` and in `seen` (where it was told: a model that cannot say it may know it).
    """
    head = asked[: asked.index("{k}")]
    prompts = [prompt_ids(loaded.tokenizer, head.format(v=v), chat=False) for _, v in facts]
    traces = generate_answers(loaded, prompts, way, batch_size=32)
    told = sum(trace.text.startswith(k) for trace, (k, _) in zip(traces, facts, strict=True))
    yield _row("reversal", {"direction": direction, "way": "written"}, right=told / len(facts), items=len(facts))
    names = [k for k, _ in facts]
    for way_of, sentence in (("likeliest as asked", asked), ("likeliest as told", seen)):
        hits = 0
        for k, v in facts:
            costs = [_cost(loaded, sentence.format(k=f"[[{name}]]", v=v), draws, seed) for name in names]
            hits += names[min(range(len(names)), key=costs.__getitem__)] == k
        yield _row("reversal", {"direction": direction, "way": way_of}, right=hits / len(facts), items=len(facts))


def _cost(loaded: LoadedCheckpoint, text: str, draws: int, seed: int) -> float:
    """Nats of what stands in double brackets given the rest of the text. For AR those of the whole text, exactly: the
    difference is the same for whatever stands there. For diffusion the bound with masks nowhere else (LLaDA Eq. 6): masks
    on the rest as well would price the rest given the brackets, which is the other direction."""
    ids, exact = loaded.tokenizer, loaded.checkpoint.objective == "ar"
    hidden, true = mask_gaps(ids, text)
    tokens = [ids.bos_token_id, *true, ids.eos_token_id]
    priced = [exact, *(exact or h != t for h, t in zip(hidden, true, strict=True)), exact]
    count = 1 if exact else draws
    texts = TokenDataset.of(
        [tokens] * count, [priced] * count, pad_token_id=ids.pad_token_id, eos_token_id=ids.eos_token_id
    )
    batches = validation_batches(texts, batch_size=count, seq_len=len(tokens), pack="whole")
    if exact:
        found = evaluate.ar_nll(loaded.model, batches)
    else:  # the texts are shorter than a block: one block
        found = evaluate.nll_bound(
            loaded.model, batches, ids.mask_token_id, draws=1, seed=seed, label_shift=loaded.checkpoint.label_shift,
            first_given=True, estimator="exact_masks",
        )  # fmt: skip
    return found.mean * found.tokens / count


def cost(
    loaded: LoadedCheckpoint, prompt_lengths: Iterable[int], block_lengths: Iterable[int], new_tokens: int, at_once: int, seed: int,
    repeats: int = 3,
) -> Iterator[Row]:  # fmt: skip
    """Forwards and milliseconds (median of `repeats`) of decoding `new_tokens` after random prompts, with and without
    the cache of finished blocks, `at_once` tokens a forward throughout so that only the cost differs."""
    generator = torch.Generator().manual_seed(seed)
    for prompt_length, size, cache in itertools.product(prompt_lengths, block_lengths, (True, False)):
        prompt = torch.randint(5, len(loaded.tokenizer), (prompt_length,), generator=generator)
        prompt = prompt.masked_fill(prompt == loaded.tokenizer.mask_token_id, 5).tolist()
        way = DecodeConfig(
            "llada2", new_tokens, block_length=size, steps=math.ceil(size / at_once), threshold=None, use_cache=cache,
            eos_early_stop=False, seed=seed,
        )  # fmt: skip
        traces = [generate(loaded, [prompt], way)[0] for _ in range(repeats + 1)][1:]
        seconds = sorted(trace.seconds for trace in traces)[repeats // 2]
        forwards, made = traces[0].forwards, sum(len(step.commits) for step in traces[0].steps)
        yield _row(
            "cost", {"prompt_length": prompt_length, "block_length": size, "cache": "with" if cache else "without"},
            forwards=forwards, milliseconds=1000 * seconds / forwards, milliseconds_per_token=1000 * seconds / made,
        )  # fmt: skip

"""What a sweep measures of a trained checkpoint: likelihood, answers, speed, first steps, merges, reversal, cost.

Each function gives rows: {"kind", "settings": the names of the settings that tell the row from others, those settings,
the measured numbers}. notebooks/sweeps/measure.ipynb calls them; `tables` pools the rows over seeds.
"""

import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from statistics import median

import torch
from safetensors.torch import load_file

from dllm_core.checkpoints import price
from dllm_core.checkpoints.formats import LoadedCheckpoint
from dllm_core.checkpoints.run_folder import RunFolder
from dllm_core.checkpoints.tensors import mean_weights
from dllm_core.config import DecodeConfig
from dllm_core.data.batches import Batch, validation_batches
from dllm_core.data.token_cache import TokenDataset
from dllm_core.data.tokenizer import encode_text
from dllm_core.likelihood import Estimate, ar_nll, nll_bound
from dllm_core.notebook.asking import generate_answers, prompt_ids
from dllm_core.notebook.grading import Question, grade, speed, summary
from dllm_core.samplers import generate
from dllm_core.workshop.benchmark.timing import compare, take_turns

Row = dict[str, object]
ROUNDS = 3  # of a speed measurement, after one that warms up


def _row(row_kind: str, settings: dict, **numbers) -> Row:
    return {"kind": row_kind, "settings": list(settings), **settings, **numbers}


def likelihood(
    loaded: LoadedCheckpoint, batches: list[Batch], block_sizes: Iterable[int], estimators: Iterable[str],
    draws: int, seed: int,
) -> Iterator[Row]:  # fmt: skip
    """Nats per token of the texts in `batches`: exact for AR, else the bound at each block size (0: one block) by each
    estimator. The first token of a document is not scored, as AR cannot score it."""
    if loaded.info.objective == "ar":
        estimate = ar_nll(loaded.model, batches)
        yield _row("likelihood", {"block_size": 1, "estimator": "exact"}, mean=estimate.mean, error=estimate.error)
        return
    for size, estimator in itertools.product(block_sizes, estimators):
        estimate = nll_bound(
            loaded.model, batches, loaded.tokenizer.mask_token_id, block_size=size or None, draws=draws, seed=seed,
            label_shift=loaded.info.label_shift, first_given=True, estimator=estimator,
        )  # fmt: skip
        yield _row("likelihood", {"block_size": size, "estimator": estimator}, mean=estimate.mean, error=estimate.error)


def answers(
    loaded: LoadedCheckpoint, questions: list[Question], decode_config: DecodeConfig, grid: dict[str, Sequence],
    keep_items: bool = False, row_kind: str = "answers",
) -> Iterator[Row]:  # fmt: skip
    """Exact match, pace and text statistics of the answers for each combination of the decoding settings in `grid`
    (names of `DecodeConfig`). keep_items: also which answers were right, a character for each, for paired intervals."""
    encode = partial(loaded.tokenizer.encode, add_special_tokens=False)
    lengths = [len(encode(q.answer)) if q.length is None else q.length for q in questions]  # of the right answers
    for values in itertools.product(*grid.values()):
        settings = dict(zip(grid, values, strict=True))
        try:
            config = replace(decode_config, **settings)
        except ValueError:  # a combination that this style does not have, such as more steps than tokens
            continue
        _, traces = grade(loaded, questions, config)
        numbers = summary(questions, traces)
        too_long = [len(trace.answer) > length for trace, length in zip(traces, lengths, strict=True)]
        numbers["too_long"] = sum(too_long) / len(questions)
        numbers["groups"] = {score["group"]: [score["right"], score["count"]] for score in numbers["groups"]}
        right = numbers.pop("right")
        if keep_items:
            numbers["right"] = "".join("1" if hit else "0" for hit in right)
        yield _row(row_kind, {name: -1 if value is None else value for name, value in settings.items()}, **numbers)


def own_questions(
    loaded: LoadedCheckpoint, documents: TokenDataset, count: int, decode_config: DecodeConfig
) -> list[Question]:
    """The first prompt of each of `count` conversations with the checkpoint's own answer, decoded one token a forward.
    Where no answer is the only right one, `answers` then counts the answers that a setting leaves as they are."""
    prompts = [tokens[: int(scored.argmax())].tolist() for tokens, scored in itertools.islice(documents, count)]
    slow = decode_config if decode_config.style == "ar" else replace(decode_config, threshold=None, steps=None)
    traces = generate_answers(loaded, prompts, slow, batch_size=32)
    pairs = zip(prompts, traces, strict=True)
    return [Question("own", tuple(prompt), trace.text, len(trace.answer)) for prompt, trace in pairs]


def speeds(contestants: Sequence[tuple[LoadedCheckpoint, DecodeConfig]], questions: list[Question]) -> Iterator[Row]:
    """Answer tokens through eos per forward and per second, batch 1, all contestants in one process: in each round each
    answers the same questions in turn. Medians, and the least and the greatest ratio to the first contestant."""
    prompts, pace = [question.prompt for question in questions], {}

    def answer(loaded: LoadedCheckpoint, config: DecodeConfig) -> float:
        result = speed(loaded, prompts, config)
        pace[config.style] = result["tokens_per_forward"]
        return 1 / result["tokens_per_second"]

    jobs = {config.style: partial(answer, loaded, config) for loaded, config in contestants}
    seconds = take_turns(jobs, ROUNDS)  # per token
    for style in jobs:
        times = compare("", "", style, contestants[0][1].style, seconds)["ratio"]
        numbers = {"tokens_per_forward": pace[style], "tokens_per_second": 1 / median(seconds[style])}
        yield _row("speed", {"style": style}, **numbers, times=times["median"], least=times["low"], most=times["high"])


def training(loaded: LoadedCheckpoint) -> Iterator[Row]:
    """What the last training took: steps, tokens, FLOP, seconds (without validation and drawing); beside it what all
    fine-tunings took, and all trainings. No row without a record of it."""
    for entry in loaded.trained[-1:]:
        sums = {stages: price.total(loaded.trained, stages) for stages in ("fine-tuning", "all")}
        sums = {stages.replace("-", "_"): of for stages, of in sums.items() if of}
        more = {f"{stages}_{name}": number for stages, of in sums.items() for name, number in asdict(of).items()}
        numbers = {name: entry.get(name) for name in price.NUMBERS}
        yield _row("training", {}, trained_steps=entry.get("steps"), **numbers, **more)


def first_steps(run: RunFolder) -> Iterator[Row]:
    """How a training began: loss (nats per scored token) and gradient norm of its first fifty steps."""
    lines = run.metrics()
    losses = [line["loss"] for line in lines]
    means = [sum(part) / max(len(part), 1) for part in (losses[:10], losses[40:50])]
    norm = max(line["grad_norm"] for line in lines[:10])
    yield _row("first_steps", {}, step_1=losses[0], step_10=means[0], step_50=means[1], norm_10=norm)


def merges(
    loaded: LoadedCheckpoint, counts: Iterable[int], measure: Callable[[torch.nn.Module], Estimate]
) -> Iterator[Row]:
    """The last weights (k = 0) and the mean of the k checkpoints with the best validation (LLaDA 2.0 §4.3), each
    measured on the same masks. The model keeps its last weights. Raises ValueError when fewer than k were kept."""
    run, model = RunFolder(loaded.path), loaded.model
    last = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kept = run.checkpoints()
    for k in (0, *counts):
        if k > len(kept):
            raise ValueError(
                f"merge of {k} checkpoints: {run.folder} kept {len(kept)}; raise llada2_topk_merge_k in 03"
            )
        if k:
            model.load_state_dict(mean_weights([load_file(file) for _, file in kept[:k]]), strict=False)
        estimate = measure(model)
        yield _row("merge", {"k": k}, mean=estimate.mean, error=estimate.error)
    model.load_state_dict(last)


def reversal(
    loaded: LoadedCheckpoint, facts: list[tuple[str, str]], seen: str, queried: str, decode_config: DecodeConfig,
    draws: int, seed: int, direction: str,
) -> Iterator[Row]:  # fmt: skip
    """Facts (k, v), trained in sentences of the form `seen` and queried with the beginning of the sentence `queried`; both
    forms contain {k} and {v}, and `queried` ends with {k} and a full stop. direction: a label of the training direction.

    By decoding: the share of facts whose continuation begins with k. By likelihood: the share whose k is the most likely
    among all facts' k, in `queried` and in `seen` (a model may rank a fact first although it does not decode it).
    """
    head = queried[: queried.index("{k}")]
    prompts = [prompt_ids(loaded.tokenizer, head.format(v=v), chat=False) for _, v in facts]
    traces = generate_answers(loaded, prompts, decode_config, batch_size=32)
    right = sum(trace.text.startswith(k) for trace, (k, _) in zip(traces, facts, strict=True))
    yield _row("reversal", {"direction": direction, "way": "written"}, right=right / len(facts), items=len(facts))
    names = [k for k, _ in facts]
    for form, sentence in (("likeliest as asked", queried), ("likeliest as told", seen)):
        right = 0
        for k, v in facts:
            costs = [_gap_nats(loaded, sentence.format(k=f"[[{name}]]", v=v), draws, seed) for name in names]
            right += names[costs.index(min(costs))] == k
        yield _row("reversal", {"direction": direction, "way": form}, right=right / len(facts), items=len(facts))


def _gap_nats(loaded: LoadedCheckpoint, text: str, draws: int, seed: int) -> float:
    """Nats of the words in double brackets given the rest of the text.

    For AR those of the whole text, exactly: the rest costs the same for any words in the brackets. For diffusion the
    bound with masks in the brackets alone (LLaDA Eq. 6): masks on the rest would price the other direction too.
    """
    tokenizer, ar = loaded.tokenizer, loaded.info.objective == "ar"
    text_ids, in_gap = _hidden(tokenizer, text)
    tokens = [tokenizer.bos_token_id, *text_ids, tokenizer.eos_token_id]
    scored = [True] * len(tokens) if ar else [False, *in_gap, False]
    copies = 1 if ar else draws
    texts = TokenDataset.of(
        [tokens] * copies, [scored] * copies, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id
    )
    batches = validation_batches(texts, batch_size=copies, seq_len=len(tokens), pack="whole")
    if ar:
        estimate = ar_nll(loaded.model, batches)
    else:  # the texts are shorter than a block: one block
        estimate = nll_bound(
            loaded.model, batches, tokenizer.mask_token_id, draws=1, seed=seed,
            label_shift=loaded.info.label_shift, first_given=True, estimator="exact_masks",
        )  # fmt: skip
    return estimate.mean * estimate.tokens / copies


def _hidden(tokenizer, text: str) -> tuple[list[int], list[bool]]:
    """(token ids, whether each overlaps the words in double brackets) of a text, which is tokenized whole, as in training."""
    before, words, after = re.split(r"\[\[|\]\]", text)
    encoded = encode_text(tokenizer, before + words + after, "text")
    gap_end = len(before) + len(words)
    return encoded.ids, [start < gap_end and end > len(before) for start, end in encoded.offsets]


def cost(
    loaded: LoadedCheckpoint, prompt_lengths: Iterable[int], block_lengths: Iterable[int], new_tokens: int,
    at_once: int, seed: int, repeats: int = 3,
) -> Iterator[Row]:  # fmt: skip
    """Forwards and milliseconds (median of `repeats`) of decoding `new_tokens` after random prompts, with and without
    the cache of finished blocks, `at_once` tokens a forward throughout, so that only the cost differs."""
    mask_id, generator = loaded.tokenizer.mask_token_id, torch.Generator().manual_seed(seed)
    for prompt_length, size, cache in itertools.product(prompt_lengths, block_lengths, (True, False)):
        prompt = torch.randint(5, len(loaded.tokenizer), (prompt_length,), generator=generator)
        prompt = prompt.masked_fill(prompt == mask_id, 5).tolist()
        decode_config = DecodeConfig(
            "llada2", new_tokens, block_length=size, steps=math.ceil(size / at_once), threshold=None, use_cache=cache,
            eos_early_stop=False, seed=seed,
        )  # fmt: skip
        traces = [generate(loaded, [prompt], decode_config)[0] for _ in range(repeats + 1)][1:]
        milliseconds = 1000 * median(trace.seconds for trace in traces)
        forwards, tokens = traces[0].forwards, sum(len(step.commits) for step in traces[0].steps)
        yield _row(
            "cost", {"prompt_length": prompt_length, "block_length": size, "cache": "with" if cache else "without"},
            forwards=forwards, milliseconds=milliseconds / forwards, milliseconds_per_token=milliseconds / tokens,
        )  # fmt: skip

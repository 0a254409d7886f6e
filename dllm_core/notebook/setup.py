"""What the seven notebooks share around their own idea: open a tokenizer, a checkpoint and the data, let a model speak.

Nothing of an algorithm is here; each notebook shows its own from the other modules.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from dllm_core.checkpoints.formats import find_checkpoint, run_name
from dllm_core.checkpoints.run_folder import LoadedCheckpoint, load
from dllm_core.common.errors import DataError, RunError
from dllm_core.common.paths import resolve, root
from dllm_core.config import DecodeConfig
from dllm_core.data.batches import validation_batches
from dllm_core.data.chat import chat_prompt
from dllm_core.data.jsonl import read_jsonl, read_texts
from dllm_core.data.token_cache import TokenDataset
from dllm_core.data.tokenizer import character_tokenizer, load_tokenizer
from dllm_core.likelihood import ar_nll
from dllm_core.notebook import parameters
from dllm_core.notebook.grading import Score, answer_all, exact_match
from dllm_core.samplers import generate, start_of
from dllm_core.sampling import SpecialTokens
from dllm_core.trace import Trace
from dllm_core.workshop.bundle_weights import bundled_checkpoint
from dllm_core.workshop.corpus import generator as corpus
from dllm_core.workshop.corpus.generator import Item

MADE_BY = {  # run → the stage of `dllm run` that makes it, which begins with its notebook's number
    "minimind_pretrain": "01",
    "diffusion_from_ar_eq3": "02",
    "diffusion_llada2_pretrain": "03",
    "minimind_sft": "04",
    "diffusion_llada1_sft": "05-llada1",
    "diffusion_llada2_sft": "05-llada2",
}


def settings(notebook: str, scope: dict) -> dict:
    """The parameters that `notebook` declares, with the values they have in `scope` (the notebook's `globals()`)."""
    return {name: scope[name] for name in parameters.read_parameters(resolve(f"notebooks/{notebook}.ipynb"))}


def parse_numbers(text: str, kind: type = int) -> tuple:
    """The numbers of a flag such as "32,64,128". Raises ValueError naming what is no number."""
    try:
        return tuple(kind(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"{text!r}: expected numbers with commas between them, as in 32,64,128 ({error})") from error


def open_tokenizer(tokenizer_dir: str, use_tokenizer: bool = True, data: str = "", field: str = "text"):
    """The tokenizer of `tokenizer_dir`; without `use_tokenizer` one token per character of the file `data`."""
    return load_tokenizer(tokenizer_dir) if use_tokenizer else character_tokenizer(read_texts(data, field))


def open_checkpoint(
    name: str | Path,
    *,
    tokenizer_dir: str = "",
    tokenizer=None,
    num_attention_heads: int = 0,
    device="cpu",
    shipped: bool = False,
) -> LoadedCheckpoint:
    """A checkpoint with its tokenizer, its embedding grown where that tokenizer has more entries.

    The tokenizer is `tokenizer`, else that of `tokenizer_dir`, else the checkpoint's own.
    shipped: where the chain's run is not there yet, take the small copy of it that comes with the project (its `path`
    says so). Raises RunError: no such checkpoint (and which command makes it), no tokenizer, or another one than the checkpoint's.
    """
    tokenizer = tokenizer or (load_tokenizer(tokenizer_dir) if tokenizer_dir else None)
    size = len(tokenizer) if tokenizer else None
    try:
        loaded = load(name, num_attention_heads=num_attention_heads or None, vocab_size=size, device=device)
    except RunError as error:
        small = bundled_checkpoint(name) if shipped else None
        if not small:
            raise RunError(f"{error}{_maker(name)}") from error
        loaded = load(small, vocab_size=size, device=device)
    own = loaded.tokenizer
    if tokenizer is None and own is None:
        raise RunError(f"{loaded.path}: a bare state dict has no tokenizer with it; give tokenizer_dir")
    if tokenizer and own and tokenizer.get_vocab() != own.get_vocab():
        raise RunError(
            f"tokenizer_dir={tokenizer_dir or tokenizer.name_or_path!r} is not the tokenizer that {loaded.path} was "
            "trained with: its tokens mean something else. Leave tokenizer_dir empty to take the checkpoint's own"
        )
    return replace(loaded, tokenizer=own or tokenizer)


def _maker(name: str | Path) -> str:
    stage = MADE_BY.get(run_name(name))
    return f". Notebook {stage[:2]} makes it, or the command: dllm run {stage}" if stage else ""


def read_splits(
    read: Callable[[str], TokenDataset], data: str, valid_data: str = ""
) -> tuple[TokenDataset | None, TokenDataset]:
    """(train, valid): the file `valid_data` where one is named, else a share of `data` that is then not trained on.

    Warns when the two are of different kinds: a file of the user's own, validated on the embedded corpus.
    """
    if data and _embedded(valid_data) and not _embedded(data):
        warnings.warn(
            f"data={data!r} is your own and valid_data={valid_data!r} is the embedded corpus': validation, and with it "
            'the choice of the best weights, would be on texts of another kind. Set valid_data = "" to hold out a share '
            "of data, or name a file of your own",
            stacklevel=2,
        )
    if not valid_data:
        return read(data).split()
    return (read(data) if data else None), read(valid_data)


def _embedded(path: str) -> bool:
    return Path(path).name in corpus.EMBEDDED and resolve(path).parent == root() / "data"


def prompt_ids(tokenizer, text: str | tuple[int, ...], chat: bool) -> list[int]:
    """Tokens a model goes on from: through the chat template, or as the beginning of a document (bos, text). What is
    tokens already stays as it is."""
    if not isinstance(text, str):
        return list(text)
    if chat:
        return chat_prompt(tokenizer, text)
    return [tokenizer.bos_token_id, *tokenizer.encode(text, add_special_tokens=False)]


def mask_gaps(tokenizer, text: str) -> tuple[list[int], list[int]]:
    """(tokens with masks, true tokens) of a text whose gaps stand in double brackets: "今天[[天气]]很好".

    The whole text is tokenised at once and masked by its offsets: pieces tokenised apart would be other tokens.
    Raises ValueError when there is no gap or a bracket is not closed.
    """
    plain, spans = "", []
    for i, part in enumerate(text.replace("]]", "[[").split("[[")):
        if i % 2:
            spans.append((len(plain), len(plain) + len(part)))
        plain += part
    if not spans or text.count("[[") != text.count("]]") or any(start == end for start, end in spans):
        raise ValueError(f"{text!r}: mark each gap with double brackets around what it hides, as in 今天[[天气]]很好")
    encoded = tokenizer(plain, add_special_tokens=False, return_offsets_mapping=True)
    true, hidden = encoded["input_ids"], []
    for token, (start, end) in zip(true, encoded["offset_mapping"], strict=True):
        inside = any(start < last and end > first for first, last in spans)
        hidden.append(tokenizer.mask_token_id if inside else token)
    return hidden, true


def generate_answers(loaded: LoadedCheckpoint, prompts: list[str], config: DecodeConfig) -> list[Trace]:
    """Traces, one a prompt: an SFT checkpoint answers through the chat template, a base checkpoint continues the text."""
    tokenizer, chat = loaded.tokenizer, loaded.checkpoint.chat
    tokens = [prompt_ids(tokenizer, prompt, chat) for prompt in prompts]
    return generate(loaded.model, tokens, config, tokenizer, loaded.checkpoint.label_shift)


def preflight(loaded: LoadedCheckpoint, prompt: str, config: DecodeConfig, checkpoint: str = "", trained: str = "") -> None:
    """Tell before a training what would else stop the notebook in its midst or after it.

    Raises ValueError when `prompt` and the answer take more positions than the model has (LLaDA 1 reads all of them in
    one window, LLaDA 2 fills the last block); RunError when the `checkpoint` to be evaluated at the end is not there
    (empty, or the run that is now `trained`: it will be).
    """
    tokens = prompt_ids(loaded.tokenizer, prompt, loaded.checkpoint.chat)
    needed = len(start_of(tokens, config, SpecialTokens.of(loaded.tokenizer)))
    most = loaded.model.config.max_position_embeddings
    if needed > most:
        raise ValueError(
            f"prompt: its {len(tokens)} tokens and max_new_tokens={config.max_new_tokens} take {needed} positions, the "
            f"model has max_position_embeddings={most}: shorten prompt or lower max_new_tokens"
        )
    if checkpoint and run_name(checkpoint) != run_name(trained):
        try:
            find_checkpoint(checkpoint)
        except RunError as error:
            raise RunError(f"{error}{_maker(checkpoint)}") from error


def load_questions(path: str, per_group: int = 0) -> list[Item]:
    """Questions whose exact answer is known: the single-turn conversations of `path` that carry a "group".

    per_group: the first so many of each, 0 = all. An empty list when the lines carry none (free text has no one answer).
    """
    items: list[Item] = []
    taken: dict[str, int] = {}
    for number, row in read_jsonl(path) if path else ():
        group, turns = row.get("group"), row.get("conversations")
        if group is None or not isinstance(turns, list) or len(turns) != 2:
            continue
        if not all(isinstance(turn, dict) and isinstance(turn.get("content"), str) for turn in turns):
            raise DataError(f'{path}:{number}: a turn has no string under "content"')
        taken[group] = taken.get(group, 0) + 1
        if not per_group or taken[group] <= per_group:
            items.append(Item(group, turns[0]["content"], turns[1]["content"]))
    return items


def grade(loaded: LoadedCheckpoint, items: list[Item], config: DecodeConfig, batch_size: int = 32) -> tuple[list[Score], list]:
    """(exact match per group, the traces) of a checkpoint's answers to `items`."""
    prompts = [prompt_ids(loaded.tokenizer, item.prompt, loaded.checkpoint.chat) for item in items]
    traces = answer_all(loaded.model, prompts, config, loaded.tokenizer, batch_size, loaded.checkpoint.label_shift)
    groups, answers = [item.group for item in items], [item.answer for item in items]
    return exact_match(groups, answers, [trace.text for trace in traces]), traces


def probability_under(judge: LoadedCheckpoint, traces: Sequence[Trace]) -> float:
    """Geometric mean of the probabilities that an AR model gives to the decoded tokens, each in its own context.

    A stand-in for quality where no answer is the right one; dull and repeated text scores high. NaN when nothing was
    decoded.
    """
    rows = [(trace.prompt + trace.answer, [False] * len(trace.prompt) + [True] * len(trace.answer)) for trace in traces]
    rows = [(tokens, scored) for tokens, scored in rows if any(scored)]
    if not rows:
        return math.nan
    documents = TokenDataset.of([tokens for tokens, _ in rows], [scored for _, scored in rows])
    ids = {"pad_token_id": judge.tokenizer.pad_token_id, "eos_token_id": judge.tokenizer.eos_token_id}
    longest = int(documents.lengths.max())
    batches = validation_batches(documents, batch_size=len(rows), seq_len=longest, pack="whole", **ids)
    return math.exp(-ar_nll(judge.model, batches).mean)

"""The embedded corpus: its splits, its pretraining text, its files and its tokenizer.

Made from one seed by `random.Random` alone, so it is the same on every machine. Nearly every instance is seen once, so
a model has to look at the prompt instead of remembering. Held-out items are drawn first; whatever is drawn afterwards
for training must share no key with them (`corpus_tasks` says what a key is, `corpus_splits` draws).
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from dllm_core.common.files import write_whole
from dllm_core.common.paths import resolve
from dllm_core.workshop.corpus import tasks
from dllm_core.workshop.corpus.splits import Pool
from dllm_core.workshop.corpus.tasks import Item
from dllm_core.workshop.corpus.text import documents, reversal_statements
from dllm_core.workshop.corpus.words import GROUPS, REPORT_PROMPTS

__all__ = ["EMBEDDED", "GROUPS", "SPECIALS", "Corpus", "Item", "build", "conversation", "ensure", "train_tokenizer"]

# Conversations of each group: most where a model learns most slowly (the introductions that there are, all of them)
SFT_ITEMS = {"copy": 5000, "reverse": 7000, "operation": 12_000, "reading": 13_000, "story": 3500}
RECALL_ITEMS, REVERSAL_ITEMS, DIALOGUES = 5000, 1200, 800
WHO_TIMES = 100  # how often the four questions come with which the report asks a model who it is
PRETRAIN_DOCUMENTS, PRETRAIN_VALID_DOCUMENTS = 80_000, 500
SAMPLE = 40  # lines of each committed sample
FILES = (
    "pretrain_tiny.jsonl",
    "pretrain_sample.jsonl",
    "pretrain_valid.jsonl",
    "sft_tiny.jsonl",
    "sft_sample.jsonl",
    "sft_valid.jsonl",
    "sft_test.jsonl",
    "sft_reversal.jsonl",
    "reversal_tiny.jsonl",
)
EMBEDDED = frozenset(FILES)

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|mask|>", "<|unk|>")  # ids 0–4
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@dataclass(frozen=True)
class Corpus:
    """All splits. `sft_valid` and `sft_test` hold equal parts of `GROUPS`; `reversal` holds `reversal_unseen` (pairs
    told in one direction only, asked in the other) and `reversal_seen` (told in both directions: the control)."""

    pretrain: list[str]
    pretrain_valid: list[str]
    sft: list[Item]
    dialogues: list[tuple[Item, Item]]  # two-turn conversations, training only
    sft_valid: list[Item]
    sft_test: list[Item]
    reversal: list[Item]

    def texts(self) -> Iterator[str]:
        """Every text of the corpus: what the tokenizer must be able to write."""
        yield from self.pretrain
        yield from self.pretrain_valid
        for item in (*self.sft, *self.sft_valid, *self.sft_test, *self.reversal):
            yield item.prompt
            yield item.answer


def build(seed: int = 0) -> Corpus:
    """The corpus of a seed: the same on every machine, in a few seconds."""
    pool = Pool(seed)
    rng = Random(f"{seed}/sft")
    sft = list(pool.introduction)
    sft += [item for item in pool.introduction if item.prompt in REPORT_PROMPTS] * (WHO_TIMES - 1)
    for group in tasks.DRAWN:
        unique: dict[str, Item] = {}
        while len(unique) < SFT_ITEMS[group]:
            item = pool.draw(rng, group)
            unique[item.prompt] = item
        sft += unique.values()
    sft += [pool.draw(rng, "recall") for _ in range(RECALL_ITEMS)]  # a few hundred pairs: they return
    sft += [pool.draw(rng, "reversal") for _ in range(REVERSAL_ITEMS)]
    rng.shuffle(sft)
    # two turns must fit where one long turn fits; an English character costs less than a token
    short = [item for item in sft if len(item.prompt) + len(item.answer) < 42 and not item.prompt.isascii()]
    dialogues = [(rng.choice(short), rng.choice(short)) for _ in range(DIALOGUES)]
    seen: set[str] = set()
    pretrain_valid = documents(seed, "pretrain_valid", PRETRAIN_VALID_DOCUMENTS, pool, seen)
    pretrain = documents(seed, "pretrain", PRETRAIN_DOCUMENTS, pool, seen)
    return Corpus(pretrain, pretrain_valid, sft, dialogues, pool.valid, pool.test, pool.reversal_test)


def conversation(*items: Item) -> dict:
    """Items as one line of the conversation schema, with the group beside it (`dialogue` for several turns)."""
    turns = []
    for item in items:
        turns += [{"role": "user", "content": item.prompt}, {"role": "assistant", "content": item.answer}]
    return {"conversations": turns, "group": items[0].group if len(items) == 1 else "dialogue"}


def rows(corpus: Corpus) -> dict[str, list[dict]]:
    """File name of `EMBEDDED` → its lines as objects."""
    chats = [conversation(item) for item in corpus.sft] + [conversation(*pair) for pair in corpus.dialogues]
    Random("dialogues among the rest").shuffle(chats)
    texts = [{"text": text} for text in corpus.pretrain]
    valid = [{"text": text} for text in corpus.pretrain_valid]
    splits = (corpus.sft_valid, corpus.sft_test, corpus.reversal)
    held_out = [[conversation(item) for item in split] for split in splits]
    alone = [{"text": text} for text in reversal_statements()]
    return dict(zip(FILES, (texts, texts[:SAMPLE], valid, chats, chats[:SAMPLE], *held_out, alone), strict=True))


def ensure(folder: str | Path | None = None) -> Path:
    """Write whichever files of `EMBEDDED` the folder (default: the project's `data/`) lacks; gives the folder.

    Each is written under another name and renamed, so that an interrupted run leaves no half of one. Raises `OSError`
    where the folder cannot be written.
    """
    folder = resolve("data" if folder is None else folder)
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        made = rows(build())
        for name in missing:
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made[name])
            write_whole(folder / name, text)
    return folder


def train_tokenizer(texts: Iterable[str], folder: str | Path, vocab_size: int = 1320) -> Path:
    """Make the tokenizer of the texts, write it into the folder and give the folder.

    One token per character, except that lower-case English words (with the space before them) are merged by BPE. No
    bytes: a token is always readable text, and decoding gives the text back exactly; a character that occurs neither
    in the texts nor in ASCII becomes `<|unk|>`.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    alphabet = {chr(c) for c in range(32, 127)} | {"\n"}
    spelled: list[str] = []
    for text in texts:
        alphabet.update(text)
        spelled += re.findall(" ?[a-z]+", text)
    spelled += ["user", "assistant", "system"] * (len(spelled) // 10 + 10)  # frequent enough to be one token each
    tokenizer = Tokenizer(models.BPE(unk_token="<|unk|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(" ?[a-z]+"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIALS],
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(spelled, trainer)
    names = ("pad_token", "bos_token", "eos_token", "mask_token", "unk_token")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **dict(zip(names, SPECIALS)),
        "model_max_length": 2048,
        "padding_side": "right",
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    folder = resolve(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "tokenizer.json", tokenizer.to_str(pretty=True) + "\n")
    write_whole(folder / "tokenizer_config.json", json.dumps(settings, ensure_ascii=False, indent=2) + "\n")
    return folder

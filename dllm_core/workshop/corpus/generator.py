"""The embedded corpus, generated from one seed: `dllm corpus` rewrites data/.

`random.Random` alone decides, so the files are the same on every machine. Nearly every question occurs once, so a model
has to read the prompt instead of remembering. The held-out questions are drawn first; what is drawn for training later
must share no key with them (`tasks` defines a key, `splits` draws).
"""

import argparse
import lzma
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from dllm_core.common.files import json_text, write_json, write_whole
from dllm_core.common.paths import root
from dllm_core.data.embedded import PACKED
from dllm_core.data.tokenizer import CHATML, SPECIAL_TOKENS, UNKNOWN
from dllm_core.notebook.grading import Question
from dllm_core.workshop.corpus import tasks
from dllm_core.workshop.corpus.splits import Pool
from dllm_core.workshop.corpus.text import documents, reversal_statements
from dllm_core.workshop.corpus.words import WORDS

# Conversations of each group, more where a model learns more slowly; of the introductions all there are.
SFT_QUESTIONS = {"copy": 5000, "reverse": 7000, "operation": 12_000, "reading": 13_000, "story": 3500}
RECALL_QUESTIONS, REVERSAL_QUESTIONS, DIALOGUES = 5000, 1200, 800
REPORT_TIMES = 100  # occurrences of each question that the report asks
PRETRAIN_DOCUMENTS, PRETRAIN_VALID_DOCUMENTS = 80_000, 500
SAMPLE = 40  # lines of each sample file


@dataclass(frozen=True)
class Corpus:
    """All splits. `sft_valid` and `sft_test` hold equal parts of the groups; `reversal` holds `reversal_unseen` (facts
    trained in one direction, queried in the other) and `reversal_seen` (trained in both directions: the control)."""

    pretrain: list[str]
    pretrain_valid: list[str]
    sft: list[Question]
    dialogues: list[tuple[Question, Question]]  # conversations of two turns, training only
    sft_valid: list[Question]
    sft_test: list[Question]
    reversal: list[Question]

    def texts(self) -> Iterator[str]:
        """Every text of the corpus: what the tokenizer must be able to write."""
        yield from self.pretrain
        yield from self.pretrain_valid
        for question in (*self.sft, *self.sft_valid, *self.sft_test, *self.reversal):
            yield question.prompt
            yield question.answer


def build(seed: int = 0) -> Corpus:
    """The corpus of a seed, in a few seconds."""
    pool = Pool(seed)
    rng = Random(f"{seed}/sft")
    sft = list(pool.introduction)
    sft += [question for question in pool.introduction if question.prompt in WORDS.report_prompts] * (REPORT_TIMES - 1)
    for group in tasks.DRAWN:
        unique: dict[str, Question] = {}
        while len(unique) < SFT_QUESTIONS[group]:
            question = pool.draw(rng, group)
            unique[question.prompt] = question
        sft += unique.values()
    sft += [pool.draw(rng, "recall") for _ in range(RECALL_QUESTIONS)]  # of a few hundred pairs, so they repeat
    sft += [pool.draw(rng, "reversal") for _ in range(REVERSAL_QUESTIONS)]
    rng.shuffle(sft)
    # two turns must fit where one long turn fits; an English character takes less than a token
    short = [question for question in sft if len(question.prompt) + len(question.answer) < 42]
    short = [question for question in short if not question.prompt.isascii()]
    dialogues = [(rng.choice(short), rng.choice(short)) for _ in range(DIALOGUES)]
    seen: set[str] = set()
    pretrain_valid = documents(seed, "pretrain_valid", PRETRAIN_VALID_DOCUMENTS, pool, seen)
    pretrain = documents(seed, "pretrain", PRETRAIN_DOCUMENTS, pool, seen)
    return Corpus(pretrain, pretrain_valid, sft, dialogues, pool.valid, pool.test, pool.reversal_test)


def conversation(*questions: Question) -> dict:
    """Questions as one line of the conversation schema, with the key "group" (`dialogue` for several turns)."""
    turns = []
    for question in questions:
        turns.append({"role": "user", "content": question.prompt})
        turns.append({"role": "assistant", "content": question.answer})
    return {"conversations": turns, "group": questions[0].group if len(questions) == 1 else "dialogue"}


def files(corpus: Corpus) -> dict[str, str]:
    """File name → content of the jsonl files in data/."""
    chats = [conversation(question) for question in corpus.sft] + [conversation(*pair) for pair in corpus.dialogues]
    Random("dialogues among the rest").shuffle(chats)
    texts = [{"text": text} for text in corpus.pretrain]
    rows = {
        "pretrain_tiny.jsonl": texts,
        "pretrain_sample.jsonl": texts[:SAMPLE],
        "pretrain_valid.jsonl": [{"text": text} for text in corpus.pretrain_valid],
        "sft_tiny.jsonl": chats,
        "sft_sample.jsonl": chats[:SAMPLE],
        "sft_valid.jsonl": [conversation(question) for question in corpus.sft_valid],
        "sft_test.jsonl": [conversation(question) for question in corpus.sft_test],
        "sft_reversal.jsonl": [conversation(question) for question in corpus.reversal],
        "reversal_tiny.jsonl": [{"text": text} for text in reversal_statements()],
    }
    return {name: "".join(json_text(row) + "\n" for row in lines) for name, lines in rows.items()}


def train_tokenizer(texts: Iterable[str], folder: Path, vocab_size: int = 1320) -> None:
    """Train the tokenizer of the texts and write it into the folder.

    One token per character, except that lower-case English words (with the space before them) are merged by BPE. There
    are no byte tokens: a token is always readable text, and decoding returns the text unchanged; a character that is
    neither in the texts nor in ASCII becomes `<|unk|>`.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    alphabet = {chr(code) for code in range(32, 127)} | {"\n"}
    spelled: list[str] = []
    for text in texts:
        alphabet.update(text)
        spelled += re.findall(" ?[a-z]+", text)
    spelled += ["user", "assistant", "system"] * (len(spelled) // 10 + 10)  # frequent enough to be one token each
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(" ?[a-z]+"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS.values()],
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(spelled, trainer)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **SPECIAL_TOKENS,
        "model_max_length": 2048,
        "padding_side": "right",
        "clean_up_tokenization_spaces": False,
        "chat_template": CHATML,
    }
    write_whole(folder / "tokenizer.json", tokenizer.to_str(pretty=True) + "\n")
    write_json(folder / "tokenizer_config.json", settings, indent=2)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`dllm corpus` has no options."""


def run(options: argparse.Namespace) -> None:
    """Write every file of data/ that is committed."""
    corpus = build()
    folder = root() / "data"
    for name, text in files(corpus).items():
        if name in PACKED:
            write_whole(folder / f"{name}.xz", lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))
        else:
            write_whole(folder / name, text)
    train_tokenizer(corpus.texts(), folder / "tokenizer")

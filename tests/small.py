"""Small models and batches that the tests of the core share; the slow, obvious losses are in `dllm_core.reference`."""

import json
import time
from pathlib import Path

import psutil
import torch

from dllm_core.checkpoints.formats import LoadedCheckpoint
from dllm_core.config import CheckpointInfo, ModelConfig
from dllm_core.data.batches import Batch, PackedBatches
from dllm_core.data.token_cache import TokenDataset
from dllm_core.model import Transformer
from dllm_core.sampling import SpecialTokens

ROOT = Path(__file__).resolve().parent.parent  # of the project
HANG_LIMIT = 1800  # seconds after which a test that waits counts as hung; no test takes nearly as long
PAD, BOS, EOS, MASK, VOCAB = 0, 1, 2, 16, 17
IDS = SpecialTokens(MASK, EOS, PAD)


def tiny(seed: int = 0, vocab: int = VOCAB, **options) -> Transformer:
    """Two layers, 16 wide, two query heads to a key head; weights large enough that every input matters."""
    torch.manual_seed(seed)
    shape = {"num_key_value_heads": 2, "max_position_embeddings": 64, "rope_theta": 100.0, "initializer_range": 0.3}
    return Transformer(ModelConfig(vocab, 16, 2, 4, **{**shape, **options})).eval()


def tiny_of(tokenizer, seed: int = 0) -> Transformer:
    """One layer, 32 wide, for the entries of `tokenizer`."""
    torch.manual_seed(seed)
    return Transformer(ModelConfig(len(tokenizer), 32, 1, 2, intermediate_size=64))


class Blank:
    """A stand-in for a model: uniform logits over `vocab`; keeps what it was called with."""

    def __init__(self, vocab: int = VOCAB):
        self.vocab, self.calls, self.device = vocab, [], torch.device("cpu")
        self.config = ModelConfig(vocab, 16, 2, 4)

    def __call__(self, tokens, position, mask, embeddings=None, read=None, last=None):
        self.calls.append((tokens, position, mask, embeddings))
        return torch.zeros(*(tokens.shape if read is None else read[0].shape), 1)

    def logits(self, hidden):
        return hidden.expand(*hidden.shape[:-1], self.vocab)


def checkpoint_of(model, tokenizer=IDS, label_shift: bool = False) -> LoadedCheckpoint:
    """What decoders take, of a bare model. Without a tokenizer there are no texts: `generate` needs one."""
    return LoadedCheckpoint(model, CheckpointInfo("llada2", label_shift=label_shift), tokenizer, Path())


class NoTokenizer:
    """What a run folder asks of a tokenizer."""

    def save_pretrained(self, folder):
        pass


CHARACTERS = "abcdefghijklmnopqrstuvwxyz 你好我是小言谁？。<>/|_\n"  # a vocabulary to read files with


def write(name: str, *rows) -> Path:
    """A jsonl file, one line a row; strings as they are."""
    path = Path(name)
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def packed(batch_size: int) -> PackedBatches:
    """Endless rows of 12 tokens, 40 documents of 3 to 11 in them."""
    rows = [[BOS, *[3 + (i * j) % 13 for j in range(1 + i % 9)], EOS] for i in range(40)]
    documents = TokenDataset.of(rows, pad_token_id=PAD, eos_token_id=EOS)
    return PackedBatches(documents, batch_size=batch_size, seq_len=12, seed=3, pack="whole")


def batch_of(*rows: list[int], seed: int = 0, prompt: int = 0, width: int = 0) -> Batch:
    """A batch of rows, each a list of document lengths, padded to the longest (or to `width`); random tokens that are
    neither special nor the mask. The first `prompt` tokens of each document are not scored."""
    width = max(width, *(sum(lengths) for lengths in rows))
    tokens = torch.zeros(len(rows), width, dtype=torch.long)
    document, position, scored = torch.full_like(tokens, -1), torch.zeros_like(tokens), tokens > 0
    generator = torch.Generator().manual_seed(seed)
    for row, lengths in enumerate(rows):
        start = 0
        for number, length in enumerate(lengths):
            span = slice(start, start + length)
            tokens[row, span] = torch.randint(3, MASK, (length,), generator=generator)
            document[row, span], position[row, span] = number, torch.arange(length)
            scored[row, span] = torch.arange(length) >= prompt
            start += length
    return Batch(tokens, document, position, scored)


def documents_of(batch: Batch) -> list[tuple[int, slice]]:
    """(row, columns) of every document of a batch."""
    result = []
    for row, numbers in enumerate(batch.document):
        for number in range(int(numbers.max()) + 1):
            columns = (numbers == number).nonzero().flatten()
            result.append((row, slice(int(columns[0]), int(columns[-1]) + 1)))
    return result


@torch.no_grad()
def logits_of(model: Transformer, tokens: list[int], allowed, positions=None) -> torch.Tensor:
    """[S, V] from one plain pass; allowed(q, k) says whether q may attend to k, pair by pair."""
    count = len(tokens)
    mask = torch.tensor([[bool(allowed(q, k)) for k in range(count)] for q in range(count)])
    position = torch.arange(count) if positions is None else torch.tensor(positions)
    return model.logits(model(torch.tensor([tokens]), position[None], mask[None]))[0]


def notebook(*cells: str, parameters: str | None = None) -> str:
    """The JSON of a notebook with these code cells, after a parameters cell where there is one."""

    def cell(source, tags=()):
        return {"cell_type": "code", "id": f"c{abs(hash(source))}", "metadata": {"tags": list(tags)}, "source": source,
                "outputs": [], "execution_count": None}
    first = [] if parameters is None else [cell(parameters, ["parameters"])]
    return json.dumps({"cells": first + [cell(source) for source in cells], "nbformat": 4, "nbformat_minor": 5,
                       "metadata": {"kernelspec": {"name": "python3", "display_name": "p", "language": "python"}}})


def wait_for(condition, what: str):
    """The first true value of `condition()`, polled; the deadline only ends a test that would hang, saying `what`."""
    deadline = time.monotonic() + HANG_LIMIT
    while not (value := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
    return value


def gone(pid: int) -> bool:
    """Whether the process has ended; a zombie whose parent was killed has."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True

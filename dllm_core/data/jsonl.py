"""Read jsonl files into tokens: a file is found, checked and tokenized once; its tokens are then memory-mapped.

Two schemas: `{"text": …}` for pretraining, `{"conversations": [{"role", "content"}, …]}` for SFT (`turns`). A file is
tokenized in chunks on all cores (`parallel`) into flat files under data/cache/ (`token_cache`); the next call maps these
without reading the text.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from dllm_core.common.errors import DataError
from dllm_core.common.paths import resolve, root
from dllm_core.data.chat import encode_conversations
from dllm_core.data.download import fetch_dataset_file, home, is_repository
from dllm_core.data.embedded import is_embedded, unpack
from dllm_core.data.parallel import Lines, chunks_of_lines, map_lines
from dllm_core.data.report import counted, reported
from dllm_core.data.token_cache import TokenChunk, TokenDataset, load_or_tokenize
from dllm_core.data.tokenizer import backend, control_ids, control_tokens, refuse_control_ids, refuse_surrogates
from dllm_core.data.turns import list_of_turns, read_conversation

MODELSCOPE = "modelscope:"
MINIMIND_DATA = "gongjy/minimind_dataset"
ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")  # the only way in which half a surrogate pair comes into UTF-8
REPORT_FILES = ("pretrain_hq.jsonl", "sft_mini_512.jsonl")
MINIMIND_FILES = (  # of the README in jingyaogong/minimind at d65ef2c, 2026-08, which no longer names the two above
    "pretrain_t2t_mini.jsonl", "pretrain_t2t.jsonl", "sft_t2t_mini.jsonl", "sft_t2t.jsonl", "rlaif.jsonl",
    "agent_rl.jsonl", "agent_rl_math.jsonl", "dpo.jsonl",
)  # fmt: skip


def find_data(path: str | Path) -> Path:
    """The file on this disk that a path or address means.

    `modelscope:owner/name/file` is downloaded once, to data/modelscope/datasets/owner/name/file. The large files of the
    embedded corpus are unpacked when absent. Relative paths count from the project root.
    Raises DataError that says where it looked.
    """
    text = str(path)
    if text.startswith(MODELSCOPE):
        owner, _, rest = text.removeprefix(MODELSCOPE).partition("/")
        name, _, file = rest.partition("/")
        if not is_repository(f"{owner}/{name}") or not file or ".." in Path(file).parts:
            raise DataError(f"{text}: expected modelscope:owner/name/file, such as {_address(MINIMIND_FILES[0])}")
        return fetch_dataset_file(f"{owner}/{name}", file)
    where = resolve(path)
    if where.is_file():
        return where
    if where.is_dir():
        raise DataError(f"{where}: this is a folder, expected a jsonl file")
    if is_embedded(where):
        return unpack(where)
    if where.name in REPORT_FILES + MINIMIND_FILES:
        fetched = home("datasets", MINIMIND_DATA) / where.name
        if fetched.is_file():
            return fetched
        now = f"; the repository's README now names {', '.join(MINIMIND_FILES)} (preset h100-t2t)"
        raise DataError(f"{where}: no such file. To download it, give {_address(where.name)} as the path{now}")
    hint = "" if Path(path).is_absolute() else f" (relative paths count from {root()})"
    raise DataError(f"{where}: no such file{hint}")


def _address(file: str) -> str:
    return f"{MODELSCOPE}{MINIMIND_DATA}/{file}"


def read_jsonl(path: str | Path) -> Iterator[tuple[int, dict]]:
    """(line number from 1, object) of every line that is not blank.

    Raises DataError naming file and line: not UTF-8, not JSON, not an object; or when the file has no line at all.
    """
    path = find_data(path)
    for lines, _ in chunks_of_lines(path):
        for number, line in lines:
            yield number, _object(path, number, line)


def read_texts(path: str | Path, field: str = "text") -> Iterator[str]:
    """The texts of a file of either schema, for building a vocabulary; each turn of a conversation is a text, and so is
    its reasoning."""
    path = find_data(path)
    for number, row in read_jsonl(path):
        if list_of_turns(row) is not None and field not in row:
            for turn in read_conversation(row, f"{path}:{number}").turns:
                yield turn["content"]
                if "reasoning_content" in turn:
                    yield turn["reasoning_content"]
        else:
            yield _text(path, number, row, field)


def text_documents(path: str | Path, tokenizer, field: str = "text") -> TokenDataset:
    """Each line's text as one document, bos text eos, every token scored. Blank texts are left out.

    Control tokens that a text writes out are plain text. info: the counts that `report.reading_report` says. Warns when
    more than 1 % was lost. Raises DataError naming file and line.
    """
    path = find_data(path)
    bos, eos, forbidden = tokenizer.bos_token_id, tokenizer.eos_token_id, list(control_ids(tokenizer))
    encode, control = backend(tokenizer).encode_batch_fast, control_tokens(tokenizer)

    def tokenize(lines: Lines) -> TokenChunk:
        texts = [(n, _text(path, n, _object(path, n, line), field)) for n, line in lines]
        kept = [(n, text) for n, text in texts if not text.isspace() and text]
        ids = [[bos, *e.ids, eos] for e in encode([text for _, text in kept], add_special_tokens=False)]
        written_out = sum(len(control.findall(text)) for _, text in kept)
        chunk = TokenChunk.of(ids, None, {"blank": len(texts) - len(kept), "control": written_out})
        ends = np.cumsum(chunk.lengths)
        inside = np.isin(chunk.tokens, forbidden)
        inside[ends - 1] = inside[ends - chunk.lengths] = False  # the eos and bos around each text
        for position in np.flatnonzero(inside):
            number, _ = kept[np.searchsorted(ends, position, "right")]
            refuse_control_ids(tokenizer, [int(chunk.tokens[position])], f"{path}:{number}")
        return counted(chunk, tokenizer)

    options = {"schema": "text", "field": field}
    return reported(load_or_tokenize(path, tokenizer, options, map_lines(path, tokenize)), path)


def chat_documents(path: str | Path, tokenizer, max_length: int, turns: str = "all") -> TokenDataset:
    """Conversations through the chat template; only assistant content and its eos are scored.

    turns: "all", one example per conversation with every answer scored; "each", one example per answer with the turns
    before it as its prompt. An answer that exceeds max_length is cut, without eos. An example is left out if max_length
    ends before its first answer or if all answers are blank. Prompt and answer are tokenized separately, so that the
    boundary between them is the same as in generation. Reasoning, tools and calls go through the template, too; what it
    does not write is counted. A conversation with an odd turn, or that the template refuses, is left out and counted; the
    first is named. Control tokens, info and warnings: as in `text_documents`.
    Raises DataError naming file and line for a line without turns, and when no conversation is left.
    """
    if turns not in ("all", "each"):
        raise DataError(f'turns={turns!r}: must be "all" or "each"')
    if max_length < 2:
        raise DataError(f"max_length={max_length}: must be at least 2")
    path, mask = find_data(path), tokenizer.mask_token_id

    def tokenize(lines: Lines) -> TokenChunk:
        conversations = [read_conversation(_object(path, n, line), f"{path}:{n}") for n, line in lines]
        ids, scored, origin, counts = encode_conversations(tokenizer, conversations, max_length, turns)
        for i, tokens in zip(origin, ids):
            if mask in tokens:
                refuse_control_ids(tokenizer, [mask], conversations[i].location)
        problem = next((talk.problem for talk in conversations if talk.problem), "")
        return counted(TokenChunk.of(ids, scored, counts, problem), tokenizer)

    options = {"schema": "chat", "max_length": max_length, "turns": turns}
    return reported(load_or_tokenize(path, tokenizer, options, map_lines(path, tokenize)), path)


def _object(path: Path, number: int, line: bytes) -> dict:
    try:
        row = json.loads(line.decode("utf-8").rstrip())  # without the line end, so that the column of an error is right
    except UnicodeDecodeError as error:
        raise DataError(f"{path}:{number}: not UTF-8 ({error.reason} at byte {error.start})") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{number}: not valid JSON: {error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets within brackets
        raise DataError(f"{path}:{number}: this JSON cannot be read: {error}") from error
    if ESCAPED_SURROGATE.search(line):
        refuse_surrogates(json.dumps(row, ensure_ascii=False), f"{path}:{number}")
    if not isinstance(row, dict):
        raise DataError(f"{path}:{number}: expected a JSON object, found {type(row).__name__}")
    return row


def _text(path: Path, number: int, row: dict, field: str) -> str:
    text = row.get(field)
    if not isinstance(text, str):
        actual = f"found {type(text).__name__}" if field in row else f"this line has: {', '.join(row) or 'nothing'}"
        raise DataError(f'{path}:{number}: expected a string under "{field}", as in {{"{field}": "…"}}; {actual}')
    return text

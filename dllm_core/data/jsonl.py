"""Read jsonl files into tokens: a file is found, checked and tokenized once; its tokens are then memory-mapped.

Two schemas, MiniMind's: `{"text": …}` for pretraining, `{"conversations": [{"role", "content"}, …]}` for SFT. A file is
tokenized in chunks on all cores (`parallel`) into flat files under data/cache/ (`token_cache`); the next call maps these
without reading the text.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from dllm_core.common.errors import DataError
from dllm_core.common.paths import resolve, root
from dllm_core.data.chat import encode_conversations
from dllm_core.data.download import fetch_dataset_file, home, is_repository
from dllm_core.data.embedded import is_embedded, unpack
from dllm_core.data.parallel import Lines, chunks_of_lines, map_lines
from dllm_core.data.token_cache import TokenChunk, TokenDataset, load_or_tokenize
from dllm_core.data.tokenizer import backend

MODELSCOPE = "modelscope:"
REPORT_DATA = "gongjy/minimind_dataset"
REPORT_FILES = ("pretrain_hq.jsonl", "sft_mini_512.jsonl")


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
            raise DataError(f"{text}: expected modelscope:owner/name/file, such as {_report_address(REPORT_FILES[0])}")
        return fetch_dataset_file(f"{owner}/{name}", file)
    where = resolve(path)
    if where.is_file():
        return where
    if where.is_dir():
        raise DataError(f"{where}: this is a folder, expected a jsonl file")
    if is_embedded(where):
        return unpack(where)
    if where.name in REPORT_FILES:
        fetched = home("datasets", REPORT_DATA) / where.name
        if fetched.is_file():
            return fetched
        raise DataError(f"{where}: no such file. To download it, give {_report_address(where.name)} as the path")
    hint = "" if Path(path).is_absolute() else f" (relative paths count from {root()})"
    raise DataError(f"{where}: no such file{hint}")


def _report_address(file: str) -> str:
    return f"{MODELSCOPE}{REPORT_DATA}/{file}"


def read_jsonl(path: str | Path) -> Iterator[tuple[int, dict]]:
    """(line number from 1, object) of every line that is not blank.

    Raises DataError naming file and line: not UTF-8, not JSON, not an object; or when the file has no line at all.
    """
    path = find_data(path)
    for lines, _ in chunks_of_lines(path):
        for number, line in lines:
            yield number, _object(path, number, line)


def read_texts(path: str | Path, field: str = "text") -> Iterator[str]:
    """The texts of a file of either schema, for building a vocabulary; each turn of a conversation is a text."""
    path = find_data(path)
    for number, row in read_jsonl(path):
        if "conversations" in row and field not in row:
            yield from (turn["content"] for turn in _conversation(path, number, row))
        else:
            yield _text(path, number, row, field)


def text_documents(path: str | Path, tokenizer, field: str = "text") -> TokenDataset:
    """Each line's text as one document, bos text eos, every token scored. Blank texts are left out (info["blank"]).

    Raises DataError naming file and line.
    """
    path = find_data(path)
    bos, eos, mask = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.mask_token_id
    encode = backend(tokenizer).encode_batch_fast

    def tokenize(lines: Lines) -> TokenChunk:
        texts = [(n, _text(path, n, _object(path, n, line), field)) for n, line in lines]
        kept = [(n, text) for n, text in texts if not text.isspace() and text]
        ids = [[bos, *e.ids, eos] for e in encode([text for _, text in kept], add_special_tokens=False)]
        _refuse_mask(path, [n for n, _ in kept], ids, mask)
        return TokenChunk.of(ids, None, {"blank": len(texts) - len(kept)})

    options = {"schema": "text", "field": field}
    return load_or_tokenize(path, tokenizer, options, map_lines(path, tokenize))


def chat_documents(path: str | Path, tokenizer, max_length: int, turns: str = "all") -> TokenDataset:
    """Conversations through the chat template; only assistant content and its eos are scored.

    turns: "all", one example per conversation with every answer scored; "each", one example per answer with the turns
    before it as its prompt. An answer that exceeds max_length is cut, without eos (info["cut"]). An example is left
    out if max_length ends before its first answer (info["dropped"]) or if all answers are blank (info["blank"]).
    Prompt and answer are tokenized separately, so that the boundary between them is the same as in generation.
    Raises DataError naming file and line for a wrong schema or a template that does not fit.
    """
    if turns not in ("all", "each"):
        raise DataError(f'turns={turns!r}: must be "all" or "each"')
    if max_length < 2:
        raise DataError(f"max_length={max_length}: must be at least 2")
    path = find_data(path)

    def tokenize(lines: Lines) -> TokenChunk:
        conversations = [_conversation(path, n, _object(path, n, line)) for n, line in lines]
        locations = [f"{path}:{n}" for n, _ in lines]
        ids, scored, origin, counts = encode_conversations(tokenizer, conversations, max_length, turns, locations)
        _refuse_mask(path, [lines[i][0] for i in origin], ids, tokenizer.mask_token_id)
        return TokenChunk.of(ids, scored, counts)

    options = {"schema": "chat", "max_length": max_length, "turns": turns}
    return load_or_tokenize(path, tokenizer, options, map_lines(path, tokenize))


def _object(path: Path, number: int, line: bytes) -> dict:
    try:
        row = json.loads(line.decode("utf-8").rstrip())  # without the line end, so that the column of an error is right
    except UnicodeDecodeError as error:
        raise DataError(f"{path}:{number}: not UTF-8 ({error.reason} at byte {error.start})") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{number}: not valid JSON: {error.msg} at column {error.colno}") from error
    if not isinstance(row, dict):
        raise DataError(f"{path}:{number}: expected a JSON object, found {type(row).__name__}")
    return row


def _text(path: Path, number: int, row: dict, field: str) -> str:
    text = row.get(field)
    if not isinstance(text, str):
        actual = f"found {type(text).__name__}" if field in row else f"this line has: {', '.join(row) or 'nothing'}"
        raise DataError(f'{path}:{number}: expected a string under "{field}", as in {{"{field}": "…"}}; {actual}')
    return text


def _conversation(path: Path, number: int, row: dict) -> list[dict]:
    """The turns as [{"role", "content"}, …]. Raises DataError when the line is no conversation to learn from."""
    turns = row.get("conversations")
    problem = _problem_of(turns, row)
    if problem:
        expected = '{"conversations": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}'
        raise DataError(f"{path}:{number}: {problem}; expected {expected}")
    return [{"role": turn["role"], "content": turn["content"]} for turn in turns]


def _problem_of(turns, row: dict) -> str:
    if not isinstance(turns, list) or not turns:
        return f'no list of turns under "conversations" (this line has: {", ".join(row) or "nothing"})'
    for i, turn in enumerate(turns, 1):
        if not isinstance(turn, dict) or not isinstance(turn.get("content"), str):
            return f'turn {i} has no string under "content"'
        if turn.get("role") not in ("system", "user", "assistant"):
            return f"turn {i} has role {turn.get('role')!r}, not system, user or assistant"
    if turns[0]["role"] == "assistant":
        return "the first turn is the assistant's: there is nothing to answer"
    if turns[-1]["role"] != "assistant":
        return f"the last turn is the {turns[-1]['role']}'s: there is no answer to learn"
    return ""


def _refuse_mask(path: Path, lines: list[int], ids: list[list[int]], mask: int | None) -> None:
    for number, tokens in zip(lines, ids):
        if mask in tokens:
            raise DataError(f"{path}:{number}: the text has the mask token, which stands for a position not yet decoded")

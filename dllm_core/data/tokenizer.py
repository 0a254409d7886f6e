"""Tokenizers: any Hugging Face folder or ModelScope model, or one token per character; the special tokens of each.

| role | token | used for |
|---|---|---|
| pad | `<|endoftext|>` | the empty end of a row; never attended to, never scored |
| bos | `<|im_start|>` | the start of a document or of a turn |
| eos | `<|im_end|>` | the end of a document or of a turn; the model learns to write it |
| mask | `<|mask|>` | a position that a diffusion model has not decoded yet; never in a text |
| unk | `<|unk|>` | a character without a token |

Another tokenizer may have other tokens in these roles; those that it does not name are chosen (`roles`). Conversations
are written in ChatML.
"""

import re
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from dllm_core.common.errors import DataError
from dllm_core.common.files import read_json
from dllm_core.common.paths import resolve, root
from dllm_core.data.download import fetch_tokenizer, is_repository
from dllm_core.data.roles import MASK, assign_roles
from dllm_core.trace import end_token_ids

PAD, BOS, EOS, UNKNOWN = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|unk|>"
SPECIAL_TOKENS = {"pad_token": PAD, "bos_token": BOS, "eos_token": EOS, "mask_token": MASK, "unk_token": UNKNOWN}
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_FILES = ("tokenizer.json", "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json")
_ANY_OF = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")


def load_tokenizer(source: str | Path = "data/tokenizer", mask_token_id: int | None = None):
    """A `PreTrainedTokenizerFast` with pad, bos, eos and mask, and `end_token_ids`, with which an answer ends.

    source: a folder with a tokenizer (relative paths count from the project root), or a ModelScope model id
    `owner/name` (also `modelscope:owner/name`), of which only the tokenizer's files are downloaded, once.
    mask_token_id: the mask that the model was trained with; None: that of config.json in the folder, else the tokenizer's.
    What the folder does not name is chosen by the rules of `roles`, with a warning. A tokenizer without a mask gets
    `<|mask|>` as its last id, so the size of the vocabulary is `len(tokenizer)`.
    Raises DataError when there is no tokenizer, it cannot be read, it has no eos or lacks a named token, when the mask is
    an ordinary token, pad, bos or an end, or when its ids are not 0 to `len(tokenizer)` − 1. Code that comes with a
    tokenizer never runs.
    """
    folder = _folder(str(source))
    tokenizer = _read(folder)
    assign_roles(tokenizer, folder, mask_token_id)
    if tokenizer.mask_token_id in (tokenizer.pad_token_id, tokenizer.bos_token_id, *tokenizer.end_token_ids):
        raise DataError(f"{folder}: the mask token {tokenizer.mask_token!r} is also pad, bos or eos")
    ids = sorted(tokenizer.get_vocab().values())
    if ids != list(range(len(tokenizer))):
        raise DataError(
            f"{folder}: the {len(ids)} tokens have ids from {ids[0]} to {ids[-1]}, with gaps or some id twice; a model has "
            "one row of its embedding for each, so the ids must be 0, 1, 2, … without a gap"
        )
    return tokenizer


def own_tokenizer(folder: Path, is_needed: bool = True):
    """The tokenizer in a checkpoint's folder; None where there is none or, unless it is needed, where it is refused."""
    if not (folder / "tokenizer.json").is_file():
        return None
    try:
        return load_tokenizer(folder)
    except DataError:
        if is_needed:
            raise
        return None


def character_tokenizer(texts: Iterable[str]):
    """One token per character of `texts` (sorted by code point, after the special tokens), with ChatML as its template.

    Every other character becomes `<|unk|>`. `save_pretrained(folder)` writes an ordinary tokenizer folder.
    Raises DataError when the texts have no character.
    """
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    characters: set[str] = set()
    for text in texts:
        characters.update(text)
    refuse_surrogates("".join(characters), "character_tokenizer")
    if not characters:
        raise DataError("character_tokenizer: the texts have no character, so there is nothing to build a vocabulary from")
    characters.update("system\nuser\nassistant\n")  # the words of the chat template
    entries = [*SPECIAL_TOKENS.values(), *sorted(characters)]
    # A BPE without merges splits into characters; without a pre-tokenizer no space is touched.
    backend = Tokenizer(models.BPE({entry: i for i, entry in enumerate(entries)}, [], unk_token=UNKNOWN))
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens(list(SPECIAL_TOKENS.values()))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **SPECIAL_TOKENS,
        chat_template=CHATML,
        clean_up_tokenization_spaces=False,
    )


def require_chat_template(tokenizer) -> None:
    """Raise DataError when the tokenizer cannot write conversations."""
    if not tokenizer.chat_template:
        raise DataError(
            f"the tokenizer {tokenizer.name_or_path or ''} has no chat template, which conversations need: add "
            '"chat_template" to its tokenizer_config.json, or use a tokenizer that has one'
        )


def backend(tokenizer, control_tokens: bool = False):
    """The `tokenizers.Tokenizer` inside, without the padding and truncation that a call of the tokenizer leaves set in it.

    control_tokens: whether a control token (any special token) that is written out in a text becomes its id. Only what a
    chat template writes is encoded so; in what a person or a file writes, control tokens are plain text.
    """
    inner = tokenizer.backend_tokenizer
    inner.no_padding()
    inner.no_truncation()
    inner.encode_special_tokens = not control_tokens
    return inner


def encode_text(tokenizer, text: str, name: str = "prompt"):
    """The `tokenizers.Encoding` (ids, offsets) of a text that a person or a file wrote; control tokens are plain text.

    name: of the text, for errors. Raises DataError for half a surrogate pair, and where the tokenizer makes a control
    id of plain text.
    """
    refuse_surrogates(text, name)
    encoding = backend(tokenizer).encode(text, add_special_tokens=False)
    refuse_control_ids(tokenizer, encoding.ids, name)
    return encoding


def refuse_surrogates(text: str, name: str) -> None:
    """Raise DataError when a text, called `name`, holds half a surrogate pair, which is no character."""
    if half := re.search("[\ud800-\udfff]", text):
        raise DataError(f"{name}: {half[0]!r} is half a surrogate pair, which is no character: remove it")


def control_tokens(tokenizer) -> re.Pattern:
    """Matches (as its one group) what the tokenizer takes for a control token: any special token, the longest first."""
    added = tokenizer.backend_tokenizer.get_added_tokens_decoder().values()
    longest_first = sorted((token.content for token in added if token.special), key=len, reverse=True)
    return re.compile(f"({'|'.join(map(re.escape, longest_first))})")


def control_ids(tokenizer) -> set[int]:
    """pad, bos, mask and the ends: the ids that no text may hold, for they would begin, end or mask something there."""
    roles = {tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.mask_token_id, *end_token_ids(tokenizer)}
    return roles - {tokenizer.unk_token_id}


def refuse_control_ids(tokenizer, ids: Iterable[int], name: str) -> None:
    """Raise DataError when the ids of a text hold a control id, which only a tokenizer writes that has control tokens
    among its words. name: of the text."""
    if inside := control_ids(tokenizer).intersection(ids):
        raise DataError(
            f"{name}: this tokenizer makes the control token {tokenizer.convert_ids_to_tokens(inside.pop())!r} of plain "
            "text: remove it from the text, or use another tokenizer"
        )


def _folder(source: str) -> Path:
    """The folder with the tokenizer's files, downloaded from ModelScope when `source` is a model id."""
    path = resolve(source.removeprefix("modelscope:"))
    if not source.startswith("modelscope:") and path.is_dir():
        if any((path / name).is_file() for name in _ANY_OF):
            return path
        raise DataError(f"{path}: no tokenizer here (looked for {', '.join(_ANY_OF)}); try data/tokenizer")
    # owner/name, unless its first part is a folder of the project: then it is a path that does not exist
    repository = source.removeprefix("modelscope:")
    if is_repository(repository) and not (root() / repository.split("/")[0]).is_dir():
        return fetch_tokenizer(repository)
    raise DataError(
        f"tokenizer {source!r}: no such folder ({path}). Give a folder with tokenizer.json, such as data/tokenizer, "
        "or a ModelScope model id owner/name"
    )


def _read(folder: Path):
    # tokenizer.json needs no other file; other layouts need a model-specific class, whose import takes a second
    if (folder / "tokenizer.json").is_file():
        from transformers import PreTrainedTokenizerFast as reader
    else:
        _require_sentencepiece(folder)
        from transformers import AutoTokenizer as reader
    # read here too, so that an error names the file
    files = {name: read_json(folder / name) if (folder / name).is_file() else {} for name in _FILES}
    try:
        tokenizer = reader.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizer classes raise many types of errors for unreadable files
        is_code = "auto_map" in files["tokenizer_config.json"]
        why = "its class is code in the folder (auto_map), which is never run" if is_code else error
        raise DataError(f"{folder}: cannot read a tokenizer from this folder: {why}") from error
    if not tokenizer.is_fast:
        raise DataError(f"{folder}: this tokenizer has no fast version; save it once as tokenizer.json")
    _refuse_added_tokens(folder, tokenizer, *files.values())
    return tokenizer


def _require_sentencepiece(folder: Path) -> None:
    """Raise DataError where the folder has only SentencePiece's file, as LLaMA 2's, and either the package that reads it
    or the class that it belongs to is absent: without one, transformers gives the first word other tokens."""
    if not (folder / "tokenizer.model").is_file() or (folder / "vocab.json").is_file():
        return
    problem = (
        f"{folder}: has tokenizer.model, SentencePiece's format, and no tokenizer.json. Put the tokenizer.json of the same "
        "model there, or"
    )
    if not find_spec("sentencepiece"):
        raise DataError(f"{problem} install what reads it: pip install sentencepiece protobuf")
    if not any((folder / name).is_file() for name in ("tokenizer_config.json", "config.json")):
        raise DataError(f'{problem} a tokenizer_config.json such as {{"tokenizer_class": "LlamaTokenizer"}}')


def _refuse_added_tokens(folder: Path, tokenizer, vocabulary: dict, config: dict, added: dict, roles: dict) -> None:
    """Raise DataError when transformers gave a token an id of its own choice: one that a role names and no file lists,
    or one that cannot have the id that a file says."""
    if "added_tokens_decoder" in config:  # then transformers reads neither of the older files
        added, roles = {}, {}
    listed = {entry["content"]: entry["id"] for entry in vocabulary.get("added_tokens", ())} | added
    listed |= {entry["content"]: int(i) for i, entry in config.get("added_tokens_decoder", {}).items()}
    for token, number in listed.items():
        if tokenizer.convert_tokens_to_ids(token) != number:
            raise DataError(f"{folder}: token {token!r} cannot have the id {number}: it leaves a gap or is another's")
    for role in SPECIAL_TOKENS:
        token = getattr(tokenizer, role)
        is_named = token is not None and (role in config or role in roles)
        if is_named and token not in listed and backend(tokenizer).model.token_to_id(token) is None:
            raise DataError(f"{folder}: {role} {token!r} is not in the vocabulary: correct it, or leave it out")

"""The roles of a tokenizer's tokens: named in its folder or, as most published tokenizers leave some out, chosen by rules.

| role | the first of these that there is |
|---|---|
| mask | the id that is given, or config.json's; the named token; one with a published mask's name (`MASKS`); a new one |
| eos | the named token; the first one of generation_config.json or config.json |
| bos | the named token; the control token with which the chat template begins; eos, which then separates documents |
| pad | the named token; eos, since padding is neither attended to nor scored |
| end of an answer | each of: eos, what the chat template writes after an answer, generation_config.json's list |

A warning says each choice; not a new mask, nor one that bears the name of this project's.
"""

import re
import warnings
from contextlib import suppress
from pathlib import Path

from dllm_core.common.errors import DataError
from dllm_core.common.files import read_json

MASK = "<|mask|>"
# Masks that published folders hold without naming them: LLaDA 2 and dllm; LLaDA; Fast-dLLM v2; SDAR.
MASKS = (MASK, "<|mdm_mask|>", "|<MASK>|", "<|MASK|>")
ANSWER = "\ue000"  # a private-use character, which no template writes


def assign_roles(tokenizer, folder: Path, mask_token_id: int | None = None) -> None:
    """Give the tokenizer read from `folder` a mask, eos, bos and pad, and its `end_token_ids` (eos first).

    Raises DataError where there is no eos, and for an id of a configuration that is no token's.
    """
    config, generation = (_read_config(folder / name) for name in ("config.json", "generation_config.json"))
    listed = _ids(tokenizer, generation.get("eos_token_id"), folder / "generation_config.json", "eos_token_id")
    said = []
    # 1. eos
    if tokenizer.eos_token is None:
        listed = listed or _ids(tokenizer, config.get("eos_token_id"), folder / "config.json", "eos_token_id")
        if not listed:
            example = '"eos_token": "<|im_end|>"'
            raise DataError(
                f"{folder}: the tokenizer has no eos token. A document is bos text eos and pad fills the rows: name the "
                f"token in {folder / 'tokenizer_config.json'}, for example {example}"
            )
        _take(tokenizer, "eos", tokenizer.convert_ids_to_tokens(listed[0]))
        said.append(f"eos is {tokenizer.eos_token!r} (so the folder's configuration)")
    # 2. the mask
    where = folder / "config.json" if mask_token_id is None else None
    declared = config.get("mask_token_id") if mask_token_id is None else mask_token_id
    if declared is not None and declared != tokenizer.mask_token_id:
        _take(tokenizer, "mask", _declared_mask(tokenizer, declared, where or folder))
        said.append(f"mask is {tokenizer.mask_token!r} (id {declared}, {'so config.json' if where else 'as given'})")
    elif tokenizer.mask_token is None:
        known = [name for name in MASKS if name in tokenizer.get_vocab()]
        _take(tokenizer, "mask", known[0] if known else MASK)
        if known[:1] not in ([], [MASK]):
            said.append(f"mask is {known[0]!r} (the name of a published mask)")
    # 3. bos and pad
    if tokenizer.bos_token is None:
        start = _template_start(tokenizer)
        _take(tokenizer, "bos", start or tokenizer.eos_token)
        why = "the chat template begins with it" if start else "eos, between documents"
        said.append(f"bos is {tokenizer.bos_token!r} ({why})")
    if tokenizer.pad_token is None:
        _take(tokenizer, "pad", tokenizer.eos_token)
        said.append(f"pad is {tokenizer.pad_token!r} (eos)")
    # 4. the ends of an answer
    end = template_end(tokenizer)
    if end not in (None, tokenizer.eos_token):
        tokenizer.add_special_tokens({"extra_special_tokens": [end]}, replace_extra_special_tokens=False)
        said.append(f"an answer ends with {end!r} (so the chat template) or with eos {tokenizer.eos_token!r}")
    ends = [tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids(end or tokenizer.eos_token), *listed]
    tokenizer.end_token_ids = list(dict.fromkeys(ends))
    if said:
        # stacklevel=1: always of this place, so that Python shows it once
        warnings.warn(f"{folder}: the roles that its tokenizer leaves open: {'; '.join(said)}", stacklevel=1)


def _take(tokenizer, role: str, token: str) -> None:
    """Name `token`, a new one as the last id, in a role."""
    tokenizer.add_special_tokens({f"{role}_token": token})


def _declared_mask(tokenizer, declared, where: Path) -> str:
    """The token with the id `declared`. Raises DataError where that is no mask."""
    (number,) = _ids(tokenizer, declared, where, "mask_token_id", room=1)
    if number == len(tokenizer):
        return MASK
    token = tokenizer.convert_ids_to_tokens(number)
    if number not in tokenizer.backend_tokenizer.get_added_tokens_decoder() and token not in MASKS:
        raise DataError(
            f"{where}: mask_token_id={number} is {token!r}, an ordinary token that a text may hold; a mask must be a token "
            "of its own"
        )
    return token


def _read_config(path: Path) -> dict:
    return read_json(path) if path.is_file() else {}


def _ids(tokenizer, value, where: Path, field: str, room: int = 0) -> list[int]:
    """The token ids under `field` (one, a list or None). room: how many ids behind the last token's there may be."""
    ids = value if isinstance(value, list) else [] if value is None else [value]
    for number in ids:
        if type(number) is not int or not 0 <= number < len(tokenizer) + room:
            raise DataError(f"{where}: {field}={number!r} is no id of this tokenizer, which has {len(tokenizer)} tokens")
    return ids


def _rendered(tokenizer, turns: list[dict]) -> str:
    """What the chat template writes for the turns; empty without a template or where it refuses them."""
    with suppress(Exception):  # a template may raise anything
        return tokenizer.apply_chat_template(turns, tokenize=False)
    return ""


def _added_tokens(tokenizer) -> re.Pattern:
    """Matches a token that stands outside the tokenizer's ordinary vocabulary, the longest first."""
    added = tokenizer.backend_tokenizer.get_added_tokens_decoder().values()
    return re.compile("|".join(sorted((re.escape(token.content) for token in added), key=len, reverse=True)))


def _template_start(tokenizer) -> str | None:
    """The added token with which the chat template begins."""
    start = _added_tokens(tokenizer).match(_rendered(tokenizer, [{"role": "user", "content": ANSWER}]))
    return start[0] if start else None


def template_end(tokenizer) -> str | None:
    """The first added token that the chat template writes after an assistant's content."""
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": ANSWER}]
    _, _, after = _rendered(tokenizer, turns).rpartition(ANSWER)
    end = _added_tokens(tokenizer).search(after)
    return end[0] if end else None

"""Records of JSON and YAML files, checked against the types that a dataclass or a table declares."""

import math
import reprlib
from collections.abc import Collection, Mapping
from types import UnionType
from typing import get_args, get_origin


def fits(value: object, kind) -> bool:
    """Whether a value has a type: a class, or such as `int | None`, `list[str]`, `dict[str, int]`, `tuple[int, ...]`.

    A list serves as a tuple, a whole number as a float. True is no number, and NaN and the infinities are no float.
    """
    origin, parts = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return any(fits(value, part) for part in parts)
    if origin is dict:
        return isinstance(value, dict) and all(fits(k, parts[0]) and fits(v, parts[1]) for k, v in value.items())
    if origin in (list, tuple):
        is_any_length = origin is list or parts[-1] is ...
        kinds = parts[:1] * len(value) if isinstance(value, list | tuple) and is_any_length else parts
        return isinstance(value, list | tuple) and len(value) == len(kinds) and all(map(fits, value, kinds))
    if kind is float:
        return type(value) in (int, float) and math.isfinite(value)
    return kind is object or type(value) is kind


def check_fields(
    record: object, types: Mapping[str, type], where: str, error: type[ValueError], needed: Collection[str] = ()
) -> None:
    """Raise `error`, which names the field, unless `record` is a dict that has all `needed` fields, no other than those
    of `types`, and each of its type. where: the file, or a part of it."""
    if not isinstance(record, dict):
        raise error(f"{where}: expected names with values, not {reprlib.repr(record)}")
    if missing := sorted(set(needed) - set(record)):
        raise error(f"{where}: {', '.join(missing)} must be given")
    for name, value in record.items():
        if name not in types:
            raise error(f"{where}: {reprlib.repr(name)}: no such key; there are {', '.join(sorted(types))}")
        if not fits(value, types[name]):
            kind = str(types[name]) if get_args(types[name]) else types[name].__name__
            raise error(f"{where}: {name} must be {kind}, not {reprlib.repr(value)}")

"""Which values a setting may have, said by its type: `Count` is an integer from 1, `Share` a number from 0 to 1."""

from dataclasses import dataclass
from math import inf
from types import NoneType
from typing import Annotated, get_args


@dataclass(frozen=True)
class Range:
    """Numbers from `least` to `most`; without `least` itself where it is `open`. NaN is in none."""

    least: float
    most: float
    open: bool = False

    def __contains__(self, value: float) -> bool:
        return self.least <= value <= self.most and not (self.open and value == self.least)

    def __str__(self) -> str:
        limit = "" if self.most == inf else f" and at most {self.most:,}"
        return f"above {self.least}{limit}" if self.open else f"from {self.least} to {self.most:,}"


class Choice(tuple):
    """One of these texts."""

    def __str__(self) -> str:
        return " or ".join(map(repr, self))


Count = Annotated[int, Range(1, 2**24)]
Amount = Annotated[int, Range(0, 2**24)]
Width = Annotated[int, Range(1, 2**18)]
Seed = Annotated[int, Range(0, 2**64 - 1)]
Positive = Annotated[float, Range(0, 10**12, open=True)]
NotNegative = Annotated[float, Range(0, 10**12)]
Share = Annotated[float, Range(0, 1)]
PositiveShare = Annotated[float, Range(0, 1, open=True)]

WORDS = {int: "an integer", float: "a number", bool: "True or False", str: ""}


def parts(annotation) -> tuple[type, tuple, bool]:
    """The type in an annotation, its limits, and whether None is allowed, too."""
    is_optional = NoneType in get_args(annotation)
    kind = get_args(annotation)[0] if is_optional else annotation
    limits = getattr(kind, "__metadata__", ())
    return get_args(kind)[0] if limits else kind, limits, is_optional


def check(name: str, value: object, annotation) -> None:
    """Raise ValueError unless the annotation of a setting allows `value`; types that `WORDS` lacks are not looked at. A
    whole number is a float, too; True and False are no numbers."""
    kind, limits, is_optional = parts(annotation)
    if kind not in WORDS or (is_optional and value is None):
        return
    types = (int, float) if kind is float else kind
    is_right_type = isinstance(value, types) and (kind is bool or not isinstance(value, bool))
    if not (is_right_type and all(value in limit for limit in limits)):
        words = " ".join(filter(None, (WORDS[kind], *map(str, limits))))
        raise ValueError(f"{name}={value!r}: must be {words}{', or None' if is_optional else ''}")

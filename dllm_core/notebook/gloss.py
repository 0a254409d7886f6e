"""An English gloss of a Chinese text of the embedded corpus, so that a reader without Chinese can judge an answer.

`gloss.yaml` holds the templates and the words. A text is read from left to right. At each point the template that
reaches furthest is taken, and a stretch that none fits is kept: a wrong answer is glossed as what it says.
"""

import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from dllm_core.common.yaml_file import read_yaml

HAN = "\u3400-\u4dbf\u4e00-\u9fff"
SIGNS = dict(zip("，。？！：；（）", ",.?!:;()", strict=True))
OTHER = re.compile(rf"[{''.join(SIGNS)}]|\s+|[^\s{HAN}{''.join(SIGNS)}]+")  # what no template needs to fit


class Words(str):
    """English words in the forms that a template may ask for."""

    @property
    def bare(self) -> str:
        """Without preposition and article: "in the forest" → "forest"."""
        return re.sub("^(?:(?:by|in|on) the|an?|some) ", "", self)

    @property
    def base(self) -> str:
        """A verb without its s: "looks for" → "look for"."""
        return re.sub(r"(?<=[cs]h)es\b|s\b", "", self, count=1)


class Template(NamedTuple):
    """pattern: of the Chinese, with a group per slot; slots: their kinds; literal: characters outside the slots."""

    pattern: re.Pattern
    slots: str
    literal: int
    english: str


@cache
def _glossary() -> tuple[dict[str, dict[str, str]], list[Template]]:
    """(kind of slot → Chinese → English, the templates)."""
    content = read_yaml(Path(__file__).with_suffix(".yaml"))
    words, symbols = content["words"], f"[{content['symbols']}]+"
    phrases = {zh: en for kind in reversed(words) for zh, en in words[kind].items() if len(zh) > 1} | content["phrases"]
    kinds = {"x": r"\w{1,30}?", "s": r"“[^“”，。？！：\n]+”?|\w{1,30}?", "b": "《[^《》]+》", "c": "[A-Z]", "n": r"\d+"}
    for kind, of_kind in words.items():
        kinds[kind] = _longest_first(word for word in of_kind if len(word) > 1 or kind == "v")
    # at a template's end nothing but the end of a word says how far these reach
    last = {"x": rf"{kinds['w']}|\w{{1,30}}?(?!\w)", "s": rf"(?:{kinds['s']})(?!\w)", "r": rf"{symbols}(?!\w)"}
    templates = [
        Template(re.compile(f"({_longest_first(phrases)})"), "p", 99, "{}"),  # a phrase or a word
        Template(re.compile(rf"(?<!\w)({symbols})(?!\w)"), "r", 0, "{}"),  # a string that stands alone
    ]
    for chinese, english in content["templates"].items():
        slots = "".join(re.findall("[a-z]", chinese))
        literal = len(chinese) - len(slots)
        pattern = ""
        for i, sign in enumerate(chinese, 1):
            inner = kinds | last if i == len(chinese) else kinds
            empty = "|" if sign in "xsb" and literal > 1 else ""  # where a broken text leaves the slot out
            pattern += f"({inner[sign]}{empty})" if sign in slots else sign
        templates.append(Template(re.compile(pattern), slots, literal, english))
    return words | {"p": phrases}, templates


def _longest_first(words: Iterable[str]) -> str:
    return "|".join(sorted(words, key=len, reverse=True))


def _slot(kind: str, chinese: str) -> Words:
    """The English of what a slot holds: a string as it is, … where nothing is, 「…」 around what has no gloss."""
    if kind in "scrn" or not chinese:
        return Words(chinese or "…")
    words, _ = _glossary()
    english = words.get(kind, words["w"]).get(chinese) or _joined(chinese)
    return Words(english if english != chinese else f"「{chinese}」")


def _translated(text: str, at: int) -> tuple[int, str]:
    """(end, English) of the template that reaches furthest from `at`, with the fewest characters in its slots."""
    reach, best = (at, 0), None
    for template in _glossary()[1]:
        match = template.pattern.match(text, at)
        if match and (match.end(), template.literal) > reach:
            reach, best = (match.end(), template.literal), (template, match)
    if best:
        template, match = best
        return match.end(), template.english.format(*map(_slot, template.slots, match.groups()))
    other = OTHER.match(text, at)
    return (other.end(), SIGNS.get(other[0], other[0])) if other else (at, "")


def _pieces(text: str) -> Iterator[tuple[str, str]]:
    """(Chinese, English) of each stretch of a text; one that nothing fits becomes 「…」."""
    at = unknown = 0
    while at < len(text):
        end, english = _translated(text, at)
        if english and unknown < at:
            yield "", f"「{text[unknown:at]}」"
        if english:
            yield text[at:end], english
            unknown = end
        at = max(end, at + 1)
    if unknown < at:
        yield "", f"「{text[unknown:at]}」"


def _joined(text: str, sentence: bool = False) -> str:
    """The English pieces as one text. sentence: with a capital letter after each end of a sentence."""
    out, translated = "", False
    for chinese, piece in _pieces(text):
        before, translated = translated, piece != chinese
        if sentence and piece[0] != chinese[:1] and re.search(r"(^|[.?!”\n])\s*$", out):
            piece = piece[0].upper() + piece[1:]
        attached = piece[0] in ",.?!:;)”》、 \n" or out[-1:] in ("", " ", "\n", "“", "《", "(")
        out += piece if attached or not (before or translated) else f" {piece}"
    return out.strip()


def gloss(text: str) -> str:
    """What `text` says in English, word for word; "" for a text without Chinese.

    Strings, digits and letters stay as they are. What no template fits stays in 「…」, so a wrong or broken answer can be
    judged too: "我是小" gives "I am 「小」", and … stands where a template's slot is empty.
    """
    return _joined(text, sentence=True) if re.search(f"[{HAN}]", text) else ""

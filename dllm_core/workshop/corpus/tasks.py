"""How one question of the embedded corpus is drawn, group by group.

Every drawing function takes a `random.Random` and gives a `Draw`: the item and its *keys*, the content that decides
the split. Two questions that share a key are the same question to a reader (the same string, in any task; the same
facts; the same story), so a key of a held-out item may appear nowhere else.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random

from dllm_core.workshop.corpus import words

SHORTEST = 3  # symbols a held-out string has at least; shorter ones turn up inside other text by chance


@dataclass(frozen=True)
class Item:
    """One question with its only right answer. `group` is one of `corpus_words.GROUPS` or a reversal group; the prompt may
    be given as its tokens, template included. length: tokens of the answer, where it was written by a model."""

    group: str
    prompt: str | tuple[int, ...]
    answer: str
    length: int | None = None


@dataclass(frozen=True)
class Draw:
    """An item, the keys it must share with no other split, and the strings (as symbols) its text spells out."""

    item: Item
    keys: tuple[str, ...]
    strings: tuple[tuple[str, ...], ...] = ()


def windows(symbols: tuple[str, ...]) -> set[str]:
    """Every run of at least `SHORTEST` neighbouring symbols, as text."""
    n = len(symbols)
    return {"".join(symbols[i:j]) for i in range(n - SHORTEST + 1) for j in range(i + SHORTEST, n + 1)}


# ---- strings --------------------------------------------------------------------------------------
def string(rng: Random, shortest: int, longest: int) -> tuple[str, tuple[str, ...], str]:
    """(language, distinct symbols, lead): English symbols are led by a space, English words each carry their own."""
    n = rng.randint(shortest, longest)
    kind = rng.random()
    if kind < 0.5:
        return "zh", tuple(rng.sample(words.CHARACTERS, n)), ""
    if kind < 0.8:
        pool = words.CAPITALS if kind < 0.62 else words.DIGITS if kind < 0.7 else words.CAPITALS + words.DIGITS
        return "zh", tuple(rng.sample(pool, n)), ""
    if kind < 0.9:
        return "en", tuple(rng.sample(words.CAPITALS + words.DIGITS, n)), " "
    return "en", tuple(" " + w for w in rng.sample(words.WORDS, min(n, 5))), ""


def _spell(group: str, form: tuple[str, str], symbols, result, lead: str, keys: tuple) -> Draw:
    s, r = lead + "".join(symbols), lead + "".join(result)
    item = Item(group, form[0].format(s=s, r=r).strip(), form[1].format(s=s, r=r).strip())
    return Draw(item, tuple("".join(key) for key in keys), (tuple(symbols), tuple(result)))


def copy(rng: Random) -> Draw:
    """A string of 3–6 symbols said again."""
    language, symbols, lead = string(rng, 3, 6)
    return _spell("copy", rng.choice(words.COPY[language]), symbols, symbols, lead, (symbols, symbols[::-1]))


def reverse(rng: Random) -> Draw:
    """A string of 2–4 symbols said backwards."""
    language, symbols, lead = string(rng, 2, 4)
    result = symbols[::-1]
    return _spell("reverse", rng.choice(words.REVERSE[language]), symbols, result, lead, (symbols, result))


SORTS = ("sort_up", "sort_down")


def operation(rng: Random, training: bool = False) -> Draw:
    """Another computation on a string of 2–4 symbols (sorting: 3 digits). For training sorts are drawn six times as often
    as the others, also with 4 digits: they are learned most slowly, and four draws in five touch what is held out."""
    name = rng.choice((*words.OPERATIONS, *SORTS * 5) if training else tuple(words.OPERATIONS))
    if name in SORTS:
        language, lead = ("en", " ") if rng.random() < 0.2 else ("zh", "")
        symbols = tuple(rng.sample(words.DIGITS, rng.choice((3, 4)) if training else 3))
    else:
        language, symbols, lead = string(rng, 2, 4)
    result = {
        "first": lambda: symbols[:1],
        "last": lambda: symbols[-1:],
        "drop_first": lambda: symbols[1:],
        "drop_last": lambda: symbols[:-1],
        "twice": lambda: symbols * 2,
        "double": lambda: tuple(s for s in symbols for _ in range(2)),
        "sort_up": lambda: tuple(sorted(symbols)),
        "sort_down": lambda: tuple(sorted(symbols, reverse=True)),
    }[name]()
    keys = (symbols, symbols[::-1])
    if name in SORTS:  # the same digits in another order are the same question
        keys += (result, result[::-1])
    return _spell("operation", rng.choice(words.OPERATIONS[name][language]), symbols, result, lead, keys)


# ---- facts in the prompt --------------------------------------------------------------------------
def _apart(rng: Random, pool, n: int, end: int) -> list[str]:
    """n entries of the pool that differ in their first (end=0) or last (end=-1) character."""
    while True:
        chosen = rng.sample(pool, n)
        if len({entry[end] for entry in chosen}) == n:
            return chosen


def _numbers(rng: Random, n: int, unit: str) -> list[str]:
    # different first digits, so that the digit after a key tells the entries apart
    return [d + (rng.choice("0123456789") if rng.random() < 0.6 else "") + unit for d in rng.sample("123456789", n)]


def _deeds(rng: Random, n: int) -> list[str]:
    return [v + o for v, o in zip(rng.sample(words.VERBS, n), _apart(rng, words.OBJECTS, n, 0))]


def _pairs(rng: Random, n: int) -> list[str]:
    symbols = rng.sample(words.CHARACTERS, 2 * n)
    return [a + b for a, b in zip(symbols[:n], symbols[n:])]


def _habits(rng: Random, n: int) -> list[str]:
    return [" " + verb for verb in rng.sample(words.EN_VERBS, n)]


@dataclass(frozen=True)
class Relation:
    """What stands to what. `keys`, `values`: (rng, n) → n texts; `one`, `two`: questions about one key `{k}` and
    about two `{k}`, `{l}`; `back`: about a value `{v}`, where that is asked; `weight`: how often it is drawn."""

    keys: Callable[[Random, int], list[str]]
    values: Callable[[Random, int], list[str]]
    one: str
    two: str
    back: str = ""
    weight: int = 3


RELATIONS = {
    "duty": Relation(
        lambda r, n: r.sample(words.NAMES, n), _deeds, "{k}做什么？", "{k}和{l}做什么？", "谁{v}？", weight=5
    ),
    "days": Relation(lambda r, n: r.sample(words.DAYS, n), _deeds, "{k}做什么？", "{k}和{l}做什么？"),
    "price": Relation(
        lambda r, n: _apart(r, words.GOODS, n, -1), lambda r, n: _numbers(r, n, "元"),
        "{k}多少钱？", "{k}和{l}多少钱？", "什么卖{v}？", weight=4,
    ),
    "count": Relation(
        lambda r, n: _apart(r, words.OBJECTS, n, -1), lambda r, n: _numbers(r, n, "个"), "{k}有几个？", "{k}和{l}有几个？"
    ),
    "score": Relation(
        lambda r, n: r.sample(words.NAMES, n), lambda r, n: _numbers(r, n, "分"), "{k}得了多少分？", "{k}和{l}得了多少分？"
    ),
    "weather": Relation(
        lambda r, n: _apart(r, words.CITIES, n, -1), lambda r, n: _apart(r, words.WEATHER, n, 0),
        "{k}天气怎么样？", "{k}和{l}天气怎么样？", weight=1,
    ),
    "code": Relation(lambda r, n: r.sample(words.CAPITALS, n), _pairs, "{k}代表什么？", "{k}和{l}代表什么？", weight=2),
    "habit": Relation(
        lambda r, n: _apart(r, words.EN_NAMES, n, -1), _habits, "What does {k} do?", "What do {k} and {l} do?"
    ),
    "thing": Relation(
        lambda r, n: ["the " + c for c in r.sample(words.EN_COLOURS, n)],
        lambda r, n: [" " + t for t in r.sample(words.EN_THINGS, n)],
        "What is {k} thing?", "What are {k} thing and {l} thing?", "What colour is the{v}?", weight=2,
    ),
}
_BY_WEIGHT = tuple(name for name, relation in RELATIONS.items() for _ in range(relation.weight))


@dataclass(frozen=True)
class Table:
    """A look-up table: `entries` are (key, value), written with every value directly behind its key."""

    relation: str
    entries: tuple[tuple[str, str], ...]

    @property
    def english(self) -> bool:
        return self.relation in ("habit", "thing")

    def text(self, *entries: tuple[str, str]) -> str:
        """Entries as a sentence; all of them when none is given."""
        comma, stop = (", ", ".") if self.english else ("，", "。")
        return comma.join(k + v for k, v in entries or self.entries) + stop

    @property
    def keys(self) -> tuple[str, ...]:
        """The table's text and that of its tails: a longer table that ends in a held-out one is not drawn either."""
        return tuple(self.text(*self.entries[i:]) for i in range(len(self.entries) - 1))


def table(rng: Random, n: int) -> Table:
    """A table of n entries."""
    name = rng.choice(_BY_WEIGHT)
    relation = RELATIONS[name]
    return Table(name, tuple(zip(relation.keys(rng, n), relation.values(rng, n))))


def reading(rng: Random) -> Draw:
    """A question about 2–3 facts given in the prompt; the answer repeats the key before its value."""
    facts = table(rng, rng.choice((2, 2, 3, 3, 3)))
    relation = RELATIONS[facts.relation]
    first, second = rng.sample(facts.entries, 2)
    asked, (k, v) = (first,), first
    kind = rng.random()
    if kind < 0.2:
        question, asked = relation.two.format(k=k, l=second[0]), (first, second)
    elif kind < 0.25 and relation.back:
        question = relation.back.format(v=v)
    else:
        question = relation.one.format(k=k)
    before, after, lead = rng.choice(words.READING_FRAMES["en" if facts.english else "zh"])
    prompt = before + facts.text() + " " * facts.english + question + after
    # an answer that names two entries spells a table of its own
    keys = facts.keys if len(asked) == 1 else (*facts.keys, facts.text(*asked))
    return Draw(Item("reading", prompt, lead + facts.text(*asked)), keys)


# ---- stories --------------------------------------------------------------------------------------
def story(rng: Random) -> Draw:
    """A story whose slots the prompt gives; the phrasing of the prompt chooses the template."""
    language = "en" if rng.random() < 0.3 else "zh"
    prompts, template = rng.choice(words.STORIES[language])
    slots = {slot: rng.choice(pool) for slot, pool in words.STORY_SLOTS[language].items()}
    key = "|".join(slots[slot] for slot in "apf")  # held out whatever the adjective
    return Draw(Item("story", rng.choice(prompts).format(**slots), template.format(**slots)), (key,))


# ---- groups whose space is listed whole -----------------------------------------------------------
def introductions() -> list[Item]:
    """Every prefix × core × suffix; a greeting in the prefix earns a greeting in the answer."""
    return [
        Item("introduction", _capital(prefix + core) + suffix, greeting + answer)
        for part in words.INTRODUCTION.values()
        for answer, cores in part["cores"].items()
        for core in cores
        for prefix, greeting in part["prefixes"]
        for suffix in part["suffixes"]
    ]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def facts() -> list[tuple[str, str, str, tuple[str, ...], str, tuple[str, ...]]]:
    """(relation, key, value, phrasings, answer, statements) of every fact."""
    rows = []
    for relation, (pairs, phrasings, answer, statements) in words.FACTS.items():
        flat = pairs.split()
        rows += [(relation, k, v, phrasings, answer, statements) for k, v in zip(flat[::2], flat[1::2])]
    return rows


def recall(rng: Random, prompt: str, answer: str) -> Item:
    """A fact's question with one of the prefixes."""
    prefix = rng.choice(words.RECALL_PREFIXES["en" if prompt.isascii() else "zh"])
    return Item("recall", prefix + prompt, answer)


DRAWN = {"copy": copy, "reverse": reverse, "operation": operation, "reading": reading, "story": story}
TRAINED = {**DRAWN, "operation": partial(operation, training=True)}

"""How one question of the embedded corpus is drawn, group by group.

A drawing function takes a `random.Random` and returns a `Draw`: the question and its *keys*, the content that decides
the split. To a reader two questions with a common key are the same question (the same string in any task, the same
facts, the same story), so a key of a held-out question may occur nowhere else.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from random import Random

from dllm_core.notebook.grading import Question
from dllm_core.workshop.corpus.words import WORDS

SHORTEST = 3  # symbols of a held-out string, at least; shorter ones occur inside other text by chance


@dataclass(frozen=True)
class Draw:
    """A question, the keys that no other split may have, and the strings (as symbols) that its text spells out."""

    question: Question
    keys: tuple[str, ...]
    strings: tuple[tuple[str, ...], ...] = ()


def windows(symbols: tuple[str, ...]) -> set[str]:
    """Every run of at least `SHORTEST` adjacent symbols, as text."""
    n = len(symbols)
    return {"".join(symbols[i:j]) for i in range(n - SHORTEST + 1) for j in range(i + SHORTEST, n + 1)}


# ---- strings --------------------------------------------------------------------------------------
def string(rng: Random, shortest: int, longest: int) -> tuple[str, tuple[str, ...], str]:
    """(language, distinct symbols, lead): an English string begins with the lead " ", each English word with its own."""
    n = rng.randint(shortest, longest)
    share = rng.random()
    if share < 0.5:
        return "zh", tuple(rng.sample(WORDS.characters, n)), ""
    if share < 0.8:
        pool = WORDS.capitals if share < 0.62 else WORDS.digits if share < 0.7 else WORDS.capitals + WORDS.digits
        return "zh", tuple(rng.sample(pool, n)), ""
    if share < 0.9:
        return "en", tuple(rng.sample(WORDS.capitals + WORDS.digits, n)), " "
    return "en", tuple(" " + word for word in rng.sample(WORDS.english_words, min(n, 5))), ""


SORTS = ("sort_up", "sort_down")


def _spell(rng: Random, group: str, forms: dict, name: str, language: str, symbols: tuple[str, ...], lead: str) -> Draw:
    """One of the forms' questions: what the computation `name` makes of the symbols."""
    result = _computed(name, symbols)
    keys = [symbols, symbols[::-1]]
    if name in SORTS:  # the same digits in another order are the same question
        keys += [result, result[::-1]]
    s, r = lead + "".join(symbols), lead + "".join(result)
    prompt, answer = (text.format(s=s, r=r).strip() for text in rng.choice(forms[language]))
    return Draw(Question(group, prompt, answer), tuple("".join(key) for key in keys), (symbols, result))


def copy(rng: Random) -> Draw:
    """A string of 3–6 symbols repeated."""
    return _spell(rng, "copy", WORDS.copy, "copy", *string(rng, 3, 6))


def reverse(rng: Random) -> Draw:
    """A string of 2–4 symbols backwards."""
    return _spell(rng, "reverse", WORDS.reverse, "reverse", *string(rng, 2, 4))


def operation(rng: Random, training: bool = False) -> Draw:
    """Another computation on a string of 2–4 symbols, or a sort of 3 digits. For training sorts are drawn six times as
    often as the others, also of 4 digits: they are learned most slowly, and four draws of five have a held-out key."""
    name = rng.choice((*WORDS.operations, *SORTS * 5) if training else tuple(WORDS.operations))
    if name in SORTS:
        language, lead = ("en", " ") if rng.random() < 0.2 else ("zh", "")
        symbols = tuple(rng.sample(WORDS.digits, rng.choice((3, 4)) if training else 3))
    else:
        language, symbols, lead = string(rng, 2, 4)
    return _spell(rng, "operation", WORDS.operations[name], name, language, symbols, lead)


def _computed(name: str, symbols: tuple[str, ...]) -> tuple[str, ...]:
    return {
        "copy": symbols,
        "reverse": symbols[::-1],
        "first": symbols[:1],
        "last": symbols[-1:],
        "drop_first": symbols[1:],
        "drop_last": symbols[:-1],
        "twice": symbols * 2,
        "double": tuple(symbol for symbol in symbols for _ in range(2)),
        "sort_up": tuple(sorted(symbols)),
        "sort_down": tuple(sorted(symbols, reverse=True)),
    }[name]


# ---- facts in the prompt --------------------------------------------------------------------------
def _column(rng: Random, n: int, kind: str, name: str = "") -> list[str]:
    """n keys or n values of a relation; `relations` in words.yaml explains the kinds."""
    if kind == "deeds":
        verbs = rng.sample(WORDS.verbs, n)
        return [verb + thing for verb, thing in zip(verbs, _column(rng, n, "first", "objects"))]
    if kind == "pairs":
        symbols = rng.sample(WORDS.characters, 2 * n)
        return [a + b for a, b in zip(symbols[:n], symbols[n:])]
    if kind == "amounts":
        return [d + (rng.choice("0123456789") if rng.random() < 0.6 else "") + name for d in rng.sample("123456789", n)]
    while True:
        words = rng.sample(getattr(WORDS, name), n)
        if kind == "any" or len({word[0 if kind == "first" else -1] for word in words}) == n:
            return words


_BY_WEIGHT = tuple(name for name, relation in WORDS.relations.items() for _ in range(relation["weight"]))


@dataclass(frozen=True)
class Table:
    """A look-up table: `entries` are (key, value), written with each value directly behind its key."""

    relation: str
    entries: tuple[tuple[str, str], ...]

    @property
    def english(self) -> bool:
        return self.relation in ("habit", "thing")

    def text(self, *entries: tuple[str, str]) -> str:
        """The entries as a sentence; without arguments all of them."""
        comma, stop = (", ", ".") if self.english else ("，", "。")
        return comma.join(key + value for key, value in entries or self.entries) + stop

    @property
    def keys(self) -> tuple[str, ...]:
        """The table's text and those of its tails: a longer table that ends in a held-out one is not drawn either."""
        return tuple(self.text(*self.entries[i:]) for i in range(len(self.entries) - 1))


def table(rng: Random, n: int) -> Table:
    """A table of n entries."""
    name = rng.choice(_BY_WEIGHT)
    relation = WORDS.relations[name]
    return Table(name, tuple(zip(_column(rng, n, *relation["keys"]), _column(rng, n, *relation["values"]))))


def reading(rng: Random) -> Draw:
    """A question about 2–3 facts in the prompt; the answer repeats each key before its value."""
    facts = table(rng, rng.choice((2, 2, 3, 3, 3)))
    relation = WORDS.relations[facts.relation]
    first, second = rng.sample(facts.entries, 2)
    key, value = first
    answered = (first,)
    share = rng.random()
    if share < 0.2:
        question = relation["ask_both"].format(k=key, l=second[0])
        answered = (first, second)
    elif share < 0.25 and "ask_key" in relation:
        question = relation["ask_key"].format(v=value)
    else:
        question = relation["ask"].format(k=key)
    before, after, lead = rng.choice(WORDS.reading_frames["en" if facts.english else "zh"])
    gap = " " if facts.english else ""
    prompt = before + facts.text() + gap + question + after
    # an answer with two entries is itself the text of a table
    keys = facts.keys if len(answered) == 1 else (*facts.keys, facts.text(*answered))
    return Draw(Question("reading", prompt, lead + facts.text(*answered)), keys)


# ---- stories --------------------------------------------------------------------------------------
def story(rng: Random) -> Draw:
    """A story whose slots are named in the prompt; the prompt's phrasing decides the template."""
    language = "en" if rng.random() < 0.3 else "zh"
    form = rng.choice(WORDS.stories[language])
    slots = {slot: rng.choice(pool) for slot, pool in WORDS.story_slots[language].items()}
    key = "|".join(slots[slot] for slot in "apf")  # the adjective does not belong to the key
    return Draw(Question("story", rng.choice(form["prompts"]).format(**slots), form["answer"].format(**slots)), (key,))


# ---- groups whose questions can all be listed -----------------------------------------------------
def introductions() -> list[Question]:
    """Every prefix × core question × suffix; a greeting in the prefix is returned in the answer."""
    questions = []
    for part in WORDS.introduction.values():
        for answer, cores in part["cores"].items():
            for core in cores:
                for prefix, greeting in part["prefixes"]:
                    prompt = prefix + core
                    prompt = prompt[:1].upper() + prompt[1:]
                    for suffix in part["suffixes"]:
                        questions.append(Question("introduction", prompt + suffix, greeting + answer))
    return questions


def facts() -> Iterator[tuple[str, str, str, dict]]:
    """(relation, key, value, phrasings) of every fact; phrasings: questions, answer and statements of the relation."""
    for relation, phrasings in WORDS.facts.items():
        for key, value in phrasings["pairs"].items():
            yield relation, key, value, phrasings


def recall(rng: Random, prompt: str, answer: str) -> Question:
    """A fact's question with one of the prefixes."""
    prefix = rng.choice(WORDS.recall_prefixes["en" if prompt.isascii() else "zh"])
    return Question("recall", prefix + prompt, answer)


DRAWN = {"copy": copy, "reverse": reverse, "operation": operation, "reading": reading, "story": story}
TRAINED = {**DRAWN, "operation": partial(operation, training=True)}

"""The pretraining text of the embedded corpus: short documents of three kinds, all drawn from what is not held out."""

from random import Random

from dllm_core.workshop.corpus import tasks, words
from dllm_core.workshop.corpus.splits import Pool

_FACTS = tasks.facts()


def _running(rng: Random, pool: Pool) -> str:
    """Questions and answers as running text, about 40 tokens."""
    group = rng.choice((*words.GROUPS, "reading", "reading", "operation", "operation", "reverse"))
    items = [pool.draw(rng, group)]
    while sum(len(i.prompt) + len(i.answer) for i in items) < 36 and len(items) < 3:
        items.append(pool.draw(rng, group))
    style = rng.random()
    lines = []
    for item in items:
        ask, tell = ("Q: ", "A: ") if item.prompt.isascii() else ("问：", "答：")
        if style < 0.5:
            lines.append(f"{ask}{item.prompt}\n{tell}{item.answer}")
        elif style < 0.75:
            lines.append(f"{item.prompt}\n{item.answer}")
        else:
            ended = item.prompt[-1] in "。？！.?!"
            gap = "\n" if not ended else " " if item.prompt.isascii() else ""
            lines.append(item.prompt + gap + item.answer)
    return "\n".join(lines)


def _statements(rng: Random, pool: Pool) -> str:
    """Plain sentences: facts, books and their authors, self-descriptions, stories."""
    kind = rng.random()
    if kind < 0.5:
        rows = rng.sample(_FACTS, 4)
        said = [(rng.choice(statements).format(k=k, v=v), name) for name, k, v, _, _, statements in rows]
        return "".join(text + " " * (name == "english") for text, name in said).strip()
    if kind < 0.75:
        sentences = []
        for i in rng.sample(range(len(words.PEOPLE)), 3):
            one_way = i < len(words.PEOPLE) // 2
            forms = words.FORWARD_STATEMENTS if one_way or rng.random() < 0.5 else words.BACKWARD_STATEMENTS
            sentences.append(rng.choice(forms).format(k=words.PEOPLE[i], v=words.TITLES[i]))
        return "".join(sentences)
    if kind < 0.85:
        language = "zh" if rng.random() < 0.8 else "en"
        return ("" if language == "zh" else " ").join(rng.sample(tuple(words.INTRODUCTION[language]["cores"]), 2))
    return pool.draw(rng, "story").answer


def _drill(rng: Random, pool: Pool) -> str:
    """Repetition, mirror images and look-up lists: what copying, reversing and reading are made of."""
    kind = rng.random()
    if kind < 0.6:
        table = pool.table(rng, rng.randint(2, 4))
        asked = rng.sample(table.entries, min(len(table.entries), 3))
        gap, head = (" ", "List: ") if table.english else ("", "")
        if kind < 0.3:
            return head + gap.join([table.text(), *(table.text(entry) for entry in asked)])
        one = tasks.RELATIONS[table.relation].one
        return head + gap.join([table.text(), *(one.format(k=e[0]) + gap + table.text(e) for e in asked[:2])])
    _, symbols, lead = pool.string(rng, 3, 8)
    s, r = lead + "".join(symbols), lead + "".join(symbols[::-1])
    if kind < 0.8:
        joint = rng.choice(("，", "\n", "；", "、"))
        return joint.join([s] * (3 if len(symbols) < 7 else 2)).strip() + "。"
    left, right = rng.choice((("“", "”"), ("", "。"), ("", "|")))
    return f"{left}{s}{right}{left}{r}{right}{left}{s}{right}"


def documents(seed: int, name: str, count: int, pool: Pool, seen: set[str]) -> list[str]:
    """`count` different documents, none of them in `seen` (which grows)."""
    rng = Random(f"{seed}/{name}")
    texts = []
    while len(texts) < count:
        kind = rng.random()
        make = _running if kind < 0.6 else _statements if kind < 0.75 else _drill
        text = make(rng, pool)
        if text not in seen:
            seen.add(text)
            texts.append(text)
    return texts


def reversal_statements() -> list[str]:
    """A corpus of its own for the reversal question: who wrote which book, each sentence once. The first half of the
    pairs is told person → book only, the second half in both directions."""
    said = []
    for i, (k, v) in enumerate(zip(words.PEOPLE, words.TITLES, strict=True)):
        both = i >= len(words.PEOPLE) // 2
        said += [form.format(k=k, v=v) for form in words.FORWARD_STATEMENTS + words.BACKWARD_STATEMENTS * both]
    return said

"""The pretraining text of the embedded corpus: short documents of three kinds, without anything that is held out."""

from random import Random

from dllm_core.workshop.corpus import tasks
from dllm_core.workshop.corpus.splits import Pool
from dllm_core.workshop.corpus.words import WORDS

_FACTS = list(tasks.facts())


def _running(rng: Random, pool: Pool) -> str:
    """Questions and answers as running text, about 40 tokens."""
    group = rng.choice((*WORDS.groups, "reading", "reading", "operation", "operation", "reverse"))
    questions = [pool.draw(rng, group)]
    while sum(len(q.prompt) + len(q.answer) for q in questions) < 36 and len(questions) < 3:
        questions.append(pool.draw(rng, group))
    style = rng.random()
    lines = []
    for question in questions:
        english = question.prompt.isascii()
        ask, tell = ("Q: ", "A: ") if english else ("问：", "答：")
        if style < 0.5:
            lines.append(f"{ask}{question.prompt}\n{tell}{question.answer}")
        elif style < 0.75:
            lines.append(f"{question.prompt}\n{question.answer}")
        else:
            ended = question.prompt[-1] in "。？！.?!"
            gap = "\n" if not ended else " " if english else ""
            lines.append(question.prompt + gap + question.answer)
    return "\n".join(lines)


def _statements(rng: Random, pool: Pool) -> str:
    """Plain sentences: facts, books and their authors, self-descriptions, stories."""
    share = rng.random()
    if share < 0.5:
        said = ""
        for relation, key, value, phrasings in rng.sample(_FACTS, 4):
            said += rng.choice(phrasings["statements"]).format(k=key, v=value)
            if relation == "english":
                said += " "
        return said.strip()
    if share < 0.75:
        said = ""
        for i in rng.sample(range(len(WORDS.people)), 3):
            one_way = i < len(WORDS.people) // 2
            forms = WORDS.forward_statements if one_way or rng.random() < 0.5 else WORDS.backward_statements
            said += rng.choice(forms).format(k=WORDS.people[i], v=WORDS.titles[i])
        return said
    if share < 0.85:
        language, gap = ("zh", "") if rng.random() < 0.8 else ("en", " ")
        return gap.join(rng.sample(tuple(WORDS.introduction[language]["cores"]), 2))
    return pool.draw(rng, "story").answer


def _drill(rng: Random, pool: Pool) -> str:
    """Repetition, mirror images and look-up lists: what copying, reversing and reading consist of."""
    share = rng.random()
    if share < 0.6:
        table = pool.table(rng, rng.randint(2, 4))
        entries = rng.sample(table.entries, min(len(table.entries), 3))
        gap, head = (" ", "List: ") if table.english else ("", "")
        if share < 0.3:
            return head + gap.join([table.text(), *(table.text(entry) for entry in entries)])
        question = WORDS.relations[table.relation]["ask"]
        answered = [question.format(k=entry[0]) + gap + table.text(entry) for entry in entries[:2]]
        return head + gap.join([table.text(), *answered])
    symbols, lead = pool.string(rng, 3, 8)
    s, r = lead + "".join(symbols), lead + "".join(symbols[::-1])
    if share < 0.8:
        joint = rng.choice(("，", "\n", "；", "、"))
        return joint.join([s] * (3 if len(symbols) < 7 else 2)).strip() + "。"
    left, right = rng.choice((("“", "”"), ("", "。"), ("", "|")))
    return f"{left}{s}{right}{left}{r}{right}{left}{s}{right}"


def documents(seed: int, name: str, count: int, pool: Pool, seen: set[str]) -> list[str]:
    """`count` different documents, none of them in `seen`, to which they are added."""
    rng = Random(f"{seed}/{name}")
    texts = []
    while len(texts) < count:
        share = rng.random()
        draw = _running if share < 0.6 else _statements if share < 0.75 else _drill
        text = draw(rng, pool)
        if text not in seen:
            seen.add(text)
            texts.append(text)
    return texts


def reversal_statements() -> list[str]:
    """The sentences of reversal_tiny.jsonl: who wrote which book, each sentence once. The first half of the pairs is
    stated only as person → book, the second half in both directions."""
    said = []
    for i, (person, title) in enumerate(zip(WORDS.people, WORDS.titles, strict=True)):
        forms = WORDS.forward_statements
        if i >= len(WORDS.people) // 2:
            forms = forms + WORDS.backward_statements
        said += [form.format(k=person, v=title) for form in forms]
    return said

"""What is held out of the embedded corpus, and what may be drawn for training."""

from random import Random

from dllm_core.notebook.grading import Question
from dllm_core.workshop.corpus import tasks
from dllm_core.workshop.corpus.words import WORDS

TEST, HELD = 160, 220  # questions of each group: of the test, and held out altogether (the others: of the validation)


class Pool:
    """What may be drawn for training: everything but the held-out questions.

    keys: those of the held-out strings, tables and stories. valid, test: the held-out questions. introduction, recall,
    reversal_train: the rest of the groups whose questions can all be listed."""

    def __init__(self, seed: int):
        rng = Random(f"{seed}/held out")
        self.keys: set[str] = set()
        self.valid: list[Question] = []
        self.test: list[Question] = []
        for group in WORDS.groups:
            if group == "introduction":
                held = self._hold_introductions(rng)
            elif group == "recall":
                held = self._hold_facts(rng)
            else:
                held = [self._hold(rng, group) for _ in range(HELD)]
            self.test += held[:TEST]
            self.valid += held[TEST:]
        self.reversal_train, self.reversal_test = _reversal()

    def _hold_introductions(self, rng: Random) -> list[Question]:
        listed = tasks.introductions()
        free = [question for question in listed if question.prompt not in WORDS.report_prompts]
        rng.shuffle(free)
        reported = [question for question in listed if question.prompt in WORDS.report_prompts]
        self.introduction = free[HELD:] + reported
        return free[:HELD]

    def _hold_facts(self, rng: Random) -> list[Question]:
        pairs = []
        for _, key, value, phrasings in tasks.facts():
            answer = phrasings["answer"].format(k=key, v=value)
            pairs += [(question.format(k=key), answer) for question in phrasings["questions"]]
        rng.shuffle(pairs)
        self.recall = pairs[HELD:]
        return [tasks.recall(rng, *pair) for pair in pairs[:HELD]]

    def _hold(self, rng: Random, group: str) -> Question:
        while True:
            drawn = tasks.DRAWN[group](rng)
            short = drawn.strings and len(drawn.strings[0]) < tasks.SHORTEST
            if not short and self.allows(drawn):
                self.keys.update(drawn.keys)
                return drawn.question

    def allows(self, drawn: tasks.Draw) -> bool:
        """Whether a drawn question shares nothing with the held-out ones: no key, no held-out string in its strings."""
        if not self.keys.isdisjoint(drawn.keys):
            return False
        return all(self.keys.isdisjoint(tasks.windows(symbols)) for symbols in drawn.strings)

    def draw(self, rng: Random, group: str) -> Question:
        """One training question of a group."""
        if group == "introduction":
            return rng.choice(self.introduction)
        if group == "recall":
            return tasks.recall(rng, *rng.choice(self.recall))
        if group == "reversal":
            return rng.choice(self.reversal_train)
        while True:
            drawn = tasks.TRAINED[group](rng)
            if self.allows(drawn):
                return drawn.question

    def string(self, rng: Random, shortest: int, longest: int) -> tuple[tuple[str, ...], str]:
        """(symbols, lead) of a string for a drill, without a held-out one in either direction."""
        while True:
            _, symbols, lead = tasks.string(rng, shortest, longest)
            if self.keys.isdisjoint(tasks.windows(symbols)) and self.keys.isdisjoint(tasks.windows(symbols[::-1])):
                return symbols, lead

    def table(self, rng: Random, n: int) -> tasks.Table:
        """A look-up table for a drill."""
        while True:
            table = tasks.table(rng, n)
            if self.keys.isdisjoint(table.keys):
                return table


def _reversal() -> tuple[list[Question], list[Question]]:
    """(training, test) questions about the pairs of a person and a book. The first half of the pairs is trained
    only as person → book, the second half in both directions. Two phrasings of each pair's question book → person are
    the test and are not trained in either half."""
    train, test = [], []
    for i, (person, title) in enumerate(zip(WORDS.people, WORDS.titles)):
        one_way = i < len(WORDS.people) // 2
        book = WORDS.forward_answer.format(k=person, v=title)
        train += [Question("reversal", question.format(k=person), book) for question in WORDS.forward]
        author = WORDS.backward_answer.format(k=person, v=title)
        for j, question in enumerate(WORDS.backward):
            prompt = question.format(v=title)
            if (i + j) % len(WORDS.backward) < 2:
                test.append(Question("reversal_unseen" if one_way else "reversal_seen", prompt, author))
            elif not one_way:
                train.append(Question("reversal", prompt, author))
    return train, test

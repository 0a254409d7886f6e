"""What is held out of the embedded corpus, and what may be drawn for training."""

from random import Random

from dllm_core.workshop.corpus import tasks, words
from dllm_core.workshop.corpus.tasks import Item

TEST, VALID = 160, 60  # held-out items of each group


class Pool:
    """What may be drawn for training: everything but the held-out items.

    keys: of the held-out strings, tables and stories; valid, test: the held-out items; introduction, recall,
    reversal_train: what remains of the groups whose space is listed whole."""

    def __init__(self, seed: int):
        rng = Random(f"{seed}/held out")
        self.keys: set[str] = set()
        self.valid: list[Item] = []
        self.test: list[Item] = []
        for group in words.GROUPS:
            if group == "introduction":
                rest = [item for item in tasks.introductions() if item.prompt not in words.REPORT_PROMPTS]
                rng.shuffle(rest)
                test, valid, rest = rest[:TEST], rest[TEST : TEST + VALID], rest[TEST + VALID :]
                self.introduction = rest + [i for i in tasks.introductions() if i.prompt in words.REPORT_PROMPTS]
            elif group == "recall":
                pairs = [(p.format(k=k), a.format(k=k, v=v)) for _, k, v, ps, a, _ in tasks.facts() for p in ps]
                rng.shuffle(pairs)
                test = [tasks.recall(rng, *pair) for pair in pairs[:TEST]]
                valid = [tasks.recall(rng, *pair) for pair in pairs[TEST : TEST + VALID]]
                self.recall = pairs[TEST + VALID :]
            else:
                test = [self._hold(rng, group) for _ in range(TEST)]
                valid = [self._hold(rng, group) for _ in range(VALID)]
            self.test += test
            self.valid += valid
        self.reversal_train, self.reversal_test = _reversal()

    def _hold(self, rng: Random, group: str) -> Item:
        while True:
            drawn = tasks.DRAWN[group](rng)
            short = drawn.strings and len(drawn.strings[0]) < tasks.SHORTEST
            if not short and self.allows(drawn):
                self.keys.update(drawn.keys)
                return drawn.item

    def allows(self, drawn: tasks.Draw) -> bool:
        """Whether a drawn item shares nothing with the held-out ones: no key, no held-out string inside its strings."""
        if not self.keys.isdisjoint(drawn.keys):
            return False
        return all(self.keys.isdisjoint(tasks.windows(symbols)) for symbols in drawn.strings)

    def draw(self, rng: Random, group: str) -> Item:
        """One training item of a group."""
        if group == "introduction":
            return rng.choice(self.introduction)
        if group == "recall":
            return tasks.recall(rng, *rng.choice(self.recall))
        if group == "reversal":
            return rng.choice(self.reversal_train)
        while True:
            drawn = tasks.TRAINED[group](rng)
            if self.allows(drawn):
                return drawn.item

    def string(self, rng: Random, shortest: int, longest: int) -> tuple[str, tuple[str, ...], str]:
        """A string for a drill, free of held-out ones in both directions."""
        while True:
            language, symbols, lead = tasks.string(rng, shortest, longest)
            if self.keys.isdisjoint(tasks.windows(symbols)) and self.keys.isdisjoint(tasks.windows(symbols[::-1])):
                return language, symbols, lead

    def table(self, rng: Random, n: int) -> tasks.Table:
        """A look-up table for a drill."""
        while True:
            table = tasks.table(rng, n)
            if self.keys.isdisjoint(table.keys):
                return table


def _reversal() -> tuple[list[Item], list[Item]]:
    """Training questions and test questions of the reversal pairs. The first half of the pairs is told
    person → book only, the second half both ways. Two phrasings of each pair's book → person question make the test and
    are kept from training in either half."""
    train, test = [], []
    for i, (k, v) in enumerate(zip(words.PEOPLE, words.TITLES)):
        one_way = i < len(words.PEOPLE) // 2
        train += [Item("reversal", q.format(k=k), words.FORWARD_ANSWER.format(k=k, v=v)) for q in words.FORWARD]
        for j, q in enumerate(words.BACKWARD):
            prompt, answer = q.format(v=v), words.BACKWARD_ANSWER.format(k=k, v=v)
            if (i + j) % len(words.BACKWARD) < 2:
                test.append(Item("reversal_unseen" if one_way else "reversal_seen", prompt, answer))
            elif not one_way:
                train.append(Item("reversal", prompt, answer))
    return train, test

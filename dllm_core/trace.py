"""What one decoding did, step by step: the only record that players, tables, benchmarks and files are made from."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from dllm_core.common.files import read_json, write_whole

REASONS = ("schedule", "threshold", "fallback", "budget", "ar", "edit")


@dataclass(frozen=True)
class Commit:
    """One token made final in a step.

    confidence: probability of `token` after guidance, before temperature and filtering.
    reason: one of `REASONS`. "threshold": above the confidence threshold; "fallback": too few were, this was among
        the most confident; "schedule": LLaDA 1's share of the step; "budget": above the threshold and let through by a
        decoding budget that held others back; "ar": next token; "edit": a committed token replaced (LLaDA 2.1).
    alternatives: the runners-up as (token, probability), most probable first.
    """

    position: int
    token: int
    confidence: float
    reason: str
    alternatives: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class DecodeStep:
    """One step of one sequence: one call of the model.

    index: 0-based step of this sequence; row: its row in the batch; forwards: model forwards the step cost (2 under
    guidance); seconds: since decoding began; block: [start, end) positions in work; masked: positions still masked
    after the step; confidence, entropy (nats): means over the candidates before the commit; draft: (position, best
    guess, confidence) of the block's positions that stayed masked; held_back: above the threshold, held back by the budget.
    """

    index: int
    row: int
    forwards: int
    seconds: float
    block: tuple[int, int]
    commits: tuple[Commit, ...]
    masked: int
    confidence: float
    entropy: float
    draft: tuple[tuple[int, int, float], ...] = ()
    held_back: int = 0


@dataclass
class Trace:
    """A whole decoding of one sequence. `initial` is the prompt with its masks (infilling: masks anywhere)."""

    style: str
    prompt: list[int]
    initial: list[int]
    mask_token_id: int
    eos_token_id: int
    steps: list[DecodeStep] = field(default_factory=list)
    settings: dict = field(default_factory=dict)
    vocabulary: dict[int, str] = field(default_factory=dict)
    text: str = ""

    def tokens_at(self, k: int) -> list[int]:
        """The sequence after the first `k` steps (0: the start)."""
        tokens = list(self.initial)
        for step in self.steps[:k]:
            for commit in step.commits:
                tokens[commit.position] = commit.token
        return tokens

    @property
    def final(self) -> list[int]:
        return self.tokens_at(len(self.steps))

    @property
    def ended(self) -> bool:
        """Whether the answer holds an eos with no mask before it."""
        for token, start in zip(self.final, self.initial, strict=True):
            if start == self.mask_token_id and token in (self.mask_token_id, self.eos_token_id):
                return token == self.eos_token_id
        return False

    @property
    def answer(self) -> list[int]:
        """Tokens decoded, in order, up to (not with) the first eos; positions still masked are left out."""
        answer = []
        for token, start in zip(self.final, self.initial, strict=True):
            if start != self.mask_token_id or token == self.mask_token_id:
                continue
            if token == self.eos_token_id:
                break
            answer.append(token)
        return answer

    @property
    def tokens(self) -> int:
        """Answer tokens through eos: what counts as work done. Filling after eos does not."""
        return len(self.answer) + self.ended

    def written(self) -> list[int]:
        """Tokens of the answer written after 0, 1, 2, … steps, [steps + 1]; filling behind its eos does not count, so
        the last is `tokens`."""
        open_ = [i for i, start in enumerate(self.initial) if start == self.mask_token_id]
        final = self.final
        end = next((i for i in open_ if final[i] == self.eos_token_id), len(final))
        seen: set[int] = set()
        counts = [0]
        for step in self.steps:
            seen.update(commit.position for commit in step.commits if commit.position <= end)
            counts.append(len(seen))
        return counts

    @property
    def forwards(self) -> int:
        return sum(step.forwards for step in self.steps)

    @property
    def tokens_per_forward(self) -> float:
        return self.tokens / max(self.forwards, 1)

    @property
    def seconds(self) -> float:
        return self.steps[-1].seconds if self.steps else 0.0

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds if self.seconds else 0.0

    def to_json(self) -> dict:
        """Plain lists and numbers; `from_json` gives an equal Trace back."""
        record = asdict(self)
        record["vocabulary"] = {str(token): text for token, text in self.vocabulary.items()}
        return record

    @classmethod
    def from_json(cls, record: dict) -> "Trace":
        record = dict(record)
        record["vocabulary"] = {int(token): text for token, text in record["vocabulary"].items()}
        record["steps"] = [_step(step) for step in record["steps"]]
        return cls(**record)

    def save(self, path: str | Path) -> Path:
        """Write JSON; an existing file is replaced whole or not at all."""
        return write_whole(path, json.dumps(self.to_json(), ensure_ascii=False))

    @classmethod
    def load(cls, path: str | Path) -> "Trace":
        """Raises ValueError naming the file when it holds no trace."""
        try:
            return cls.from_json(read_json(path))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: not a decoding trace ({error}); write one with Trace.save") from error


def _step(record: dict) -> DecodeStep:
    commits = tuple(
        Commit(**{**commit, "alternatives": tuple((int(t), float(p)) for t, p in commit["alternatives"])})
        for commit in record["commits"]
    )
    if "held" in record:  # the name in traces of version 0.1.0
        record = {**record, "held_back": record["held"]}
        del record["held"]
    draft = tuple((int(position), int(token), float(p)) for position, token, p in record["draft"])
    return DecodeStep(**{**record, "block": tuple(record["block"]), "commits": commits, "draft": draft})


def with_text(trace: Trace, tokenizer) -> Trace:
    """Fill in the answer's text and the text of every token id the trace holds."""
    used = set(trace.initial)
    for step in trace.steps:
        for commit in step.commits:
            used.update((commit.token, *(token for token, _ in commit.alternatives)))
        used.update(token for _, token, _ in step.draft)
    trace.vocabulary = {token: tokenizer.decode([token]) for token in sorted(used)}
    trace.text = tokenizer.decode(trace.answer if trace.prompt else trace.final, skip_special_tokens=True)
    return trace

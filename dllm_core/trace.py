"""The record of one decoding, step by step, that players, tables, benchmarks and files are all made from."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import islice
from pathlib import Path

from dllm_core.common.files import json_text, read_json, write_whole
from dllm_core.common.records import check_fields
from dllm_core.common.text import safe
from dllm_core.config import DecodeConfig

REASONS = ("schedule", "threshold", "fallback", "budget", "ar", "edit")
ACTIONS = ("take", "write", "mask", "forbid")


@dataclass(frozen=True)
class Commit:
    """A token that a step made final.

    position: from 0. confidence: probability of `token` after guidance, before temperature and filters.
    reason: one of `REASONS`. "threshold": above the confidence threshold; "fallback": too few were, this was among the
        most confident; "schedule": within the step's share; "budget": above the threshold, and within a decoding budget
        that held others back; "ar": the next token; "edit": a committed token was replaced (LLaDA 2.1).
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

    index: of the step in this sequence, from 0; row: of the sequence in the batch; forwards: what the step cost (2
    under guidance); seconds: since decoding began; block: the positions [start, end) being decoded; commits: in order
    of position; masked: positions still masked after the step; confidence, entropy (nats): means over the masked
    positions before it; draft: (position, most probable token, confidence) of the block's positions that stayed masked;
    held_back: predictions above the threshold that the budget held back.
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


@dataclass(frozen=True)
class Edit:
    """A change that a person made by hand; decoding goes on from there.

    step: made after that many steps, before the next one; position: from 0. action: "take" (`token` is one that the
    model ranked) or "write" (it is the person's own) puts `token` there; "mask" masks the position again; "forbid": from
    then on `token` is never predicted there, and where it stands the position is masked again. In AR whatever stands
    behind a changed position is masked again. why: the person's reason.
    """

    step: int
    position: int
    action: str
    token: int | None = None
    why: str = ""

    def changes(self, tokens: Mapping[int, int], mask_token_id: int, style: str) -> dict[int, int]:
        """Position → new token of what it changes in `tokens` (position → token). Raises ValueError for a token behind
        masks in AR."""
        if self.action == "forbid" and tokens[self.position] != self.token:
            return {}
        new = self.token if self.action in ("take", "write") else mask_token_id
        if new == tokens[self.position]:
            return {}
        if style == "ar" and mask_token_id in (tokens[i] for i in range(self.position)):
            raise ValueError(f"{self}: AR writes from left to right, and a position before this one is masked")
        behind = range(self.position + 1, len(tokens)) if style == "ar" else ()
        return {self.position: new} | {i: mask_token_id for i in behind if tokens[i] != mask_token_id}

    def __str__(self) -> str:
        token = "" if self.token is None else f" {self.token}"
        return f"edits: {self.action}{token} at step {self.step}, position {self.position}"


def checked_edits(edits: Iterable[Edit], initial: Sequence[int], mask_token_id: int, vocab_size: int) -> list[Edit]:
    """The edits in order of step. Raises ValueError for one that the sequence, `initial` before its first step, cannot
    have."""
    for edit in edits:
        puts, wrong = edit.action in ("take", "write"), ""
        if edit.action not in ACTIONS:
            wrong = f"action must be one of {', '.join(ACTIONS)}"
        elif not 0 <= edit.position < len(initial):
            wrong = f"position must be within the sequence of {len(initial)}"
        elif initial[edit.position] != mask_token_id:
            wrong = "this position is of the prompt or was given, and cannot be changed"
        elif edit.step < 0:
            wrong = "step must be 0 or more"
        elif (edit.token is None) != (edit.action == "mask"):
            wrong = "take, write and forbid need a token, mask has none"
        elif edit.token is not None and not 0 <= edit.token < vocab_size:
            wrong = f"token must be within the vocabulary of {vocab_size}"
        elif puts and edit.token == mask_token_id:
            wrong = "the token is the mask; use the action mask"
        if wrong:
            raise ValueError(f"{edit}: {wrong}")
    return sorted(edits, key=lambda edit: edit.step)


def end_token_ids(tokenizer) -> list[int]:
    """The ids that end an answer, eos first. A tokenizer from `data.tokenizer` adds those with which its chat template
    and its folder end one."""
    return getattr(tokenizer, "end_token_ids", None) or [tokenizer.eos_token_id]


@dataclass
class Trace:
    """The decoding of one sequence, with measures of it.

    style: "ar", "llada1" or "llada2". prompt: token ids, none for infilling. initial: the sequence before the first
    step, with masks after the prompt, or anywhere for infilling. settings: of the `DecodeConfig`. vocabulary: the text
    of each token id that occurs. text: the answer, or the filled text. other_ends: the token ids beside eos that end an
    answer. edits: made by hand, in order of step.
    """

    style: str
    prompt: list[int]
    initial: list[int]
    mask_token_id: int
    eos_token_id: int
    steps: list[DecodeStep] = field(default_factory=list)
    settings: dict = field(default_factory=dict)
    vocabulary: dict[int, str] = field(default_factory=dict)
    text: str = ""
    other_ends: list[int] = field(default_factory=list)
    edits: list[Edit] = field(default_factory=list)

    @classmethod
    def begin(
        cls, tokenizer, prompt: list[int], initial: list[int], config: DecodeConfig, edits: list[Edit]
    ) -> "Trace":
        """The record of a decoding before its first step."""
        eos, *others = end_token_ids(tokenizer)
        special = {"mask_token_id": tokenizer.mask_token_id, "eos_token_id": eos, "other_ends": others}
        return cls(config.style, list(prompt), list(initial), **special, settings=config.to_dict(), edits=edits)

    def changes(self) -> Iterator[dict[int, tuple[int, Commit | Edit]]]:
        """Position → its new token and what put it there, of the start's edits, then of each step and the edits behind
        it, [steps + 1]."""
        tokens = dict(enumerate(self.initial))
        for k, commits in enumerate([(), *(step.commits for step in self.steps)]):
            changed = {commit.position: (commit.token, commit) for commit in commits}
            tokens |= {commit.position: commit.token for commit in commits}
            for edit in self.edits:
                if edit.step == k:
                    by_hand = edit.changes(tokens, self.mask_token_id, self.style)
                    tokens |= by_hand
                    changed |= {position: (token, edit) for position, token in by_hand.items()}
            yield changed

    def tokens_at(self, k: int) -> list[int]:
        """The sequence after the first `k` steps (0: the start) and the edits made there."""
        tokens = list(self.initial)
        for changed in islice(self.changes(), k + 1):
            for position, (token, _) in changed.items():
                tokens[position] = token
        return tokens

    @property
    def final(self) -> list[int]:
        return self.tokens_at(len(self.steps))

    @property
    def ends(self) -> list[int]:
        """The token ids that end an answer, eos first."""
        return [self.eos_token_id, *self.other_ends]

    def _through_end(self) -> list[int]:
        """What stands where a mask stood at the start, tokens and masks, through the first token that ends the answer."""
        decoded = [token for token, start in zip(self.final, self.initial, strict=True) if start == self.mask_token_id]
        end = next((i for i, token in enumerate(decoded) if token in self.ends), len(decoded))
        return decoded[: end + 1]

    @property
    def ended(self) -> bool:
        """Whether the answer holds an eos (or another of `ends`) with no mask before it."""
        decoded = self._through_end()
        return any(token in self.ends for token in decoded[-1:]) and self.mask_token_id not in decoded

    @property
    def answer(self) -> list[int]:
        """The decoded tokens up to the first eos, without it and without positions that are still masked."""
        return [token for token in self._through_end() if token not in (self.mask_token_id, *self.ends)]

    @property
    def tokens(self) -> int:
        """Answer tokens through eos, the measure of work done; filling after eos does not count."""
        return len(self.answer) + self.ended

    def written(self) -> list[int]:
        """[steps + 1]: answer tokens written after 0, 1, 2, … steps, through the final eos, which counts when no mask is
        before it; the last is `tokens`."""
        answer = [i for i, start in enumerate(self.initial) if start == self.mask_token_id]
        final = self.final
        end = next((i for i in answer if final[i] in self.ends), len(final))
        last = end if self.ended else end - 1
        positions: set[int] = set()
        counts = []
        for changed in self.changes():
            masked = {position for position, (token, _) in changed.items() if token == self.mask_token_id}
            positions |= {position for position in changed if position <= last}
            positions -= masked
            counts.append(len(positions))
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
        record["edits"] = [Edit(**edit) for edit in record.get("edits", [])]
        return cls(**record)

    def save(self, path: str | Path) -> Path:
        """Write the trace as JSON; an existing file is replaced whole or not at all."""
        return write_whole(path, json_text(self.to_json()))

    @classmethod
    def load(cls, path: str | Path) -> "Trace":
        """Raises ValueError naming the file when it holds no trace."""
        try:
            trace = cls.from_json(read_json(path))
            commits = [commit for step in trace.steps for commit in step.commits]
            for part in (trace, *trace.steps, *commits, *trace.edits):
                types = {field.name: field.type for field in fields(part)}
                check_fields(vars(part), types, type(part).__name__, ValueError)
            if {commit.position for commit in commits} - set(range(len(trace.initial))):
                raise ValueError("a commit lies outside the sequence")
            checked_edits(trace.edits, trace.initial, trace.mask_token_id, vocab_size=2**31)
            if any(edit.step not in range(len(trace.steps) + 1) for edit in trace.edits):
                raise ValueError("an edit is of a step that there is not")
            trace.tokens_at(len(trace.steps))  # raises for an edit that AR cannot have
            return trace
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: not a decoding trace ({error}); write one with Trace.save") from error


def _step(record: dict) -> DecodeStep:
    record = dict(record)
    if "held" in record:  # the name of held_back in traces of version 0.1.0
        record["held_back"] = record.pop("held")
    record["block"], record["draft"] = tuple(record["block"]), tuple(map(tuple, record["draft"]))
    commits = [{**commit, "alternatives": tuple(map(tuple, commit["alternatives"]))} for commit in record["commits"]]
    record["commits"] = tuple(Commit(**{**commit, "reason": safe(commit["reason"])}) for commit in commits)
    return DecodeStep(**record)


def with_text(trace: Trace, tokenizer) -> Trace:
    """The same trace with its `text` and its `vocabulary` filled in."""
    token_ids = {*trace.initial, *(edit.token for edit in trace.edits if edit.token is not None)}
    for step in trace.steps:
        for commit in step.commits:
            token_ids.update((commit.token, *(token for token, _ in commit.alternatives)))
        token_ids.update(token for _, token, _ in step.draft)
    trace.vocabulary = {token: tokenizer.decode([token]) for token in sorted(token_ids)}
    trace.text = tokenizer.decode(trace.answer if trace.prompt else trace.final, skip_special_tokens=True)
    return trace

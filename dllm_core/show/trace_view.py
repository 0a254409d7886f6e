"""A trace as it is displayed: the state of every position after each step, clocks, labels and explanations.

The player, the pictures, the terminal, the film of samples and the tables all use these functions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest

from dllm_core.data.tokenizer import PAD
from dllm_core.show.html import MASK, SPECIAL, one_line, visible
from dllm_core.trace import Commit, Edit, Trace

STYLE_NAMES = {"ar": "AR", "llada1": "LLaDA 1", "llada2": "LLaDA 2"}


@dataclass(frozen=True)
class Cell:
    """One position of the sequence after some steps.

    state: "prompt" (never masked), "masked", "now" (filled in the last steps), "before" (filled earlier) or "by hand" (a
    person put it there). text: what to draw; `MASK` while masked. commit, edit: what changed this position last. guess:
    the text of the model's most probable token at a masked position, if the last step recorded it.
    """

    position: int
    token: int
    state: str
    text: str
    commit: Commit | None = None
    guess: str | None = None
    edit: Edit | None = None

    @property
    def edited(self) -> bool:
        """Whether the token replaced one that was filled before (LLaDA 2.1)."""
        return self.commit is not None and self.commit.reason == "edit"


def cells(trace: Trace, k: int, since: int | None = None) -> list[Cell]:
    """Every position of the sequence after `k` steps, in order.

    since: a position filled after that many steps is "now" (default: k − 1, so that only step k counts).
    """
    since = max(k - 1, 0) if since is None else since
    last = {}  # position → the step that changed it last, its token, and the commit or edit
    for step, changed in enumerate(islice(trace.changes(), k + 1)):
        last |= {position: (step, *change) for position, change in changed.items()}
    guesses = {position: token for position, token, _ in trace.steps[k - 1].draft} if k else {}
    shown = []
    for position, start in enumerate(trace.initial):
        step, token, cause = last.get(position, (0, start, None))
        edit = cause if isinstance(cause, Edit) else None
        if token == trace.mask_token_id:
            guess = token_text(trace, guesses[position]) if position in guesses else None
            shown.append(Cell(position, token, "masked", MASK, guess=guess, edit=edit))
        elif isinstance(cause, Commit):
            state = "now" if step > since else "before"
            shown.append(Cell(position, token, state, token_text(trace, token), cause))
        else:
            shown.append(Cell(position, token, "by hand" if edit else "prompt", token_text(trace, token), edit=edit))
    return shown


def token_text(trace: Trace, token: int) -> str:
    """The text of a token, with invisible characters replaced; its id if the trace has no text for it."""
    return visible(trace.vocabulary.get(token, f"#{token}"))


def names(trace: Trace) -> dict[str, str]:
    """Token, as text, → its name in the tokenizer, of the special tokens that are shown under another name."""
    return {str(token): text for token, text in trace.vocabulary.items() if text in SPECIAL and SPECIAL[text] != MASK}


def masked_after(trace: Trace, k: int) -> int:
    """Number of positions that are still masked after `k` steps (0: at the start) and the edits made there."""
    if k and not trace.edits:
        return trace.steps[k - 1].masked
    return trace.tokens_at(k).count(trace.mask_token_id)


def first_difference(first: Trace, second: Trace) -> tuple[int, list[int]] | None:
    """The first step after which two traces of one start differ, and the positions where they do; None if they never do.

    A finished trace stays as it is. Raises ValueError for traces of different starts.
    """
    if first.initial != second.initial:
        raise ValueError("first_difference: the traces do not begin with the same tokens")
    tokens = dict(enumerate(first.initial)), dict(enumerate(second.initial))
    for step, both in enumerate(zip_longest(first.changes(), second.changes(), fillvalue={})):
        for state, changed in zip(tokens, both, strict=True):
            state.update((position, token) for position, (token, _) in changed.items())
        if tokens[0] != tokens[1]:
            return step, [position for position, token in tokens[0].items() if token != tokens[1][position]]
    return None


def drawn_length(trace: Trace) -> int:
    """Number of positions to draw: through the first eos if only eos, padding and masks follow it, else all."""
    final = trace.final
    decoded = [position for position, token in enumerate(trace.initial) if token == trace.mask_token_id]
    eos = next((position for position in decoded if final[position] in trace.ends), None)
    if eos is None:
        return len(final)
    filling = {token for token, text in trace.vocabulary.items() if text == PAD}
    filling |= {*trace.ends, trace.mask_token_id}
    return eos + 1 if filling.issuperset(final[position] for position in decoded if position > eos) else len(final)


# labels, steps and clocks ------------------------------------------------------------------------------------------


def trace_labels(traces: Sequence[Trace], labels: Sequence[str] | None = None) -> list[str]:
    """A name per trace: `labels` if they are set, else the style, numbered when several traces have the same style.

    Raises ValueError when the number of labels differs, TypeError for anything that is not a `Trace`.
    """
    for trace in traces:
        if not isinstance(trace, Trace):
            raise TypeError(f"expected a Trace, got {type(trace).__name__}; generate gives a list: pass its items")
    if labels is not None:
        if len(labels) != len(traces):
            raise ValueError(f"labels: {len(labels)} for {len(traces)} traces; give one per trace")
        return [one_line(str(label)) for label in labels]
    names = [STYLE_NAMES.get(trace.style) or one_line(trace.style) for trace in traces]
    counts = [names[: i + 1].count(name) for i, name in enumerate(names)]
    return [name if names.count(name) == 1 else f"{name} ({n})" for name, n in zip(names, counts, strict=True)]


def spread_steps(count: int, most: int) -> list[int]:
    """At most `most` step numbers from 0 to `count`, evenly spaced, both ends among them."""
    if count + 1 <= most:
        return list(range(count + 1))
    return sorted({round(i * count / (most - 1)) for i in range(most)})


def chosen_steps(trace: Trace, steps: Sequence[int] | None, most: int) -> list[int]:
    """`steps` if set, else at most `most` numbers spread over the trace. Raises ValueError for a step outside it."""
    if steps is None:
        return spread_steps(len(trace.steps), most)
    if not steps or not all(0 <= k <= len(trace.steps) for k in steps):
        raise ValueError(f"steps={list(steps)}: must be one or more numbers from 0 to {len(trace.steps)}")
    return list(steps)


def times(trace: Trace, clock: str = "forwards") -> list[float]:
    """The clock after 0, 1, 2, … steps, [steps + 1]: model forwards so far, or seconds since decoding began."""
    if clock not in ("forwards", "seconds"):
        raise ValueError(f"clock={clock!r}: must be 'forwards' or 'seconds'")
    reached = [0]
    for step in trace.steps:
        reached.append(reached[-1] + step.forwards if clock == "forwards" else step.seconds)
    return reached


# words -------------------------------------------------------------------------------------------------------------


def summary(trace: Trace) -> str:
    by_hand = f", {len(trace.edits)} changed by hand" if trace.edits else ""
    per_forward = f"{trace.tokens_per_forward:.2f} tokens per forward pass"
    return f"{trace.tokens} tokens, {trace.forwards} forward passes, {per_forward}{by_hand}"


def edit_words(trace: Trace, edit: Edit) -> str:
    """What a person changed, where and why, in one line."""
    token = f" {token_text(trace, edit.token)}" if edit.token is not None else ""
    why = f" ({one_line(edit.why)})" if edit.why else ""
    return f"{edit.action}{token} at position {edit.position}: {reasons(trace)[edit.action]}{why}"


def reasons(trace: Trace) -> dict[str, str]:
    """Reason of a commit, or action of an edit by hand → explanation with the trace's settings. {filled}, {held}: for
    counts of the step."""
    level = _level(trace)
    random = trace.style == "llada1" and trace.settings.get("remasking") == "random"
    choice = "it was drawn at random" if random else "it was among the most confident"
    return {
        "threshold": f"its confidence was above {level}",
        "fallback": f"too few were above {level}: it was among the most confident",
        "schedule": f"the step's share was {{filled}}: {choice}",
        "budget": f"above {level}, and let through by the step's budget, which held {{held}} more back",
        "ar": "the next token, left to right",
        "edit": "it replaced a token that was filled before",
        "take": "taken by hand from what the model had ranked",
        "write": "written by hand",
        "mask": "masked again by hand",
        "forbid": "this token was forbidden here by hand",
        "behind": "masked again, because a token before it was changed by hand: AR writes from left to right",
    }


def waits(trace: Trace) -> dict[str, str]:
    """Why a guess was not committed → explanation. {filled}: placeholder for the number of commits of the step."""
    level = _level(trace)
    return {
        "below": f"its confidence was not above {level}",
        "held": f"above {level}, but held back by the step's budget",
        "share": "the step's share was {filled}, and others were chosen",
    }


def _level(trace: Trace) -> str:
    threshold = trace.settings.get("threshold")
    return "the threshold" if threshold is None else f"the threshold {threshold:g}"

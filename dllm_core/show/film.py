"""The film of samples: texts that a model generates during training, saved in its run folder, drawn as frames."""

from pathlib import Path

from dllm_core.common.errors import DataError
from dllm_core.common.files import json_text, read_json_lines, write_whole
from dllm_core.common.records import check_fields
from dllm_core.show.figures import Picture
from dllm_core.show.html import visible
from dllm_core.show.rows import TokenRow, draw_token_rows
from dllm_core.show.trace_view import cells, spread_steps
from dllm_core.trace import Trace

MOST = 48  # tokens of a sample that the film keeps
FRAME = {  # what it keeps of a sample
    "step": int, "loss": float | None, "block_size": int | None, "text": str,
    "tokens": list[tuple[str, float | None]], "forwards": int,
}  # fmt: skip


class SampleFilm:
    """Samples of a model while it learns: `film.add(step, trace)`, then `film.picture()` as a strip of frames.

    file: a file of JSON lines in the run's folder that stores the samples; None keeps them in memory. Adding a sample
    drops those of the same or later steps, which an interrupted run may have left.
    """

    def __init__(self, file: str | Path | None = None, title: str = "samples over training"):
        self.file, self.title, self.frames = file and Path(file), title, []
        if self.file:
            self.frames = read_json_lines(self.file)
            for number, frame in enumerate(self.frames, 1):
                check_fields(frame, FRAME, f"{self.file}:{number}", DataError, set(FRAME) - {"forwards"})

    def add(self, step, sample: Trace | str) -> None:
        """Keep `sample` as of `step`: a `TrainStep`, or a plain number of steps."""
        number = getattr(step, "step", step)
        frame = {"step": number, "loss": getattr(step, "loss", None), "block_size": getattr(step, "block_size", None)}
        self.frames = [old for old in self.frames if old["step"] < number] + [frame | _sampled(sample)]
        if self.file:
            lines = [json_text(frame) + "\n" for frame in self.frames]
            write_whole(self.file, "".join(lines))

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict | tuple[dict, dict]:
        return self.picture()._repr_mimebundle_() if self.frames else {"text/plain": f"{self.title}: none were kept"}

    def picture(self) -> Picture:
        """A row of tokens for each of at most six frames, shaded by confidence. Raises ValueError without frames."""
        if not self.frames:
            raise ValueError("film: no samples yet; give `film` to show.progress together with `sample`")
        rows = []
        for i in spread_steps(len(self.frames) - 1, 6):
            frame = self.frames[i]
            notes = [f"loss {frame['loss']:.2f}"] if frame["loss"] is not None else []
            notes += [f"block {frame['block_size']}"] if frame["block_size"] else []
            boxes = [(visible(text), "end" if text == "⟨eos⟩" else "filled", p or 0.0) for text, p in frame["tokens"]]
            rows.append(TokenRow(f"step {frame['step']:,}", ", ".join(notes), boxes))
        return draw_token_rows(rows, self.title, "darker shade: higher confidence when it was written")


def _sampled(sample: Trace | str) -> dict:
    """tokens: (text, confidence or None) of the answer, through eos and at most `MOST`; and the complete text."""
    if isinstance(sample, str):
        return {"text": sample, "tokens": [(visible(sign), None) for sign in sample[:MOST]]}
    tokens = []
    for cell in cells(sample, len(sample.steps)):
        if cell.state == "prompt":
            continue
        tokens.append((cell.text, cell.commit and round(cell.commit.confidence, 3)))
        if cell.token in sample.ends or len(tokens) == MOST:
            break
    return {"text": sample.text, "tokens": tokens, "forwards": sample.forwards}

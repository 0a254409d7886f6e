"""Training while it runs: the curve, the progress bar and the film of samples."""

import math
import re

import numpy as np
import pytest
from traces import is_png, llada2

from dllm_core import show
from dllm_core.notebook.tiny_training import Curves
from dllm_core.show.training import _smoothed
from dllm_core.train import TrainStep


def trained(number: int, loss: float = 1.0, **more) -> TrainStep:
    return TrainStep(number, loss, 1e-3, 100, 1.0, 1.0, **more)


def test_live_draws_only_at_the_end_without_an_interactive_display(monkeypatch):
    drawn = []
    monkeypatch.setattr(show.LiveLossCurve, "_draw", lambda self: drawn.append(len(self.steps)))
    live = show.LiveLossCurve(every=0, interactive=False)
    for i in range(5):
        live.update(trained(i + 1, 1.0))
    live.close()
    live.close()
    assert drawn == [5]
    live = show.LiveLossCurve(every=0, interactive=True)
    live.update(trained(1, 1.0))
    assert drawn[1:] == [1]
    live.cost = 1e9  # a picture dearer than its share of the time waits
    live.update(trained(2, 1.0))
    assert drawn[1:] == [1]


def test_a_continued_run_is_drawn_whole():
    recorded = [trained(number) for number in (1, 2, 3, 4)]  # the state is of step 2
    live = show.LiveLossCurve("", recorded, interactive=False)
    for number in (3, 4, 5):
        live.update(trained(number, 2.0))
    assert [(step.step, step.loss) for step in live.steps] == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0), (5, 2.0)]


def test_a_finished_training_is_said_in_one_line(capsys):
    assert list(show.progress(iter(()), 12, show.LiveLossCurve(interactive=False))) == []
    shown = capsys.readouterr().out
    assert shown.count("the training was finished already, its weights are loaded; to train again, choose") == 1
    assert "12/12" in shown


def test_live_picture_and_phases():
    steps = [trained(i + 1, 3 - i / 10, block_size=4 if i < 5 else 8, phase="up", validation=2.0 if i == 4 else None)
             for i in range(10)]  # fmt: skip
    picture = show.training_curve(steps, "diffusion")
    assert is_png(picture) and "10 steps" in repr(picture)
    assert [text.get_text() for text in picture.figure.axes[0].texts] == ["4", "8"]
    with pytest.raises(ValueError, match="empty"):
        show.training_curve([])


def test_short_trainings_are_drawn_beside_each_other():
    runs = {"right": Curves([2.0, 0.0, 1.0], [2.0, 1.5, 1.2, 1.0]), "wrong": Curves([2.0, math.nan], [2.0, 2.5, 3.0])}
    picture = show.training_curves(runs, log_v=1.6)
    assert is_png(picture) and repr(picture) == "bound of right from 2.00 to 1.00; wrong from 2.00 to 3.00 nats per token"
    training, bound = picture.figure.axes
    assert [list(line.get_xdata()) for line in training.lines[:2]] == [[1, 2, 3], [1, 2]]  # a loss belongs to its step,
    assert [list(line.get_xdata()) for line in bound.lines[:2]] == [[0, 1, 2, 3], [0, 1, 2]]  # a bound comes after it
    with pytest.raises(ValueError, match="empty"):
        show.training_curves({})


def test_smoothing_is_a_mean():
    import numpy as np

    assert np.allclose(_smoothed(np.full(100, 2.5)), 2.5)
    assert _smoothed(np.array([1.0, 3.0]))[-1] == 3.0  # a short run is not smoothed
    falling = np.linspace(9.0, 1.0, 600)
    assert np.allclose(_smoothed(falling)[10:-10], falling[10:-10])  # and a line is met, not lagged behind


def test_progress_yields_on_samples_and_closes(capsys):
    live = show.LiveLossCurve(interactive=False)
    source = (trained(i + 1, 1.0) for i in range(4))
    seen = [s.step for s in show.progress(source, 4, live, sample=lambda s: f"text{s.step}", every=2)]
    assert seen == [1, 2, 3, 4] and live.closed and len(live.steps) == 4
    out = capsys.readouterr()
    assert re.findall(r"step \d: text\d", out.out) == ["step 2: text2", "step 4: text4"] and out.err == ""

    def failing():
        yield trained(1, 1.0)
        raise FloatingPointError("nan")

    live = show.LiveLossCurve(interactive=False)
    with pytest.raises(FloatingPointError):
        list(show.progress(failing(), 2, live))
    assert live.closed
    with pytest.raises(ValueError, match="every"):
        next(show.progress([], 1, sample=str))


def test_merged_checkpoints_are_ringed_on_the_validation_curve():
    steps = [trained(i + 1, 3.0, block_size=4 if i < 5 else 8, phase="warm-up" if i < 5 else "stable",
                  validation=2.0 - i / 10 if i % 2 else None) for i in range(10)]  # fmt: skip
    upper = show.training_curve(steps, "run", merged=[8, 10]).figure.axes[0]
    rings = next(line for line in upper.lines if "merge of 2" in line.get_label())
    assert rings.get_xydata() == pytest.approx(np.array([[8, 1.3], [10, 1.1]]))
    assert {"warm-up", "stable"} <= {text.get_text() for text in upper.texts}
    with pytest.raises(ValueError, match="step 3 has no validation"):
        show.training_curve(steps, merged=[3])


def test_film_keeps_samples_beside_the_run(tmp_path):
    file = tmp_path / "run" / "samples.jsonl"
    film = show.SampleFilm(file, "learning")
    assert "none were kept" in film._repr_mimebundle_()["text/plain"]
    with pytest.raises(ValueError, match="no samples"):
        film.picture()
    for number in (1, 10, 20):
        film.add(trained(number, 3.0 / number, block_size=4), llada2())
    again = show.SampleFilm(file)
    assert [frame["step"] for frame in again.frames] == [1, 10, 20]
    sure = {c.position: c.confidence for s in llada2().steps for c in s.commits}
    assert again.frames[0]["tokens"][0] == ["好", sure[2]] and again.frames[0]["tokens"][-1][0] == "⟨eos⟩"
    again.add(10, "text")  # taken up again from an earlier state
    assert [frame["step"] for frame in show.SampleFilm(file).frames] == [1, 10] and again.frames[1]["text"] == "text"
    assert is_png(again.picture()) and "step 10: text" in repr(again.picture())
    with open(file, "a", encoding="utf-8") as lines:
        lines.write('{"step": 30, "tok')  # killed while writing
    assert len(show.SampleFilm(file).frames) == 2


def test_film_reads_back_every_sign(tmp_path):
    text = "a\u2028b\x85c\u2029d\x0be\rf"  # all of them end a line somewhere
    show.SampleFilm(tmp_path / "samples.jsonl").add(1, text)
    assert [frame["text"] for frame in show.SampleFilm(tmp_path / "samples.jsonl").frames] == [text]


@pytest.mark.parametrize("line", [
    "{nonsense}", "[1]", "{}", '{"step": "x"}', "[" * 100_000, '{"step": ' + "9" * 5000 + "}", "\0" * 50, b"\xff", "",
    '{"step": 2, "loss": "low", "block_size": null, "text": "", "tokens": []}',
    '{"step": 2, "loss": null, "block_size": null, "text": "", "tokens": 5}',
], ids=lambda line: str(line[:40]))  # fmt: skip
def test_film_names_a_damaged_line(tmp_path, line):
    file = tmp_path / "samples.jsonl"
    show.SampleFilm(file).add(1, "text")
    with open(file, "ab") as lines:
        lines.write((line if isinstance(line, bytes) else line.encode()) + b"\n")
    with pytest.raises(ValueError, match="samples.jsonl:2: "):
        show.SampleFilm(file)


def test_film_shows_first_and_last():
    film = show.SampleFilm()
    for number in range(40):
        film.add(number, "x")
    _, *rows = repr(film.picture()).splitlines()
    assert len(rows) == 6 and (rows[0], rows[-1]) == ("step 0: x", "step 39: x")


def test_progress_fills_the_film_and_prints_texts(capsys):
    film = show.SampleFilm()
    steps = (trained(i + 1) for i in range(4))
    list(show.progress(steps, 4, None, lambda step: llada2(), 2, film=film))
    assert [frame["step"] for frame in film.frames] == [1, 2, 4] and "step 4: " in capsys.readouterr().out

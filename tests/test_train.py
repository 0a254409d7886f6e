"""The loop: rates, sums, records, and going on after a kill as if there had been none."""

import dataclasses
import functools
import importlib
import json
import math
import signal
import subprocess
import sys
import textwrap
import threading
from itertools import count, pairwise

import pytest
import torch
from small import HANG_LIMIT, MASK, NoTokenizer, batch_of, packed, tiny

from dllm_core import reference
from dllm_core.checkpoints.run_folder import RunFolder
from dllm_core.common.interrupt import deferred_interrupt
from dllm_core.config import CheckpointInfo, TrainConfig
from dllm_core.losses import Diffusion, Loss, ar_loss
from dllm_core.schedules import BlockSchedule, NoiseSchedule
from dllm_core.train import TrainStep, optimizers, train

training = importlib.import_module("dllm_core.train")  # the module: `from dllm_core import train` gives the function
CONFIG = TrainConfig(
    12,
    batch_size=2,
    seq_len=12,
    optimizer="muon",
    learning_rate=0.01,
    warmup_steps=2,
    decay_ratio=0.5,
    eval_every=4,
    save_every=5,
    keep_best=2,
    seed=1,
)


class Given:
    """An endless iterator over these batches, which can go on where it stopped."""

    def __init__(self, *batches):
        self.batches, self.next = batches, 0

    def __next__(self):
        self.next += 1
        return self.batches[(self.next - 1) % len(self.batches)]

    def state(self):
        return {"next": self.next}

    def load_state(self, state):
        self.next = state["next"]


def setting(model) -> dict:
    """What resumed and uninterrupted runs share: block diffusion with CAP under a curriculum of block sizes."""
    objective = Diffusion(NoiseSchedule.band(0.05, 0.95), MASK, complementary=True, cap_lambda=0.1)
    blocks = BlockSchedule(12, CONFIG.max_iters, (0.25, 0.5, 0.25), (1, 3), (6, 3))
    return {"model": model, "batches": packed(2), "objective": objective, "config": CONFIG, "blocks": blocks,
            "validate": lambda m: float(m.model.norm.weight.detach().abs().sum())}  # fmt: skip


def opened(folder) -> RunFolder:
    return RunFolder.open(str(folder), tiny(), CheckpointInfo("llada2", 3), NoTokenizer(), {"seed": 1}, CONFIG.keep_best)


def same_weights(first, second) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True))


def plain(step: TrainStep | dict) -> dict:
    """A TrainStep without its time, which no two runs share."""
    record = step if isinstance(step, dict) else dataclasses.asdict(step)
    return {name: value for name, value in record.items() if name != "seconds"}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """(model, steps, run) of a whole training."""
    model, run = tiny(), opened(tmp_path_factory.mktemp("whole") / "run")
    steps = list(train(**setting(model), run=run))
    return model, steps, run


@pytest.fixture(params=[(), ("cpu",)], ids=["waiting", "ahead"])
def ahead(request, monkeypatch) -> bool:
    """Whether the next step is begun before this one's numbers are read, as on a GPU: nothing may come of it but speed."""
    monkeypatch.setattr(training, "ASYNC_DEVICES", request.param)
    return bool(request.param)


def check_equal(uninterrupted, model, run) -> None:
    whole, steps, there = uninterrupted
    assert same_weights(model, whole)
    assert [plain(line) for line in run.metrics()] == [plain(step) for step in steps]
    kept = [(value, file.name) for value, file in run.checkpoints()]
    assert kept == [(value, file.name) for value, file in there.checkpoints()]
    for name in kept:
        assert (run.folder / "checkpoints" / name[1]).read_bytes() == (
            there.folder / "checkpoints" / name[1]
        ).read_bytes()


def test_a_finished_training_loads_its_weights_and_yields_nothing(uninterrupted, tmp_path):
    run = opened(tmp_path / "run")
    run.finish(uninterrupted[0])
    model = tiny()
    assert list(train(**setting(model), run=opened(tmp_path / "run"))) == []
    assert same_weights(model, uninterrupted[0])


# --- what a step says ---------------------------------------------------------------------------------------------


def test_the_records_of_a_run(uninterrupted):
    _, steps, run = uninterrupted
    assert [step.step for step in steps] == list(range(1, 13))
    assert [step.block_size for step in steps] == [1, 1, 3, *[12] * 6, 6, 6, 3]
    assert [step.phase for step in steps] == ["warm-up"] * 3 + ["stable"] * 6 + ["decay"] * 3
    assert [step.step for step in steps if step.validation is not None] == [4, 8, 12]
    assert [step.learning_rate for step in steps[:3]] == pytest.approx([0.005, 0.01, 0.01])
    assert steps[-1].learning_rate == pytest.approx(0.01 * (0.025 + 0.975 / 6))
    assert set(steps[0].parts) <= {"diffusion", "cap"} and steps[0].loss > 0 and steps[0].grad_norm > 0
    assert all(a.seconds < b.seconds and a.tokens < b.tokens for a, b in pairwise(steps))
    assert [plain(line) for line in run.metrics()] == [plain(step) for step in steps]


def test_tokens_are_counted_without_padding():
    steps = train(tiny(), Given(batch_of([5, 3], [2], width=9)), ar_loss, TrainConfig(3, micro_batch_size=1))
    assert [step.tokens for step in steps] == [10, 20, 30]


def test_the_loss_falls_where_there_is_something_to_learn():
    for optimizer, rate in (("adamw", 0.01), ("muon", 0.01)):
        config = TrainConfig(40, optimizer=optimizer, learning_rate=rate, muon_learning_rate=0.02)
        steps = list(train(tiny(initializer_range=0.02), Given(batch_of([12], [12])), ar_loss, config))
        assert steps[-1].loss < 0.3 * steps[0].loss


def test_the_loop_takes_the_steps_of_the_reference():
    """One document a step, AdamW without decay at a constant rate: then nothing else differs."""
    documents = [batch_of([length], seed=length) for length in (9, 5, 12, 7)]
    model, twin = tiny(), tiny()
    config = TrainConfig(
        4, batch_size=1, seq_len=12, learning_rate=0.01, weight_decay=0.0, decay_ratio=0.0, grad_clip=math.inf, seed=5
    )
    steps = train(model, Given(*documents), Diffusion(NoiseSchedule(), MASK), config)
    losses = reference.train(twin, [batch.tokens[0] for batch in documents], MASK, learning_rate=0.01, seed=5)
    assert [step.loss for step in steps] == pytest.approx(list(losses), rel=1e-4)
    for parameter, expected in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected, rtol=1e-4, atol=1e-5)


def test_every_group_follows_the_learning_rate():
    """At rate zero nothing moves; the peak of each group is its own."""
    model = tiny()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config = TrainConfig(1, optimizer="muon", learning_rate=1e-30, muon_learning_rate=0.1, weight_decay=0.0)
    list(train(model, Given(batch_of([12])), ar_loss, config))
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved and all("proj" in name for name in moved)  # Muon has the layers' matrices and nothing else
    list(
        train(
            model,
            Given(batch_of([12])),
            ar_loss,
            dataclasses.replace(config, learning_rate=0.1, muon_learning_rate=1e-30),
        )
    )
    moved = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {"model.embed_tokens.weight", "model.norm.weight"} <= moved


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_every_parameter_has_one_optimizer_and_only_matrices_decay(optimizer):
    model = tiny(tie_word_embeddings=False)
    groups = [g for o in optimizers(model, TrainConfig(1, optimizer=optimizer, weight_decay=0.3)) for g in o.param_groups]
    placed = [parameter for group in groups for parameter in group["params"]]
    assert sorted(map(id, placed)) == sorted(map(id, model.parameters()))
    for group in groups:
        assert all(group["weight_decay"] == (0.3 if parameter.ndim > 1 else 0.0) for parameter in group["params"])
        assert group["peak"] == group["lr"]


def test_noise_on_the_mask_only_in_the_first_steps():
    seen = []

    def objective(model, batch, *, block_size, generator, embedding_noise):
        seen.append(embedding_noise)
        return ar_loss(model, batch)

    config = TrainConfig(4, embedding_noise=0.5, embedding_noise_steps=2)
    list(train(tiny(), Given(batch_of([6])), objective, config))
    assert seen == [0.5, 0.5, 0.0, 0.0]


def test_the_gradient_is_clipped():
    """Clipped to almost nothing, beside Adam's eps, a step hardly moves; the norm told is the one before clipping."""
    moves, norms = [], []
    for clip in (float("inf"), 1e-12):
        model, start = tiny(), tiny()
        (step,) = train(model, Given(batch_of([12])), ar_loss, TrainConfig(1, grad_clip=clip, weight_decay=0.0))
        pairs = zip(model.parameters(), start.parameters(), strict=True)
        moves.append(sum(float((a - b).detach().abs().sum()) for a, b in pairs))
        norms.append(step.grad_norm)
    assert moves[1] < 0.01 * moves[0] and norms[0] == pytest.approx(norms[1]) and norms[0] > 1e-3


# --- micro-batches -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 3])
def test_micro_batches_leave_the_loss_and_the_step(rows):
    """Rows of unequal token counts, computed one (or three and one) at a time."""
    batch = batch_of([12], [5], [7, 2], [3, 3], prompt=1)
    config = TrainConfig(3, learning_rate=0.01, grad_clip=0.5)
    whole, parts = tiny(), tiny()
    once = list(train(whole, Given(batch), ar_loss, config))
    few = list(train(parts, Given(batch), ar_loss, dataclasses.replace(config, micro_batch_size=rows)))
    assert [s.loss for s in few] == pytest.approx([s.loss for s in once], rel=1e-4)
    assert [s.grad_norm for s in few] == pytest.approx([s.grad_norm for s in once], rel=1e-3)
    for a, b in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=2e-4, rtol=1e-3)


# --- stopping and going on ----------------------------------------------------------------------------------------


def test_a_step_started_ahead_changes_nothing(uninterrupted, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "ASYNC_DEVICES", ("cpu",))
    model, run = tiny(), opened(tmp_path / "run")
    assert [step.step for step in train(**setting(model), run=run)] == list(range(1, 13))
    check_equal(uninterrupted, model, run)


@pytest.mark.parametrize("devices, wanted", [((), "bu." * 6), (("cpu",), "bub.u.bub.u.bu.bu.")])
def test_when_the_next_step_is_started(monkeypatch, devices, wanted):
    """b: a step is begun, u: it is taken, a dot: its numbers are read. Not ahead of a validation (step 2), a save (5), the end."""
    seen = []
    objective = lambda *args, **_: seen.append("b") or ar_loss(*args)

    class Fetched(training.Fetched):
        def __init__(self, values):
            seen.append("u")
            super().__init__(values)

        def read(self):
            seen.append(".")
            return super().read()

    monkeypatch.setattr(training, "ASYNC_DEVICES", devices)
    monkeypatch.setattr(training, "Fetched", Fetched)
    config = TrainConfig(6, eval_every=2, save_every=5)
    list(train(tiny(), Given(batch_of([6])), objective, config, validate=lambda _: 0.0))
    assert "".join(seen) == wanted


def test_a_step_started_ahead_and_not_taken_returns_its_batch(monkeypatch):
    monkeypatch.setattr(training, "ASYNC_DEVICES", ("cpu",))
    model, batches = tiny(), Given(batch_of([6]))
    steps = train(model, batches, ar_loss, TrainConfig(9))
    next(steps)
    assert batches.next == 2
    steps.close()
    assert batches.next == 1 and all(parameter.grad is None for parameter in model.parameters())


KILLED = """
    import importlib, os, signal, sys
    sys.path[:0] = [{tests!r}, {root!r}]
    import test_train as t
    training = importlib.import_module("dllm_core.train")
    training.ASYNC_DEVICES = {ahead!r}
    for step in training.train(**t.setting(t.tiny()), run=t.opened({folder!r})):
        if step.step == 9:
            os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_run_killed_and_resumed_equals_an_uninterrupted_one(uninterrupted, tmp_path, project, ahead):
    """SIGKILL after step 9, four steps after the last save and one after a validation: weights, records and kept
    checkpoints of the resumed run equal those of the whole one, bit by bit."""
    folder = tmp_path / "run"
    script = textwrap.dedent(KILLED).format(
        tests=str(project / "tests"), root=str(project), folder=str(folder), ahead=training.ASYNC_DEVICES
    )
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True, timeout=HANG_LIMIT)
    assert done.returncode == -signal.SIGKILL, done.stderr
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 9
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 10, "lo')  # a line that the kill left unfinished
    run, model = opened(folder), tiny(seed=7)
    steps = list(train(**setting(model), run=run))
    assert steps[0].step == 6
    check_equal(uninterrupted, model, run)


def test_a_step_is_saved_after_its_consumer(tmp_path):
    """So a kill while the consumer draws a sample loses none: the step is made and given again."""
    run = opened(tmp_path / "run")
    saved_at = {step.step: run.saved_step for step in train(**setting(tiny()), run=run)}
    assert (saved_at[5], saved_at[6], saved_at[12], run.saved_step) == (0, 5, 10, 12)


def interrupted_at(step: int, at: str):
    """(objective or None, loop body) that presses Ctrl-C within a step, or while its consumer works."""
    usual, calls = setting(tiny())["objective"], count(1)

    def objective(*args, **kwargs):
        if next(calls) == step and at == "step":
            signal.raise_signal(signal.SIGINT)
        return usual(*args, **kwargs)

    def body(done: TrainStep):
        if done.step == step and at == "consumer":
            signal.raise_signal(signal.SIGINT)

    return objective, body


@pytest.mark.parametrize("at", ["step", "consumer"])
@pytest.mark.parametrize("step", [3, 5, 7])
def test_an_interrupt_saves_before_it_stops(uninterrupted, tmp_path, step, at, ahead):
    # ahead, the next step's objective is already asked; not before step 5 is saved
    begun = step + (ahead and at == "step" and step != 5)
    model, run = tiny(), opened(tmp_path / "run")
    objective, body = interrupted_at(begun, at)
    before, shown = signal.getsignal(signal.SIGINT), []
    with pytest.raises(KeyboardInterrupt, match=f"stopped after step {step}; run the cell again"):
        for done in train(**{**setting(model), "objective": objective}, run=run):
            shown.append(done.step)
            body(done)
    assert shown == list(range(1, step + 1))
    assert signal.getsignal(signal.SIGINT) is before
    assert torch.load(run.folder / "state.pt", weights_only=True)["step"] == step
    assert run.metrics()[-1]["step"] == step
    model = tiny(seed=7)
    steps = list(train(**setting(model), run=opened(tmp_path / "run")))
    assert steps[0].step == step + 1
    check_equal(uninterrupted, model, run)


def test_an_interrupt_after_the_last_step_is_not_lost(uninterrupted, tmp_path):
    model, run = tiny(), opened(tmp_path / "run")
    _, body = interrupted_at(12, "consumer")
    with pytest.raises(KeyboardInterrupt):
        for done in train(**setting(model), run=run):
            body(done)
    again = tiny(seed=7)
    assert list(train(**setting(again), run=opened(tmp_path / "run"))) == []
    check_equal(uninterrupted, again, run)


def test_a_second_interrupt_stops_the_consumer_at_once(tmp_path):
    run = opened(tmp_path / "run")
    steps = train(**setting(tiny()), run=run)
    reached = []
    with pytest.raises(KeyboardInterrupt):
        for done in steps:
            if done.step == 3:
                signal.raise_signal(signal.SIGINT)
                reached.append("once")
                signal.raise_signal(signal.SIGINT)
                reached.append("twice")
    steps.close()
    assert reached == ["once"]
    assert torch.load(run.folder / "state.pt", weights_only=True)["step"] == 3


def test_leaving_the_loop_saves(uninterrupted, tmp_path, ahead):
    model, run = tiny(), opened(tmp_path / "run")
    before = signal.getsignal(signal.SIGINT)
    for done in train(**setting(model), run=run):
        if done.step == 7:
            break
    assert torch.load(run.folder / "state.pt", weights_only=True)["step"] == 7
    assert signal.getsignal(signal.SIGINT) is before
    list(train(**setting(model), run=run))
    check_equal(uninterrupted, model, run)


def test_training_outside_the_main_thread_defers_no_interrupt():
    seen = []
    before = signal.getsignal(signal.SIGINT)

    def work():
        with deferred_interrupt():
            seen.append(signal.getsignal(signal.SIGINT))
        seen.append(len(list(train(tiny(), Given(batch_of([6])), ar_loss, TrainConfig(2)))))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before, 2]


def test_a_late_closed_generator_keeps_a_newer_handler():
    first = train(tiny(), Given(batch_of([6])), ar_loss, TrainConfig(3))
    before = signal.getsignal(signal.SIGINT)
    next(first)
    with deferred_interrupt() as newer:
        handler = signal.getsignal(signal.SIGINT)
        first.close()
        assert signal.getsignal(signal.SIGINT) is handler
        signal.raise_signal(signal.SIGINT)
        assert newer.requested
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_loss_that_is_not_finite_stops_and_keeps_the_weights(where, optimizer, ahead):
    calls = count(1)

    def objective(model, batch, **_):
        loss = ar_loss(model, batch)
        if next(calls) < 4:
            return loss
        if where == "loss":
            return Loss(loss.total * float("nan"), loss.count)
        weight = model.model.norm.weight
        return Loss(loss.total + (weight - weight.detach()).abs().sqrt().sum(), loss.count)  # slope infinite at 0

    model, config = tiny(), TrainConfig(6, learning_rate=0.01, optimizer=optimizer)
    steps = train(model, Given(batch_of([12])), objective, config)
    for _ in range(3):
        next(steps)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    with pytest.raises(FloatingPointError, match="step 4: loss is .* lower learning_rate=0.01 or raise warmup_steps=0"):
        next(steps)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    # a training begun afterwards inherits no gradient
    (step,) = train(model, Given(batch_of([12])), ar_loss, dataclasses.replace(config, max_iters=1))
    assert step.grad_norm == step.grad_norm


def test_activation_checkpointing_changes_nothing_but_memory():
    """The same weights, by computing each layer twice; afterwards the layers are as they were."""
    ends, calls = [], []
    for on in (False, True):
        model = tiny()
        model.model.layers[0].mlp.register_forward_pre_hook(lambda *_, on=on: calls.append(on))
        config = TrainConfig(3, batch_size=2, seq_len=12, activation_checkpointing=on)
        assert len(list(train(model, Given(batch_of([12], [7, 5])), ar_loss, config))) == 3
        assert "forward" not in vars(model.model.layers[0])
        ends.append(model.state_dict())
    assert (calls.count(False), calls.count(True)) == (3, 6)
    for name, tensor in ends[0].items():
        torch.testing.assert_close(ends[1][name], tensor, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("objective, size", [(ar_loss, None), (Diffusion(NoiseSchedule(), MASK), None),
                                             (Diffusion(NoiseSchedule.band(0.05, 0.95), MASK, complementary=True), 3)])  # fmt: skip
def test_bfloat16_products_train_nearly_as_float32(objective, size):
    losses = {}
    for dtype in ("float32", "bfloat16"):
        config, blocks = dataclasses.replace(CONFIG, dtype=dtype), BlockSchedule.constant(12, 12, size or 12)
        steps = train(tiny(), packed(2), objective, config, blocks=blocks)
        losses[dtype] = torch.tensor([step.loss for step in steps])
    assert not torch.equal(*losses.values())
    torch.testing.assert_close(losses["bfloat16"], losses["float32"], rtol=0.05, atol=0.05)


def test_validation_and_sampling_between_steps_change_nothing(ahead):
    """Validation, and samples drawn between steps, leave the training as it is, random numbers included."""
    models = []
    for watched in (False, True):
        arguments = setting(tiny())
        arguments["validate"] = (lambda m: float(torch.rand(()))) if watched else None
        arguments["config"] = dataclasses.replace(CONFIG, eval_every=1 if watched else 0)
        for _ in train(**arguments):
            if watched:
                with torch.inference_mode():
                    tokens, mask = torch.zeros(1, 3, dtype=torch.long), torch.ones(1, 3, 3, dtype=torch.bool)
                    arguments["model"](tokens, torch.arange(3)[None], mask)
        models.append(arguments["model"])
    for first, second in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("objective", [ar_loss, Diffusion(NoiseSchedule.band(0.05, 0.95), MASK, complementary=True)])
def test_a_compiled_model_takes_the_same_steps(monkeypatch, objective):
    """By a backend that needs no C++ compiler; the weights keep their names."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))

    def losses(on: bool) -> list[float]:
        model, config = tiny(), dataclasses.replace(CONFIG, max_iters=4, compile=on)
        blocks = BlockSchedule.constant(12, 4, 3)
        values = [step.loss for step in train(model, packed(2), objective, config, blocks=blocks)]
        assert not any("_orig_mod" in name for name in model.state_dict())
        return values

    assert losses(True) == pytest.approx(losses(False), rel=1e-4)

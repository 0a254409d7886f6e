"""The decoding benchmark: acceptance is what it says, outputs are equal, the floor is of the right shapes. No times."""

import dataclasses
import math
import sys

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dllm_core import reference as plain
from dllm_core.compute import prepacked
from dllm_core.config import ModelConfig
from dllm_core.model import Transformer
from dllm_core.workshop.benchmark import decode as benchmark_decode
from dllm_core.workshop.benchmark.jobs import (
    FLOOR,
    FLOOR_PLAIN,
    OURS,
    OURS_AR,
    OURS_PLAIN,
    PIPELINE,
    PIPELINE_QWEN3,
    PLAIN,
    THEIR_AR,
    Bench,
    Case,
)
from dllm_core.workshop.benchmark.peers import Oracle, Qwen3, diffusers_pipeline, hugging_face

SMALL = ModelConfig(64, 16, 2, 4, num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.3)
CASE = Case(batch=3, prompt=8, new=16, block=8, accept=2)


def small_model(dtype=torch.float32) -> Transformer:
    torch.manual_seed(0)
    return Transformer(SMALL).eval().to(dtype)


class Spy(Oracle):
    """Counts, in each forward and row, the masked positions above the threshold."""

    def reset(self):
        super().reset()
        self.above = []

    def logits(self, hidden):
        tokens, _, read = self.given
        logits = super().logits(hidden)
        rows, columns = torch.ones_like(tokens).nonzero(as_tuple=True) if read is None else read
        sure = logits.float().softmax(dim=-1).amax(dim=-1).flatten() > benchmark_decode.THRESHOLD
        block = columns >= tokens.shape[1] - self.block_size
        sure &= (tokens[rows, columns] == self.mask_token_id) & block
        self.above.append([int(sure[rows == row].sum()) for row in range(len(tokens))])
        return logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("accept", [1, 3, 8])
def test_the_oracle_lets_exactly_so_many_through(accept, dtype):
    model, case = small_model(dtype), dataclasses.replace(CASE, accept=accept)
    bench = Bench(model, case)
    oracle = Spy(model, case.block, accept, bench.ids.mask_token_id, own_tokens=dtype == torch.float32)
    per_block = [accept] * (case.block // accept) + [case.block % accept] * bool(case.block % accept)
    for job in (lambda: bench.ours(OURS, oracle, "llada2"), lambda: bench.plain(oracle)):
        job()
        assert oracle.above == [[count] * case.batch for count in per_block * (case.new // case.block)]
        assert len(oracle.calls) == len(oracle.above) and 0 < oracle.seconds and 0 < oracle.inside
    assert (
        bench.equal(OURS, PLAIN) and (bench.written[OURS] >= 0).all() and (bench.written[OURS] != bench.ids.mask_token_id).all()
    )


def test_the_oracle_keeps_the_models_own_tokens():
    """Hence equal outputs say that the logits were equal, too."""
    written = []
    for seed in range(2):
        torch.manual_seed(seed)
        bench = Bench(Transformer(SMALL).eval(), CASE)
        bench.ours(OURS, bench.oracle(), "llada2")
        written.append(bench.written[OURS])
    assert (written[0] != written[1]).any() and len(written[0].unique()) > 3


def test_everyone_writes_the_same():
    pytest.importorskip("diffusers")
    bench = Bench(small_model(), CASE)
    theirs = hugging_face(bench.model)
    bench.ours(OURS, bench.oracle(), "llada2")
    bench.plain(bench.oracle())
    for name, model in ((PIPELINE, bench.model), (PIPELINE_QWEN3, Qwen3(theirs, SMALL))):
        oracle = bench.oracle(model)
        bench.pipeline(name, diffusers_pipeline(oracle, CASE.block), oracle)
        assert bench.equal(OURS, name) == 1
    assert bench.equal(OURS, PLAIN) == 1
    bench.ours(OURS_AR, bench.oracle(), "ar")
    bench.generate(theirs)
    assert bench.equal(OURS_AR, THEIR_AR) == 1 and bench.equal(OURS, OURS_AR) < 0.5


def test_positions_per_token_and_the_floors_shapes():
    """Blocks of 8 at 2 a forward: 4 forwards of 8, and the finished block again in the next one's first."""
    bench = Bench(small_model(), dataclasses.replace(CASE, batch=1))
    bench.jobs(peers=False)
    assert [call[:3] for call in bench.calls] == [(1, 16, 16), *[(1, 8, 16)] * 3, (1, 16, 24), *[(1, 8, 24)] * 3]
    assert [read for *_, read in bench.calls] == [8, 6, 4, 2] * 2
    assert bench.positions_per_token() == (16 + 3 * 8 + 16 + 3 * 8 - 8) / 16


def test_the_floor_multiplies_what_the_forwards_multiply():
    """Counted with attention taken apart into its products."""
    bench = Bench(small_model(), CASE)
    counted = []
    for job in (lambda: bench.ours(OURS, bench.oracle(), "llada2"), bench.jobs(peers=False)[FLOOR]):
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as flops:
            job()
        counted.append(flops.get_total_flops())
    assert counted[0] == counted[1] > 0


def test_a_quick_run_yields_rows(monkeypatch):
    monkeypatch.setitem(benchmark_decode.SHAPES, "tiny", SMALL)
    before = torch.get_num_threads()
    rows = list(benchmark_decode.measure("tiny", "float32", threads=1, rounds=1, quick=True))
    assert torch.get_num_threads() == before
    pairs = {(row.name, row.against) for row in rows}
    assert pairs >= {(OURS, PLAIN), (FLOOR, OURS), (OURS, OURS_AR), (OURS, THEIR_AR), (OURS_AR, THEIR_AR)}
    assert all(row.part.startswith("decode") and math.isfinite(row.ratio.median) and row.ratio.low > 0 for row in rows)
    for along in ("prompt", "block"):
        assert len({row.more[along] for row in rows if along in row.more}) == 2
    (floor,) = (row for row in rows if row.name == FLOOR)
    assert floor.more["positions per token"] > 1 and "sampler, ms per forward" in floor.more


@pytest.mark.skipif(not prepacked.prepacks(torch.float32), reason="this PyTorch or processor prepacks nothing")
def test_what_prepacking_gains_is_a_row_with_what_it_costs(monkeypatch):
    monkeypatch.setattr(prepacked, "LEAST", 1)
    bench, made = Bench(small_model(), CASE), []
    reorder = torch.ops.mkldnn._reorder_linear_weight
    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", lambda *given: made.append(1) or reorder(*given))
    jobs = bench.jobs(peers=False)
    count, forms, product = len(made), [], prepacked.PrepackedLinear.forward
    for name in (OURS, OURS_PLAIN, FLOOR, FLOOR_PLAIN):
        counted = lambda self, x, name=name: forms.append(name) or product(self, x)
        monkeypatch.setattr(prepacked.PrepackedLinear, "forward", counted)
        jobs[name]()
    assert count > 8 and len(made) == count  # none of it again
    assert set(forms) == {OURS, FLOOR} and bench.equal(OURS, OURS_PLAIN) == 1
    assert bench.prepacking() > 0 and len(made) == 4 * count
    rows = list(benchmark_decode.comparison(bench.model, CASE, "", 1, {}, {}))
    (row,) = (row for row in rows if row.against == OURS_PLAIN)
    assert row.more["to prepack once, ms"] > 0
    assert {(row.name, row.against) for row in rows} >= {(FLOOR, OURS), (FLOOR_PLAIN, OURS)}


def test_targets_name_rows_that_there_are():
    cases = {(1, 32), (8, 32), (1, 480)}
    names = {OURS, PLAIN, OURS_AR, FLOOR, PIPELINE, THEIR_AR}
    for (shape, dtype), targets in benchmark_decode.TARGETS.items():
        assert shape in benchmark_decode.SHAPES and hasattr(torch, dtype)
        assert all((batch, prompt) in cases and {one, other} <= names for batch, prompt, one, other in targets)


def test_another_shape_is_refused():
    with pytest.raises(ValueError, match="shape='huge': must be one of tiny, 26m"):
        next(benchmark_decode.measure("huge", "float32", 1, 1, True))


def test_without_diffusers_its_rows_are_left_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ImportError, match=r"pip install 'diffusers>=0.42'"):
        diffusers_pipeline(small_model(), 8)
    with pytest.warns(UserWarning, match="rows against diffusers are left out"):
        jobs = Bench(small_model(), CASE).jobs(peers=True)
    assert THEIR_AR in jobs and PIPELINE not in jobs


def test_the_plain_ar_loop_is_the_cached_ones_twin():
    bench = Bench(small_model(), CASE)
    bench.ours(OURS_AR, bench.oracle(), "ar")
    tokens = plain.decode_ar(bench.model, bench.prompts, CASE.new, bench.ids.mask_token_id)
    assert torch.equal(tokens[:, CASE.prompt :], bench.written[OURS_AR])


@pytest.mark.parametrize("name", [OURS, OURS_AR, PLAIN, THEIR_AR])
def test_a_job_alone_writes_all_its_tokens(name):
    """As the process runs it that sees its memory."""
    job = benchmark_decode.alone(name, "tiny", "float32", {"batch": 2, "prompt": 8, "new": 16, "block": 8, "accept": 4})
    job()
    written = job.func.__self__.written[name]
    assert written.shape == (2, 16) and (written >= 0).all()

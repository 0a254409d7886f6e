"""The decoding benchmark: acceptance is what it says, outputs are equal, the floor is of the right shapes. No times."""

import dataclasses
import math
import sys

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dllm_core import reference
from dllm_core.compute import prepacked
from dllm_core.config import ModelConfig
from dllm_core.model import Transformer
from dllm_core.workshop.benchmark import decode
from dllm_core.workshop.benchmark.decode import (
    AR,
    DIFFUSERS,
    HUGGING_FACE_AR,
    LLADA2,
    MATMULS,
    PLAIN_LOOP,
    THRESHOLD,
    Case,
    DecodeJobs,
)
from dllm_core.workshop.benchmark.peers import Oracle, diffusers_pipeline
from dllm_core.workshop.benchmark.timing import Setting

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
        tokens, _, read = self.inputs
        logits = super().logits(hidden)
        rows, columns = torch.ones_like(tokens).nonzero(as_tuple=True) if read is None else read
        sure = logits.float().softmax(dim=-1).amax(dim=-1).flatten() > THRESHOLD
        block = columns >= tokens.shape[1] - self.block_size
        sure &= (tokens[rows, columns] == self.mask_token_id) & block
        self.above.append([int(sure[rows == row].sum()) for row in range(len(tokens))])
        return logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("accept", [1, 3, 8])
def test_the_oracle_commits_exactly_its_number_of_tokens(accept, dtype):
    model, case = small_model(dtype), dataclasses.replace(CASE, accept=accept)
    bench = DecodeJobs(model, case)
    oracle = Spy(model, case.block, accept, bench.ids.mask_token_id, own_tokens=dtype == torch.float32)
    per_block = [accept] * (case.block // accept) + [case.block % accept] * bool(case.block % accept)
    for job in (lambda: bench.decode(LLADA2, oracle), lambda: bench.plain_loop(oracle)):
        job()
        assert oracle.above == [[count] * case.batch for count in per_block * (case.new // case.block)]
        assert len(oracle.calls) == len(oracle.above) and 0 < oracle.seconds and 0 < oracle.inside
    assert (
        bench.equal(LLADA2, PLAIN_LOOP)
        and (bench.written[LLADA2] >= 0).all()
        and (bench.written[LLADA2] != bench.ids.mask_token_id).all()
    )


def test_the_oracle_keeps_the_tokens_of_the_model():
    """Hence equal outputs say that the logits were equal, too."""
    written = []
    for seed in range(2):
        torch.manual_seed(seed)
        bench = DecodeJobs(Transformer(SMALL).eval(), CASE)
        bench.decode(LLADA2, bench.oracle())
        written.append(bench.written[LLADA2])
    assert (written[0] != written[1]).any() and len(written[0].unique()) > 3


def test_all_implementations_write_the_same():
    pytest.importorskip("diffusers")
    bench = DecodeJobs(small_model(), CASE)
    bench.decode(LLADA2, bench.oracle())
    bench.plain_loop(bench.oracle())
    bench.job(DIFFUSERS)()
    assert bench.equal(LLADA2, DIFFUSERS) == 1 and bench.equal(LLADA2, PLAIN_LOOP) == 1
    bench.decode(AR, bench.oracle())
    bench.job(HUGGING_FACE_AR)()
    assert bench.equal(AR, HUGGING_FACE_AR) == 1 and bench.equal(LLADA2, AR) < 0.5


def test_positions_per_token_and_the_floors_shapes():
    """Blocks of 8 at 2 a forward: 4 forwards of 8, and the finished block again in the next one's first."""
    bench = DecodeJobs(small_model(), dataclasses.replace(CASE, batch=1))
    assert [call[:3] for call in bench.calls] == [(1, 16, 16), *[(1, 8, 16)] * 3, (1, 16, 24), *[(1, 8, 24)] * 3]
    assert [read for *_, read in bench.calls] == [8, 6, 4, 2] * 2
    assert bench.positions_per_token() == (16 + 3 * 8 + 16 + 3 * 8 - 8) / 16


def test_the_floor_multiplies_what_the_forwards_multiply():
    """Counted with attention computed by its separate products."""
    bench = DecodeJobs(small_model(), CASE)
    counted = []
    for job in (lambda: bench.decode(LLADA2, bench.oracle()), bench.job(MATMULS)):
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as flops:
            job()
        counted.append(flops.get_total_flops())
    assert counted[0] == counted[1] > 0


def test_a_quick_run_yields_rows(monkeypatch):
    monkeypatch.setitem(decode.SHAPES, "tiny", SMALL)
    rows = list(decode.measure(Setting("decode", "tiny", "float32", threads=1, rounds=1, quick=True)))
    pairs = {(row["name"], row["against"]) for row in rows}
    assert pairs >= {(LLADA2, PLAIN_LOOP), (MATMULS, LLADA2), (LLADA2, AR), (LLADA2, HUGGING_FACE_AR)}
    assert (AR, HUGGING_FACE_AR) in pairs
    for row in rows:
        assert row["part"].startswith("decode") and math.isfinite(row["ratio"]["median"]) and row["ratio"]["low"] > 0
    for along in ("prompt", "block"):
        assert len({row["more"][along] for row in rows if along in row["more"]}) == 2
    (floor,) = (row for row in rows if row["name"] == MATMULS)
    assert floor["more"]["positions per token"] > 1 and "sampler, ms per forward" in floor["more"]


@pytest.mark.skipif(not prepacked.prepacking_works(torch.float32), reason="this PyTorch or processor prepacks nothing")
def test_the_decoder_and_the_floor_run_from_prepacked_weights(monkeypatch):
    monkeypatch.setattr(prepacked, "MIN_WEIGHTS", 1)
    bench, reordered = DecodeJobs(small_model(), CASE), []
    reorder = torch.ops.mkldnn._reorder_linear_weight
    counted = lambda *arguments: reordered.append(1) or reorder(*arguments)
    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", counted)
    jobs = bench.jobs()
    count, forms, product = len(reordered), [], prepacked.PrepackedLinear.forward
    for name in (LLADA2, MATMULS, PLAIN_LOOP):
        counted = lambda self, x, name=name: forms.append(name) or product(self, x)
        monkeypatch.setattr(prepacked.PrepackedLinear, "forward", counted)
        jobs[name]()
    assert count > 8 and len(reordered) == count  # none of it again
    assert set(forms) == {LLADA2, MATMULS}


def test_targets_name_existing_rows():
    cases = {(1, 32), (8, 32), (1, 480)}
    names = {LLADA2, PLAIN_LOOP, AR, MATMULS, DIFFUSERS, HUGGING_FACE_AR}
    for (shape, dtype), targets in decode.TARGETS.items():
        assert shape in decode.SHAPES and hasattr(torch, dtype)
        assert all((batch, prompt) in cases and {row, baseline} <= names for batch, prompt, row, baseline in targets)


def test_without_diffusers_its_rows_are_left_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ImportError, match=r"pip install 'diffusers>=0.42'"):
        diffusers_pipeline(small_model(), 8)
    with pytest.warns(UserWarning, match="rows against diffusers are left out"):
        jobs = DecodeJobs(small_model(), CASE).jobs()
    assert HUGGING_FACE_AR in jobs and DIFFUSERS not in jobs


def test_ar_loops_with_and_without_cache_write_the_same():
    bench = DecodeJobs(small_model(), CASE)
    bench.decode(AR, bench.oracle())
    tokens = reference.decode_ar(bench.model, bench.prompts, CASE.new, bench.ids.mask_token_id)
    assert torch.equal(tokens[:, CASE.prompt :], bench.written[AR])


@pytest.mark.parametrize("name", [LLADA2, AR, PLAIN_LOOP, HUGGING_FACE_AR])
def test_a_job_by_itself_writes_all_its_tokens(name):
    """As in the child process that measures its memory."""
    bench = DecodeJobs(small_model(), CASE)
    bench.job(name, graphs=False)()
    assert bench.written[name].shape == (CASE.batch, CASE.new) and (bench.written[name] >= 0).all()

"""Schedules: alpha, its derivative and the weight agree; the block sizes and rates are those of the papers' numbers."""

import math
from itertools import groupby

import pytest
import torch

from dllm_core.schedules import ALPHAS, BlockSchedule, NoiseSchedule, learning_rate

KINDS = sorted(ALPHAS)
EXACT = torch.float64


@pytest.mark.parametrize("schedule_name", KINDS)
def test_alpha_falls_from_one_to_zero_and_its_derivative_is_its_derivative(schedule_name):
    schedule = NoiseSchedule(schedule_name)
    t = torch.linspace(0, 1, 101, dtype=EXACT, requires_grad=True)
    alpha = schedule.alpha(t)
    assert alpha[0].item() == pytest.approx(1) and alpha[-1].item() == pytest.approx(0, abs=1e-12)
    assert (alpha.diff() < 0).all()
    slope = torch.autograd.grad(alpha.sum(), t)[0]
    torch.testing.assert_close(schedule.alpha_prime(t), slope)


def test_known_values():
    half = torch.tensor(0.5, dtype=EXACT)
    assert NoiseSchedule("linear").alpha(half).item() == pytest.approx(0.5)
    assert NoiseSchedule("cosine").alpha(half).item() == pytest.approx(1 - math.sqrt(0.5))
    assert NoiseSchedule("cosine_squared").alpha(half).item() == pytest.approx(0.5)
    t = torch.tensor([0.1, 0.25, 0.9], dtype=EXACT)
    torch.testing.assert_close(NoiseSchedule("linear").weight(t), 1 / t)
    torch.testing.assert_close(NoiseSchedule("linear").complement_weight(t), 1 / (1 - t))


@pytest.mark.parametrize("schedule_name", KINDS)
def test_weights_undo_the_mask_probability(schedule_name):
    """w · P(masked) = w̄ · P(clean) = −alpha': what makes every token count once, and the two views alike."""
    schedule, t = NoiseSchedule(schedule_name), torch.linspace(0.01, 0.99, 50, dtype=EXACT)
    alpha = schedule.alpha(t)
    torch.testing.assert_close(schedule.weight(t) * (1 - alpha), -schedule.alpha_prime(t))
    torch.testing.assert_close(schedule.complement_weight(t) * alpha, -schedule.alpha_prime(t))
    assert (schedule.weight(t) > 0).all() and (schedule.complement_weight(t) > 0).all()


@pytest.mark.parametrize("schedule_name", KINDS)
@pytest.mark.parametrize("band", [(1e-3, 1.0), (0.05, 0.95), (0.3, 0.7)])
def test_band_limits_the_mask_probability_and_constant_is_the_mean_of_weight_times_probability(schedule_name, band):
    schedule = NoiseSchedule.band(*band, schedule_name)
    ends = torch.tensor([schedule.t_min, schedule.t_max], dtype=EXACT)
    assert (1 - schedule.alpha(ends)).tolist() == pytest.approx(band, abs=1e-9)
    t = torch.linspace(schedule.t_min, schedule.t_max, 20_001, dtype=EXACT)
    integral = torch.trapezoid(schedule.weight(t) * (1 - schedule.alpha(t)), t) / (schedule.t_max - schedule.t_min)
    assert schedule.constant == pytest.approx(integral.item(), rel=1e-5)
    assert schedule_name != "linear" or schedule.constant == pytest.approx(1, abs=1e-9)


def test_uniform_weighting_is_one():
    schedule, t = NoiseSchedule(weighting="uniform"), torch.rand(5)
    assert schedule.weight(t).tolist() == schedule.complement_weight(t).tolist() == [1.0] * 5


@pytest.mark.parametrize("method", ["iid", "stratified"])
def test_times_are_uniform_on_the_range(method):
    schedule = NoiseSchedule(t_min=0.2, t_max=0.6, draw_method=method)
    draws = schedule.draw((100, 50), torch.Generator().manual_seed(0))
    assert draws.shape == (100, 50) and draws.min() >= 0.2 and draws.max() <= 0.6
    assert draws.mean().item() == pytest.approx(0.4, abs=0.01)
    assert draws.std().item() == pytest.approx(0.4 / math.sqrt(12), abs=0.01)
    # every place is uniform by itself, also where the draws together are stratified
    firsts = torch.stack([schedule.draw((4,), torch.Generator().manual_seed(seed))[0] for seed in range(1000)])
    assert firsts.mean().item() == pytest.approx(0.4, abs=5 * 0.4 / math.sqrt(12 * 1000))


def test_stratified_draws_one_time_per_stratum():
    draws = NoiseSchedule(t_min=0.0, draw_method="stratified").draw((64,), torch.Generator().manual_seed(1))
    assert (draws * 64).long().sort().values.tolist() == list(range(64))
    assert draws.tolist() != draws.sort().values.tolist()  # shuffled


def test_draws_follow_the_generator():
    first, again, other = (NoiseSchedule().draw((8,), torch.Generator().manual_seed(s)).tolist() for s in (3, 3, 4))
    assert first == again != other


@pytest.mark.parametrize(
    "wrong, named",
    [
        ({"kind": "square"}, "kind='square'.*linear"),
        ({"t_min": 0.5, "t_max": 0.5}, "t_min=0.5, t_max=0.5"),
        ({"t_max": 1.5}, "t_max=1.5"),
        ({"weighting": "none"}, "weighting='none'"),
        ({"draw_method": "antithetic"}, "draw_method='antithetic'"),
    ],
)
def test_bad_noise_schedule_is_named(wrong, named):
    with pytest.raises(ValueError, match=named):
        NoiseSchedule(**wrong)


def test_bad_band_is_named():
    with pytest.raises(ValueError, match="alpha_min=0.9, alpha_max=0.1"):
        NoiseSchedule.band(0.9, 0.1)


# --- the block size over a run ------------------------------------------------------------------------------------


def stretches(schedule: BlockSchedule) -> list[tuple[str, int, int]]:
    """(phase, block size, steps) one after another."""
    keys = [(schedule.phase(step), schedule.block_size(step)) for step in range(schedule.total_steps)]
    return [(*key, len(list(group))) for key, group in groupby(keys)]


def test_the_reports_curriculum():
    """Phase ratios 0.3/0.5/0.2, up 32,64,128,256, down 256,128,64,32 at L = 256: equal steps within a phase."""
    schedule = BlockSchedule(256, 1000)
    up = [("warm-up", size, 75) for size in (32, 64, 128, 256)]
    down = [("decay", size, 50) for size in (256, 128, 64, 32)]
    assert stretches(schedule) == [*up, ("stable", 256, 500), *down]
    assert schedule.final == 32


def test_the_stable_phase_is_full_diffusion_whatever_the_steps_before_and_after():
    schedule = BlockSchedule(128, 10, (0.3, 0.4, 0.3), (4, 16, 64), (64, 32, 16))  # a laptop's: no 128 among the sizes
    assert stretches(schedule)[3] == ("stable", 128, 4)


@pytest.mark.parametrize("total", [1, 2, 3, 7, 10, 23, 100, 301])
def test_any_number_of_steps_rises_stays_and_falls(total):
    schedule = BlockSchedule(64, total, (0.3, 0.4, 0.3), (1, 4, 16), (16, 4))
    steps = range(total)
    phases = [schedule.phase(step) for step in steps]
    assert phases == sorted(phases, key=["warm-up", "stable", "decay"].index)
    for name, sign in (("warm-up", 1), ("decay", -1)):
        sizes = [schedule.block_size(step) for step in steps if schedule.phase(step) == name]
        assert sizes == sorted(sizes, key=lambda size: sign * size)
    assert all(64 % schedule.block_size(step) == 0 for step in steps)
    assert schedule.final == schedule.block_size(total - 1)


def test_constant_keeps_one_size():
    schedule = BlockSchedule.constant(64, 10, 16)
    assert stretches(schedule) == [("constant", 16, 10)]
    assert {schedule.block_size(step) for step in range(10)} == {schedule.final} == {16}
    with pytest.raises(ValueError, match=r"48.*must divide the length 64"):
        BlockSchedule.constant(64, 10, 48)


@pytest.mark.parametrize(
    "wrong, named",
    [
        ({"up": (32, 96)}, r"up=\(32, 96\): \[96\].*divide the length 256"),
        ({"down": (0,)}, "down="),
        ({"down": ()}, "down=.*empty"),
        ({"phase_ratios": (0.3, 0.5, 0.3)}, "phase_ratios.*sum to 1"),
        ({"phase_ratios": (0.5, 0.5)}, "phase_ratios.*three"),
        ({"phase_ratios": (1.5, -0.5, 0.0)}, "phase_ratios"),
    ],
)
def test_bad_block_schedule_is_named(wrong, named):
    with pytest.raises(ValueError, match=named):
        BlockSchedule(256, 100, **wrong)


# --- the learning rate --------------------------------------------------------------------------------------------


def test_learning_rate_warms_up_stays_and_decays():
    rates = [learning_rate(step, 20, warmup=4, decay_ratio=0.5, min_ratio=0.1) for step in range(20)]
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert rates[4:11] == pytest.approx([1.0] * 7)
    assert rates[10:] == pytest.approx([0.1 + 0.9 * left / 10 for left in range(10, 0, -1)])


def test_learning_rate_without_phases_is_flat():
    assert {learning_rate(step, 5, decay_ratio=0.0) for step in range(5)} == {1.0}


def test_a_warm_up_longer_than_the_run_still_decays():
    rates = [learning_rate(step, 10, warmup=100, decay_ratio=0.2) for step in range(10)]
    assert max(rates) <= 0.1 and all(rate > 0 for rate in rates)

"""Where the loss comes from: the figure's shares equal what the schedule says."""


import numpy as np
import pytest
import torch
from traces import is_png

from dllm_core import show
from dllm_core.schedules import ALPHAS, NoiseSchedule
from dllm_core.show.schedules import shares


@pytest.mark.parametrize("schedule_name", ALPHAS)
def test_loss_shares_are_the_drops_of_alpha(schedule_name):
    for schedule in (NoiseSchedule(schedule_name, t_min=0.0), NoiseSchedule.band(0.1, 0.9, schedule_name)):
        edges = torch.linspace(0, 1, 11, dtype=torch.float64).clamp(schedule.t_min, schedule.t_max)
        drops = -schedule.alpha(edges).diff().numpy()  # with the bound's weight w(t)·(1 − alpha) = −alpha'
        assert np.allclose(shares(schedule), drops / drops.sum(), atol=3e-3)


def test_loss_shares_follow_a_measured_loss():
    plain, easy = shares(NoiseSchedule(t_min=0.0)), shares(NoiseSchedule(t_min=0.0), {0.0: 0.0, 1.0: 2.0})
    assert np.allclose(plain, 0.1, atol=1e-3) and np.allclose(easy, (np.arange(10) + 0.5) / 50, atol=1e-3)
    picture = show.loss_shares([NoiseSchedule(), NoiseSchedule.band(0.05, 0.95)], {0.1: 1.0, 0.9: 3.0})
    assert is_png(picture) and len(picture.figure.axes) == 2
    with pytest.raises(ValueError, match="empty"):
        show.loss_shares([])


def test_ticks_of_the_weight_are_numbers():
    weight = show.noise_schedules([NoiseSchedule()])
    assert is_png(weight)
    labels = [label.get_text() for label in weight.figure.axes[1].get_yticklabels()]
    assert {"0.01", "1", "100"} <= set(labels)

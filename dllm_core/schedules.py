"""Schedules: the noise level over t with its loss weight, the block size and the learning rate over a run.

Sources: LLaDA (arXiv 2502.09992) Eq. 3; LLaDA 2.0 (arXiv 2512.15745) Eq. 1, 5 and §4.1; MDLM for general alpha.
"""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from dllm_core.common.limits import Choice, Count, Share, check
from dllm_core.config import Settings

ALPHAS = {  # kind: alpha(t), its derivative alpha'(t), and its inverse, the t at which alpha(t) = a
    "linear": (lambda t: 1 - t, lambda t: -torch.ones_like(t), lambda a: 1 - a),
    "cosine": (  # alpha = 1 − cos(π(1 − t)/2): masks faster than linear near t = 0
        lambda t: 1 - torch.cos(math.pi * (1 - t) / 2),
        lambda t: -math.pi / 2 * torch.sin(math.pi * (1 - t) / 2),
        lambda a: 1 - 2 / math.pi * math.acos(1 - a),
    ),
    "cosine_squared": (  # alpha = cos²(πt/2): stays clean longer than linear near t = 0
        lambda t: torch.cos(math.pi * t / 2) ** 2,
        lambda t: -math.pi / 2 * torch.sin(math.pi * t),
        lambda a: 2 / math.pi * math.acos(math.sqrt(a)),
    ),
}


@dataclass(frozen=True)
class NoiseSchedule(Settings):
    """alpha(t), its derivative, the loss weight and the drawing of t, in one object so that they cannot disagree.

    alpha(t) is the probability that a token is still clean at time t; t is uniform on [t_min, t_max).
    kind: one of `ALPHAS`.
    weighting: "elbo", the weight −alpha'/(1 − alpha) of the likelihood bound (linear: 1/t); "uniform", 1, a re-weighted
        loss; "squared", divided by 1 − alpha twice (linear: 1/t²), a mistake in public code, kept to show its effect.
    draw_method: "iid", or "stratified" (one draw in each of n equal strata, shuffled: same mean, less variance).
    """

    kind: Annotated[str, Choice(ALPHAS)] = "linear"
    t_min: Share = 1e-3
    t_max: Share = 1.0
    weighting: Annotated[str, Choice(("elbo", "uniform", "squared"))] = "elbo"
    draw_method: Annotated[str, Choice(("iid", "stratified"))] = "iid"

    def __post_init__(self):
        super().__post_init__()
        if not self.t_min < self.t_max:
            raise ValueError(f"t_min={self.t_min}, t_max={self.t_max}: must satisfy 0 <= t_min < t_max <= 1")

    @classmethod
    def band(cls, low: float, high: float, kind: str = "linear", **options) -> "NoiseSchedule":
        """Mask-ratio bandwidth (LLaDA 2.0 §5): t such that the mask probability 1 − alpha(t) lies in [low, high]."""
        if not 0 <= low < high <= 1:
            raise ValueError(f"alpha_min={low}, alpha_max={high}: must satisfy 0 <= alpha_min < alpha_max <= 1")
        check("kind", kind, Annotated[str, Choice(ALPHAS)])
        inverse = ALPHAS[kind][2]
        return cls(kind, float(inverse(1 - low)), float(inverse(1 - high)), **options)

    @property
    def name(self) -> str:
        """The kind and the weight in words, for titles."""
        weights = {"elbo": "ELBO", "uniform": "uniform", "squared": "1/t² (a mistake)"}
        return f"{self.kind}, {weights[self.weighting]} weight"

    def alpha(self, t: Tensor) -> Tensor:
        """[...] → [...]: probability that a token is clean."""
        return ALPHAS[self.kind][0](t)

    def alpha_prime(self, t: Tensor) -> Tensor:
        """[...] → [...]: d alpha / dt, negative."""
        return ALPHAS[self.kind][1](t)

    def weight(self, t: Tensor) -> Tensor:
        """[...] → [...]: w(t) = −alpha'/(1 − alpha) > 0, of tokens masked at t (the papers print no sign)."""
        if self.weighting == "uniform":
            return torch.ones_like(t)
        masked = 1 - self.alpha(t)
        return -self.alpha_prime(t) / (masked**2 if self.weighting == "squared" else masked)

    def complement_weight(self, t: Tensor) -> Tensor:
        """[...] → [...]: −alpha'/alpha, weight of the complementary view, which masks what is clean at t."""
        if self.weighting == "uniform":
            return torch.ones_like(t)
        clean = self.alpha(t)
        return -self.alpha_prime(t) / (clean**2 if self.weighting == "squared" else clean)

    @property
    def constant(self) -> float:
        """(alpha(t_min) − alpha(t_max)) / (t_max − t_min): the loss of uniform logits per maskable token, over log V,
        under the "elbo" weighting. It is 1 for the linear schedule; divide a loss by it to compare schedules."""
        ends = self.alpha(torch.tensor([self.t_min, self.t_max], dtype=torch.float64))
        return float(ends[0] - ends[1]) / (self.t_max - self.t_min)

    def draw(self, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        """float32 `shape`: times t in [t_min, t_max)."""
        n = math.prod(shape)
        u = torch.rand(n, generator=generator)
        if self.draw_method == "stratified":
            order = torch.randperm(n, generator=generator)
            u = (order + u) / n
        return self.time(u).reshape(shape)

    def time(self, u: Tensor) -> Tensor:
        """[...] in [0, 1) → [...] in [t_min, t_max): the time at a uniform number u."""
        return self.t_min + (self.t_max - self.t_min) * u


@dataclass(frozen=True)
class BlockSchedule(Settings):
    """WSD over the block size (LLaDA 2.0 §4.1): warm-up through `up`, stable at `full`, decay through `down`.

    full: the row's length L; a block of size L is full diffusion (Eq. 2). Every size must divide it.
    phase_ratios: shares of the run (warm-up, stable, decay), which sum to 1; every size of a phase gets equal steps.
    up, down: the sizes of warm-up and decay, in order.
    """

    full: Count
    total_steps: Count
    phase_ratios: tuple[float, float, float] = (0.3, 0.5, 0.2)
    up: tuple[int, ...] = (32, 64, 128, 256)
    down: tuple[int, ...] = (256, 128, 64, 32)

    def __post_init__(self):
        super().__post_init__()
        ratios = self.phase_ratios
        if not (len(ratios) == 3 and min(ratios) >= 0 and abs(sum(ratios) - 1) <= 1e-6):
            raise ValueError(f"phase_ratios={ratios}: must be three shares >= 0 that sum to 1")
        for name, sizes in (("up", self.up), ("down", self.down)):
            for size in sizes:
                check(name, size, Count)
            bad = [size for size in sizes if self.full % size]
            if bad or not sizes:
                raise ValueError(f"{name}={sizes}: {bad or 'empty'}: every size must divide the length {self.full}")

    @classmethod
    def constant(cls, full: int, total_steps: int, size: int) -> "BlockSchedule":
        """The same block size in every step."""
        return cls(full, total_steps, (0.0, 0.0, 1.0), (size,), (size,))

    def _phase_and_size(self, step: int) -> tuple[str, int]:
        warm, stable, _ = self.phase_ratios
        ends = (round(warm * self.total_steps), round((warm + stable) * self.total_steps))
        if step < ends[0]:
            return "warm-up", self.up[step * len(self.up) // ends[0]]
        if step < ends[1]:
            return "stable", self.full
        span = max(self.total_steps - ends[1], 1)
        return "decay", self.down[min((step - ends[1]) * len(self.down) // span, len(self.down) - 1)]

    def block_size(self, step: int) -> int:
        """The block size of `step` (0-based)."""
        return self._phase_and_size(step)[1]

    def phase(self, step: int) -> str:
        """The phase of `step`: "warm-up", "stable", "decay", or "constant" where the size never changes."""
        is_constant = self.phase_ratios == (0.0, 0.0, 1.0) and len(self.down) == 1
        return "constant" if is_constant else self._phase_and_size(step)[0]

    @property
    def final(self) -> int:
        """The block size of the last step, at which likelihood bounds are measured."""
        return self.block_size(self.total_steps - 1)


def learning_rate(step: int, total: int, *, warmup: int = 0, decay_ratio: float = 0.2, min_ratio: float = 0.0) -> float:
    """Factor in [0, 1] of the warm-up–stable–decay learning rate at `step` (0-based) of `total`: it rises linearly over
    `warmup` steps, stays 1, and falls linearly to `min_ratio` over the last `decay_ratio` of the run."""
    decay = decay_ratio * total
    rising = (step + 1) / warmup if step < warmup else 1.0
    falling = 1.0 if decay == 0 else min(1.0, (total - step) / decay)
    return min(rising, min_ratio + (1 - min_ratio) * falling)

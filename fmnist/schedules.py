"""Learning-rate schedules: the share of the peak rate at `progress`, 0 (start) to 1 (end)."""

import math
from collections.abc import Sequence


def one_cycle(progress: float, warmup: float, start: float, end: float) -> float:
    """Rise linearly from `start` to 1 over the `warmup` share, then along a cosine to `end`."""
    if progress < warmup:
        return start + (1 - start) * progress / warmup
    if warmup == 1:
        return 1.0
    return end + (1 - end) * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup))) / 2


def linear(progress: float, warmup: float, start: float, end: float) -> float:
    """Rise linearly from `start` to 1 over the `warmup` share, then fall linearly to `end`.

    See Defazio et al. 2023, arXiv:2310.07831.
    """
    if progress < warmup:
        return start + (1 - start) * progress / warmup
    if warmup == 1:
        return 1.0
    return 1 - (1 - end) * (progress - warmup) / (1 - warmup)


def step(progress: float, warmup: float, milestones: Sequence[float], factor: float) -> float:
    """Rise linearly from 0 to 1 over the `warmup` share; fall by `factor` at each milestone."""
    if progress < warmup:
        return progress / warmup
    return float(factor ** sum(progress >= milestone for milestone in milestones))


def constant(progress: float) -> float:
    """Stay at the peak."""
    return 1.0

"""Learning-rate schedules: the share of the peak rate at `progress`, 0 (start) to 1 (end)."""

import math


def one_cycle(progress: float, warmup: float, start: float, end: float) -> float:
    """Rise linearly from `start` to 1 over the `warmup` share, then along a cosine to `end`."""
    if progress < warmup:
        return start + (1 - start) * progress / warmup
    if warmup == 1:
        return 1.0
    return end + (1 - end) * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup))) / 2


def constant(progress: float) -> float:
    """Stay at the peak."""
    return 1.0

"""What the fuzzers share: how many inputs, of which seed, and what came of them.

`FMNIST_FUZZ=20 python -m pytest -m fuzz` tries twenty times as many, `FMNIST_FUZZ_SEED=7` others.
"""

import os
import time
from types import TracebackType


def counts(base: int) -> int:
    """Return how many inputs to try, for `base` of them in an ordinary run."""
    return base * int(os.environ.get("FMNIST_FUZZ", "1"))


def seed() -> int:
    return int(os.environ.get("FMNIST_FUZZ_SEED", "0"))


class Tally:
    """Counts what was tried, and says it at the end; any crash fails the test."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.tried = self.refused = 0
        self.crashes: list[str] = []
        self._begun = time.monotonic()

    def __enter__(self) -> "Tally":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: TracebackType | object) -> None:
        duration_s = time.monotonic() - self._begun
        print(
            f"\nfuzz {self.name}: {self.tried:,} inputs tried, {self.refused:,} refused, "
            f"{len(self.crashes)} crashes, {duration_s:.0f} s (seed {seed()})"
        )
        if kind is None:
            assert not self.crashes, "\n".join(self.crashes[:20])

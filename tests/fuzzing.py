"""How many inputs the fuzzers try, from which seed, and what became of them.

`FMNIST_FUZZ=10 pytest -m fuzz -s` tries ten times as many, `FMNIST_FUZZ_SEED=7` others.
"""

import os
import time
from types import TracebackType


def counts(base: int) -> int:
    return base * int(os.environ.get("FMNIST_FUZZ", "1"))


def seed() -> int:
    return int(os.environ.get("FMNIST_FUZZ_SEED", "0"))


class Tally:
    """Counts inputs and what became of them, and prints one line at the end; a crash fails."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.num_tried = self.num_refused = 0
        self.crashes: list[str] = []

    def add(self, *, refused: bool) -> None:
        self.num_tried += 1
        self.num_refused += refused

    def crash(self, what: str) -> None:
        self.num_tried += 1
        self.crashes.append(what)

    def __enter__(self) -> "Tally":
        self._began = time.monotonic()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        seconds = time.monotonic() - self._began
        print(
            f"\nfuzz {self.name}: {self.num_tried:,} inputs tried, {self.num_refused:,} refused, "
            f"{len(self.crashes)} crashes, {seconds:.0f} s, seed {seed()}"
        )
        if kind is None:
            assert not self.crashes, "\n".join(self.crashes[:20])

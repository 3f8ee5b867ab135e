"""What the fuzzers share: how many inputs, of which seed, and what came of them.

`FMNIST_FUZZ=20 python -m pytest -m fuzz -s` tries twenty times as many,
`FMNIST_FUZZ_SEED=7` others.
"""

import os
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from fmnist.errors import UserError


def counts(base: int) -> int:
    """Return how many inputs to try, for `base` of them in an ordinary run."""
    return base * int(os.environ.get("FMNIST_FUZZ", "1"))


def seed() -> int:
    """Return what the inputs are drawn from."""
    return int(os.environ.get("FMNIST_FUZZ_SEED", "0"))


class Tally:
    """Counts inputs and what became of them, and prints one line at the end; a crash fails."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.num_tried = self.num_refused = 0
        self.crashes: list[str] = []
        self._began = time.monotonic()

    def __enter__(self) -> "Tally":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.tell(fails=kind is None)

    def tell(self, fails: bool = True) -> None:
        """Print the counts; fails with the first crashes, if there were any."""
        print(
            f"\nfuzz {self.name}: {self.num_tried:,} inputs tried, {self.num_refused:,} refused, "
            f"{len(self.crashes)} crashes, {time.monotonic() - self._began:.0f} s (seed {seed()})"
        )
        assert not fails or not self.crashes, "\n\n".join(self.crashes[:20])

    def add(self, *, refused: bool) -> None:
        self.num_tried += 1
        self.num_refused += refused

    def crash(self, what: str) -> None:
        self.num_tried += 1
        self.crashes.append(what)

    @contextmanager
    def trying(self, what: object, *refusals: type[BaseException]) -> Iterator[None]:
        """Try one input: UserError and `refusals` are answers, anything else is a crash."""
        try:
            yield
        except (UserError, *refusals):
            self.add(refused=True)
        except Exception:
            self.crash(f"{what}\n{traceback.format_exc()}")
        else:
            self.add(refused=False)

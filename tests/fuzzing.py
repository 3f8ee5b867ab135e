"""How many inputs the fuzzers try, from which seed, and what they print.

`FMNIST_FUZZ=10 pytest -m fuzz -s` tries ten times as many; `FMNIST_FUZZ_SEED=7` others.
"""

import os
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from fmnist.errors import UserError


def counts(base: int) -> int:
    """Return how many inputs to try, `base` unless FMNIST_FUZZ says another factor."""
    return base * int(os.environ.get("FMNIST_FUZZ", "1"))


def seed() -> int:
    return int(os.environ.get("FMNIST_FUZZ_SEED", "0"))


class Tally:
    """Counts inputs, those that were refused as they should be, and crashes."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.num_tried = self.num_refused = 0
        self.crashes: list[str] = []
        self._began = time.monotonic()

    @contextmanager
    def trying(self, what: object, *refusals: type[BaseException]) -> Iterator[None]:
        """Try one input: UserError and `refusals` are answers, anything else is a crash."""
        self.num_tried += 1
        try:
            yield
        except (UserError, *refusals):
            self.num_refused += 1
        except Exception:
            self.crashes.append(f"{what}\n{traceback.format_exc()}")

    def tell(self) -> None:
        """Print the counts; fails with the first crashes, if there were any."""
        print(
            f"\nfuzz {self.name}: {self.num_tried:,} inputs tried, {self.num_refused:,} refused, "
            f"{len(self.crashes)} crashes, {time.monotonic() - self._began:.0f} s (seed {seed()})"
        )
        assert not self.crashes, "\n\n".join(self.crashes[:5])

"""Feed broken pictures number FIRST to LAST to the program: `FIRST LAST SEED REPORT`.

A process of its own, so that one that is killed costs only the input it died of: the line in
REPORT that is begun and not ended.
"""

import random
import resource
import signal
import sys
import tempfile
import traceback
from pathlib import Path

import mutations

from fmnist import decoding, prediction
from fmnist.pictures import Steps

FORMATS = (*decoding.FORMATS, "MPO")
MEMORY = 4 << 30  # bytes of address space
CPU_S = 60.0  # for one input, of which SIGPROF kills: it hangs


def make(number: int, seed: int, good: list[tuple[str, bytes]]) -> bytes:
    rng = random.Random(f"{seed} {number}")
    form, data = rng.choice(good)
    return mutations.mutate(form, data, rng)


def feed(file: Path, number: int) -> str:
    """Say what came of a file: "read", "refused", or how it crashed."""
    flags = random.Random(number)
    steps = Steps(
        flags.choice((None, None, True, False)), *(flags.random() < 0.8 for _ in range(7))
    )
    try:
        prepared = prediction._prepare(file, steps, is_shown=True)
    except BaseException as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} {error!s:.80} in {place.filename}:{place.lineno}"
    return "refused" if prepared.error else "read"


def main(first: int, last: int, seed: int, report: Path) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # What lies about its size is to be tried, not to be waited for.
    decoding.MAX_PIXELS = decoding.MAX_JPEG_PIXELS = 1_000_000
    good = mutations.pictures([f for f in FORMATS if f in decoding._formats() or f == "MPO"], seed)
    with tempfile.TemporaryDirectory() as folder, report.open("a") as lines:
        for number in range(first, last):
            file = Path(folder, "picture")
            file.write_bytes(make(number, seed, good))
            lines.write(f"{number} ")
            lines.flush()
            signal.setitimer(signal.ITIMER_PROF, CPU_S)
            lines.write(feed(file, number).replace("\n", " ") + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))

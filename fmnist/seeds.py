"""Independent random streams, each a pure function of the run's seed and what it is for.

So a resumed run, another batch size or another number of processes draws the same numbers.
"""

import hashlib


def derive(seed: int, *purpose: str | int) -> int:
    """Return a 63-bit seed for one purpose, such as `derive(0, "order", epoch)`."""
    text = "/".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1

"""Whether code that a run folder names may run: only where a user says so with --trust."""

import contextlib
import os
from collections.abc import Iterator

VARIABLE = "FMNIST_TRUST"  # from a script to the processes it starts
HELP = "run the code that the folder names: classes of others, as if you had typed them"


def is_given() -> bool:
    return os.environ.get(VARIABLE) == "1"


@contextlib.contextmanager
def given(trust: bool) -> Iterator[None]:
    """Trust, or not, the folders that are read inside, here and in processes started there."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = str(int(trust))
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before

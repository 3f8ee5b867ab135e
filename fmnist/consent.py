"""Whether code that a folder holds or names may run: only where a user says so.

By --trust, or by naming a class of their own.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

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


def let_import_here() -> None:
    """Let classes that the user has named be imported from the folder they type in, for good.

    Their module may import its neighbours at any time. Until then that folder is not looked at:
    some of what lies there would run by its name alone (hydra_plugins, entry points of torch).
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)

"""What a run says while it trains: on the terminal, and kept in its folder."""

import os
import sys
import time
from pathlib import Path

from fmnist import layout
from fmnist.errors import clean


def say_nothing(line: str) -> None:
    """Leave the talking to the first process."""


class Log:
    """Says a line on stderr and keeps it, with the time, in the run's train.log."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, line: str) -> None:
        print(clean(line), file=sys.stderr, flush=True)
        with os.fdopen(self._open(), "a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {clean(line)}\n")

    def _open(self) -> int:
        """Open the file, where it is one: in a folder from elsewhere it may lead anywhere."""
        layout.check_file(self.path)
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)

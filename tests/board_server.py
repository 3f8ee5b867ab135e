"""A TensorBoard for the tests."""

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def serving(command: list[str], folder: Path) -> Iterator[str]:
    """Run TensorBoard and yield its address."""
    process = subprocess.Popen(
        command, cwd=folder, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stderr is not None
    try:
        said = ""
        for line in process.stderr:
            said += line
            if found := re.search(r"at (http://\S+:\d+/)", line):
                yield found[1]
                break
        else:
            pytest.fail(said)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)
        process.stderr.close()

"""Unpack a package of the operating system without root, into a private folder."""

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from fmnist.content import SourceError

APT_S = 120.0  # for the lists and the package
# No file larger than 256 MB, so that a package cannot fill the disk. tar itself refuses names that
# lead out of the folder, and links on the way of a file.
UNPACK = """
ulimit -f 524288 &&
dpkg-deb --fsys-tarfile "$1" >data.tar &&
tar -xf data.tar --no-same-owner --no-same-permissions
"""


@contextmanager
def unpacked(name: str) -> Iterator[Path]:
    """Download the package `name` and yield a folder that holds its tree, for a while."""
    with ExitStack() as stack:
        try:
            temp = tempfile.TemporaryDirectory(prefix="fmnist-", ignore_cleanup_errors=True)
            folder = Path(stack.enter_context(temp))
            _unpack(name, folder)
        except subprocess.TimeoutExpired:
            raise SourceError(f"not done within {APT_S:.0f} s") from None
        except OSError as error:
            raise SourceError(f"{error.filename}: {error.strerror}") from error
        yield folder


def _unpack(name: str, folder: Path) -> None:
    for subfolder in ("state", "lists/partial", "cache/archives/partial"):
        (folder / subfolder).mkdir(parents=True)
    places = {"Dir::State": "state", "Dir::State::Lists": "lists", "Dir::Cache": "cache"}
    apt = ["apt-get", *(f"-o{key}={folder / place}" for key, place in places.items())]
    apt.append("-oDebug::NoLocking=1")
    deadline = time.monotonic() + APT_S
    _run([*apt, "update"], folder, deadline)
    _run([*apt, "download", name], folder, deadline)
    packed = [str(path) for path in folder.glob("*.deb")]
    _run(["sh", "-c", UNPACK, "sh", *packed], folder, deadline)


def _run(command: list[str], folder: Path, deadline: float) -> None:
    """Run `command` in `folder`; raise SourceError with its complaints if it fails."""
    with (folder / "log").open("a+") as log:  # a pipe would outlive a killed apt
        code = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            timeout=deadline - time.monotonic(),
            check=False,
        ).returncode
        log.seek(0)
        lines = ["", *log.read().splitlines()]
    if code:
        errors = [
            line for line in lines if line.startswith(("E:", "W: Failed", "dpkg-deb:", "tar:"))
        ]
        raise SourceError(f"{command[0]}: {' '.join(errors[-2:] or lines[-1:])}")

"""TensorBoard on the runs/ and sweeps/ of this folder, for this machine only: `make tensorboard`.

Arguments are TensorBoard's own: `python scripts/board.py --port 6007`. Those that would show the
page to other machines are refused, as anybody who reaches it reads the runs: to see it from another
machine, `ssh -L 6006:localhost:6006 THIS_MACHINE`.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

from fmnist.errors import UsageError, exit_codes

with exit_codes():
    from tensorboard import main as tensorboard
    from tensorboard.backend.event_processing import io_wrapper

LOCAL = ("localhost", "127.0.0.1", "::1")
ARGUMENTS = ("--host", "localhost", "--logdir_spec", "runs:runs,sweeps:sweeps")

_find_folders = io_wrapper.GetLogdirSubdirectories


def main() -> None:
    # TensorBoard follows links and has no way to leave one out: runs/latest would be one more run,
    # and after the next start a mixture of two (2.21; its faster loader, not used with
    # --logdir_spec, does the same).
    io_wrapper.GetLogdirSubdirectories = _find_runs
    with exit_codes():
        _check_local(sys.argv[1:])
    sys.argv[1:1] = ARGUMENTS
    tensorboard.run_main()


def _check_local(words: list[str]) -> None:
    """Refuse what lets other machines in, also where shortened; raises UsageError."""
    for i, word in enumerate(words):
        name, _, value = word.partition("=")
        if len(name) > 2 and "--bind_all".startswith(name):
            raise UsageError(f"{word}: TensorBoard is for this machine only. Use ssh -L.")
        if len(name) > 2 and "--host".startswith(name):
            value = value or "".join(words[i + 1 : i + 2])
            if value not in LOCAL:
                raise UsageError(
                    f"--host must be {' | '.join(LOCAL)}, got {value!r}: TensorBoard is for this "
                    "machine only. Use ssh -L."
                )
        if len(name) > 3 and "--port".startswith(name):
            value = value or "".join(words[i + 1 : i + 2])
            if value != "default" and not (value.isdecimal() and int(value) < 65_536):
                raise UsageError(f"--port must be 0 to 65535, got {value!r}. 0 takes a free one.")


def _find_runs(path: str) -> Iterable[str]:
    return [folder for folder in _find_folders(path) if Path(folder).name != "latest"]


if __name__ == "__main__":
    main()

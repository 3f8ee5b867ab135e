"""TensorBoard on the runs/ and sweeps/ of this folder, for this machine only: `make tensorboard`.

Arguments are TensorBoard's own: `python scripts/board.py --port 6007`.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

from tensorboard import main as tensorboard
from tensorboard.backend.event_processing import io_wrapper

ARGUMENTS = ("--host", "localhost", "--logdir_spec", "runs:runs,sweeps:sweeps")

_find_folders = io_wrapper.GetLogdirSubdirectories


def main() -> None:
    # TensorBoard follows links and has no way to leave one out: runs/latest would be one more run,
    # and after the next start a mixture of two (2.21; its faster loader, not used with
    # --logdir_spec, does the same).
    io_wrapper.GetLogdirSubdirectories = _find_runs
    sys.argv[1:1] = ARGUMENTS
    tensorboard.run_main()


def _find_runs(path: str) -> Iterable[str]:
    return [folder for folder in _find_folders(path) if Path(folder).name != "latest"]


if __name__ == "__main__":
    main()

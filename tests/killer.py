"""Run a script on the small data set and kill it (SIGKILL) at a chosen moment.

`python tests/killer.py FOLDER PHASE COUNT SCRIPT [ARGUMENTS]`: the process ends at the COUNT-th
moment of PHASE, with no chance to clean up.
"""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import small


def die(*_: Any) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


class Counter:
    """Calls `then` at the `count`-th call of the function it wraps."""

    def __init__(self, count: int, then: Callable[..., None] = die) -> None:
        self.left = count
        self.then = then

    def wrap(self, owner: Any, name: str) -> None:
        function = getattr(owner, name)

        def counted(*args: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                self.then(*args)
            return function(*args, **options)

        setattr(owner, name, counted)


class DieAtImport:
    """Ends the process when the `count`-th of these modules is asked for."""

    MODULES = ("torch", "fmnist.fit", "torch.utils.tensorboard")

    def __init__(self, count: int) -> None:
        self.name = self.MODULES[(count - 1) % len(self.MODULES)]

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return die() if name == self.name else None


def in_import(count: int) -> None:
    sys.meta_path.insert(0, DieAtImport(count))  # type: ignore[arg-type]


def in_training(count: int) -> None:
    from fmnist.classifier import Classifier

    Counter(count).wrap(Classifier, "training_step")


def in_interruption(count: int) -> None:
    """Ctrl-C in the `count`-th training step: here there is a chance to clean up."""
    from fmnist.classifier import Classifier

    def interrupt(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    Counter(count, interrupt).wrap(Classifier, "training_step")


def in_validation(count: int) -> None:
    from fmnist.classifier import Classifier

    Counter(count).wrap(Classifier, "validation_step")


def in_checkpoint(count: int) -> None:
    """1: half of the file is written; 2-6: before each step of moving it into place."""
    import pytorch_lightning as pl

    from fmnist import callbacks

    if count == 1:
        save = pl.Trainer.save_checkpoint

        def save_half(self: pl.Trainer, path: Any, *args: Any, **options: Any) -> None:
            save(self, path, *args, **options)
            os.truncate(path, Path(path).stat().st_size // 2)
            die()

        pl.Trainer.save_checkpoint = save_half  # type: ignore[method-assign]
        return
    steps = Counter(count - 1)
    steps.wrap(callbacks, "_link")
    steps.wrap(callbacks.os, "replace")


def in_test(count: int) -> None:
    """1: in the first batch; 2: in the first figure; 3: before the scores are recorded."""
    from fmnist import charts
    from fmnist.callbacks import Events
    from fmnist.classifier import Classifier

    owner, name = (
        (Classifier, "test_step"),
        (charts, "confusion"),
        (Events, "log_config"),
    )[(count - 1) % 3]
    Counter(1).wrap(owner, name)


def in_record(count: int) -> None:
    """Half of the text of the `count`-th write is in its temporary file."""
    from fmnist import record

    def write_half(path: Path, text: str) -> None:
        path.with_name(f".{path.name}-{os.getpid()}.tmp").write_text(text[: len(text) // 2])
        die()

    Counter(count, write_half).wrap(record, "write_atomically")


if __name__ == "__main__":
    folder, phase, number, *words = sys.argv[1:]
    globals()[f"in_{phase}"](int(number))
    small.run_script(Path(folder), words)

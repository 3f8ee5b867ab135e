"""What is to be measured, by whom and how often."""

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fmnist.errors import UsageError
from fmnist.reading import expanded

PROJECT = Path(__file__).resolve().parents[2]

_TUTORIAL = "float32, default allocator"
CONTESTANTS = {
    "ours": "scripts/train.py",
    "pytorch": f"plain PyTorch, torchvision + DataLoader, {_TUTORIAL}",
    "lightning": f"ordinary Lightning + DataLoader, {_TUTORIAL}",
    "hand": "hand-written bare loop with every trick",
    "keras": f"Keras + TensorFlow, model.fit, {_TUTORIAL}",
}
MEASURES = {
    "matmul": "the machine's matrix-multiply rate",
    "epoch": "epochs at each batch size, memory",
    "startup": "process start to the first training step",
    "process": "the whole process of 10 epochs",
    "eval": "evaluation of the test set",
    "accuracy": "time to 90 % test accuracy",
    "answers": "--help, a typo, a finished run, compare on 1,000 runs",
    "sweep": "one more job of a sweep",
    "growth": "time and memory by number of images and batch size",
    "recipe": "on a GPU: 10 epochs of the default recipe at batch 512",
    "busy": "on a GPU: its busy share while training",
}
ON_CUDA_ONLY = ("recipe", "busy")
ON_CUDA = ("matmul", "epoch", "startup", "process", "eval", "accuracy", *ON_CUDA_ONLY)
ROUNDS = {"process": 3, "accuracy": 3, "sweep": 1, "growth": 1}  # the others: 5


@dataclass(frozen=True)
class Settings:
    """The choices of one benchmark.

    In a `quick` one everything happens once, on a few batches: it shows that all works.
    `own_data` takes the files of `data_dir` as they are; `val_size` images are held out.
    """

    data_dir: Path
    measures: tuple[str, ...] = ()  # () = all that the device has
    contestants: tuple[str, ...] = tuple(CONTESTANTS)
    rounds: int | None = None
    epochs: int = 3
    batch_sizes: tuple[int, ...] = (64, 512)
    num_workers: tuple[int, ...] = ()  # tried by those with a DataLoader; () = by the device
    device: str = "cpu"
    quick: bool = False
    keras_python: str = sys.executable
    own_data: bool = False
    val_size: int = 5000
    max_batches: int | None = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_batches", 8 if self.quick else None)
        if not self.measures:
            on_cpu = tuple(m for m in MEASURES if m not in ON_CUDA_ONLY)
            object.__setattr__(self, "measures", on_cpu if self.device == "cpu" else ON_CUDA)
        if not self.num_workers:
            tried = (0, 1, 2) if self.device == "cpu" else (0, 2, 4, 8)
            object.__setattr__(self, "num_workers", (0,) if self.quick else tried)
        self._check()

    def rounds_of(self, measure: str) -> int:
        return 1 if self.quick else self.rounds or ROUNDS.get(measure, 5)

    def _check(self) -> None:
        """Raise UsageError for what cannot be measured."""
        _refuse_unknown("--measure", self.measures, MEASURES)
        _refuse_unknown("--only and --skip", self.contestants, CONTESTANTS)
        if not self.contestants:
            raise UsageError("--only and --skip leave no contestant. Keep at least one.")
        wrong = [m for m in self.measures if (self.device == "cpu") == (m in ON_CUDA_ONLY)]
        wrong = [m for m in wrong if self.device == "cpu" or m not in ON_CUDA]
        if wrong:
            other = "cuda" if self.device == "cpu" else "cpu"
            raise UsageError(
                f"--measure {','.join(wrong)} needs --device {other}, got {self.device}."
            )
        if "ours" not in self.contestants and (lost := set(self.measures) & _OURS_ALONE):
            raise UsageError(
                f"--measure {','.join(sorted(lost))} is of ours alone. Do not leave ours out."
            )
        if self.epochs < 2:
            raise UsageError(
                f"--epochs must be >= 2, got {self.epochs}: the first is stated by itself."
            )
        if not shutil.which(self.keras_python):
            raise UsageError(f"--keras-python must be a Python, got {self.keras_python!r}.")


_OURS_ALONE = {"answers", "sweep", "growth", "recipe", "busy"}


def _refuse_unknown(option: str, words: Sequence[str], known: Sequence[str] | object) -> None:
    choices = tuple(known)  # type: ignore[arg-type,var-annotated]
    for word in words:
        if word not in choices:
            raise UsageError(f"{option} must be of {', '.join(choices)}, got {word!r}.")


def default_data_dir() -> Path:
    return expanded("FMNIST_DATA", os.environ.get("FMNIST_DATA") or PROJECT / "data").resolve()

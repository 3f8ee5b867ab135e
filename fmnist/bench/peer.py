"""What contestants have in common: their options, and the JSON line they end with.

Needs Python alone, so that a contestant can run in an environment of its own.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

T = TypeVar("T")


def parse_options(doc: str | None) -> argparse.Namespace:
    """Read the options that the benchmark gives to every contestant."""
    parser = argparse.ArgumentParser(description=doc)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder that holds FashionMNIST/raw")
    add("--split", type=Path, required=True, help="indices `train` and `val`, see prepare.py")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--batch-size", type=int, default=64)
    add("--epochs", type=int, default=1, help="0: train nothing")
    add("--max-batches", type=int, help="of an epoch; its validation then takes two")
    add("--num-workers", type=int, default=0, help="processes of a DataLoader")
    add("--until", type=float, help="stop after the first epoch with this test accuracy")
    add("--evals", type=int, default=0, help="evaluate the test set so often, after one warm-up")
    return parser.parse_args()


class Report:
    """Collects what a contestant measures and prints it, as JSON, in the last line of stdout.

    Moments are of time.monotonic(), which all processes of a machine share. An epoch lasts from
    the end of the one before, or from `begin`, to `end_epoch`: validation is part of it.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.values: dict[str, Any] = {
            "epochs_s": [],
            "val_acc": [],
            "test_acc": [],
            "eval_s": [],
            "num_images": 0,
        }
        self._last = 0.0

    def mark(self, name: str) -> None:
        """Note the moment `name`, the first time."""
        if name not in self.values:
            self.values[name] = time.monotonic()

    def watch(self, batches: Iterable[T]) -> Iterator[T]:
        """Pass on the batches of training, and note the moments of the first."""
        for batch in itertools.islice(batches, self.options.max_batches):
            self.mark("first_batch")
            yield batch
            self.mark("first_step")

    def limit(self, batches: Iterable[T]) -> Iterator[T]:
        """Pass on the batches of an evaluation: two, where training is limited too."""
        return itertools.islice(batches, 2 if self.options.max_batches else None)

    def begin(self) -> None:
        self._last = time.perf_counter()

    def end_epoch(self, num_images: int, val_acc: float) -> None:
        """Count an epoch that trained on `num_images` images."""
        now = time.perf_counter()
        self.values["epochs_s"].append(now - self._last)
        self.values["val_acc"].append(val_acc)
        self.values["num_images"] = num_images
        self._last = now

    def is_enough(self, test_acc: float) -> bool:
        """Note the test accuracy of an epoch and say whether it is what --until asks for."""
        self.values["test_acc"].append(test_acc)
        self._last = time.perf_counter()
        return bool(test_acc >= self.options.until)

    def end_eval(self, began: float, num_images: int, test_acc: float) -> None:
        """Count an evaluation of `num_images` images since `began`, of time.perf_counter()."""
        self.values["eval_s"].append(time.perf_counter() - began)
        self.values["num_evaluated"] = num_images
        self.values["test_acc"].append(test_acc)

    def note(self, **facts: Any) -> None:
        self.values |= facts

    def print(self) -> None:
        print(json.dumps(self.values), flush=True)


def read_images(data: Path, split: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return images uint8 (N, 28, 28) and labels uint8 (N,) of the file `train` or `t10k`."""
    import numpy as np

    raw = data / "FashionMNIST" / "raw"
    images = np.fromfile(raw / f"{split}-images-idx3-ubyte", np.uint8)[16:].reshape(-1, 28, 28)
    return images, np.fromfile(raw / f"{split}-labels-idx1-ubyte", np.uint8)[8:]


def read_split(path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the indices of the images for training and for validation."""
    import numpy as np

    with np.load(path) as split:
        return split["train"], split["val"]

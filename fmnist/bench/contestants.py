"""How each contestant is started, and how what it says becomes a sample."""

import csv
import json
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fmnist.bench import process
from fmnist.bench.process import ContestantError, Done
from fmnist.bench.results import Sample
from fmnist.bench.settings import PROJECT, Settings

NAME = "bench"  # of our run in the fresh folder of each process
SAME_RECIPE = (
    "optim=adam",
    "optim/schedule=constant",
    "optim.lr=0.001",
    "augment=none",
    "figures=none",
)


class Task(NamedTuple):
    """What a contestant is asked to do in one process."""

    epochs: int = 0
    batch_size: int = 64
    num_workers: int | None = None  # of a DataLoader; None = as many as are fastest
    evals: int = 0
    until: float | None = None  # test accuracy
    max_batches: int | None = None  # of an epoch


class Contestants:
    """Starts contestants with the same data; `split` is the file that all but ours read."""

    def __init__(self, settings: Settings, split: Path) -> None:
        self.settings = settings
        self.split = split

    def train(self, name: str, task: Task, place: Path) -> Sample:
        """Carry out `task` in the empty folder `place`; raises ContestantError."""
        if name == "ours":
            words = [f"trainer.max_epochs={task.epochs}", f"data.batch_size={task.batch_size}"]
            words += [*SAME_RECIPE, "test=false"]
            return read_run(self.ours(words, place, max_batches=task.max_batches), place)
        return read_report(process.run(self._command(name, task), place, self.environment()))

    def ours(
        self,
        overrides: Sequence[str],
        place: Path,
        *,
        max_batches: int | None = None,
        watched: bool = False,
        data_dir: Path | None = None,
    ) -> Done:
        """Run scripts/train.py in `place`, under the name NAME; `watched` adds its first moments.

        `data_dir` holds data of another size than the verified ones.
        """
        words = [f"name={NAME}", *overrides, *self._overrides(max_batches)]
        return self.script("train.py", words, place, watched=watched, data_dir=data_dir)

    def script(
        self,
        name: str,
        words: Sequence[str],
        place: Path,
        *,
        expected: int = 0,
        watched: bool = False,
        data_dir: Path | None = None,
    ) -> Done:
        """Run `scripts/NAME` as a user would, which has to exit with `expected`.

        Raises ContestantError.
        """
        command = [sys.executable, str(PROJECT / "scripts" / name)]
        if is_own := self.settings.own_data or data_dir is not None:
            watched = True
        if watched:
            options = ["--own-data"] if is_own else []
            command = [sys.executable, "-m", "fmnist.bench.launch", *options, name]
        environment = self.environment(data_dir)
        return process.run([*command, *words], place, environment, expected=expected)

    def environment(self, data_dir: Path | None = None) -> dict[str, str]:
        """Return what is set for every process: this copy of fmnist, the data, the device."""
        paths = [str(PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]
        given = {
            "PYTHONPATH": os.pathsep.join(paths),
            "FMNIST_DATA": str(data_dir or self.settings.data_dir),
        }
        return given | ({"CUDA_VISIBLE_DEVICES": "-1"} if self.settings.device == "cpu" else {})

    def _overrides(self, max_batches: int | None) -> list[str]:
        """Return what the device, a limit and other data ask of our command line."""
        settings, words = self.settings, []
        max_batches = max_batches or settings.max_batches
        if settings.device == "cuda":
            words.append("trainer=gpu")
        elif sys.platform == "darwin":
            words.append("trainer=cpu")  # where CUDA_VISIBLE_DEVICES hides nothing
        if max_batches:
            words.append(f"trainer.limit_train_batches={max_batches}")
            words += ["trainer.limit_val_batches=2", "trainer.limit_test_batches=2"]
        if settings.own_data:
            words.append(f"data.val_size={settings.val_size}")
        return words

    def _command(self, name: str, task: Task) -> list[str]:
        settings = self.settings
        python = settings.keras_python if name == "keras" else sys.executable
        options: dict[str, Any] = {
            "data": settings.data_dir,
            "split": self.split,
            "device": settings.device,
            "batch-size": task.batch_size,
            "epochs": task.epochs,
            "max-batches": task.max_batches or settings.max_batches,
            "num-workers": task.num_workers,
            "evals": task.evals,
            "until": task.until,
        }
        words = [f"--{key}={value}" for key, value in options.items() if value is not None]
        return [python, "-m", f"fmnist.bench.{name}", *words]


def last_line(done: Done) -> dict[str, Any]:
    """Return the JSON object in the last line of stdout; raises ContestantError without one."""
    try:
        found = json.loads(done.stdout.strip().rpartition("\n")[2])
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ContestantError("its last line of output is not JSON")
    return found


def read_report(done: Done) -> Sample:
    """Return the sample of a peer that printed a Report."""
    told = last_line(done)
    epochs_s, num_images = told.pop("epochs_s", []), told.pop("num_images", 0)
    for moment in ("first_batch", "first_step"):
        if moment in told:
            told[f"{moment}_s"] = told.pop(moment) - done.began
    if eval_s := told.get("eval_s"):
        told["eval_image_s"] = statistics.median(eval_s) / told["num_evaluated"]
        told["eval_rate"] = 1 / told["eval_image_s"]  # images/s
    for split in ("val_acc", "test_acc"):
        told[split] = (told.get(split) or [None])[-1]
    return {**_speeds(epochs_s, num_images), **_costs(done), **told}


def read_run(done: Done, place: Path) -> Sample:
    """Return the sample of our run in `place`, from its metrics.csv and run.json."""
    folder = place / "runs" / NAME
    with (folder / "metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    run: Mapping[str, Any] = json.loads((folder / "run.json").read_text("utf-8"))
    num_images = int(rows[0]["step"]) * int(run["config"]["data"]["batch_size"])
    return {
        **_speeds([float(row["epoch_s"]) for row in rows], num_images),
        **_costs(done),
        "val_acc": float(rows[-1]["val/acc"]),
        "test_acc": run["scores"].get("test/acc"),
        "num_parameters": run["num_parameters"],
        "precision": run["precision"],
    }


def _speeds(epochs_s: Sequence[float], num_images: int) -> Sample:
    """Return the steady epoch, which is the median without the first, and the first by itself."""
    if not epochs_s:
        return {}
    sample = {"epochs_s": list(epochs_s), "first_epoch_s": epochs_s[0], "num_images": num_images}
    sample |= {"num_epochs": len(epochs_s), "loop_s": sum(epochs_s)}
    if len(epochs_s) > 1:
        epoch_s = statistics.median(epochs_s[1:])
        sample |= {"epoch_s": epoch_s, "images_per_s": num_images / epoch_s}
    return sample


def _costs(done: Done) -> Sample:
    return {"wall_s": done.wall_s, "memory_mb": done.memory_mb}

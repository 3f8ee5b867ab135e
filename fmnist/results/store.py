"""docs/results.json, the one home of what the recorded experiments measured.

Accuracies are fractions of 1, times in seconds. Everything that shows a result is rendered from it.
"""

import json
import re
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fmnist import record
from fmnist.arguments import Count, Positive, Share
from fmnist.errors import UserError
from fmnist.messages import CONF_DIR

PATH = CONF_DIR.parent / "docs" / "results.json"
Epoch = Annotated[int, Field(ge=1)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="forbid", frozen=True)


class SeedRun(_Part):
    """One run: accuracies of the selected checkpoint, and times in seconds.

    `val_acc` is missing where the test images validated; `train_acc` is on the training images as
    they are; `last_val_acc` is that of the last epoch, on whatever images validated. `train_s` is
    the sum of the epochs, with augmentation, validation and all checkpoints but the last, and
    `first_epoch_s` the first of them.
    """

    seed: Annotated[int, Field(ge=0)]
    val_acc: Share | None = None
    test_acc: Share
    train_acc: Share | None = None
    last_val_acc: Share | None = None
    best_epoch: Epoch
    epochs: Epoch
    duration_s: Positive
    train_s: Positive | None = None
    first_epoch_s: Positive | None = None


class Origin(_Part):
    """Where runs come from: `date` is the first one's start, `recipe` a hash by plan.recipe."""

    command: str
    commit: Annotated[str, Field(pattern="^[0-9a-f]{40}$")]
    date: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d$")]
    device: str
    cpu: str | None = None
    num_threads: Count | None = None
    precision: str
    recipe: Annotated[str, Field(pattern="^[0-9a-f]{16}$")] | None = None

    @property
    def machine(self) -> str:
        """Name what trained: the GPU, or the CPU and the threads that were used of it."""
        if self.device != "cpu":
            return self.device
        plural = "s" * (self.num_threads != 1)
        return f"{self.num_threads or '?'} thread{plural} of {self.cpu or 'an unknown CPU'}"


class Entry(Origin):
    """What an experiment measured, seed by seed."""

    selected_on: Literal["val", "test", "last"]
    partial: Literal[False] = False
    num_parameters: Count
    runs: Annotated[list[SeedRun], Field(min_length=1)]

    def values(self, key: str) -> dict[int, float]:
        """Return an accuracy by seed, of the seeds that have it."""
        found = {run.seed: getattr(run, key) for run in self.runs}
        return {seed: value for seed, value in found.items() if value is not None}

    def gaps(self) -> dict[int, float]:
        """Return train minus test accuracy by seed."""
        return {r.seed: r.train_acc - r.test_acc for r in self.runs if r.train_acc is not None}

    @property
    def run_s(self) -> float:
        """The median time of a run, seconds."""
        return statistics.median(run.duration_s for run in self.runs)

    @property
    def train_s(self) -> float | None:
        """The mean time of the epochs of a run, seconds; None where it is not known of all."""
        times = [run.train_s for run in self.runs if run.train_s is not None]
        return statistics.mean(times) if len(times) == len(self.runs) else None

    @property
    def first_excess_s(self) -> float | None:
        """The mean time by which the first epoch exceeds the mean of the others, seconds."""
        found = [
            run.first_epoch_s - (run.train_s - run.first_epoch_s) / (run.epochs - 1)
            for run in self.runs
            if run.first_epoch_s is not None and run.train_s is not None and run.epochs > 1
        ]
        return statistics.mean(found) if len(found) == len(self.runs) else None

    @property
    def epochs(self) -> str:
        counts = sorted({run.epochs for run in self.runs})
        return str(counts[0]) if len(counts) == 1 else f"{counts[0]}-{counts[-1]}"


class Ablation(Origin):
    """val/acc by case and seed; `whole` names the case that leaves nothing out."""

    whole: str
    cases: dict[str, dict[int, Share]]


class Results(_Part):
    """All that has been measured; what is missing is not measured."""

    schema_: Literal[1] = Field(1, alias="schema")
    experiments: dict[str, Entry] = {}
    ablation: Ablation | None = None

    def replaced(self, entries: Mapping[str, Entry], ablation: Ablation | None) -> "Results":
        """Return these results with other entries in place of those of the same names."""
        known = {**self.experiments, **entries}
        return Results(
            schema=1,
            experiments={name: known[name] for name in sorted(known)},
            ablation=ablation or self.ablation,
        )

    def text(self) -> str:
        """Write JSON with a line for each run."""
        text = json.dumps(self.model_dump(by_alias=True, exclude_none=True), indent=1)
        return re.sub(r"\{[^{}]+\}", lambda found: " ".join(found[0].split()), text) + "\n"


def read(path: Path = PATH) -> Results:
    """Read the results; none where there is no file. Raises UserError for a damaged one."""
    try:
        return Results.model_validate_json(path.read_text("utf-8"))
    except FileNotFoundError:
        return Results(schema=1)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"{path} is damaged at {where or 'its top'} ({first['msg']}). "
            "Restore it: git checkout docs/results.json."
        ) from None


def write(results: Results, path: Path = PATH) -> None:
    record.write_atomically(path, results.text())

"""Measures of ours on a GPU: the default recipe, and how busy the GPU is."""

import datetime
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fmnist.bench.contestants import last_line, read_run
from fmnist.bench.process import ContestantError
from fmnist.bench.results import Sample
from fmnist.bench.rounds import Bench

BATCH_SIZE = 512
BUSY_EPOCHS = 60  # a few seconds at least: nvidia-smi averages over up to one
PERIOD_MS = 200


def measure_recipe(bench: Bench) -> None:
    """Time 10 epochs of the default recipe, as a user types it: the epochs and the whole."""

    def ours(place: Path) -> Sample:
        words = [f"trainer.max_epochs={2 if bench.settings.quick else 10}"]
        done = bench.contestants.ours([*words, f"data.batch_size={BATCH_SIZE}"], place)
        return read_run(done, place)

    bench.play("recipe", "recipe", {"ours": ours})


def measure_busy(bench: Bench) -> None:
    """Sample what nvidia-smi calls utilization: the share of time in which a kernel ran."""

    def ours(place: Path) -> Sample:
        num_epochs = 2 if bench.settings.quick else BUSY_EPOCHS
        words = [f"trainer.max_epochs={num_epochs}", f"data.batch_size={BATCH_SIZE}"]
        with sampling(place / "gpu.csv"):
            done = bench.contestants.ours(
                [*words, "test=false", "figures=none"], place, watched=True
            )
        sample = read_run(done, place)
        begin = last_line(done)["first_batch"] + time.time() - time.monotonic()
        found = shares(place / "gpu.csv", begin, begin + sample["loop_s"])
        if not found:
            raise ContestantError("nvidia-smi gave no sample during the training")
        return {**sample, "busy": statistics.fmean(found), "num_samples": len(found)}

    bench.play("busy", "busy", {"ours": ours}, shown="busy")


@contextmanager
def sampling(path: Path) -> Iterator[None]:
    """Write the GPU's busy share to `path` every PERIOD_MS; raises ContestantError."""
    if not shutil.which("nvidia-smi"):
        raise ContestantError("nvidia-smi is not there")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0]
    fields = "--query-gpu=timestamp,utilization.gpu"
    command = ["nvidia-smi", f"--id={visible or 0}", fields, "--format=csv,noheader,nounits"]
    with path.open("w") as file:
        sampler = subprocess.Popen([*command, f"--loop-ms={PERIOD_MS}"], stdout=file)
        try:
            yield
        finally:
            sampler.terminate()
            sampler.wait()


def shares(path: Path, begin: float, end: float) -> list[float]:
    """Return the busy shares (0..1) between two moments of time.time().

    A value is the mean of up to a second before it, so those of the first second are left out.
    """
    found = []
    for line in path.read_text("utf-8").splitlines():
        moment, _, share = line.partition(",")
        try:
            at = datetime.datetime.strptime(moment.strip(), "%Y/%m/%d %H:%M:%S.%f").timestamp()
            value = float(share) / 100
        except ValueError:  # a line cut off at the end, or "[N/A]"
            continue
        if begin + 1 <= at <= end:
            found.append(value)
    return found

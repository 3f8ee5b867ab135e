"""Carry out a benchmark: prepare, measure in turn, keep what is known."""

import datetime
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fmnist import origin, sources
from fmnist.bench import framework, gpu, process, training
from fmnist.bench.contestants import last_line
from fmnist.bench.process import ContestantError
from fmnist.bench.results import Results, Series
from fmnist.bench.rounds import Bench
from fmnist.bench.settings import Settings
from fmnist.errors import UsageError, UserError

MEASURES: dict[str, Callable[[Bench], None]] = {
    "matmul": training.measure_matmul,
    "epoch": training.measure_epoch,
    "startup": training.measure_startup,
    "process": training.measure_process,
    "eval": training.measure_eval,
    "accuracy": training.measure_accuracy,
    "answers": framework.measure_answers,
    "sweep": framework.measure_sweep,
    "growth": framework.measure_growth,
    "recipe": gpu.measure_recipe,
    "busy": gpu.measure_busy,
}
NEEDS = {"keras": ("keras", "tensorflow")}
INSTALL = "not installed: pip install -e '.[bench]', or name a Python that has it: --keras-python"


def run(
    settings: Settings,
    command: str,
    *,
    say: Callable[[str], None],
    save: Callable[[Results], None] = lambda _: None,
) -> Results:
    """Measure what `settings` ask for; `command` is what was typed, for the record.

    `say` is told the progress, `save` given the results whenever a case is complete. A contestant
    that fails is told in its Series. Raises UsageError for a device that is not there, UserError
    where the data cannot be had.
    """
    with tempfile.TemporaryDirectory(prefix="fmnist-bench-", ignore_cleanup_errors=True) as folder:
        bench = Bench(settings, Path(folder), {}, say, save)
        machine = _describe(bench)
        if not settings.own_data:
            sources.obtain(settings.data_dir)
        _write_split(bench)
        bench.absent = _absent(bench)
        bench.results.header = _header(settings, command, machine)
        for measure in settings.measures:
            try:
                MEASURES[measure](bench)
            except ContestantError as error:
                bench.results.cases.setdefault(measure, {})["preparation"] = Series(
                    error=str(error)
                )
                say(f"{measure} failed: {error}")
            save(bench.results)
    return bench.results


def _describe(bench: Bench) -> dict[str, Any]:
    """Return what the machine is; raises UsageError where the device is missing."""
    environment = bench.contestants.environment()
    command = [sys.executable, "-m", "fmnist.bench.machine"]
    try:
        machine = last_line(process.run(command, bench.folder, environment))
    except ContestantError as error:
        raise UserError(f"torch does not start: {error}") from None
    if bench.settings.device == "cuda" and not machine["gpu"]:
        raise UsageError(
            "--device cuda needs a CUDA device, and torch finds none here. Leave it out, or check "
            "the driver with nvidia-smi."
        )
    return machine


def _write_split(bench: Bench) -> None:
    settings = bench.settings
    command = [sys.executable, "-m", "fmnist.bench.prepare", f"--data={settings.data_dir}"]
    command += [f"--split={bench.contestants.split}", f"--val-size={settings.val_size}"]
    try:
        process.run(command, bench.folder, bench.contestants.environment())
    except ContestantError as error:
        raise UserError(f"The split cannot be written: {error}") from None


def _absent(bench: Bench) -> Mapping[str, str]:
    """Say of each contestant that cannot start what to do about it."""
    absent = {}
    for name, modules in NEEDS.items():
        code = f"import importlib.util as u; assert all(map(u.find_spec, {modules}))"
        command = [bench.settings.keras_python, "-c", code]
        try:
            process.run(command, bench.folder, {})
        except ContestantError:
            absent[name] = INSTALL
    return absent


def _header(settings: Settings, command: str, machine: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "date": f"{datetime.datetime.now().astimezone():%Y-%m-%d %H:%M %z}",
        "command": command,
        "device": settings.device,
        "quick": settings.quick,
        "machine": machine,
        "versions": origin.versions(),
        **origin.commit(),
    }

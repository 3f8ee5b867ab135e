"""Read what finished runs measured, and refuse what could not be measured again."""

import contextlib
import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fmnist import evaluation, record, reports
from fmnist.command import Command
from fmnist.compare import collection, histories
from fmnist.compare.collection import Run
from fmnist.errors import UserError
from fmnist.results import plan
from fmnist.results.store import Ablation, Entry, SeedRun
from fmnist.sweeps.plan import Job, state

ORIGIN = ("device", "cpu", "num_threads", "precision")


def collect(name: str, command: Command) -> Entry:
    """Return what the runs of an experiment measured, in the order of their seeds.

    The accuracy on the training images is measured now where that was not done before, but for
    experiments that need a GPU: it happens on the CPU. Raises UserError for runs that are missing,
    unfinished, partial, of a dirty tree or of several commits, or that lack what is recorded.
    """
    runs = _read(name, plan.jobs(command))
    has_train = not plan.needs_gpu(command)
    measured = [_seed_run(run, has_train) for run in runs]
    with _checking(runs[0].folder.parent):
        return Entry(
            **_origin(name, command, runs),
            selected_on=_same("selected_on", runs),
            num_parameters=_same("num_parameters", runs),
            runs=measured,
        )


def collect_ablation(command: Command) -> Ablation:
    """Return val/acc of the runs of the ablation, by case and seed; raises as `collect` does."""
    jobs = plan.jobs(command)
    runs = _read(plan.ABLATION, jobs)
    found: dict[str, dict[int, float]] = {}
    for case, run in zip(plan.cases(command), runs, strict=True):
        found.setdefault(case, {})[run.fields["seed"]] = run.scores["val/acc"]
    whole = next((case for case, words in command.cases.items() if not words), None)
    if whole is None:
        raise UserError("conf/sweep/ablation.yaml needs a case that changes nothing: whole: [].")
    with _checking(runs[0].folder.parent):
        return Ablation(**_origin(plan.ABLATION, command, runs), whole=whole, cases=found)


def _read(name: str, jobs: Sequence[Job]) -> list[Run]:
    """Read the runs of `jobs`; raises UserError unless each may be recorded."""
    folder = jobs[0].folder.parent
    for job in jobs:
        status = state(job.folder).status
        if status != "finished":
            raise UserError(
                f"{job.folder} is not finished but {status}. Complete the runs: "
                f"python scripts/results.py {name}"
            )
    runs, skipped = collection.read_runs(job.folder for job in jobs)
    if skipped or len(runs) != len(jobs):
        raise UserError(f"{folder} cannot be read: {'; '.join(skipped) or 'runs are missing'}.")
    for run in runs:
        _check(run)
        if name in plan.TIMED and len(record.read(run.folder).data["attempts"]) > 1:
            raise UserError(
                f"{run.label} was interrupted and resumed, so its seconds are not those of a run. "
                f"Delete the folder and run: python scripts/results.py {name}"
            )
    _same("num_processes", runs)
    commits = sorted({run.fields["commit"][:7] for run in runs})
    if len(commits) > 1:
        raise UserError(
            f"{folder} holds runs of {len(commits)} commits ({', '.join(commits)}): they are not "
            f"one result. Delete the folder and run: python scripts/results.py {name}"
        )
    return runs


def _check(run: Run) -> None:
    again = "Delete the folder and run it again at a commit, with nothing changed."
    commit = run.fields["commit"]
    if run.fields["partial"]:
        raise UserError(f"{run.label} is partial: its batches were limited. {again}")
    if not commit:
        raise UserError(f"{run.label} has no commit: it ran outside a git checkout. {again}")
    if run.fields["dirty"]:
        raise UserError(f"{run.label} ran with uncommitted changes on {commit[:7]}. {again}")
    if "," in commit:
        short = ", ".join(part[:7] for part in commit.split(","))
        raise UserError(f"{run.label} was made at several commits ({short}). {again}")


@contextlib.contextmanager
def _checking(folder: Path) -> Iterator[None]:
    """Turn what an entry refuses into a UserError that names the folder it was read from."""
    try:
        yield
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UserError(
            f"{folder}: {first['loc'][0]} is missing or no valid value, got {first['input']!r}. "
            "Delete the folder and run it again."
        ) from None


def _origin(name: str, command: Command, runs: Sequence[Run]) -> dict[str, Any]:
    facts = {key: _same(key, runs) for key in ORIGIN}
    started = min(str(run.fields["started"] or "") for run in runs)
    if not started:
        raise UserError(f"{runs[0].label} does not say when it started. Run it again.")
    return {
        "command": plan.command_line(name),
        "commit": runs[0].fields["commit"],
        "date": started[:10],
        "recipe": plan.recipe(command),
        **facts,
    }


def _same(key: str, runs: Sequence[Run]) -> Any:
    """Return a fact that all runs share; raises UserError where they do not."""
    found = list(dict.fromkeys(run.fields[key] for run in runs))
    if len(found) > 1:
        raise UserError(
            f"{runs[0].folder.parent} holds runs that differ in {key}: "
            f"{', '.join(map(str, found))}. Delete the folder and run them on one machine."
        )
    return found[0]


def _seed_run(run: Run, has_train: bool) -> SeedRun:
    fields, scores = run.fields, run.scores
    if "test/acc" not in scores:
        raise UserError(f"{run.label} has no test/acc. Run it with test=auto.")
    curve = histories.points(histories.read_history(run.folder), "val/acc")
    times = _epoch_times(run.folder)
    with _checking(run.folder):
        return SeedRun(
            seed=fields["seed"],
            val_acc=scores.get("val/acc") if fields["selected_on"] != "test" else None,
            test_acc=scores["test/acc"],
            train_acc=_train_acc(run.folder, has_train),
            last_val_acc=round(curve[-1][1] / 100, 10) if curve else None,
            best_epoch=fields["best_epoch"],
            epochs=fields["epochs_done"],
            duration_s=fields["duration_s"],
            train_s=round(math.fsum(times), 3) if times else None,
            first_epoch_s=times[0] if times else None,
        )


def _epoch_times(folder: Path) -> list[float]:
    """Return the seconds of each epoch; none where metrics.csv does not say all of them."""
    try:
        with (folder / histories.HISTORY).open(encoding="utf-8", newline="") as file:
            seconds = [float(row["epoch_s"]) for row in csv.DictReader(file)]
    except (OSError, KeyError, TypeError, ValueError, csv.Error):
        return []
    return seconds if all(math.isfinite(value) and value > 0 for value in seconds) else []


def _train_acc(folder: Path, may_measure: bool) -> float | None:
    """Return the accuracy on the training images, as kept or else measured and kept."""
    found: Mapping[str, Any] | None = reports.read(folder, "train")
    if found is None and may_measure:
        found = evaluation.evaluate(folder, "train")
    return None if found is None else float(found["scores"]["train/acc"])


def has_runs(name: str) -> bool:
    """Say whether there is any run of an experiment or of the ablation."""
    return any(Path("sweeps", f"results-{name}").glob(f"*/{record.RECORD}"))

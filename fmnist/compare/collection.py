"""Run folders read into plain values, to be filtered, grouped and ranked. Torch-free.

Whatever a record holds, it costs at most itself: what is not of its kind counts as not recorded.
"""

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fmnist import record, reports, schema
from fmnist.errors import UsageError, UserError, clean
from fmnist.facts import LARGEST
from fmnist.reading import read_json

SCORES = tuple(f"{split}/{name}" for split in ("train", "val", "test") for name in ("acc", "loss"))
TARGET = "._target_"
DEPTH = 2  # folders from sweeps/ down to a job

# What else a record says that can be asked for, and its types.
FACTS: dict[str, type | tuple[type, ...]] = {
    "epochs_done": int,
    "best_epoch": int,
    "duration_s": (int, float),
    "images_per_s": (int, float),
    "num_parameters": int,
    "num_processes": int,
    "num_threads": int,
    "device": str,
    "cpu": str,
    "started": str,
    "precision": str,
    "selected_on": str,
    "partial": bool,
    "data_hash": str,
    "split_hash": str,
    "error": str,
}


class Run(NamedTuple):
    """One run as its folder tells it.

    `label` is its path as a person would type it; `fields` holds all that can be asked for:
    flat config keys, scores (nan where not finite), FACTS and more.
    """

    folder: Path
    label: str
    overrides: tuple[str, ...]
    identity: dict[str, Any]  # the flat keys that decide what is trained, without the seed
    scores: dict[str, float]
    fields: dict[str, Any]

    @property
    def status(self) -> str:
        return str(self.fields["status"])

    def is_finished(self) -> bool:
        return self.status == "finished"

    def is_whole(self) -> bool:
        """Say whether its scores can be compared with others': all data, selected on val."""
        return (
            self.is_finished()
            and not self.fields["partial"]
            and self.fields["selected_on"] != "test"
            and math.isfinite(self.scores.get("val/acc", math.nan))
        )


def read_runs(paths: Iterable[Path]) -> tuple[list[Run], list[str]]:
    """Read the runs at `paths`: run folders, sweeps, or folders of these; each run once.

    Returns also a line for each folder that is no readable run. Raises UsageError for a path that
    is no folder.
    """
    runs: dict[tuple[int, int], Run] = {}
    skipped: list[str] = []
    for path in paths:
        if not path.is_dir():
            kind = "is no folder" if path.exists() else "does not exist"
            raise UsageError(f"{path} {kind}. Give run folders, sweeps, runs/ or sweeps/.")
        found, foreign = _find(path, DEPTH)
        skipped += foreign
        for folder in found:
            try:
                state = folder.stat()
                place = state.st_dev, state.st_ino
                if place not in runs:
                    runs[place] = _read_run(folder, skipped)
            except (UserError, OSError) as error:
                skipped.append(clean(str(error)))
            except RecursionError:
                skipped.append(clean(f"{folder / record.RECORD} is nested too deeply."))
    return _complete(list(runs.values())), list(dict.fromkeys(skipped))


def _find(folder: Path, depth: int) -> tuple[list[Path], list[str]]:
    """Return the run folders in `folder` and a line for each that is and holds none."""
    try:
        if (folder / record.RECORD).is_file():
            return [folder], []
        children = sorted(_children(folder), key=lambda child: (child.is_symlink(), child.name))
    except OSError as error:
        return [], [clean(f"{folder} cannot be read ({error.strerror}).")]
    runs: list[Path] = []
    foreign: list[str] = []
    for child in children if depth else ():
        more, lines = _find(child, depth - 1)
        runs += more
        foreign += lines
    if not runs and not (foreign and depth == DEPTH):
        foreign = [clean(f"{folder} is no run folder: {record.RECORD} is missing.")]
    return runs, foreign


def _children(folder: Path) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith(".") and entry.is_dir():
                yield folder / entry.name


def _read_run(folder: Path, skipped: list[str]) -> Run:
    if folder.is_symlink() and folder.resolve().parent == folder.parent.resolve():
        folder = folder.parent / folder.resolve().name  # what runs/latest points to
    run = record.read(folder)
    data = run.data
    flat = {clean(k): _cleaned(value) for k, value in schema.flatten(data["config"]).items()}
    overrides = tuple(word for word in data["overrides"] if isinstance(word, str))
    scores = _numbers(data["scores"])
    if "test/acc" not in scores:
        scores |= _test_scores(folder, skipped)
    identity = record.identity({"config": flat, "overrides": overrides})
    identity.pop("seed", None)
    facts = {
        **{key: fact(data.get(key), kind) for key, kind in FACTS.items()},
        **_code(data),
        "status": clean(run.status),
        "run": clean(str(folder)),
    }
    facts["partial"] = bool(facts["partial"])
    names = {k.removesuffix(TARGET): v for k, v in flat.items() if k.endswith(TARGET)}
    short = {key: str(value).rpartition(".")[2] for key, value in names.items()}
    fields = {**short, **dict.fromkeys(SCORES), **flat, **scores, **facts}
    return Run(folder, facts["run"], overrides, identity, scores, fields)


def _cleaned(value: Any) -> Any:
    """Clean all texts in a value of a config, and let 1.0 and 1 be one number."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, list):
        return [_cleaned(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers among `values`; nan for those that are not finite."""
    return {
        clean(key): float(value) if abs(value) < LARGEST else math.nan
        for key, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def fact(value: Any, kind: type | tuple[type, ...]) -> Any:
    """Return a value of a record, cleaned; None where it is not of its kind."""
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        return None
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, int | float) and not abs(value) < LARGEST:
        return None
    return value


def _code(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return {"commit", "dirty"}: all commits that the run's attempts were made at, joined."""
    attempts = [a for a in data["attempts"] if isinstance(a, dict)]
    sources = [data, *attempts]
    commits = [s["commit"] for s in sources if isinstance(s.get("commit"), str)]
    joined = ",".join(dict.fromkeys(clean(commit) for commit in commits))
    return {"commit": joined or None, "dirty": any(s.get("dirty") is True for s in sources)}


def _test_scores(folder: Path, skipped: list[str]) -> dict[str, float]:
    path = reports.path(folder, "test")
    try:
        data = read_json(path)
        if data["schema"] != 1 or data["split"] != "test":
            raise ValueError("not the scores of a test")
        return {k: v for k, v in _numbers(data["scores"]).items() if k.startswith("test/")}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        skipped.append(clean(f"{path} is not used ({error or type(error).__name__})."))
        return {}


def _complete(runs: list[Run]) -> list[Run]:
    """Give each run the keys that only newer code records, at their defaults.

    A key counts as lacking where a run with the same targets has it.
    """
    shapes: dict[Any, list[Run]] = {}
    for run in runs:
        targets = tuple(str(v) for k, v in run.identity.items() if k.endswith(TARGET))
        shapes.setdefault((frozenset(run.identity), targets), []).append(run)
    known = {
        (key, _target(alike[0], key)): None
        for alike in shapes.values()
        for key in alike[0].identity
    }
    found: dict[tuple[str, ...], Mapping[str, Any]] = {}
    for alike in shapes.values():
        first = alike[0]
        lacking = [k for k, t in known if k not in first.identity and _target(first, k) == t]
        for run in alike if lacking else ():
            defaults = _defaults(run, lacking, found)
            added = {key: _cleaned(defaults[key]) for key in lacking if key in defaults}
            run.identity.update(added)
            run.fields.update({**added, **run.fields})
    return runs


def _target(run: Run, key: str) -> str | None:
    """Return the class or function that `key` is an argument of; None where there is none."""
    section = key
    while section := section.rpartition(".")[0]:
        if section + TARGET in run.identity and section + TARGET != key:
            return str(run.identity[section + TARGET])
    return None


def _defaults(
    run: Run, lacking: Iterable[str], found: dict[tuple[str, ...], Mapping[str, Any]]
) -> Mapping[str, Any]:
    """Return flat defaults for `lacking`; composed only where Lightning's are not enough."""
    trainer = schema.trainer_defaults()
    if all(key in trainer for key in lacking):
        return trainer
    words = tuple(w for w in run.overrides if _chooses_group(w))
    if words not in found:
        from fmnist import config  # Hydra, only where records of different ages meet

        found[words] = config.defaults(words)
    return found[words]


def _chooses_group(word: str) -> bool:
    """Say whether an override may choose a file of defaults, rather than set one key."""
    key = word.lstrip("+~").partition("=")[0]
    sections = ("data", "augment", "model", "optim", "callbacks", "logger", "trainer")
    return "." not in key and (key in sections or key not in schema.Root.model_fields)

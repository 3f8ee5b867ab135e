"""A finished run as one file for other programs, checked against the model it is made from."""

import contextlib
import functools
import hashlib
import importlib.util
import os
import statistics
import timeit
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fmnist import evaluation, origin, process, provenance, record, report
from fmnist.card import Check, Exported, write_card
from fmnist.errors import UsageError, UserError
from fmnist.reports import path as eval_path

if TYPE_CHECKING:
    from fmnist.model import Model

SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2"}
PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "torch_export": ()}
NUM_IMAGES = 1000  # to check with
TOLERANCE = 1e-5  # of probabilities; ours and a ResNet-18: 8e-7 (2 CPU cores, AMD EPYC, 2026-11-22)
Images = NDArray[np.uint8]
Predict = Callable[[Images], NDArray[np.float32]]


def export(
    folder: Path, kind: str = "onnx", out: Path | None = None, trust: bool = False
) -> tuple[Exported, tuple[str, ...]]:
    """Write the run in `folder` as `out`, or as model.onnx or model.pt2 in it, with a card beside.

    Both files appear whole and checked; where one cannot, neither does. Returns what was made, and
    what could not be had for it. `trust` as in `run.load`.

    Raises:
        UsageError: a place that no file can have, or another kind than onnx and torch_export.
        UserError: the run is not finished, a package is missing, the network cannot be exported,
            the file answers otherwise than the model, or it cannot be written.
    """
    path = _place(folder, kind, out)
    run = evaluation.read_finished(folder)
    _require(kind)
    process.import_torch()
    process.keep_memory()
    from fmnist import portable
    from fmnist.model import load_model

    model = load_model(folder, trust)
    metadata = provenance.describe(run, model.config, origin.now())
    write, load = portable.FORMATS[kind]
    content = write(portable.trace(model), metadata)
    images, fault = _images(model)
    check = _check(load(content), model, images, "random images" if fault else "test images")
    reports, faults = _reports(run, has_data=not fault)
    made = Exported(
        path=path,
        card=_card(path),
        kind=kind,
        num_bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        metadata=metadata,
        check=check,
    )
    text = write_card(run, model.config, reports, made)
    _install({made.card: text.encode(), path: content})
    return made, (*filter(None, (fault,)), *faults)


def _place(folder: Path, kind: str, out: Path | None) -> Path:
    """Return where the file goes; refuse at once where none can be written."""
    if kind not in SUFFIXES:
        raise UsageError(f"--format must be one of {', '.join(SUFFIXES)}, got {kind!r}.")
    path = folder / f"model{SUFFIXES[kind]}" if out is None else out
    if out:
        report.check_output("--out", out, SUFFIXES[kind])
    if _card(path).is_dir():
        raise UsageError(f"--out {path}: its card, {_card(path)}, is a folder. Name another.")
    if path.parent.is_dir() and not os.access(path.parent, os.W_OK):
        raise _unwritable(path, "its folder is read-only")
    return path


def _card(path: Path) -> Path:
    return path.with_name(f"{path.name}.md")


def _unwritable(path: Path, reason: str | None) -> UserError:
    return UserError(f"Cannot write {path} ({reason}). Name another place with --out FILE.")


def _require(kind: str) -> None:
    missing = [name for name in PACKAGES[kind] if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"--format {kind} needs {', '.join(missing)}, not installed here. "
            "Do pip install -e '.[export]'."
        )


def _images(model: "Model") -> tuple[Images, str]:
    """Return images (N, 1, 28, 28) to check with: of the test set, whose labels are not looked at.

    Where the data cannot be had they are random, seeded, and the reason is returned too.
    """
    from fmnist import build

    try:
        data = build.data(model.config)
        data.prepare_data()
        data.setup()
    except UserError as error:
        drawn = np.random.default_rng(0).integers(0, 256, (NUM_IMAGES, 1, 28, 28), dtype=np.uint8)
        return drawn, f"Checked with random images only, and no score measured: {error}"
    return data.arrays("test")[0][:NUM_IMAGES].numpy(), ""


def _check(predict: Predict, model: "Model", images: Images, name: str) -> Check:
    """Compare a file with `model`, on all images and on one alone; raises UserError if they differ.

    Where two classes are as likely as each other, within the tolerance, either label is right.
    """
    differences = []
    for part in (images, images[:1]):
        expected, got = model.predict(part), predict(part)
        chosen = np.take_along_axis(expected, got.argmax(axis=1)[:, None], axis=1)[:, 0]
        num_wrong = int((expected.max(axis=1) - chosen > TOLERANCE).sum())
        differences.append(float(np.abs(expected - got).max()))
        if num_wrong or not differences[-1] <= TOLERANCE:
            raise UserError(
                f"The exported file answers otherwise than the model: {num_wrong} of {len(part)} "
                f"labels differ, probabilities by up to {differences[-1]:.1e} (allowed: "
                f"{TOLERANCE:.0e}), and nothing was written. The network's forward must not draw "
                "random numbers nor ask how it is run."
            )
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    file_speed, model_speed = _speeds(predict, model.predict, images)
    return Check(len(images), name, max(differences), file_speed, model_speed, num_cores or 1)


def _speeds(first: Predict, second: Predict, images: Images) -> list[float]:
    """Return images per second of both, in turns: the medians of as many passes as 2 s allow."""
    spent: tuple[list[float], list[float]] = ([], [])
    while sum(map(sum, spent)) < 2 and len(spent[0]) < 15:
        for passes, predict in zip(spent, (first, second), strict=True):
            passes.append(timeit.timeit(functools.partial(predict, images), number=1))
    return [len(images) / statistics.median(passes) for passes in spent]


def _reports(
    run: record.Record, has_data: bool
) -> tuple[dict[str, Mapping[str, Any]], tuple[str, ...]]:
    """Return the reports on val and on test, and why one could not be had.

    The test set is read only where it was read for this run before; of what cannot be measured the
    recorded scores remain.
    """
    reports: dict[str, Mapping[str, Any]] = {}
    faults = []
    for split in ("val", "test"):
        recorded = {k: v for k, v in run.scores.items() if k.startswith(f"{split}/")}
        if not recorded and not (split == "test" and evaluation.has_read_test(run)):
            continue
        reports[split] = {"scores": recorded, "partial": bool(run.data.get("partial"))}
        if has_data or eval_path(run.folder, split).exists():
            try:
                reports[split] = evaluation.evaluate(run.folder, split)
            except evaluation.NotKeptError as error:
                reports[split] = error.report
            except UserError as error:
                faults.append(f"The card has only the recorded scores of {split}: {error}")
    return reports, tuple(faults)


def _install(files: Mapping[Path, bytes]) -> None:
    """Put all files in place, or none; what is begun is removed however this ends."""
    temporary = {path: path.with_name(f".{path.name}-{os.getpid()}.tmp") for path in files}
    try:
        for path, content in files.items():
            with temporary[path].open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for path, written in temporary.items():
            os.replace(written, path)
    except OSError as error:
        raise _unwritable(path, error.strerror) from None
    finally:
        for written in temporary.values():
            with contextlib.suppress(OSError):
                written.unlink(missing_ok=True)

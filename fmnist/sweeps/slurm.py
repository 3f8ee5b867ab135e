"""Runs and sweeps as SLURM jobs: submit what is missing, in one array, and return.

Nothing is remembered but the scripts that were submitted. What waits or runs is asked of SLURM,
whose jobs carry the token of their script, and what is done is told by the folders.
"""

import contextlib
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from fmnist import consent, lock, record
from fmnist.errors import Interrupted, UsageError, UserError
from fmnist.sweeps import plan, scheduler, script
from fmnist.sweeps.receipt import Receipt, Watch
from fmnist.sweeps.scheduler import Entry
from fmnist.sweeps.script import Line

TRAIN = Path(__file__).resolve().parents[2] / "scripts" / "train.py"
POLL_S = (1.0, 15.0)  # between two looks at the queue: at first, and after a while
SET_HERE = (
    *("comment", "array", "output", "chdir", "requeue", "no-requeue", "signal", "open-mode"),
    *("job-name", "time", "nodes", "ntasks-per-node", "cpus-per-task"),
)
PATIENCE_S = 600.0  # with a SLURM that does not answer


class Submitted(NamedTuple):
    """A task that SLURM has: what it knows of it, and what it runs."""

    entry: Entry
    line: Line


class SlurmLauncher(Launcher):
    """Hands the jobs of a sweep to SLURM. Settings: conf/hydra/launcher/slurm.yaml."""

    num_workers = 1  # how many run at a time is SLURM's to say

    def __init__(self, **settings: Any) -> None:
        self.settings = settings

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.trainer = config.trainer

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> list[JobReturn]:
        """Never called by our sweepers, which submit: there are no returns to wait for."""
        raise NotImplementedError

    def submitter(self, folder: Path, again: Sequence[str]) -> "Submitter":
        return Submitter(folder, self.settings, self.trainer, again)


def again(config_dir: Path | None, words: Sequence[str]) -> list[str]:
    """Return what is to be typed after train.py to submit the same jobs."""
    folder = ["--config-dir", str(config_dir)] if config_dir else []
    return ["-m", *["--trust"] * consent.is_given(), *folder, *words]


class Submitter:
    """Submits the lines of one sweep or run. `again` is what a user typed after train.py.

    Raises UsageError for settings that do not go together.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        trainer: Mapping[str, Any],
        again: Sequence[str],
    ) -> None:
        self.folder = folder
        self.settings = _settle(settings, trainer)
        self.again = ["python", "scripts/train.py", *again]

    def preview(self, lines: Sequence[Line]) -> Iterator[str]:
        """Yield the scripts that `submit` would hand over now, as far as SLURM can be asked."""
        tasks: Sequence[Submitted] = []
        try:
            tasks = known(self.folder) if lines else []
        except UserError as error:
            print(f"Note: shown as if nothing waited or ran. {error}", file=sys.stderr)
        return (text for _, text in self._scripts(_missing(lines, tasks)[0]))

    def _scripts(self, lines: Sequence[Line]) -> Iterator[tuple[str, str]]:
        """Yield token and text of each script, as many as arrays of the cluster's size take."""
        size = scheduler.max_array_size() if self._is_array(lines) else 1
        for start in range(0, len(lines), size):
            token = uuid.uuid4().hex[:12]
            yield token, self._script(lines[start : start + size], token)

    def submit(self, lines: Sequence[Line]) -> Receipt:
        """Submit the lines that no task of SLURM has, and that are not done by now.

        Raises UserError, with the ids of what was submitted, where SLURM refuses.
        """
        if not lines:
            return Receipt(self.folder, [], 0, [])
        home = self.folder / script.FOLDER
        with no_empty_folder(self.folder):
            record.claim(self.folder.parent, self.folder.name, "")
            record.claim(self.folder, home.name, "")
            with lock.Lock(home):
                left, others = _missing(lines, known(self.folder))
                left = [line for line in left if not _has_ended(line)]  # while this was planned
                return Receipt(self.folder, self._submit(left), len(left), others)

    def _submit(self, lines: Sequence[Line]) -> list[str]:
        ids: list[str] = []
        for token, text in self._scripts(lines):
            path = script_path(self.folder, token)
            record.write_atomically(path, text)  # first, or a task of it would be nobody's
            try:
                ids.append(scheduler.submit([*script.options(text), *_places(path, text)], text))
            except scheduler.UnheardError as error:
                done = f"Submitted already: {' '.join(ids)}. " if ids else ""
                raise UserError(
                    f"{error} {done}This one may have been taken all the same: wait a minute, then "
                    "type the line again, which submits what is missing."
                ) from None
            except UserError as error:
                _forget(path, token)
                done = f"Submitted already: {' '.join(ids)}." if ids else "Nothing was submitted."
                raise UserError(
                    f"{error} {done} Mend hydra.launcher, if that is what it is about, and type "
                    "the line again: it submits the rest."
                ) from None
        return ids

    def _script(self, lines: Sequence[Line], token: str) -> str:
        is_search = lines[0].folder is None  # whose workers start what their trials need
        values = self.settings | ({"nodes": 1, "tasks": 1} if is_search else {})
        task = [sys.executable, "-P", "-m", "fmnist.sweeps.task", str(self.folder)]
        return script.render(
            self.folder.name,
            token,
            [line.words(self._before(values)) for line in lines],
            values,
            [*task, "--max-restarts", str(self.settings["max_restarts"])],
            self.again,
            is_array=self._is_array(lines),
        )

    def _is_array(self, lines: Sequence[Line]) -> bool:
        """Say whether `lines` are not the single run that lies in the folder itself."""
        return any(line.folder != self.folder for line in lines)

    def _before(self, values: Mapping[str, Any]) -> list[str]:
        """Return what stands before scripts/train.py: srun for several processes, a container."""
        several = values["nodes"] * values["tasks"] > 1
        srun = ["srun", "--kill-on-bad-exit=1", f"--cpus-per-task={values['cpus']}"]
        python = self.settings["python"] or sys.executable
        return [*srun * several, *self.settings["container"], python, str(TRAIN)]


def _forget(path: Path, token: str) -> None:
    """Remove a script that was refused, unless SLURM has it: sites put sbatch into their own."""
    with contextlib.suppress(UserError):
        if all(entry.token != token for entry in scheduler.queue()):
            path.unlink()


@contextlib.contextmanager
def no_empty_folder(folder: Path) -> Iterator[None]:
    """Let no empty folder stay behind where a submission is refused or stopped."""
    try:
        yield
    except BaseException:
        for path in (folder / script.FOLDER, folder):
            with contextlib.suppress(OSError):  # it is not empty, or was not made
                path.rmdir()
        raise


def script_path(folder: Path, token: str) -> Path:
    return folder / script.FOLDER / f"{token}{script.SUFFIX}"


def log_path(script_path: Path, number: int | None) -> Path:
    """Return what a task of a script said, in all its starts; None for a job that is no array."""
    tail = "" if number is None else f"_{number}"
    return script_path.with_name(f"{script_path.stem}{tail}.log")


def _places(path: Path, text: str) -> list[str]:
    """Return the options of sbatch that hold paths, which may contain anything."""
    log = log_path(path.resolve(), 0 if script.is_array(text) else None)
    escaped = str(log).replace("%", "%%")
    if script.is_array(text):
        escaped = escaped.removesuffix("_0.log") + "_%a.log"
    return [f"--chdir={Path.cwd()}", f"--output={escaped}"]


def known(folder: Path) -> list[Submitted]:
    """Return the tasks of the sweep or run in `folder` that wait or run."""
    found: list[Submitted] = []
    read: dict[str, list[Line]] = {}
    for entry in scheduler.queue():
        if entry.token not in read:
            read[entry.token] = []  # of another folder, unless its script is here
            with contextlib.suppress(FileNotFoundError):
                read[entry.token] = script.read(script_path(folder, entry.token)).lines
        lines = read[entry.token]
        if entry.number < len(lines):
            found.append(Submitted(entry, lines[entry.number]))
    return found


def wait(folder: Path) -> None:
    """Return when no task of `folder` waits or runs any more; they go on after a Ctrl-C.

    What they wait for is told where it stays the same.
    Raises UserError when SLURM cannot be asked for PATIENCE_S seconds.
    """
    began = heard = time.monotonic()
    first, last = POLL_S
    watch = Watch()
    try:
        while True:
            try:
                if not (tasks := known(folder)):
                    return
                heard = time.monotonic()
                for line in watch.see([task.entry for task in tasks]):
                    print(line, file=sys.stderr, flush=True)
            except UserError:  # a controller that restarts, or is busy
                if time.monotonic() - heard > PATIENCE_S:
                    raise
            time.sleep(min(max((time.monotonic() - began) / 10, first), last))
    except (KeyboardInterrupt, Interrupted):
        print("The jobs go on; type the same line again to wait for them.", file=sys.stderr)
        raise


def _missing(lines: Sequence[Line], tasks: Sequence[Submitted]) -> tuple[list[Line], list[Entry]]:
    """Return the lines that are to be submitted beside `tasks`, and the tasks of the others.

    Runs are known by their folders. Workers of a search are alike, so they are counted; one that
    was started for fewer trials is none of these.
    """
    asked = {line.folder for line in lines if line.folder}
    workers = [line for line in lines if line.folder is None]
    runs = [task for task in tasks if task.line.folder in asked]
    others = [task.entry for task in tasks if task.line in workers]
    folders = {task.line.folder for task in runs}
    left = [line for line in lines if line.folder and line.folder not in folders]
    return left + workers[len(others) :], [task.entry for task in runs] + others


def _has_ended(line: Line) -> bool:
    return line.folder is not None and plan.state(line.folder).has_ended


def _settle(settings: Mapping[str, Any], trainer: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with what null means for this trainer."""
    values: dict[str, Any] = OmegaConf.to_container(OmegaConf.create(dict(settings)))  # type: ignore[assignment]
    devices = trainer.get("devices", 1)
    devices = devices if isinstance(devices, int) and devices > 0 else 1
    is_ddp = str(trainer.get("strategy", "")).startswith("ddp")
    on_gpu = trainer.get("accelerator") in ("gpu", "cuda")
    usual = {
        "nodes": trainer.get("num_nodes", 1),
        "tasks": devices if is_ddp else 1,
        "gpus": devices if on_gpu else 0,
    }
    values |= {key: value for key, value in usual.items() if values[key] is None}
    for option in values["extra"]:
        if (name := option.lstrip("-").partition("=")[0]) in SET_HERE:
            raise UsageError(
                f"hydra.launcher.extra must not hold --{name}, which the script sets, got "
                f"{option!r}. Leave it out, or use the setting of hydra.launcher for it."
            )
    if values["stop_s"] >= values["time_min"] * 60:
        raise UsageError(
            f"hydra.launcher.stop_s must be less than a slot, hydra.launcher.time_min="
            f"{values['time_min']} minutes, got {values['stop_s']} s. Give the slot more time."
        )
    return values

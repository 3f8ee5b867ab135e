"""The batch script of a job array: options of sbatch, and one ordinary command line for each task.

The lines are data to bash, a here-document: nothing in them is expanded or run by it.
"""

import itertools
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fmnist.errors import UsageError, UserError
from fmnist.reading import read_bytes
from fmnist.sweeps.scheduler import MARK

FOLDER = ".slurm"  # of a sweep or a run: its scripts, and what its tasks said
SUFFIX = ".sh"
MAX_SCRIPT = 64 << 20  # bytes; that of 10,000 jobs has 2 MB
_OPTION = "#SBATCH "
_ARRAY = f"{_OPTION}--array="
_AGAIN = "# Again: "
_BEGIN = "<<'TASKS'"
_END = "TASKS"


def render(
    name: str,
    token: str,
    lines: Sequence[Sequence[str]],
    settings: Mapping[str, Any],
    command: Sequence[str],
    again: Sequence[str],
    is_array: bool = True,
) -> str:
    """Return a script in which `command` reads `lines` and carries out the one of its task.

    `settings` are those of conf/hydra/launcher/slurm.yaml without null, `again` what a user typed.
    Raises UsageError for words that are no line.
    """
    chosen = [f"--job-name={name}", *_options(settings), f"--comment={MARK}{token}"]
    if is_array:
        throttle = f"%{settings['throttle']}" if settings["throttle"] else ""
        chosen.append(f"--array=0-{len(lines) - 1}{throttle}")
    return "\n".join(
        [
            "#!/bin/bash",
            *(f"{_OPTION}{option}" for option in [*chosen, *settings["extra"]]),
            f"# {name}: each line between the two marks is a task, a run in a folder of its own.",
            _AGAIN + _line(again),
            "trap '' USR1  # SLURM's word that the slot ends; from here on the next process's",
            *settings["setup"],
            f"exec {_line(command)} {_BEGIN}",
            *map(_line, lines),
            _END,
            "",
        ]
    )


def tasks(text: str) -> list[list[str]]:
    """Return the words of each task of a script."""
    _, _, rest = text.partition(f"{_BEGIN}\n")
    return [shlex.split(line) for line in rest.removesuffix(f"{_END}\n").splitlines()]


def options(text: str) -> list[str]:
    """Return the options of sbatch that a script begins with."""
    begin = itertools.takewhile(lambda line: line.startswith("#"), text.splitlines())
    return [line.removeprefix(_OPTION) for line in begin if line.startswith(_OPTION)]


def is_array(text: str) -> bool:
    return f"\n{_ARRAY}" in text


def again(text: str) -> str:
    """Return the line that submitted a script, to be typed in a shell; ValueError for another."""
    found = (line for line in text.splitlines() if line.startswith(_AGAIN))
    words = shlex.split(next(found, "").removeprefix(_AGAIN))
    if words[:2] != ["python", "scripts/train.py"]:
        raise ValueError("it does not say which line it is of")
    return shlex.join(words)


class Line(NamedTuple):
    """What a task's line says: the end of it is what a user could have typed."""

    overrides: list[str]
    folder: Path | None  # of its run; None for a worker of a search
    config_dir: Path | None
    trust: bool = False

    def words(self, before: Sequence[str]) -> list[str]:
        """Return the line; `before` ends with the script, scripts/train.py."""
        config_dir = ["--config-dir", str(self.config_dir)] if self.config_dir else []
        first = ["--folder", str(self.folder)] if self.folder else ["-m"]
        first += ["--trust"] * self.trust
        return [*before, *first, *config_dir, *self.overrides]


class Script(NamedTuple):
    """What a script that was submitted says."""

    lines: list[Line]
    is_array: bool
    again: str  # the line that submitted it


def read(path: Path) -> Script:
    """Take a script apart that lies in a sweep or a run, whoever put it there.

    Raises FileNotFoundError, and UserError for what is no script of ours.
    """
    try:
        text = read_bytes(path, MAX_SCRIPT).decode("utf-8")
        return Script([line(words) for words in tasks(text)], is_array(text), again(text))
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"{path} is no script of a submission ({why}). Delete it, and repeat the line that "
            "submitted these jobs."
        ) from None


def line(words: Sequence[str]) -> Line:
    """Take the line of a task apart; what comes before the script is left out.

    Raises ValueError for what is none.
    """
    names = [Path(word).name for word in words]
    if "train.py" not in names[:-1]:
        raise ValueError("a task is no line of train.py")
    rest, folder, config_dir = list(words[names.index("train.py") + 1 :]), None, None
    if rest[0] == "--folder" and len(rest) > 1:
        folder, rest = Path(rest[1]), rest[2:]
    else:
        rest = rest[1:]
    trust = rest[:1] == ["--trust"]
    rest = rest[trust:]
    if rest[:1] == ["--config-dir"] and len(rest) > 1:
        config_dir, rest = Path(rest[1]), rest[2:]
    return Line(rest, folder, config_dir, trust)


def _options(settings: Mapping[str, Any]) -> Iterable[str]:
    for key in ("partition", "account", "qos"):
        if settings[key] is not None:
            yield f"--{key}={settings[key]}"
    yield f"--time={settings['time_min']}"
    yield f"--nodes={settings['nodes']}"
    yield f"--ntasks-per-node={settings['tasks']}"
    yield f"--cpus-per-task={settings['cpus']}"
    if settings["gpus"]:
        yield f"--gpus-per-node={settings['gpus']}"
    if settings["memory_gb"] is not None:
        yield f"--mem={round(settings['memory_gb'] * 1024)}M"
    yield "--requeue"
    yield "--open-mode=append"
    yield f"--signal=B:USR1@{settings['stop_s']}"


def _line(words: Sequence[str]) -> str:
    line = shlex.join(words)
    if len(line.splitlines()) > 1 or "\0" in line:
        raise UsageError(
            f"A job of hydra/launcher=slurm is one line, got a line break in {line!r}. "
            "Leave it out of the note, or wherever it stands."
        )
    return line

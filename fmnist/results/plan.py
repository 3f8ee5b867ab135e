"""The recorded experiments: how often each runs, how, and beside which published number."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fmnist.command import Command, points, read_command
from fmnist.errors import UsageError
from fmnist.messages import CONF_DIR, suggest
from fmnist.sweeps.plan import Job, Sweep

ABLATION = "ablation"
NUM_SEEDS = {  # what is not named here runs 3 times
    "notebook": 5,
    "notebook_as_published": 5,
    "cnn": 5,
    "mlp": 5,
    "cnn_long": 1,
    "wide_resnet": 1,
    "speedrun": 25,
}


class Published(NamedTuple):
    """A line of the data set's own table: test accuracy in percent, a range where it gives one."""

    name: str
    percent: float
    lowest: float | None = None
    ours: tuple[str, ...] = ()  # the experiments that correspond to it

    @property
    def text(self) -> str:
        highest = f"{self.percent:.1f}"
        return highest if self.lowest is None else f"{self.lowest:.1f}\N{EN DASH}{highest}"


# https://github.com/zalandoresearch/fashion-mnist, as reported there by their authors, not verified
SOURCE = "https://github.com/zalandoresearch/fashion-mnist"
PUBLISHED = (
    Published("human", 83.5),
    Published("dense 256-128-100", 88.3, ours=("mlp",)),
    Published("2 conv + pooling", 91.6, 87.6, ("notebook", "notebook_as_published")),
    Published("2 conv, under 100 K parameters", 92.5),
    Published("2 conv + batch norm", 93.4, ours=("cnn_bn",)),
    Published("2 conv + 2 dense + flips", 93.9, ours=("cnn", "cnn_long")),
    Published("ResNet18", 94.9, ours=("resnet18",)),
    Published("MobileNet", 95.0, ours=("mobilenet_v3",)),
    Published("DenseNet-BC", 95.4),
    Published("WRN-28-10", 95.9),
    Published("WRN-28-10 + random erasing", 96.3, ours=("wide_resnet",)),
    Published("WRN-40-4", 96.7),
)


def experiments(folder: Path = CONF_DIR) -> list[str]:
    """Return the names of the files in conf/experiment."""
    return sorted(path.stem for path in (folder / "experiment").glob("*.yaml"))


def choose(names: Sequence[str], known: Sequence[str]) -> list[str]:
    """Return what to do of `known` and the ablation, all by default; raises UsageError."""
    choices = [*known, ABLATION]
    for name in names:
        if name not in choices:
            raise UsageError(f"Unknown experiment {name}.{suggest(name, choices)}")
    return [name for name in choices if name in names or not names]


def overrides(name: str) -> list[str]:
    """Return what scripts/train.py -m is given: a repetition over seeds, or the ablation."""
    if name == ABLATION:
        return ["sweep=ablation", f"name=results-{name}"]
    seeds = f"seed=range({NUM_SEEDS.get(name, 3)})"
    return [f"experiment={name}", seeds, f"name=results-{name}"]


def command_line(name: str) -> str:
    """Return the command that makes the runs, as typed in a shell."""
    return shlex.join(["python", "scripts/train.py", "-m", *overrides(name)])


def counterpart(name: str) -> Published | None:
    """Return the published line that an experiment stands beside."""
    return next((line for line in PUBLISHED if name in line.ours), None)


def read(name: str) -> Command:
    """Return the checked command of an experiment or of the ablation, as its config is today."""
    return read_command(overrides(name))


def jobs(command: Command) -> list[Job]:
    """Return the runs that a command consists of, each in the folder of an equal one if any."""
    sweep = Sweep(command)
    return [sweep.job(*point) for point in points(command)]


def cases(command: Command) -> list[str]:
    """Return the name of the case of each of `jobs`, in their order."""
    num_points = 1
    for axis in command.axes.values():
        num_points *= len(axis.values)
    return [name for name in command.cases for _ in range(num_points)]


def needs_gpu(command: Command) -> bool:
    return bool(command.cfg.trainer.accelerator == "gpu")

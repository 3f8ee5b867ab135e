"""The recorded experiments: how often each runs, how, and beside which published number."""

import functools
import hashlib
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fmnist import record
from fmnist.command import Command, points, read_command
from fmnist.errors import UsageError
from fmnist.messages import CONF_DIR, suggest
from fmnist.results.store import Results
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
TIMED = ("speedrun",)  # their seconds are the result: a run that was interrupted has none
# What belongs to a result and no number tells.
NOTES = {
    "cnn": "For `cnn`, batches of 32 had 0.2 points more val in tries with seeds 0 and 1, at 1.6 "
    "times the time; 64 was kept, after test scores of both had been seen.",
    ABLATION: "`adam` brings its own rate and betas, `constant_rate` another rate. The recipe was "
    "tuned on the same val images with seeds 0 and 1, two of the five, so the whole is favoured. "
    "`no_flips` still averages over mirror images, of which its network has never seen one, so its "
    "loss is not that of flips alone. Each interval is 95 % by itself, not all of them together.",
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


def recipe(command: Command) -> str:
    """Return a hash of all that decides what the runs of a command train, but their seeds.

    The order of the cases counts, how numbers are written does not: 1 and 1.0 are one.
    """
    found: dict[str, None] = {}
    for words, config in points(command):
        run = {"config": config, "overrides": [*command.typed, *words]}
        identity = {key: value for key, value in record.identity(run).items() if key != "seed"}
        numbers = json.loads(json.dumps(identity), parse_int=float)
        found[json.dumps(numbers, sort_keys=True)] = None
    return hashlib.sha256("\n".join(found).encode()).hexdigest()[:16]


def older(results: Results, names: Sequence[str]) -> set[str]:
    """Return which of `names` and the ablation were measured with another recipe than today's."""
    made = {name: results.experiments[name] for name in names if name in results.experiments}
    recipes = {name: entry.recipe for name, entry in made.items()}
    if results.ablation:
        recipes[ABLATION] = results.ablation.recipe
    return {name for name, found in recipes.items() if found != _recipe_today(name)}


@functools.cache
def _recipe_today(name: str) -> str:
    return recipe(read(name))


@functools.cache
def recipe_words(name: str) -> str:
    """Say what tells the recipes of networks apart, as the config of an experiment is today."""
    cfg = read(name).cfg
    shown = [*["flips"] * cfg.augment.flip, *["shifts"] * (cfg.augment.max_shift_px > 0)]
    shown += ["predictions averaged over mirror images"] * cfg.augment.test_flip
    if dropout := cfg.model.get("dropout"):
        shown.append(f"dropout {dropout:g}")
    optimizer = cfg.optim.optimizer._target_.rpartition(".")[2]
    schedule = cfg.optim.schedule._target_.rpartition(".")[2].replace("_", " ")
    more = f"with {', '.join(shown)}" if shown else "without augmentation or dropout"
    return f"by {optimizer} at a {schedule} rate, in batches of {cfg.data.batch_size}, {more}"


def cases(command: Command) -> list[str]:
    """Return the name of the case of each of `jobs`, in their order."""
    num_points = 1
    for axis in command.axes.values():
        num_points *= len(axis.values)
    return [name for name in command.cases for _ in range(num_points)]


def needs_gpu(command: Command) -> bool:
    return bool(command.cfg.trainer.accelerator == "gpu")


def fits(command: Command, has_gpu: bool) -> bool:
    """Say whether a machine trains what is recorded of an experiment.

    What leaves the choice (auto) is recorded on CPUs: a GPU would be taken where there is one.
    """
    return {"gpu": has_gpu, "cpu": True}.get(command.cfg.trainer.accelerator, not has_gpu)

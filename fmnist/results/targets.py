"""What the recorded experiments were to reach, and whether they do."""

from typing import NamedTuple

from fmnist.compare.texts import duration
from fmnist.results.store import Entry, Results
from fmnist.results.words import Estimate, estimate

ENOUGH = 1e-9  # below any difference of accuracies: rounding must not decide


class Target(NamedTuple):
    """The least mean test accuracy (a fraction of 1) over `num_seeds` runs or more, and limits."""

    name: str
    test: float
    num_seeds: int = 3
    max_epochs: int | None = None
    max_run_s: float | None = None  # of the median run
    max_train_s: float | None = None  # of the epochs alone, their mean

    @property
    def text(self) -> str:
        limits = [
            f"in {self.max_epochs} epochs" if self.max_epochs else "",
            f"a run under {duration(self.max_run_s)}" if self.max_run_s else "",
            f"epochs under {self.max_train_s:g} s" if self.max_train_s else "",
        ]
        return ", ".join([f"test >= {100 * self.test:.1f}", *filter(None, limits)])


TARGETS = (
    Target("notebook", 0.905, num_seeds=5),
    Target("cnn", 0.930, num_seeds=5, max_epochs=10),
    Target("mlp", 0.895),
    Target("cnn_bn", 0.940),
    Target("resnet18", 0.953),
    Target("mobilenet_v3", 0.950),
    Target("wide_resnet", 0.967, num_seeds=1, max_run_s=600),
    Target("speedrun", 0.940, num_seeds=25, max_train_s=3),
)


def rows(results: Results) -> list[list[str]]:
    """Return name, target, n asked for, what was measured and the verdict of each target."""
    return [
        [target.name, target.text, str(target.num_seeds), *check(target, results)]
        for target in TARGETS
    ]


def check(target: Target, results: Results) -> tuple[str, str]:
    """Return what was measured and the verdict: met, met by the mean, missed or not measured."""
    entry = results.experiments.get(target.name)
    test = estimate(entry.values("test_acc")) if entry else None
    if entry is None or test is None:
        return "-", "not measured"
    said = [test.percent]
    if target.max_epochs:
        said.append(f"{entry.epochs} epochs")
    if target.max_run_s:
        said.append(duration(entry.run_s))
    if target.max_train_s and entry.train_s is not None:
        said.append(f"epochs {entry.train_s:.2f} s")
    return ", ".join(said), _verdict(target, entry, test)


def _verdict(target: Target, entry: Entry, test: Estimate) -> str:
    slow = target.max_train_s and entry.train_s is not None and entry.train_s >= target.max_train_s
    slow = slow or (target.max_run_s and entry.run_s >= target.max_run_s)
    long = target.max_epochs and any(run.epochs > target.max_epochs for run in entry.runs)
    if slow or long or test.mean < target.test - ENOUGH:
        return "missed"
    if test.n < target.num_seeds or (target.max_train_s and entry.train_s is None):
        return "not measured in full"
    by_mean = test.low is not None and test.low < target.test - ENOUGH
    return "met by the mean" if by_mean else "met"

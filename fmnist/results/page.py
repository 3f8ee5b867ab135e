"""docs/results.md: the recorded experiments as a page to read."""

from collections.abc import Collection, Iterable, Sequence

from fmnist.compare.texts import ABSENT, duration
from fmnist.results import ablation, claims, plan, targets
from fmnist.results.store import Ablation, Entry, Results
from fmnist.results.words import NUM_TEST, by_chance, estimate

NOT_MEASURED = "not measured"
OLDER = ", of an older recipe"
FAST = 0.94  # test accuracy that the speedrun is after
INTRODUCTION = f"""\
# Results

Written by `make results` from [results.json](results.json); do not edit. `make results` runs the
experiments that fit the machine, `make results ARGS="cnn mlp"` some of them: on a machine with a
GPU those that need one, else the others. Finished runs are never trained again, not at a new commit
either: delete sweeps/results-NAME to measure anew.

Accuracies in percent, mean ± standard deviation over n seeds. All intervals cover the seeds only:
the one test set of {NUM_TEST:,} images adds about ±{100 * by_chance(0.93):.1f} points at 93 %
(95 %, binomial). Recipes and epochs are chosen by val, and test is read once, for the chosen epoch;
but for `notebook_as_published`, on purpose, and where a note below says otherwise. The clock of a
run starts when the data are loaded and the network is built; the median over the seeds. Its epochs
alone, with validation and all checkpoints but the last, by their mean.

![Test accuracy against the time of a run](results.png)
"""


def render(results: Results, names: Sequence[str], older: Collection[str] = ()) -> str:
    """Return the page; each of `names` has a row, measured or not.

    `older` names what was measured with another recipe than today's.
    """
    parts = [
        INTRODUCTION,
        _experiments(results, names, older),
        _targets(results),
        _made(results, names),
        _published(results),
        _claims(results),
        _ablation(results.ablation, plan.ABLATION in older),
    ]
    return "\n".join(parts)


def ranked(results: Results, names: Iterable[str]) -> list[str]:
    """Return the experiments that are measured and not selected on test, best val first."""
    scores = {}
    for name in names:
        entry = results.experiments.get(name)
        val = entry and estimate(entry.values("val_acc"))
        if entry and val and entry.selected_on != "test":
            scores[name] = val.mean
    return sorted(scores, key=lambda name: -scores[name])


def _experiments(results: Results, names: Sequence[str], older: Collection[str]) -> str:
    first = ranked(results, names)
    measured = [name for name in names if name in results.experiments and name not in first]
    rest = [name for name in names if name not in results.experiments]
    rows = []
    for name in [*first, *measured, *rest]:
        entry = results.experiments.get(name)
        rank = str(first.index(name) + 1) if name in first else ABSENT
        link = _link(name) + OLDER * (name in older)
        rows.append([rank, link, *_cells(entry), _beside(name)])
    head = ["#", "experiment", "parameters", "epochs", "val", "test", "n", "train - test"]
    table = _table([*head, "a run", "its epochs", "published"], rows, left=(1, 10))
    notes = [
        f"`{name}` is selected on the test set, as in the notebook (`selected_on: test`): its test "
        "score is that of the epoch where it was highest, and it has no rank."
        for name in measured
        if results.experiments[name].selected_on == "test"
    ]
    notes += [plan.NOTES[name] for name in names if name in plan.NOTES]
    return "\n\n".join([table, *notes, *_speedrun(results)]) + "\n"


def _speedrun(results: Results) -> list[str]:
    """Say whether the fast recipe reaches 94 % on the mean, and in how many seconds of training."""
    entry = results.experiments.get("speedrun")
    test = estimate(entry.values("test_acc")) if entry else None
    if entry is None or test is None or entry.train_s is None:
        return []
    verdict = "reaches" if test.mean >= FAST else "does not reach"
    return [
        f"`speedrun` {verdict} {FAST:.0%} on the mean over its seeds: test {test.percent}, after "
        f"{entry.train_s:.2f} s of training (mean), with augmentation, validation and all "
        f"checkpoints but the last, without imports and reading the data.{_first_epoch(entry)}"
    ]


def _first_epoch(entry: Entry) -> str:
    """Say how much longer the first epoch takes than the others, where that was measured."""
    if entry.first_excess_s is None:
        return ""
    return (
        f" In these seconds the first epoch has {entry.first_excess_s:+.2f} s against the mean of "
        "the others: CUDA's libraries, the capture of the graph."
    )


def _targets(results: Results) -> str:
    head = ["experiment", "target", "n", "measured", "verdict"]
    table = _table(head, targets.rows(results), left=(0, 1, 3, 4))
    text = (
        "What this project set out to reach: the mean of test over n seeds or more. Met by the "
        "mean: the\n95 % interval of the mean reaches below the target."
    )
    return f"## Targets\n{text}\n\n{table}\n"


def _cells(entry: Entry | None) -> list[str]:
    if entry is None:
        return [ABSENT, ABSENT, NOT_MEASURED, NOT_MEASURED, *[ABSENT] * 4]
    scores = [estimate(entry.values(f"{split}_acc")) for split in ("val", "test")]
    gap = estimate(entry.gaps())
    return [
        f"{entry.num_parameters:,}",
        entry.epochs,
        *(score.cell if score else ABSENT for score in scores),
        str(len(entry.runs)),
        gap.cell if gap else ABSENT,
        duration(entry.run_s),
        duration(entry.train_s) if entry.train_s else ABSENT,
    ]


def _made(results: Results, names: Sequence[str]) -> str:
    rows = []
    for name in names:
        entry = results.experiments.get(name)
        if entry is None:
            rows.append([_link(name), f"{NOT_MEASURED}: `make results ARGS={name}`", *[ABSENT] * 4])
            continue
        facts = [entry.machine, entry.precision, entry.date, entry.commit[:7]]
        rows.append([_link(name), f"`{entry.command}`", *facts])
    head = ["experiment", "made by", "machine", "precision", "date", "commit"]
    return f"## How each was made\n{_table(head, rows, left=range(6))}\n"


def _published(results: Results) -> str:
    rows = []
    for line in plan.PUBLISHED:
        ours = []
        for name in line.ours:
            entry = results.experiments.get(name)
            test = entry and estimate(entry.values("test_acc"))
            ours.append(f"`{name}` {test.cell if test else NOT_MEASURED}")
        rows.append([line.name, line.text, ", ".join(ours) or ABSENT])
    source = (
        f"The accuracies that the data set's own page lists ({plan.SOURCE}), in percent: reported "
        "there by\nmany authors and not verified, with other splits, preprocessing and selection "
        "than here."
    )
    table = _table(["published", "test", "here, test"], rows, left=(0, 2))
    return f"## Beside the published numbers\n{source}\n\n{table}\n"


def _claims(results: Results) -> str:
    lines = ["## The notebook's claims"]
    for claim in claims.check(results):
        lines += [f"- **{claim.text}**", *(f"  - {finding}" for finding in claim.findings)]
    return "\n".join(lines) + "\n"


def _ablation(found: Ablation | None, is_older: bool) -> str:
    title = "## What each ingredient is worth"
    base = ablation.whole(found) if found else None
    if found is None or base is None:
        return f"{title}\nNot measured: `make results ARGS={plan.ABLATION}`.\n"
    text = (
        "The default recipe with one ingredient left out or changed at a time: its change of "
        "val/acc, paired\nby seed, in points. A sweep never reads the test set. The whole recipe "
        f"has {base.percent} on val.\n\n{plan.NOTES[plan.ABLATION]}"
    )
    rows = []
    for label, change in ablation.effects(found):
        ends = [f"{100 * end:+.2f}" for end in (change.low, change.high) if end is not None]
        interval = " to ".join(ends) or ABSENT
        rows.append([label, f"{100 * change.mean:+.2f}", interval, str(change.n)])
    table = _table(["case", "val, points", "95 % interval", "n"], rows, left=(0,))
    facts = (found.machine, found.precision, found.date, f"commit {found.commit[:7]}")
    made = f"`{found.command}` on {', '.join(facts)}{OLDER * is_older}."
    figure = "![What each ingredient is worth](ablation.png)"
    return f"{title}\n{text}\n\n{figure}\n\n{table}\n\n{made}\n"


def _link(name: str) -> str:
    return f"[{name}](../conf/experiment/{name}.yaml)"


def _beside(name: str) -> str:
    line = plan.counterpart(name)
    return f"{line.name} {line.text}" if line else ABSENT


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], left: Iterable[int]) -> str:
    columns = set(left)
    rule = ["---" if i in columns else "---:" for i in range(len(head))]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, rule, *rows])

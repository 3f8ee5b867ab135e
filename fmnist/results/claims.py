"""What the notebook claims, confirmed or corrected: sentences that the numbers choose."""

from typing import NamedTuple

from fmnist.results import plan
from fmnist.results.store import Entry, Results
from fmnist.results.words import difference, estimate, span

CLAIMED = (0.885, 0.905)  # "about 89-90 %", as far as rounding reaches
LITTLE = 0.02  # a gap between training and test accuracy that may be called little
NOTEBOOKS = ("notebook_as_published", "notebook")
HEADLINE = "cnn"  # the convolutional recipe that is nearest to that of mlp
CNNS = (HEADLINE, "notebook", "cnn_bn")


class Claim(NamedTuple):
    """A claim of the notebook and what was measured on it, a sentence each."""

    text: str
    findings: list[str]


def check(results: Results) -> list[Claim]:
    """Hold each claim against the results; one that nothing speaks to is `not measured`."""
    found = [
        Claim("The network reaches about 89-90 % on the test set.", _accuracy(results)),
        Claim("It overfits little: training and test accuracy are close.", _gaps(results)),
        Claim("Convolutional networks beat dense ones.", _dense(results)),
        Claim("It validates on the test set, as if that cost nothing.", _selection(results)),
    ]
    return [claim._replace(findings=claim.findings or ["Not measured."]) for claim in found]


def _accuracy(results: Results) -> list[str]:
    said = []
    low, high = CLAIMED
    for name, entry in _entries(results, NOTEBOOKS):
        test = estimate(entry.values("test_acc"))
        if test is None:
            continue
        verdict = "Not decided: the interval reaches beyond the claim"
        if test.side(low) > 0 and test.side(high) < 0:
            verdict = "Confirmed"
        elif test.side(high) > 0:
            verdict = "Corrected: it is more"
        elif test.side(low) < 0:
            verdict = "Corrected: it is less"
        if test.low is None:
            verdict = "Not decided by one run" if test.n == 1 else "Not decided: the runs are equal"
        said.append(f"{verdict}. `{name}` scores {test.percent} on test.")
    return said


def _gaps(results: Results) -> list[str]:
    said = []
    for name, entry in _entries(results, (*NOTEBOOKS, "cnn")):
        gap = estimate(entry.gaps())
        if gap is None:
            continue
        verdicts = {
            1: f"Corrected: more than the {100 * LITTLE:.0f} points that may be called little",
            0: f"Not decided, where {100 * LITTLE:.0f} points may be called little",
            -1: f"Confirmed: less than {100 * LITTLE:.0f} points",
        }
        verdict = verdicts[gap.side(LITTLE)]
        said.append(f"{verdict}. `{name}`: train minus test accuracy is {gap.points}.")
    return said


def _dense(results: Results) -> list[str]:
    """Compare the test accuracies with that of mlp; the verdict is that of the nearest recipe."""
    dense = results.experiments.get("mlp")
    compared: dict[str, Entry] = {}
    said = []
    for name, entry in _entries(results, CNNS) if dense else []:
        assert dense is not None
        more = difference(entry.values("test_acc"), dense.values("test_acc"))
        if more is None:
            continue
        compared[name] = entry
        verdict = {1: "Confirmed", 0: "Not decided", -1: "Corrected: it is the other way round"}
        lead = "With recipes further apart:"
        if name == HEADLINE:
            lead = f"{verdict[more.side(0)]}. The nearest recipes:"
        said.append(f"{lead} `{name}` minus `mlp`, paired by seed: {more.points} on test.")
    if dense and compared:
        recipes = [
            f"`{name}` {_epochs(entry)} {plan.recipe_words(name)}"
            for name, entry in {"mlp": dense, **compared}.items()
        ]
        said.append(
            "The recipes differ as well, so none of these is the worth of the network alone: "
            f"{'; '.join(recipes)}."
        )
    return said


def _epochs(entry: Entry) -> str:
    return "1 epoch" if entry.epochs == "1" else f"{entry.epochs} epochs"


def _selection(results: Results) -> list[str]:
    """Say what choosing an epoch by the test set adds to its score, and what by val does."""
    published = results.experiments.get("notebook_as_published")
    said = []
    if published and published.selected_on == "test":
        chosen = published.values("test_acc")
        if gain := span(chosen, published.values("last_val_acc")):
            said.append(
                "In each run of `notebook_as_published`, test of the epoch that is best on test "
                f"minus test of the last epoch: {gain}; by construction never negative."
            )
        honest = results.experiments.get("notebook")
        against = honest and difference(chosen, honest.values("test_acc"))
        if against:
            said.append(
                "In all, with 5,000 more images to train on, `notebook_as_published` minus "
                f"`notebook`, which never looks at test, paired by seed: {against.points} on test."
            )
    cnn = results.experiments.get("cnn")
    if cnn and cnn.selected_on == "val":
        gain = span(cnn.values("val_acc"), cnn.values("last_val_acc"))
        if gain:
            said.append(
                "The same on val: in each run of `cnn`, which chooses its epoch by val, val of the "
                f"chosen epoch minus val of the last one: {gain}; by construction never negative. "
                "Its test score has no such gain: test chose nothing."
            )
    return said


def _entries(results: Results, names: tuple[str, ...]) -> list[tuple[str, Entry]]:
    known = results.experiments
    return [(name, known[name]) for name in names if name in known]

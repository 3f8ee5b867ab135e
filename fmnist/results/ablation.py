"""What each ingredient of the default recipe is worth, by the runs of sweep=ablation."""

from typing import NamedTuple

from fmnist.results.store import Ablation
from fmnist.results.words import Estimate, difference, estimate


class Effect(NamedTuple):
    """A case against the whole recipe: the difference of val/acc, paired by seed."""

    label: str
    change: Estimate


def whole(found: Ablation) -> Estimate | None:
    """Estimate val/acc of the whole recipe."""
    return estimate(found.cases.get(found.whole, {}))


def effects(found: Ablation) -> list[Effect]:
    """Return the cases, the one that loses most first."""
    base = found.cases.get(found.whole, {})
    made = [
        Effect(name.replace("_", " "), change)
        for name, values in found.cases.items()
        if name != found.whole and (change := difference(values, base))
    ]
    return sorted(made, key=lambda effect: effect.change.mean)

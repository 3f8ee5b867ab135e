"""What was measured: for each case and contestant one sample a round, and their statistics."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from fmnist.errors import UserError

SCHEMA = 1
Sample = dict[str, Any]  # numbers by name: wall_s, epoch_s, ...


class Spread(NamedTuple):
    """The median of some values, with the smallest and the largest."""

    median: float
    low: float
    high: float
    n: int


@dataclass
class Series:
    """The samples of one contestant in one case, round by round; `error` ended them early."""

    samples: list[Sample] = field(default_factory=list)
    error: str = ""
    note: str = ""  # what was chosen for it, or what it lacks


@dataclass
class Results:
    """`header` says where, when and how; `cases` holds a Series by case and contestant."""

    header: dict[str, Any] = field(default_factory=dict)
    cases: dict[str, dict[str, Series]] = field(default_factory=dict)

    def series(self, case: str, name: str) -> Series:
        return self.cases.get(case, {}).get(name, Series())

    def spread(self, case: str, name: str, value: str) -> Spread | None:
        """Return the spread of a value over the rounds; None where it was not measured."""
        found = [s[value] for s in self.series(case, name).samples if s.get(value) is not None]
        return _spread(found)

    def ratio(self, case: str, one: str, other: str, value: str) -> Spread | None:
        """Return the spread of one / other, taken within each round: a machine's moods cancel."""
        pairs = zip(self.series(case, one).samples, self.series(case, other).samples, strict=False)
        return _spread([a[value] / b[value] for a, b in pairs if a.get(value) and b.get(value)])

    @property
    def has_failed(self) -> bool:
        return any(series.error for case in self.cases.values() for series in case.values())

    def to_json(self) -> str:
        document = {"schema": SCHEMA, "header": self.header, "cases": self.cases}
        return json.dumps(document, indent=2, default=asdict) + "\n"


def read(path: Path) -> Results:
    """Read what `to_json` wrote; raises UserError for another file."""
    try:
        document = json.loads(path.read_text("utf-8"))
        cases = {
            case: {name: Series(**series) for name, series in found.items()}
            for case, found in document["cases"].items()
        }
        return Results(dict(document["header"]), cases)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}).") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path} holds no results of bench.py --json.") from None


def merge(parts: Sequence[Results]) -> Results:
    """Return the cases of all parts, of which a later one replaces an earlier one's.

    Raises UserError unless all were measured on the same device of the same machine, with the same
    code and versions.
    """
    first = parts[0].header
    cases: dict[str, dict[str, Series]] = {}
    for part in parts:
        for key in ("machine", "device", "versions", "commit", "dirty", "quick"):
            if part.header.get(key) != first.get(key):
                raise UserError(
                    f"Results of one {key} each can be shown together, got {first.get(key)!r} and "
                    f"{part.header.get(key)!r}. Show them one by one."
                )
        cases |= part.cases
    commands = dict.fromkeys(part.header["command"] for part in parts)
    return Results({**first, "command": "; ".join(commands)}, cases)


def _spread(values: list[float]) -> Spread | None:
    if not values:
        return None
    return Spread(statistics.median(values), min(values), max(values), len(values))

"""Conditions on runs as typed after --where: `optim.lr=0.001`, `acc>=92%`, `status!=failed`."""

import json
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeGuard

from fmnist.compare.collection import TARGET, Run
from fmnist.errors import UsageError
from fmnist.messages import suggest

_PATTERN = re.compile(r"\s*([^<>=!\s]+)\s*(!=|<=|>=|==|=|<|>)\s*(.*?)\s*", re.DOTALL)
_ORDERS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class Filter(NamedTuple):
    """A condition `key sign value`; a run that lacks the key fails all but `!=` and `=null`."""

    key: str
    sign: str
    text: str
    number: float | None

    def accepts(self, run: Run) -> bool:
        held = run.fields.get(self.key)
        if self.sign in _ORDERS and self.number is not None:
            return is_number(held) and _ORDERS[self.sign](held, self.number)
        return self._equals(held) == (self.sign == "=")

    def _equals(self, held: Any) -> bool:
        if held is None:
            return self.text.lower() in ("null", "none", "")
        if is_number(held) and self.number is not None:
            return bool(held == self.number)
        if isinstance(held, bool):
            return self.text.lower() == str(held).lower()
        if isinstance(held, str):
            short = held.rpartition(".")[2] if self.key.endswith(TARGET) else held
            begins = self.key == "commit" and len(self.text) >= 4 and held.startswith(self.text)
            return self.text in (held, short) or begins
        try:
            return bool(held == json.loads(self.text))
        except ValueError:
            return False


def is_filter(text: str) -> bool:
    return _PATTERN.fullmatch(text) is not None


def read_filter(text: str, runs: Sequence[Run]) -> Filter:
    """Read a condition on any field of `runs`; raises UsageError for one that cannot hold."""
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise UsageError(
            f"Cannot read the condition {text!r}. Write KEY=VALUE, !=, <, <=, > or >=."
        )
    key, sign, value = find_key(match[1], runs), match[2].replace("==", "="), match[3]
    number = _number(value)
    if sign in _ORDERS and number is None:
        raise UsageError(f"{key}{sign} needs a number, got {value!r}. Use = or != for a text.")
    held = [run.fields.get(key) for run in runs]
    if sign in _ORDERS and not any(v is None or is_number(v) for v in held):
        raise UsageError(f"{key} is no number, so nothing is {sign} {value}. Use = or !=.")
    return Filter(key, sign, value, number)


def select(runs: Sequence[Run], conditions: Iterable[str]) -> list[Run]:
    """Return the runs that meet all conditions."""
    filters = [read_filter(text, runs) for text in conditions]
    return [run for run in runs if all(f.accepts(run) for f in filters)]


def find_key(word: str, runs: Iterable[Run]) -> str:
    """Return the field of `runs` that `word` names, whole or by an unambiguous end.

    Raises UsageError for an unknown or ambiguous one.
    """
    known = {key: None for run in runs for key in run.fields}
    if word in known:
        return word
    ends = [key for key in known if key.endswith((f".{word}", f"/{word}"))]
    if len(ends) == 1:
        return ends[0]
    if ends:
        raise UsageError(f"{word} is ambiguous: {', '.join(sorted(ends))}. Write one of them.")
    short = [key.rpartition(".")[2].rpartition("/")[2] for key in known]
    hint = suggest(word, [*known, *short]) or " It is a config key, a score or a fact of run.json."
    raise UsageError(f"Unknown key {word}.{hint}")


def is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(text: str) -> float | None:
    """Read a number, or a percentage as a fraction of 1."""
    try:
        return float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None

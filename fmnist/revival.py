"""A config read back from a run folder, checked before anything that it names is imported.

A folder can come from anybody. What a user types may name a class of their own; what a folder says
may only name what fmnist ships, unless the user trusts it. Torch-free.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from fmnist import arguments, config, record
from fmnist.errors import UsageError, UserError
from fmnist.messages import Typed

SHIPPED = frozenset(name for known in arguments.TARGETS.values() for name in known)
_TARGET = "_target_"


class Revived(NamedTuple):
    """What a record says of its run, fit to be built.

    `weights` tells of those it started from; None where it drew its own.
    """

    config: dict[str, Any]
    weights: dict[str, Any] | None


def revive(run: record.Record, trust: bool = False) -> Revived:
    """Check what a record asks for, giving keys that older code did not know their default.

    With `trust` it may name any class, whose code then runs. Raises UserError naming run.json.
    """
    return Revived(_config(run, trust), weights(run, trust))


def weights(run: record.Record, trust: bool) -> dict[str, Any] | None:
    """Check what a record tells of the weights that its run started from; raises UserError."""
    told: dict[str, Any] | None = run.data.get("weights")
    _check_names(run, told, trust, "weights")
    network = (told or {}).get("network")
    if network is None:
        return told
    if not isinstance(network, Mapping) or not isinstance(network.get(_TARGET), str):
        raise _refusal(run, f"weights.network must name a network, got {network!r}.")
    if known := arguments.MODELS.get(network[_TARGET]):
        given = {key: value for key, value in network.items() if key != _TARGET}
        try:
            config.check_section(known, given, "weights.network.", Typed((), ()))
        except UsageError as error:
            raise _refusal(run, str(error)) from None
    elif network[_TARGET] in SHIPPED:
        raise _refusal(run, f"weights.network is no network, but {network[_TARGET]}.")
    return told


def _config(run: record.Record, trust: bool) -> dict[str, Any]:
    recorded = run.data["config"]
    _check_names(run, recorded, trust)
    try:
        today = config.recompose(run.data["overrides"])
        for section in arguments.TARGETS:  # whose defaults may have become another class's since
            theirs, ours = _section(recorded, section), _section(today, section)
            if theirs.get(_TARGET) not in (None, ours.get(_TARGET)):
                ours.clear()
        found = config.check(_merged(today, recorded))
    except UsageError as error:
        raise _refusal(run, str(error)) from None
    except Exception as error:  # OmegaConf's half a dozen, for keys that no config has
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise _refusal(run, f"its config cannot be read ({reason}).") from None
    _check_names(run, found, trust)  # what its overrides added
    return found


def _merged(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Return `theirs` with what only `ours` has."""
    found = {**ours, **theirs}
    for key in ours.keys() & theirs.keys():
        if isinstance(ours[key], Mapping) and isinstance(theirs[key], Mapping):
            found[key] = _merged(ours[key], theirs[key])
    return found


def _section(values: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return the mapping at a dotted `path`, or an empty one where there is none."""
    found: Any = values
    for part in path.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found if isinstance(found, dict) else {}


def _check_names(run: record.Record, values: Any, trust: bool, place: str = "") -> None:
    """Refuse names that are not shipped, wherever they stand, and what a config would look up."""
    for key, value in _leaves(values, place):
        if any(isinstance(text, str) and "${" in text for text in (key, value)):
            raise _refusal(
                run, f"{key} asks to look something up, which a finished config never does."
            )
        if key.rpartition(".")[2] != _TARGET or (isinstance(value, str) and value in SHIPPED):
            continue
        if not isinstance(value, str) or not value:
            raise _refusal(run, f"{key} must name a class or function, got {value!r}.")
        if not trust:
            raise UserError(
                f"{run.folder / record.RECORD}: {key}={value} is none of the names that fmnist "
                "ships, and is not imported. If you trust whoever made this folder, add --trust: "
                "it runs the code that the folder names."
            )


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Return each value that is no mapping or list with its dotted key, and every `_target_`."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            inner_key = f"{key}.{name}".lstrip(".")
            if name == _TARGET and isinstance(inner, Mapping | list):
                yield inner_key, inner
            yield from _leaves(inner, inner_key)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for i, inner in enumerate(value):
            yield from _leaves(inner, f"{key}.{i}")
    else:
        yield key, value


def _refusal(run: record.Record, reason: str) -> UserError:
    return UserError(f"{run.folder / record.RECORD}: {reason}")

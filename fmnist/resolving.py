"""From a composed config to plain data: bounded, and with nothing of the environment but what was
asked for on the command line. Torch-free.
"""

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from fmnist.errors import UsageError
from fmnist.messages import first_line

MAX_DEPTH = 50
MAX_VALUES = 100_000
MAX_REFERENCES = 30  # ${...} in one config: each may stand for several that stand for several more

CALLS = ("_target_", "_partial_", "_recursive_", "_convert_", "_args_")  # words of instantiate

_VARIABLE = re.compile(r"oc\.env\s*:\s*['\"]?([^,}'\"\s]+)")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")  # all but tab and line break
_allowed: list[set[str]] = []  # names of environment variables, the innermost block's last


@contextlib.contextmanager
def environment(typed: Iterable[str]) -> Iterator[None]:
    """Let `${oc.env:NAME}` mean something inside only where `typed` words name that variable.

    A config file may come from anywhere and ends in run.json: it reads no secrets.
    """
    _allowed.append({name for word in typed for name in _VARIABLE.findall(word)})
    OmegaConf.register_new_resolver("oc.env", _variable, replace=True)
    try:
        yield
    finally:
        _allowed.pop()
        if not _allowed:
            OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


def reads_environment(word: str) -> bool:
    """Say whether an override takes a value from the environment."""
    return _VARIABLE.search(word) is not None


def _variable(name: str, *default: Any) -> str | None:
    if name not in _allowed[-1]:
        raise UsageError(
            f"A config file reads the environment variable {name!r}, which only the command line "
            f"may: it would be recorded. Type the value, or KEY='${{oc.env:{name}}}'."
        )
    return oc.env(name, *default)


def told(error: BaseException | None) -> UsageError | None:
    """Return our own words within an error of OmegaConf or Hydra, if any."""
    seen: set[int] = set()  # chains of OmegaConf's errors can come back to where they began
    while error is not None and id(error) not in seen:
        if isinstance(error, UsageError):
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def resolve(cfg: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    """Return a config as plain data that JSON can hold.

    Raises UsageError for what does not resolve, is nested too deep, grows too large, or is neither
    text nor number.
    """
    try:
        container = cfg if isinstance(cfg, DictConfig) else OmegaConf.create(dict(cfg))
        raw: Any = OmegaConf.to_container(container)
        texts = [text for text in _leaves(raw) if isinstance(text, str)]
        num_references = sum(text.count("${") for text in texts)
        if num_references > MAX_REFERENCES:
            raise UsageError(
                f"A config must hold at most {MAX_REFERENCES} references (${{...}}), got "
                f"{num_references}. Write the values."
            )
        if num_references or "???" in texts:
            raw = _resolved(container, [0])
            for _ in _leaves(raw):
                pass
    except RecursionError:
        raise _too_deep() from None
    except OmegaConfBaseException as error:
        raise told(error) or UsageError(
            f"The config does not resolve: {first_line(error)}"
        ) from None
    assert isinstance(raw, dict)
    return raw


def _resolved(value: Any, count: list[int], depth: int = 0) -> Any:
    """Follow the references in `value`, as long as what they stand for stays small."""
    count[0] += 1
    if count[0] > MAX_VALUES:
        raise UsageError(f"A config must hold at most {MAX_VALUES:,} values, got more.")
    if depth > MAX_DEPTH:
        raise _too_deep()
    if isinstance(value, DictConfig):
        return {key: _resolved(value[key], count, depth + 1) for key in value}
    if isinstance(value, ListConfig):
        return [_resolved(item, count, depth + 1) for item in value]
    return value


def _leaves(value: Any, path: str = "", depth: int = 0) -> Iterator[Any]:
    """Yield what is no collection; raises UsageError for a value or key of another kind."""
    if depth > MAX_DEPTH:
        raise _too_deep()
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str) or _CONTROL.search(key):
                raise UsageError(f"A key of {path or 'the config'} must be a text, got {key!r}.")
            yield from _leaves(inner, f"{path}.{key}".lstrip("."), depth + 1)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, path, depth + 1)
    else:
        _check_kind(value, path)
        yield value


def _check_kind(value: Any, path: str) -> None:
    if isinstance(value, str) and (found := _CONTROL.search(value)):
        raise UsageError(
            f"{path} must be a text without control characters, got {found[0]!r} in it. "
            "Leave it out."
        )
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise UsageError(f"{path} must be a number of at most 64 bits, got a larger one.")
    if value is not None and not isinstance(value, str | int | float):
        raise UsageError(
            f"{path} must be a text, a number, a list or a mapping, got {type(value).__name__}."
        )


def find_call(values: Any) -> str | None:
    """Return where a word by which Hydra would call something, `_target_`, stands in `values`."""
    if isinstance(values, dict):
        for key, inner in values.items():
            if key in CALLS:
                return str(key)
            if place := find_call(inner):
                return f"{key}.{place}"
    if isinstance(values, list):
        return next(filter(None, map(find_call, values)), None)
    return None


def _too_deep() -> UsageError:
    return UsageError(f"A config must be nested at most {MAX_DEPTH} levels deep, got more.")

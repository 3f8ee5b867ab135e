"""Put what pydantic and Hydra say of a wrong config into words a user can act on."""

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel, ValidationError

from fmnist import arguments, groups, schema
from fmnist.errors import shortened

CONF_DIR = Path(__file__).resolve().parents[1] / "conf"


class Typed(NamedTuple):
    """Where a config's keys come from: the words a user typed, and folders of YAML files."""

    overrides: Sequence[str]
    folders: Sequence[Path]


def validation_message(
    model: type[BaseModel], failed: ValidationError, prefix: str, typed: Typed
) -> str:
    """Put the first mistake in `failed` into one line; unknown keys come before wrong values.

    `prefix` is where `model` stands in the config.
    """
    details = failed.errors(include_url=False)
    error = min(details, key=lambda d: d["type"] != "extra_forbidden")
    path = [str(part) for part in error["loc"]]
    if error["type"] == "extra_forbidden":
        return _unknown_key(model, path, prefix, typed)
    while path and _field(model, path) is None:
        path.pop()  # drop what names a union's branch or a list's position
    key = prefix + ".".join(path)
    if error["type"] == "missing":
        return f"{key} is missing. Give it a value: {key}=..."
    value = error["input"]
    same = [d for d in details if [str(p) for p in d["loc"]][: len(path)] == path]
    if len(same) > 1 or len(error["loc"]) > len(path):
        value = same[0]["input"]
    rule = _rule(model, path)
    if error["type"].startswith(("greater", "less")):  # the type is right, only the range is not
        rule = rule.removeprefix("an integer ").removeprefix("a number ")
    return f"{key} must be {rule}, got {shortened(repr(value))}."


def _unknown_key(model: type[BaseModel], path: list[str], prefix: str, typed: Typed) -> str:
    key = prefix + ".".join(path)
    if key == "experiment":
        return (
            "The experiment's keys stand under `experiment` instead of the root. "
            "Begin its file with the line `# @package _global_`."
        )
    if path[0] == "trainer" and path[-1] in schema.RESERVED_TRAINER_KEYS:
        return f"{key} is set by fmnist itself. {schema.RESERVED_TRAINER_KEYS[path[-1]]}"
    word = next((w for w in typed.overrides if w.lstrip("+~").partition("=")[0] == key), None)
    shown = word.partition("=")[0] if word else key + _where(path[-1], typed.folders)
    known = _known_keys()
    if key in known:  # of another choice in the same group
        section = _group(key.rpartition(".")[0])
        return (
            f"Unknown key {shown}: the {section} that is chosen has none. Choose another {section}."
        )
    return f"Unknown key {shown}.{suggest(key, known)}"


def _group(section: str) -> str:
    """Name the group of files that chooses what stands at `section`: its own, or one above it."""
    place = CONF_DIR / section.replace(".", "/")
    while not place.is_dir():
        place = place.parent
    return place.relative_to(CONF_DIR).as_posix()


def help_text() -> str:
    """Return what `train.py --help` prints: the template in conf/hydra/help, filled in.

    As Hydra 1.3 would, which takes 0.3 s to list the groups: it copies its repository for each.
    """
    values = yaml.safe_load((CONF_DIR / "hydra" / "help" / "fmnist.yaml").read_text("utf-8"))
    choices: dict[str, list[str]] = {}
    for file in sorted(CONF_DIR.rglob("*.yaml")):
        group = file.parent.relative_to(CONF_DIR).as_posix()
        if group != "." and not group.startswith("hydra"):
            choices.setdefault(group, []).append(file.stem)
    groups = "".join(f"{group}: {', '.join(names)}\n" for group, names in sorted(choices.items()))
    text: str = values["template"].replace("$APP_CONFIG_GROUPS", groups)
    for part in ("header", "footer"):
        text = text.replace(f"${{hydra.help.{part}}}", values[part])
    return text


def _where(key: str, folders: Sequence[Path]) -> str:
    """Say which of the config files holds `key`, when exactly one does."""
    pattern = re.compile(rf"^\s*{re.escape(key)}\s*:", re.MULTILINE)
    found = [
        f"{folder.name}/{file.relative_to(folder)}"
        for folder in folders
        for file in groups.files(folder)
        if pattern.search(_text(file))
    ]
    return f" in {found[0]}" if len(found) == 1 else ""


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8", errors="replace")
    except OSError:
        return ""


def _known_keys() -> list[str]:
    keys = _keys(schema.Root, "")
    for section, known in arguments.TARGETS.items():
        keys += [f"{section}.{name}" for model in known.values() for name in model.model_fields]
    for section, known in (("sweeper", schema.SWEEPERS), ("launcher", schema.LAUNCHERS)):
        models = known.values()
        keys += [f"hydra.{section}.{name}" for model in models for name in model.model_fields]
    return keys


def _keys(model: type[BaseModel], prefix: str) -> list[str]:
    keys = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        for inner in _models(field.annotation):
            keys += _keys(inner, f"{prefix}{name}.")
    return keys


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for part in getattr(annotation, "__args__", ()) for m in _models(part)]


def _field(model: type[BaseModel], path: Sequence[str]) -> Any:
    """Return the FieldInfo at `path`, or None."""
    field = model.model_fields.get(path[0])
    if field is None or len(path) == 1:
        return field
    inner = [_field(m, path[1:]) for m in _models(field.annotation)]
    return next((f for f in inner if f is not None), None)


def _rule(model: type[BaseModel], path: Sequence[str]) -> str:
    field = _field(model, path)
    return _describe(field.annotation, field.metadata)


def _describe(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """Put a type and its bounds into words: `in 0..59999`, `true or false`, `all | none`."""
    inner = getattr(annotation, "__metadata__", None)
    if inner is not None:
        flat = [x for m in inner for x in getattr(m, "metadata", [m])]
        return _describe(annotation.__origin__, flat)
    arguments = getattr(annotation, "__args__", ())
    origin = str(getattr(annotation, "__origin__", ""))
    if origin == "typing.Literal":
        return " | ".join(str(a) for a in arguments)
    if arguments and "list" in origin:
        ends = {
            n: getattr(m, n)
            for m in metadata
            for n in ("min_length", "max_length")
            if hasattr(m, n)
        }
        values = "values"
        if top := ends.get("max_length"):
            values = f"{top} values" if ends.get("min_length") else f"at most {top} values"
        return f"a list of {values}, each {_describe(arguments[0])}"
    if arguments and "dict" not in origin:
        return " or ".join(dict.fromkeys(_describe(a) for a in arguments))
    return _describe_plain(annotation, metadata)


def _describe_plain(annotation: Any, metadata: Iterable[Any]) -> str:
    words = {int: "an integer", float: "a number", bool: "true or false", str: "a text"}
    words |= {NoneType: "null", dict: "a mapping"}
    word = words.get(annotation, "a mapping")
    if annotation is str and any(getattr(m, "min_length", 0) for m in metadata):
        return "a text that is not empty"
    bounds = {n: getattr(m, n) for m in metadata for n in ("ge", "gt", "le", "lt") if hasattr(m, n)}
    if "ge" in bounds and "le" in bounds:
        return f"{word} in {bounds['ge']}..{bounds['le']}"
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    return " ".join([word, " and ".join(f"{signs[n]} {v}" for n, v in bounds.items())]).strip()


def suggest(word: str, known: Iterable[str]) -> str:
    """Return ` Did you mean X?` for the nearest of `known`, else all of them when they are few."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    last = word.rpartition(".")[2]
    near = near or [k for k in known if k.rpartition(".")[2] == last][:1]
    if near:
        return f" Did you mean {near[0]}?"
    return f" Choices: {', '.join(sorted(known))}." if len(known) <= 20 else ""


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".") + "."


def hydra_message(error: Exception) -> str:
    """Put what Hydra says of a composition that failed into one line with its remedy."""
    text = str(error)
    missing = re.search(r"In '([^']+)': Could not find '([^']+)'", text)
    if missing:
        parent, (group, _, option) = missing[1], missing[2].rpartition("/")
        options = re.search(r"Available options in '[^']*':\n((?:\t.*\n?)+)", text)
        choices = options[1].split() if options else []
        file = "" if parent == "train" else f" in {parent}.yaml"
        near = difflib.get_close_matches(option, choices, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        return f"Unknown choice {group}={option}{file}.{hint} Choices: {', '.join(choices)}."
    group_typo = re.search(r"(?:In '([^']+)': )?Could not override '([^']+)'", text)
    if group_typo:
        groups = [str(p.relative_to(CONF_DIR)) for p in CONF_DIR.rglob("*") if p.is_dir()]
        file = f" in {group_typo[1]}.yaml" if group_typo[1] else ""
        return f"Unknown group {group_typo[2]}{file}.{suggest(group_typo[2], groups)}"
    if isinstance(error, RecursionError) or "maximum recursion depth" in text:
        return "A config must be nested at most 50 levels deep and include no file within itself."
    reason = " ".join(f"{text} {error.__cause__ or ''}".split()) or type(error).__name__
    if isinstance(error, KeyError):
        reason = f"Key {reason} is missing"
    return reason.rstrip(".") + "."

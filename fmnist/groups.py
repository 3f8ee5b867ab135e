"""The YAML files of a user's config groups, looked at before Hydra reads them. Torch-free."""

import os
from collections.abc import Iterator
from pathlib import Path

import yaml

from fmnist.errors import UsageError

MAX_FILES = 1_000
MAX_BYTES = 100_000  # Hydra reads a megabyte in ten seconds; ours have 2 kB
MAX_VALUES = 100_000  # with every alias written out

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def files(folder: Path) -> list[Path]:
    """Return the .yaml files below `folder`, through links, each folder once.

    Raises UsageError where there are more than a thousand files.
    """
    seen: set[str] = set()
    found: list[Path] = []
    num_files = 0
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        num_files += len(names)
        if num_files > MAX_FILES:
            raise UsageError(
                f"--config-dir must be a folder of config groups, got {folder} with more than "
                f"{MAX_FILES} files. Give the groups a folder of their own."
            )
        found += [Path(place, name) for name in names if name.endswith(".yaml")]
    return sorted(found)


def check(folder: Path) -> None:
    """Refuse a file that would stop Hydra or fill the memory: a pipe, a huge one, a YAML bomb.

    What is no YAML, or cannot be read, is told by Hydra when it is chosen. Raises UsageError, also
    for what is no folder.
    """
    if not folder.is_dir():
        raise UsageError(f"--config-dir must be a folder of config groups, got {folder}.")
    for path in files(folder):
        if not path.is_file():
            if path.exists():
                raise UsageError(f"{path} must be a file of text, as its name ends in .yaml.")
            continue  # a link to nothing
        if (size := path.stat().st_size) > MAX_BYTES:
            raise UsageError(
                f"{path} must have at most {MAX_BYTES:,} bytes, got {size:,}. "
                "A config file holds settings, no data."
            )
        try:
            text = path.read_bytes().decode("utf-8")
            num_values = _count(yaml.parse(text, Loader=_Loader))
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            continue
        if num_values > MAX_VALUES:
            raise UsageError(
                f"{path} must stand for at most {MAX_VALUES:,} values, got {num_values:,} with "
                "its aliases written out. Write out fewer."
            )


def _count(events: Iterator[yaml.Event]) -> int:
    """Count the values of a document, an alias for as many as it stands for."""
    sizes: dict[str, int] = {}
    open_: list[tuple[str | None, int]] = []  # anchor of each collection around, and count before
    count = 0
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            count += sizes.get(str(event.anchor), MAX_VALUES + 1)  # unknown yet: one within itself
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_.pop()
            sizes |= {anchor: count - before} if anchor else {}
        elif isinstance(event, yaml.CollectionStartEvent):
            open_.append((event.anchor, count))
            count += 1
        elif isinstance(event, yaml.ScalarEvent):
            count += 1
            sizes |= {event.anchor: 1} if event.anchor else {}
    return count

"""Which licences the packages have that fmnist needs at run time, as their own metadata say."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

from fmnist.errors import UserError

EXTRAS = ("optuna", "export")  # of pyproject.toml, beside what is always needed
PERMITTED = frozenset(
    {
        *("0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD", "BSD-2-Clause"),
        *("BSD-3-Clause", "BSL-1.0", "CC0-1.0", "HPND", "ISC", "MIT", "MIT-CMU", "MPL-2.0"),
        *("PSF-2.0", "Python-2.0", "Unlicense", "Zlib"),
    }
)
UNKNOWN = "not told"
NVIDIA = "LicenseRef-NVIDIA-Proprietary"
_WORDS = {  # what metadata older than SPDX expressions say, from the longest to the shortest
    "apache": "Apache-2.0",
    "python software foundation": "PSF-2.0",
    "psf": "PSF-2.0",
    "mozilla public license 2.0": "MPL-2.0",
    "bsd-3-clause": "BSD-3-Clause",
    "bsd 3-clause": "BSD-3-Clause",
    "bsd-2-clause": "BSD-2-Clause",
    "nvidia": NVIDIA,
    "unlicense": "Unlicense",
    "isc": "ISC",
    "bsd": "BSD",
    "mit": "MIT",
}
_HEAD = """\
# Licences of what fmnist needs

fmnist itself is under the MIT licence. These are the packages that it needs at run time, those of
the extras {extras} included, and what their own metadata say of their licences. Written by
`python scripts/licences.py`, on Linux; the versions are those of `constraints.txt`.

Those of NVIDIA are the CUDA libraries, under its proprietary licence: they come with the builds of
torch for GPUs, and are needed only there.

| package | licence |
|---|---|
"""
_DIRECT = "| **{}** | {} |\n"
_INDIRECT = "| {} | {} |\n"


def page(project: Path) -> str:
    """Return the page for the dependencies of a pyproject.toml; those of others follow them.

    Raises UserError for a direct one that is not installed.
    """
    ours = direct(project)
    others = sorted(_needed(ours) - set(ours))
    rows = [_DIRECT.format(name, licence(name)) for name in ours]
    rows += [_INDIRECT.format(name, licence(name)) for name in others]
    return _HEAD.format(extras=" and ".join(f"`{name}`" for name in EXTRAS)) + "".join(rows)


def direct(project: Path) -> list[str]:
    """Return the names of the dependencies in a pyproject.toml, in order."""
    values = tomllib.loads(project.read_text("utf-8"))["project"]
    extras = [line for name in EXTRAS for line in values["optional-dependencies"][name]]
    return sorted(_name(line) for line in (*values["dependencies"], *extras))


def licence(package: str) -> str:
    """Return the licence of an installed package, by SPDX's names as far as it tells.

    Raises UserError where it is not installed.
    """
    try:
        told = metadata.metadata(package)
    except metadata.PackageNotFoundError:
        raise UserError(f"{package} is not installed. Run make setup first.") from None
    if expression := told["License-Expression"]:
        return str(expression)
    classifiers = [text for text in told.get_all("Classifier") or [] if "License ::" in text]
    texts = [text.rpartition(" :: ")[2] for text in classifiers]
    first = (told["License"] or "").strip().splitlines()[:1]
    for text in (*first, *texts):
        for words, name in _WORDS.items():
            if re.search(rf"\b{re.escape(words)}", text.lower()):
                return name
    return UNKNOWN


def _needed(names: list[str]) -> set[str]:
    """Return all packages that `names` need and that are installed here, themselves included."""
    found: set[str] = set()
    ahead = list(names)
    while ahead:
        name = ahead.pop()
        try:
            lines = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # for other machines
            continue
        if name not in found:
            found.add(name)
            ahead += [_name(line) for line in lines if "extra ==" not in line]
    return found


def _name(line: str) -> str:
    """Return the name in a requirement, as the index writes it."""
    match = re.match(r"[\w.-]+", line)
    assert match
    return re.sub(r"[-_.]+", "-", match[0]).lower()

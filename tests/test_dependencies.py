"""What is installed beside this project: no known hole, and only licences that permit it."""

import itertools
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from conftest import PROJECT
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from fmnist import licences
from fmnist.errors import UserError

HOLES = tomllib.loads(Path(__file__).with_name("known_holes.toml").read_text("utf-8"))
PAGE = PROJECT / "docs" / "licences.md"


def pinned() -> dict[str, Version]:
    lines = (PROJECT / "constraints.txt").read_text("utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {re.sub(r"[-_.]+", "-", name).lower(): Version(version) for name, version in pairs}


def is_hit(version: Version, hole: dict[str, Any]) -> bool:
    return any(version in SpecifierSet(part) for part in hole["affected"].split("||"))


def test_no_pinned_version_has_a_known_hole() -> None:
    versions = pinned()
    found = [
        f"{hole['package']}=={versions[hole['package']]}: {hole['id']}, {hole['what']}"
        for hole in HOLES["hole"]
        if hole["package"] in versions and is_hit(versions[hole["package"]], hole)
    ]
    assert not found, "\n".join(found)


def test_no_range_begins_with_a_known_hole() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"].values()
    named = [Requirement(text) for text in [*project["dependencies"], *itertools.chain(*extras)]]
    floors = {
        need.name: Version(part.version)
        for need in named
        for part in need.specifier
        if part.operator == ">="
    }
    assert {"torch", "pytorch-lightning", "pillow"} <= set(floors)
    found = [
        f"{hole['package']}>={floors[hole['package']]}: {hole['id']}, {hole['what']}"
        for hole in HOLES["hole"]
        if hole["package"] in floors and is_hit(floors[hole["package"]], hole)
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("package", "version", "holes"),
    [
        ("pytorch-lightning", "2.6.2", {"GHSA-w37p-236h-pfx3", "CVE-2026-58659"}),
        ("pytorch-lightning", "2.6.5", {"CVE-2026-58659"}),
        ("pytorch-lightning", "2.6.6", set()),
        ("torch", "2.5.1", {"CVE-2025-32434", "CVE-2026-24747"}),
        ("torch", "2.9.1", {"CVE-2026-24747"}),
        ("torch", "2.10.0", set()),
    ],
)
def test_a_version_with_a_hole_is_found(package: str, version: str, holes: set[str]) -> None:
    hit = [hole for hole in HOLES["hole"] if hole["package"] == package]
    assert {hole["id"] for hole in hit if is_hit(Version(version), hole)} == holes


def test_the_list_of_holes_is_dated_and_about_packages_that_are_pinned() -> None:
    assert HOLES["checked"].year >= 2026
    assert {hole["package"] for hole in HOLES["hole"]} <= set(pinned())
    assert all({"id", "what", "source", "affected"} <= set(hole) for hole in HOLES["hole"])


def listed() -> dict[str, str]:
    """Return what the page says: package -> licence."""
    rows = re.findall(
        r"^\| (?:\*\*)?([\w-]+?)(?:\*\*)? \| (.+) \|$", PAGE.read_text(), re.MULTILINE
    )
    return {name: licence for name, licence in rows if name != "package"}


def test_every_direct_dependency_is_listed_and_permitted() -> None:
    page = listed()
    for name in licences.direct(PROJECT / "pyproject.toml"):
        parts = re.split(r" (?:AND|OR) ", re.sub("[()]", "", page[name]))
        assert set(parts) <= licences.PERMITTED, name
        assert licences.licence(name) == page[name], f"run scripts/licences.py: {name}"


def test_the_page_is_what_the_command_writes() -> None:
    """As far as this machine has the same packages."""
    written = licences.page(PROJECT / "pyproject.toml").splitlines()
    kept = PAGE.read_text().splitlines()
    assert written[: written.index("|---|---|")] == kept[: kept.index("|---|---|")]
    assert [line for line in written if line.startswith("| **")] == [
        line for line in kept if line.startswith("| **")
    ]


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("License-Expression: MIT OR Apache-2.0", "MIT OR Apache-2.0"),
        ("License: BSD 3-Clause License", "BSD-3-Clause"),
        ("Classifier: License :: OSI Approved :: MIT License", "MIT"),
        ("License: Permitted by nobody", licences.UNKNOWN),
        ("Summary: transmits", licences.UNKNOWN),
    ],
)
def test_a_licence_is_read_from_metadata(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str, expected: str
) -> None:
    folder = tmp_path / "odd_thing-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.4\nName: odd-thing\n{told}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert licences.licence("odd-thing") == expected


def test_a_dependency_that_is_not_installed_is_named() -> None:
    with pytest.raises(UserError, match=r"no-such-thing is not installed\. Run make setup first\."):
        licences.licence("no-such-thing")

import os
import re
from pathlib import Path

import pytest
from idx_files import Files, Patch, fill, read

from fmnist import package, sources
from fmnist.errors import UserError

pytest_plugins = ["idx_fixtures"]
pytestmark = pytest.mark.usefixtures("offline")
SYSTEM_PATH = os.environ["PATH"]


@pytest.fixture
def programs(tmp_path: Path, files: Files, monkeypatch: Patch) -> Path:
    """A folder on PATH with an apt-get and a dpkg-deb that do what these tests need."""
    folder = tmp_path / "programs"
    fill(tmp_path / "package/usr/share/datasets/fashion-mnist", files, packed=True)
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{SYSTEM_PATH}")
    program(
        folder / "apt-get", 'echo "$@" >> "$0.log"; case "$*" in *download*) echo > x.deb;; esac'
    )
    program(folder / "dpkg-deb", f'[ "$1" = --fsys-tarfile ] && tar -c -C {tmp_path}/package ./usr')
    return folder


def program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_package_is_used_when_no_mirror_answers(
    data_dir: Path, files: Files, programs: Path
) -> None:
    assert sources.obtain(data_dir) == "apt package dataset-fashion-mnist"
    assert read(data_dir) == files
    update, download = (programs / "apt-get.log").read_text().splitlines()
    assert re.fullmatch(r"-oDir::State=\S+ .*-oDebug::NoLocking=1 update", update)
    assert download.endswith(" download dataset-fashion-mnist")
    assert not Path(update.split()[0].partition("=")[2]).parent.exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "echo W: Failed a; echo E: no list; echo end; exit 100",
            "apt-get: W: Failed a E: no list",
        ),
        ("echo one; echo two; exit 1", "apt-get: two"),
        ("exit 1", "apt-get: "),
        ("exec sleep 20", "not done within 0 s"),
        (None, "apt-get: No such file or directory"),
    ],
)
def test_failing_package_manager_is_reported(
    text: str | None, reason: str, data_dir: Path, programs: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(package, "APT_S", 0.2)
    if text is None:
        monkeypatch.setenv("PATH", "/nonexistent")
    else:
        program(programs / "apt-get", text)
    with pytest.raises(UserError, match=f"\n  apt package dataset-fashion-mnist: {reason}\n"):
        sources.obtain(data_dir)

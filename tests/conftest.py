import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import small

PROJECT = Path(__file__).resolve().parents[1]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def small_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the four files of the small data set."""
    folder = tmp_path_factory.mktemp("small")
    small.write_files(folder)
    return folder


@pytest.fixture
def small_data(
    small_files: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Let this process take the small data set for Fashion-MNIST; returns the data folder."""
    from fmnist import sources

    folder = tmp_path_factory.getbasetemp() / "data"
    monkeypatch.setattr(sources, "FILES", small.checksums(small_files))
    monkeypatch.setenv("FMNIST_SYSTEM_DIR", str(small_files))
    monkeypatch.setenv("FMNIST_DATA", str(folder))
    return folder


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def half_way(workdir: Path, small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a small network with Adam that stopped after the first of its two epochs."""
    from fmnist import run

    kept = tmp_path_factory.getbasetemp() / "half_way"
    if not kept.exists():
        words = ["model=mlp", "model.widths=[8]", "optim=adam", "trainer=cpu", "logger=none"]
        sizes = ["data.batch_size=50", "data.val_size=100", "trainer.max_epochs=1"]
        done = run.train([*words, *sizes, "figures=none", "name=half_way"])
        done.data["config"]["trainer"]["max_epochs"] = 2
        done.update(status="interrupted", scores={})
        shutil.copytree(done.folder, kept)
        shutil.rmtree(done.folder)
    shutil.copytree(kept, "runs/half_way")
    return Path("runs/half_way")


@pytest.fixture
def script(small_files: Path, tmp_path: Path) -> Run:
    """Run `scripts/NAME` on the small data in `tmp_path`, as a user would."""
    environment = {**os.environ, "FMNIST_DATA": str(tmp_path / "data"), "COLUMNS": "100"}

    def run(name: str, *arguments: str, **options: Any) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, str(PROJECT / "tests" / "small.py"), str(small_files)]
        defaults = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
        return subprocess.run(
            [*command, str(PROJECT / "scripts" / name), *arguments],
            check=False,
            **{"timeout": 120, **defaults, **options},
        )

    return run


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The real files, from wherever this machine has them; slow only where they are downloaded."""
    from fmnist import sources

    folder = Path(os.environ.get("FMNIST_DATA") or PROJECT / "data")
    sources.obtain(folder)
    return folder


@pytest.fixture
def quiet() -> Iterator[None]:
    """Leave out the library warnings that a run leaves out, and no other."""
    from fmnist import build

    with build.quiet():
        yield


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A Chromium of the system, without a window."""
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    assert program, "Browser tests need chromium: apt install chromium"
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()

"""`scripts/results.py` on small data and small experiments, in a copy of the project."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import everywhere
import pytest
from conftest import PROJECT

from fmnist import process
from fmnist.results import headers

pytestmark = pytest.mark.slow

SMALL = """\
# @package _global_
# A small one.
defaults:
  - override /model: mlp{more}
data:
  batch_size: 50
  val_size: 100
trainer:
  max_epochs: 1
"""
ABLATION = """\
# @package _global_
defaults:
  - override /hydra/sweeper: grid
  - override /model: mlp
hydra:
  sweeper:
    cases:
      whole: []
      no_flips: [augment.flip=false]
    params:
      seed: range(2)
data:
  batch_size: 50
  val_size: 100
trainer:
  max_epochs: 1
"""


class Checkout:
    """A copy of the project under git, with three small experiments."""

    def __init__(self, folder: Path, files: Path) -> None:
        self.folder = folder / "project"
        for part in ("conf", "fmnist", "scripts", "docs"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(PROJECT / part, self.folder / part, ignore=ignored)
        shutil.copy(PROJECT / ".gitignore", self.folder)
        (self.folder / "docs" / "results.json").unlink()
        experiments = self.folder / "conf" / "experiment"
        shutil.rmtree(experiments)
        experiments.mkdir()
        (experiments / "tiny.yaml").write_text(SMALL.format(more=""))
        (experiments / "large.yaml").write_text(SMALL.format(more="\n  - override /trainer: gpu"))
        (self.folder / "conf" / "sweep" / "ablation.yaml").write_text(ABLATION)
        self.environment = everywhere.environment(folder, files, self.folder)
        self.git("init", "-q")
        self.commit()

    def git(self, *words: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *who, *words], cwd=self.folder, check=True, capture_output=True)

    def commit(self) -> None:
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "x")

    def run(self, script: str, *words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, str(self.folder / "scripts" / script), *words],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()


@pytest.mark.skipif(process.has_gpu(), reason="what needs a GPU would run too")
def test_results_are_run_recorded_and_shown(small_files: Path, tmp_path: Path) -> None:
    checkout = Checkout(tmp_path, small_files)
    done = checkout.run("results.py")
    assert done.returncode == 0, done.stderr
    assert "large: skipped. It needs a GPU" in done.stderr

    found = json.loads(checkout.read("docs/results.json"))
    assert list(found["experiments"]) == ["tiny"]
    entry = found["experiments"]["tiny"]
    assert [run["seed"] for run in entry["runs"]] == [0, 1, 2]
    for run in entry["runs"]:
        folder = checkout.folder / "sweeps" / "results-tiny" / f"seed={run['seed']}"
        record = json.loads((folder / "run.json").read_text())
        assert run["val_acc"] == record["scores"]["val/acc"]
        assert run["test_acc"] == record["scores"]["test/acc"]
        assert run["duration_s"] == record["duration_s"] > 0
        assert record["started"].startswith(entry["date"])
        assert entry["commit"] == record["commit"]
        assert (entry["cpu"], entry["num_threads"]) == (record["cpu"], record["num_threads"])
        measured = json.loads((folder / "eval-train.json").read_text())
        assert run["train_acc"] == measured["scores"]["train/acc"]
    assert {case: list(runs) for case, runs in found["ablation"]["cases"].items()} == {
        "whole": ["0", "1"],
        "no_flips": ["0", "1"],
    }
    header = checkout.read("conf/experiment/tiny.yaml").decode()
    assert header.startswith(f"# @package _global_\n# A small one.\n{headers.TITLE}\n")
    assert header.endswith(SMALL.format(more="").partition("one.\n")[2])
    assert "not measured" in checkout.read("conf/experiment/large.yaml").decode()
    assert "| no flips |" in checkout.read("docs/results.md").decode()
    for name in ("docs/results.png", "docs/ablation.png"):
        assert name in done.stdout
        assert checkout.read(name).startswith(b"\x89PNG")

    sides = ("augment.flip=true", "augment.flip=false")
    paired = checkout.run("compare.py", "sweeps/results-ablation", "--paired", *sides)
    assert paired.returncode == 0, paired.stderr
    assert "augment.flip: true in A, false in B" in paired.stdout

    refused = checkout.run("results.py", "tiny")  # the headers are new
    assert refused.returncode == 2
    assert "uncommitted changes" in refused.stderr

    before = checkout.read("docs/results.json")
    assert checkout.run("results.py", "--collect").returncode == 0
    assert checkout.read("docs/results.json") == before

    checkout.commit()  # finished runs keep their commit, and nothing is trained again
    again = checkout.run("results.py", "tiny")
    assert again.returncode == 0, again.stderr
    assert "3 skipped (finished before)" in again.stdout
    assert checkout.read("docs/results.json") == before

"""A run folder from elsewhere, in which links and folders stand where files are written."""

import json
import os
import shutil
from pathlib import Path

import pytest

from fmnist import evaluation, layout, record, run
from fmnist.errors import UsageError, UserError


def spoil(path: Path, kind: str) -> None:
    """Let something else stand where a run has `path`."""
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    if kind == "folder":
        path.mkdir()
    elif kind == "file":
        path.touch()
    else:
        path.symlink_to(Path("mine").resolve())


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *[("checkpoints", "link"), ("checkpoints", "file"), ("figures", "link")],
        *[(f"checkpoints/{name}", "folder") for name in ("best.ckpt", "new.ckpt", "last.ckpt")],
        *[("checkpoints/new.ckpt", "link"), ("checkpoints/.best.ckpt.tmp", "folder")],
        *[("metrics.csv", "folder"), ("figures/curves.png", "folder")],
    ],
)
def test_what_would_be_written_elsewhere_or_not_at_all_is_named(
    half_way: Path, name: str, kind: str
) -> None:
    mine = Path("mine")
    shutil.copytree(half_way / "checkpoints", mine)
    before = {path.name: path.read_bytes() for path in mine.iterdir()}
    spoil(half_way / name, kind)
    with pytest.raises(UserError, match=rf"half_way/{name} is a link or no (file|folder), and"):
        run.resume(half_way)
    assert {path.name: path.read_bytes() for path in mine.iterdir()} == before


def test_a_run_that_has_its_scores_empties_no_other_checkpoints(half_way: Path) -> None:
    """It ended between its last two writes: what is left to do is to delete."""
    shutil.copytree(half_way / "checkpoints", "mine")
    spoil(half_way / "checkpoints", "link")
    record.read(half_way).update(scores={"val/acc": 0.5}, epochs_done=2)
    data = json.loads((half_way / "run.json").read_text())
    data["config"]["checkpoints"] = "none"
    (half_way / "run.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match="checkpoints is a link or no folder"):
        run.resume(half_way)
    assert {path.name for path in Path("mine").iterdir()} == {"best.ckpt", "last.ckpt"}


def test_folders_that_look_unfinished_stay(half_way: Path) -> None:
    (half_way / ".x.tmp").mkdir()
    (half_way / "checkpoints" / "of the user").mkdir()
    data = json.loads((half_way / "run.json").read_text())
    data["config"]["checkpoints"] = "none"
    (half_way / "run.json").write_text(json.dumps(data))
    assert run.resume(half_way).status == "finished"
    assert (half_way / ".x.tmp").is_dir()
    assert [path.name for path in (half_way / "checkpoints").iterdir()] == ["of the user"]


def test_an_evaluation_draws_into_no_other_folder(half_way: Path) -> None:
    run.resume(half_way)
    Path("mine").mkdir()
    Path("mine/eval-val-classes.png").write_text("mine")
    spoil(half_way / "figures", "link")
    with pytest.raises(evaluation.NotKeptError, match="figures is a link or no folder") as caught:
        evaluation.evaluate(half_way, "val")
    assert caught.value.report["split"] == "val"
    assert [path.read_text() for path in Path("mine").iterdir()] == ["mine"]


def test_the_latest_run_goes_on_under_its_own_name(half_way: Path) -> None:
    Path("runs/latest").symlink_to("half_way")
    assert run.resume("runs/latest").folder == half_way
    assert os.readlink("runs/latest") == "half_way"


def test_a_run_goes_on_in_a_folder_that_somebody_named(half_way: Path) -> None:
    theirs = Path("runs/my run (1)")
    half_way.rename(theirs)
    assert run.resume(theirs).status == "finished"
    assert {path.name for path in Path("runs").iterdir()} == {theirs.name, "latest"}


def test_a_run_is_found_by_the_name_that_stays_its_own(workdir: Path) -> None:
    for folder in ("runs/a", "old/a", "old/b/c"):
        Path(folder).mkdir(parents=True)
    for link, target in {"runs/latest": "a", "old/latest": "a", "runs/far": "../old/a"}.items():
        Path(link).symlink_to(target)
    runs = Path("runs")
    for typed, found in {
        "runs/a": "runs/a",
        "runs/latest": "runs/a",
        str(workdir / "runs" / "latest"): "runs/a",
        "old/latest": str(workdir / "old" / "a"),
        "runs/far": "runs/far",
        "old/b/c": "old/b/c",
    }.items():
        assert layout.settle(Path(typed), runs) == Path(found)


def test_latest_points_to_the_newest(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        layout.point_latest(tmp_path / name)
    assert (tmp_path / "latest").resolve().name == "two"
    (tmp_path / "alias").symlink_to("latest")
    for name in ("latest", "alias"):
        layout.point_latest(tmp_path / name)
        assert os.readlink(tmp_path / "latest") == "two"


def test_a_folder_named_latest_leaves_nothing_behind(tmp_path: Path) -> None:
    for name in ("latest", "one"):
        (tmp_path / name).mkdir()
        layout.point_latest(tmp_path / name)
    assert {path.name for path in tmp_path.iterdir()} == {"latest", "one"}


def test_latest_is_no_folder_for_a_run() -> None:
    assert run.check_folder("runs/a") == Path("runs/a")
    with pytest.raises(UsageError, match="--folder runs/latest is the link to the newest run"):
        run.check_folder("runs/latest")

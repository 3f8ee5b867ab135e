import copy
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from fmnist import config, origin, record
from fmnist.errors import UsageError, UserError


@pytest.fixture
def plain() -> dict[str, Any]:
    return config.check(config.compose(["trainer.max_epochs=2"]))


def write(folder: Path, plain: dict[str, Any], **fields: Any) -> record.Record:
    folder.mkdir(exist_ok=True)
    run = record.open_record(folder, copy.deepcopy(plain), fields.pop("overrides", []))
    run.update(**fields)
    return run


def test_new_or_empty_folder_is_started(tmp_path: Path, plain: dict[str, Any]) -> None:
    assert record.decide(tmp_path / "new", plain, []) == "start"
    (tmp_path / "empty").mkdir()
    assert record.decide(tmp_path / "empty", plain, []) == "start"


def test_finished_folder_is_finished(tmp_path: Path, plain: dict[str, Any]) -> None:
    write(tmp_path / "run", plain, status="finished")
    assert record.decide(tmp_path / "run", plain, []) == "finished"


def test_checkpoint_is_resumed_and_none_is_started(tmp_path: Path, plain: dict[str, Any]) -> None:
    write(tmp_path / "run", plain, status="failed")
    assert record.decide(tmp_path / "run", plain, []) == "start"
    (tmp_path / "run" / "checkpoints").mkdir()
    (tmp_path / "run" / "checkpoints" / "previous.ckpt").write_text("x")
    assert record.decide(tmp_path / "run", plain, []) == "resume"


def test_other_config_is_refused_naming_the_keys(tmp_path: Path, plain: dict[str, Any]) -> None:
    write(tmp_path / "cnn", plain, status="finished")
    before = (tmp_path / "cnn" / "run.json").read_bytes()
    plain["optim"]["lr"] = 0.01
    plain["trainer"]["gradient_clip_val"] = 1.0
    expected = re.escape(
        "cnn was made with another config (optim.lr: 0.005, now 0.01; "
        "trainer.gradient_clip_val: (not set), now 1.0). "
        "Choose another name=... or delete the folder."
    )
    with pytest.raises(UsageError, match=expected):
        record.decide(tmp_path / "cnn", plain, [])
    assert (tmp_path / "cnn" / "run.json").read_bytes() == before


def test_where_and_how_loudly_is_no_part_of_identity(tmp_path: Path, plain: dict[str, Any]) -> None:
    write(tmp_path / "run", plain, status="finished")
    plain |= {"name": "x", "note": "y", "figures": "none", "test": False, "checkpoints": "best"}
    plain["data"] |= {"dir": "/elsewhere", "source": "/cd"}
    plain["trainer"] |= {"accelerator": "gpu", "devices": 2, "precision": "bf16-mixed"}
    assert record.decide(tmp_path / "run", plain, []) == "finished"


def test_typed_precision_is_part_of_identity(tmp_path: Path, plain: dict[str, Any]) -> None:
    write(tmp_path / "run", plain, status="finished")
    plain["trainer"]["precision"] = "bf16-mixed"
    with pytest.raises(UsageError, match="trainer.precision"):
        record.decide(tmp_path / "run", plain, ["trainer.precision=bf16-mixed"])


def test_foreign_folder_is_refused(tmp_path: Path, plain: dict[str, Any]) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="exists but is no run"):
        record.decide(tmp_path, plain, [])


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 99, "config": {}}', "\x00"])
def test_damaged_record_is_named(tmp_path: Path, plain: dict[str, Any], text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(UserError, match="run.json"):
        record.decide(tmp_path, plain, [])


def test_missing_record_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no run folder: run.json is missing"):
        record.read(tmp_path)


def test_record_is_written_whole(tmp_path: Path, plain: dict[str, Any]) -> None:
    run = write(tmp_path / "run", plain, epochs_done=1)
    assert json.loads((tmp_path / "run" / "run.json").read_text()) == run.data
    assert record.read(tmp_path / "run").data == run.data
    assert os.listdir(tmp_path / "run") == ["run.json"]


def test_attempts_are_counted(tmp_path: Path, plain: dict[str, Any]) -> None:
    run = write(tmp_path / "run", plain)
    run.open_attempt(start_epoch=0)
    run.update(status="failed", error="x")
    run.open_attempt(start_epoch=1)
    assert "error" not in record.read(tmp_path / "run").data
    run.update(status="finished")
    attempts = run.data["attempts"]
    assert [a["start_epoch"] for a in attempts] == [0, 1]
    assert all(a["pid"] == os.getpid() and a["seconds"] >= 0 for a in attempts)


def test_unnamed_runs_never_share_a_folder(tmp_path: Path) -> None:
    folders = [record.claim(tmp_path / "runs", None, "cnn") for _ in range(5)]
    assert len(set(folders)) == 5
    assert all(f.is_dir() for f in folders)


def test_unwritable_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(UserError, match="Cannot make a run folder"):
        record.claim(tmp_path / "runs", "x", "cnn")


@pytest.mark.parametrize("name", ["a/b", "../../x", "x" * 500, "größe", "a b", "..", "", "/"])
def test_any_value_makes_a_safe_name(name: str) -> None:
    short = record.short(name)
    assert re.fullmatch(r"[A-Za-z0-9._=,+-]{1,120}", short)
    assert ".." not in short
    assert record.short(name) == short


def test_different_values_get_different_names() -> None:
    names = ["a/b", "a-b", "a b", "x" * 200, "x" * 201]
    assert len({record.short(n) for n in names}) == len(names)


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.json"
    record.write_atomically(path, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device.*Free some space"):
        record.write_atomically(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["run.json"]


def test_record_has_versions_and_commit() -> None:
    assert {"python", "torch", "pytorch-lightning"} <= origin.versions().keys()
    commit = origin.commit()
    assert not commit or re.fullmatch(r"[0-9a-f]{40}", commit["commit"])

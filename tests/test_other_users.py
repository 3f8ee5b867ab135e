"""Folders of somebody else, files that cannot be opened, and what of the environment is kept."""

import contextlib
import ctypes
import errno
import functools
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Run
from run_folders import write_run

from fmnist import errors, origin, record
from fmnist.errors import exit_codes
from fmnist.run import train

NOBODY = 65534


@pytest.fixture
def stranger(script: Run) -> Run:
    """Run a script as a user whom other users' permissions bind: root, without what makes it so."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root can give a folder to another user")

    def bind() -> None:
        for capability in (1, 2, 3):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER
            ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP

    return functools.partial(script, preexec_fn=bind, timeout=300)


def give(folder: Path, mode: int = 0o700) -> None:
    """Let `folder` and all in it belong to another user, and `mode` say who may enter it."""
    for path in (folder, *folder.rglob("*")):
        os.lchown(path, NOBODY, NOBODY)
    folder.chmod(mode)


def told(done: "subprocess.CompletedProcess[str]", code: int) -> str:
    """Return the last line of stderr, where the script ended as it should."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1] if done.stderr else ""


def test_a_run_folder_that_may_not_be_read_is_one_line(stranger: Run, tmp_path: Path) -> None:
    give(write_run(tmp_path / "runs" / "theirs"))
    for name in ("eval.py", "export.py"):  # it could be a sweep, too
        done = stranger(name, "runs/theirs")
        assert done.returncode == 1
        assert "runs/theirs cannot be read (Permission denied)" in done.stderr
        assert "Traceback" not in done.stderr
    assert "Permission denied" in told(stranger("resume.py", "runs/theirs"), 1)
    assert "Permission denied" in told(stranger("train.py", "name=theirs"), 1)
    assert "Permission denied" in told(stranger("train.py", "--dry-run", "name=theirs"), 1)


def test_comparing_passes_over_what_may_not_be_read(stranger: Run, tmp_path: Path) -> None:
    give(write_run(tmp_path / "runs" / "theirs"))
    write_run(tmp_path / "runs" / "ours")
    done = stranger("compare.py", "runs")
    assert "1 run" in done.stdout
    assert "runs/theirs" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_config_folder_that_may_not_be_read_is_one_line(stranger: Run, tmp_path: Path) -> None:
    (tmp_path / "groups" / "model").mkdir(parents=True)
    (tmp_path / "groups" / "model" / "mine.yaml").write_text("_target_: torch.nn.Linear\n")
    give(tmp_path / "groups" / "model", 0o755)
    (tmp_path / "groups" / "model" / "mine.yaml").chmod(0o600)
    done = stranger("train.py", "--config-dir", "groups", "model=mine", "--dry-run")
    assert "Permission denied" in told(done, 2)


@pytest.mark.slow
def test_a_finished_run_of_somebody_else_answers(
    stranger: Run, script: Run, tmp_path: Path
) -> None:
    words = [
        "model=mlp",
        "trainer.max_epochs=1",
        "data.val_size=100",
        "figures=none",
        "name=theirs",
    ]
    assert script("train.py", *words, timeout=300).returncode == 0
    give(tmp_path, 0o755)
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    again = stranger("train.py", *words)
    told(again, 0)
    assert "runs/theirs" in again.stdout
    assert stranger("compare.py", "runs").returncode == 0
    evaluated = stranger("eval.py", "runs/theirs", "--split", "val")
    assert evaluated.stdout.startswith("runs/theirs: 100 val images")
    assert "Permission denied" in told(evaluated, 1)  # printed, but not kept
    exported = stranger("export.py", "runs/theirs", "--format", "torch_export")
    assert "its folder is read-only). Name another place with --out" in told(exported, 1)
    assert "Permission denied" in told(stranger("train.py", *words[:-1], "name=mine"), 1)
    assert sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ENAMETOOLONG, errno.ENOSPC])
def test_what_the_system_refuses_is_one_line(code: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, exit_codes():
        raise OSError(code, os.strerror(code), "runs/a\nb")
    assert ended.value.code == 1
    assert capsys.readouterr().err == (
        f"Error: runs/a\\nb: {os.strerror(code)}. Make it accessible, or name another place.\n"
    )


@pytest.mark.parametrize("error", [OSError(errno.EBADF, "x"), OSError("x"), ImportError("x")])
def test_a_bug_keeps_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error)), exit_codes():
        raise error


def test_too_many_files_are_told_also_by_an_import(capsys: pytest.CaptureFixture[str]) -> None:
    for error in (OSError(errno.EMFILE, "x"), ImportError("libx.so: Too many open files")):
        with pytest.raises(SystemExit), exit_codes():
            raise error
        assert "Too many open files: this process may open no more." in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("limit", [12, 18, 24, 40])
def test_running_out_of_file_handles_is_one_line_or_no_hindrance(limit: int, script: Run) -> None:
    words = ["model=mlp", "trainer.max_epochs=1", "data.val_size=100", "name=run"]
    bound = lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))  # noqa: E731
    done = script("train.py", *words, preexec_fn=bound, timeout=300)
    assert done.returncode in (0, 1), done.stderr
    assert "Traceback" not in done.stderr
    assert script("train.py", *words, timeout=300).returncode == 0


def test_a_message_is_one_line_that_moves_no_cursor() -> None:
    assert errors.one_line("a\nb\x1b[2J\u202e\udcff") == "a\\nb\\x1b[2J\u202e\\udcff"
    assert errors.shortened("x" * 300) == "x" * 200 + "..."
    assert len(errors.one_line("x" * 10_000)) == 2_003


def test_named_variables_alone_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in origin.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    assert origin.environment() == {"OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_no_file_of_a_run_holds_a_secret_of_the_environment(
    script: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "hunter2-and-more"
    environment = {**os.environ, "API_TOKEN": secret, "FMNIST_DATA": str(tmp_path / "data")}
    (tmp_path / "groups" / "experiment").mkdir(parents=True)
    stolen = "# @package _global_\nnote: ${oc.env:API_TOKEN}\n"
    (tmp_path / "groups" / "experiment" / "thief.yaml").write_text(stolen)
    options = {"env": environment, "timeout": 400}
    words = ["model=mlp", "trainer.max_epochs=1", "data.val_size=100"]
    refused = script("train.py", "--config-dir", "groups", "experiment=thief", *words, **options)
    assert refused.returncode == 2
    assert not (tmp_path / "runs").exists()
    assert script("train.py", *words, "name=run", **options).returncode == 0
    assert script("train.py", "-m", *words, "seed=1,2", "name=two", **options).returncode == 0
    for form in ("torch_export", "onnx"):
        assert script("export.py", "runs/run", "--format", form, **options).returncode == 0
    assert script("compare.py", "runs", "--html", "page.html", **options).returncode == 0
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert [path for path in files if secret.encode() in path.read_bytes()] == []
    assert record.read(tmp_path / "runs" / "run").data["environment"]["FMNIST_DATA"]


@pytest.mark.usefixtures("small_data", "workdir")
def test_a_link_to_nowhere_or_elsewhere_is_no_place_for_a_run(tmp_path: Path) -> None:
    Path("runs").mkdir()
    Path("runs/gone").symlink_to("nowhere")
    Path("runs/etc").symlink_to("/etc")
    Path("runs/loop").symlink_to("loop")
    for name in ("gone", "etc", "loop"):
        with contextlib.suppress(OSError), pytest.raises(errors.UserError):
            train(["model=mlp", f"name={name}"])
    assert not Path("runs/nowhere").exists()

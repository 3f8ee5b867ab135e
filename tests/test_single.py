"""A single run that is handed to SLURM; nothing here is a cluster."""

from pathlib import Path

import pytest
from fake_slurm import FakeSlurm

from fmnist.command import read_command
from fmnist.errors import UsageError, UserError
from fmnist.sweeps import single, slurm

pytestmark = pytest.mark.usefixtures("workdir")


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    made = FakeSlurm(tmp_path / "bin", monkeypatch)
    made.answers("scontrol", "MaxArraySize            = 3\n")
    return made


def submit(*words: str, is_trial: bool = False) -> None:
    asked = read_command(["hydra/launcher=slurm", "trainer=cpu", *words])
    single.submit(asked, ["hydra/launcher=slurm", "trainer=cpu", *words], is_trial)


def test_a_run_without_a_name_is_called_after_the_time(
    fake: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    submit("seed=1")
    (folder,) = Path("runs").iterdir()
    assert f"Submitted 1 task of {folder} as 77." in capsys.readouterr().out
    text = (fake.folder / "script").read_text()
    assert f"--folder {folder}" in text
    assert f"name={folder.name}" in text, "the line that is to be typed again"


def test_a_refused_run_leaves_no_folder(fake: FakeSlurm) -> None:
    fake.fails("sbatch", "sbatch: error: Batch job submission failed: Invalid partition\n")
    for words in ([], ["name=a"]):
        with pytest.raises(UserError, match="Invalid partition Nothing was submitted"):
            submit(*words)
        assert not list(Path("runs").iterdir())


def test_a_stopped_submission_leaves_no_folder(
    fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(slurm, "known", interrupt)
    with pytest.raises(KeyboardInterrupt):
        submit("seed=1")
    assert not list(Path("runs").iterdir())


def test_wrong_settings_leave_no_folder(fake: FakeSlurm) -> None:
    with pytest.raises(UsageError, match=r"hydra\.launcher\.stop_s must be less than a slot"):
        submit("hydra.launcher.time_min=1", "hydra.launcher.stop_s=60")
    assert not list(Path("runs").iterdir())
    assert fake.calls == []


def test_a_dry_run_prints_the_script_and_makes_no_folder(
    fake: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    submit("seed=1", is_trial=True)
    said = capsys.readouterr()
    assert said.out.startswith("#!/bin/")
    assert "--folder runs/TIME" in said.out
    assert not Path("runs").exists()
    assert not [call for call in fake.calls if call.startswith("sbatch")]


def test_a_run_that_waits_is_not_submitted_again(
    fake: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    submit("name=a")
    (path,) = Path("runs/a/.slurm").glob("*.sh")
    fake.answers("squeue", f"fmnist-{path.stem}|77|N/A|PENDING||Priority\n")
    capsys.readouterr()
    submit("name=a")
    assert capsys.readouterr().out.startswith("1 task waits or runs already.\n")


def test_a_run_that_ended_without_a_result_is_an_error_of_who_waits(
    fake: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "POLL_S", (0.0, 0.0))
    with pytest.raises(UserError, match="runs/a is .*: see its log in "):
        submit("name=a", "hydra.launcher.wait=true")
    assert list(Path("runs/a/.slurm").glob("*.sh")), "it was submitted"

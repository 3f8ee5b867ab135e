"""The state of submitted jobs, as SLURM and their folders tell it."""

import json
import os
import time
from pathlib import Path

import pytest
from conftest import Run
from fake_slurm import FakeSlurm
from test_submit import SWEEP, lines, submitter

from fmnist.errors import UserError
from fmnist.sweeps import status
from fmnist.sweeps.script import Line

RECORD = {"schema": 1, "overrides": [], "scores": {}, "attempts": [], "duration_s": 1.0}


@pytest.fixture
def fake(tmp_path: Path, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    return FakeSlurm(tmp_path / "bin", monkeypatch)


def write_run(folder: Path, state: str, epochs: int, **fields: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    config = {"trainer": {"max_epochs": 10}}
    data = {**RECORD, "status": state, "epochs_done": epochs, "config": config, **fields}
    (folder / "run.json").write_text(json.dumps(data))


def shown(folder: Path = SWEEP, shows_all: bool = False) -> str:
    return "\n".join(status.lines(status.overview(folder), shows_all))


def test_both_sides_of_every_job_are_shown(fake: FakeSlurm) -> None:
    submitter().submit(lines(5))
    (path,) = (SWEEP / ".slurm").glob("*.sh")
    write_run(SWEEP / "seed=0", "finished", 10)
    write_run(SWEEP / "seed=1", "failed", 3, error="Out of memory")
    write_run(SWEEP / "seed=2", "interrupted", 4)
    path.with_name(f"{path.stem}_1.log").touch()
    mark = f"fmnist-{path.stem}"
    fake.answers("squeue", f"{mark}|77|2|RUNNING|n1|None\n{mark}|77|3|PENDING||Resources\n")
    text = shown()
    head, _, *rows = text.splitlines()
    assert head == "sweeps/s: 5 jobs: 1 failed, 1 finished, 1 queued, 1 running, 1 to do"
    found = {row.split()[0]: " ".join(row.split()[1:]) for row in rows if row.startswith("seed")}
    assert found == {
        "seed=0": "- finished, 10/10 epochs",
        "seed=1": "- failed, 3/10 epochs: Out of memory",
        "seed=2": "77_2 running n1 interrupted, 4/10 epochs",
        "seed=3": "77_3 pending (Resources) to do",
        "seed=4": "- to do",
    }
    assert f"  log: {path.with_name(f'{path.stem}_1.log')}" in text
    assert "Go on:  python scripts/train.py -m seed=0,1" in text
    assert "Stop:   scancel 77" in text


@pytest.mark.parametrize(
    ("said", "kind", "shown_as"),
    [
        ("CONFIGURING|n1|None", "running", "configuring n1"),
        ("SUSPENDED|n1|None", "running", "suspended n1"),
        ("COMPLETING|n1|NonZeroExitCode", "ending", "completing n1 (NonZeroExitCode)"),
        ("REQUEUED||None", "queued", "requeued"),
        ("RUNNING|n1|None", "running", "running n1"),
        ("PENDING||Priority", "queued", "pending (Priority)"),
    ],
)
@pytest.mark.parametrize("before", ["failed", "interrupted", "to do"])
def test_slurm_knows_better_than_an_older_record(
    said: str, kind: str, shown_as: str, before: str, fake: FakeSlurm
) -> None:
    submitter().submit(lines(1))
    (path,) = (SWEEP / ".slurm").glob("*.sh")
    if before != "to do":
        write_run(SWEEP / "seed=0", before, 3)
    fake.answers("squeue", f"fmnist-{path.stem}|77|0|{said}\n")
    text = shown()
    assert text.startswith(f"sweeps/s: 1 job: 1 {kind}\n")
    assert f"77_0 {shown_as}  " in text


def hold(folder: Path, host: str, age_s: float) -> None:
    """Let a process of another machine hold a run, which showed itself some time ago."""
    (folder / ".lock").write_text(json.dumps({"host": host, "pid": 1, "token": "t"}))
    os.utime(folder / ".lock", (time.time() - age_s,) * 2)


@pytest.mark.parametrize(
    ("queued", "age_s", "kind"),
    [(False, 60, "interrupted"), (False, 0, "running"), (True, 60, "queued")],
)
def test_a_killed_job_does_not_run(queued: bool, age_s: float, kind: str, fake: FakeSlurm) -> None:
    submitter().submit(lines(1))
    (path,) = (SWEEP / ".slurm").glob("*.sh")
    write_run(SWEEP / "seed=0", "running", 3)
    hold(SWEEP / "seed=0", "n9", age_s)
    if queued:
        fake.answers("squeue", f"fmnist-{path.stem}|77|0|PENDING||BeginTime\n")
    text = shown()
    assert text.startswith(f"sweeps/s: 1 job: 1 {kind}\n")
    assert ("interrupted, 3/10 epochs" in text) == (age_s > 0)


def test_it_may_run_where_slurm_cannot_be_asked(fake: FakeSlurm) -> None:
    submitter().submit(lines(1))
    write_run(SWEEP / "seed=0", "running", 3)
    hold(SWEEP / "seed=0", "n9", 60)
    fake.fails("squeue", "Unable to contact slurm controller")
    assert shown().startswith("sweeps/s: 1 job: 1 running\n")


@pytest.mark.parametrize("run", [False, True])
def test_another_path_to_a_folder_shows_the_same(
    run: bool, fake: FakeSlurm, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path("runs/r") if run else SWEEP
    place = folder if run else folder / "seed=0"
    submitter(folder=folder).submit([Line(["seed=0"], place, None)])
    (path,) = (folder / ".slurm").glob("*.sh")
    write_run(place, "running", 3)
    fake.answers("squeue", f"fmnist-{path.stem}|77|{'N/A' if run else '0'}|RUNNING|n1|None\n")
    (workdir / "latest").symlink_to(folder)
    (workdir / "elsewhere").mkdir()
    monkeypatch.chdir(workdir / "elsewhere")
    for name in (workdir / folder, Path("..") / folder, Path("../latest")):
        text = shown(name)
        assert text.startswith(f"{name}: 1 job: 1 running\n")
        assert "running n1" in text
        assert "Go on" not in text


def test_a_script_that_was_refused_meanwhile_is_passed_over(fake: FakeSlurm) -> None:
    submitter().submit(lines(1))
    (path,) = (SWEEP / ".slurm").glob("*.sh")
    path.with_name("gone.sh").symlink_to("nothing")  # listed, and not there when it is read
    assert shown().startswith("sweeps/s: 1 job: 1 to do\n")


def test_what_is_done_needs_nothing_typed_but_its_table(fake: FakeSlurm) -> None:
    for i in range(2):
        write_run(SWEEP / f"seed={i}", "finished", 10)
    text = shown()
    assert "Go on" not in text
    assert "Stop" not in text
    assert text.endswith("Table:  python scripts/compare.py sweeps/s")


def test_many_jobs_are_cut_short_the_unfinished_first(fake: FakeSlurm) -> None:
    for i in range(30):
        write_run(SWEEP / f"seed={i:02}", "finished" if i < 29 else "interrupted", 10)
    text = shown()
    assert text.index("seed=29") < text.index("seed=00")
    assert "... and 10 more: --all" in text
    assert "more: --all" not in shown(shows_all=True)


def test_a_run_that_was_never_submitted_is_resumed_by_itself(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    write_run(Path("runs/a"), "interrupted", 4)
    text = shown(Path("runs/a"))
    assert "squeue is not installed here" in text
    assert text.endswith("Go on:  python scripts/resume.py runs/a")


def test_workers_of_a_search_are_named(fake: FakeSlurm) -> None:
    submitter().submit([Line(["hydra/launcher=local"], None, None)] * 2)
    (path,) = (SWEEP / ".slurm").glob("*.sh")
    write_run(SWEEP / "lr=0.1", "interrupted", 1)
    mark = f"fmnist-{path.stem}"
    fake.answers("squeue", "".join(f"{mark}|77|{i}|RUNNING|n1|None\n" for i in (0, 1)))
    text = shown()
    assert "2 workers: 77_0 77_1" in text
    assert "Go on" not in text, "they do"


def test_a_damaged_record_is_a_failed_job(fake: FakeSlurm) -> None:
    write_run(SWEEP / "seed=0", "finished", 1)
    (SWEEP / "seed=0" / "run.json").write_text("{")
    assert "failed: sweeps/s/seed=0/run.json cannot be read" in shown()


def test_names_are_looked_for_where_they_can_be(workdir: Path) -> None:
    (workdir / "sweeps" / "s").mkdir(parents=True)
    (workdir / "runs" / "r").mkdir(parents=True)
    assert status.find("s") == SWEEP
    assert status.find("r") == Path("runs/r")
    assert status.find("sweeps/s") == SWEEP
    with pytest.raises(
        UserError, match="There is no sweep or run nope: looked for nope, sweeps/nope"
    ):
        status.find("nope")


GOOD = "#!/bin/bash\n# Again: {again}\nexec task <<'TASKS'\n{line}\nTASKS\n"
AGAIN = "python scripts/train.py -m seed=0,1"
LINE = "python scripts/train.py --folder sweeps/s/seed=0 seed=0"


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe",
        GOOD.format(again="rm -rf ~", line=LINE).encode(),
        GOOD.format(again=AGAIN, line="python 'scripts/train.py").encode(),
        GOOD.format(again=AGAIN, line="python other.py seed=0").encode(),
        GOOD.format(again=AGAIN, line="python scripts/train.py").encode(),
        None,
        "a pipe",
    ],
)
@pytest.mark.usefixtures("fake")
def test_a_script_that_is_none_is_named(content: bytes | str | None) -> None:
    path = SWEEP / ".slurm" / "a.sh"
    path.parent.mkdir(parents=True)
    if content is None:
        path.mkdir()
    elif isinstance(content, str):
        os.mkfifo(path)
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"\.slurm/a\.sh is no script of a submission \(.*Delete"):
        shown()


@pytest.mark.usefixtures("fake")
def test_a_line_to_type_again_is_one_command() -> None:
    path = SWEEP / ".slurm" / "a.sh"
    path.parent.mkdir(parents=True)
    path.write_text(GOOD.format(again=f"{AGAIN}; rm -rf ~", line=LINE))
    assert "Go on:  python scripts/train.py -m 'seed=0,1;' rm -rf '~'" in shown()


@pytest.mark.parametrize("epochs", ["abc", "NaN", None, [], 1e400])
@pytest.mark.usefixtures("fake")
def test_a_record_with_an_odd_goal_is_shown(epochs: object) -> None:
    write_run(SWEEP / "seed=0", "failed", 3)
    path = SWEEP / "seed=0" / "run.json"
    data = json.loads(path.read_text())
    data["config"]["trainer"]["max_epochs"] = epochs
    path.write_text(json.dumps(data))
    assert "seed=0  -      failed, 3 epochs" in shown()


def test_what_a_record_says_steers_no_terminal(script: Run, tmp_path: Path) -> None:
    write_run(tmp_path / SWEEP / "seed=0", "failed", 3, error="\x1b[2J all\nis fine")
    done = script("status.py", "s")
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert "all is fine" in done.stdout

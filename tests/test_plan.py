"""What a sweep's folder says: names, equal jobs, what is done, what became of it."""

import re
from pathlib import Path
from typing import Any

import pytest

from fmnist import record
from fmnist.command import points, read_command
from fmnist.errors import BusyError, UsageError, UserError
from fmnist.lock import Lock
from fmnist.sweeps import plan
from fmnist.sweeps.plan import Job, Outcome, Sweep, preview, sweep_name

pytestmark = pytest.mark.usefixtures("workdir")


def name(*words: str) -> str:
    return sweep_name(read_command(words))


def jobs_of(*words: str) -> list[Job]:
    command = read_command(words)
    jobs = Sweep(command)
    return plan.unique(jobs.job(*p) for p in points(command))


def finish(job: Job, **fields: Any) -> None:
    """Leave the record that a finished run leaves."""
    job.folder.mkdir(parents=True, exist_ok=True)
    run = record.open_record(job.folder, job.config, job.overrides)
    run.open_attempt(0)
    run.update(**{"status": "finished", "scores": {"val/acc": 0.5}, "epochs_done": 10} | fields)


def test_the_same_request_has_the_same_name_however_typed() -> None:
    first = name("optim.lr=1e-3,3e-3", "seed=0,1", "augment=basic", "trainer.max_epochs=3")
    assert first.startswith("lr-seed-")
    for words in (
        ["trainer.max_epochs=3", "augment=basic", "optim.lr=0.003,0.001", "seed=1,0"],
        ["seed=0,1", "optim.lr=.0010,3e-3", "augment=basic", "trainer.max_epochs=3"],
        ["optim.lr=1e-3,3e-3", "seed=range(2)", "+augment=basic", "++trainer.max_epochs=3"],
        ["optim.lr=1e-3,3e-3", "seed=0,1", "augment=basic", "trainer.max_epochs=3", "note=hi"],
        [
            *["optim.lr=1e-3,3e-3", "seed=0,1", "augment=basic", "trainer.max_epochs=3"],
            *["trainer=cpu", "hydra/launcher=pool", "logger=none", "figures=all", "model=cnn"],
        ],
    ):
        assert name(*words) == first, words


def test_another_request_has_another_name() -> None:
    lines = [
        ["optim.lr=1e-3,3e-3"],
        ["optim.lr=1e-3,3e-2"],
        ["optim.lr=1e-3,3e-3", "seed=1"],
        ["optim.lr=1e-3,3e-3", "model=mlp"],
        ["optim.lr=1e-3,3e-3", "trainer.precision=bf16-mixed"],
        ["hydra/sweeper=optuna", "optim.lr=interval(1e-3,3e-3)"],
        ["hydra/sweeper=optuna", "optim.lr=tag(log,interval(1e-3,3e-3))"],
    ]
    assert len({name(*words) for words in lines}) == len(lines)


def test_a_name_of_ones_own_is_taken() -> None:
    assert name("seed=0,1", "name=mine") == "mine"


def test_jobs_lie_in_readable_folders() -> None:
    folders = [job.folder for job in jobs_of("optim.lr=1e-3,3e-3", "seed=0,1", "name=s")]
    assert folders[1:3] == [
        Path("sweeps/s/optim.lr=0.001,seed=1"),
        Path("sweeps/s/optim.lr=0.003,seed=0"),
    ]


@pytest.mark.parametrize(
    "value", ["a/b", "../x", "a b", "ümlaut", "x" * 300, "", "[1, 2]", "a'b\"c", ".", "a\nb"]
)
def test_any_value_gives_a_safe_folder_of_its_own(value: str) -> None:
    jobs = Sweep(read_command(["seed=0,1", "name=s"]))
    (_, config), *_ = points(jobs.command)
    other = config | {"seed": 5}
    one, two = jobs.job([f"model.note={value}"], config), jobs.job([f"model.note={value}!"], other)
    assert one.folder != two.folder
    for job in (one, two):
        assert job.folder.parent == Path("sweeps/s")
        assert re.fullmatch(r"[A-Za-z0-9._=,+-]{1,120}", job.folder.name)
        assert ".." not in job.folder.name


def test_whole_numbers_are_equal_however_written() -> None:
    (first, _) = jobs_of("model.dropout=0.0,0.1", "name=s")
    finish(first)
    assert len(jobs_of("model.dropout=0,0.0,0.1", "name=s")) == 2
    assert jobs_of("model.dropout=0,0.1", "name=s")[0].folder == first.folder
    assert name("model.dropout=0,0.1") == name("model.dropout=0.0,1e-1")
    assert len(jobs_of("select=best,last", "augment.flip=true,True", "name=s")) == 2


def test_equal_jobs_are_one() -> None:
    assert len(jobs_of("optim.lr=1e-3,0.001,3e-3", "seed=0,0", "name=s")) == 2


def test_a_larger_grid_reuses_what_is_there_by_identity() -> None:
    for job in jobs_of("optim.lr=1e-3,3e-3", "name=s"):
        finish(job)
    larger = jobs_of("optim.lr=1e-3,3e-3,1e-2", "augment.flip=true,false", "name=s")
    done = {job.folder.name for job in larger if plan.state(job.folder).has_ended}
    assert len(larger) == 6
    assert done == {"optim.lr=0.001", "optim.lr=0.003"}  # augment.flip=true is the default


def test_a_renamed_folder_is_found() -> None:
    (job,) = jobs_of("seed=3,3", "name=s")
    finish(job)
    job.folder.rename("sweeps/s/elsewhere")
    (again,) = jobs_of("seed=3,3", "name=s")
    assert again.folder == Path("sweeps/s/elsewhere")


def test_another_recipe_under_the_same_name_gets_folders_of_its_own() -> None:
    (first,) = jobs_of("seed=3,3", "name=s")
    finish(first)
    (second,) = jobs_of("seed=3,3", "name=s", "trainer.max_epochs=3")
    assert second.folder != first.folder
    assert re.fullmatch(r"seed=3-[0-9a-f]{8}", second.folder.name)
    finish(second)
    assert {j.folder for j in jobs_of("seed=3,3", "name=s", "trainer.max_epochs=3")} == {
        second.folder
    }


def test_a_run_of_older_code_that_lacks_a_key_is_found() -> None:
    (job,) = jobs_of("seed=3,3", "name=s")
    finish(job)
    run = record.read(job.folder)
    del run.data["config"]["augment"]["test_flip"]
    run.update()
    job.folder.rename("sweeps/s/old")
    (again,) = jobs_of("seed=3,3", "name=s")
    assert again.folder == Path("sweeps/s/old")


def test_auto_is_settled_for_the_jobs() -> None:
    (search, *_), (repetition, *_) = jobs_of("optim.lr=1,2"), jobs_of("seed=1,2")
    assert (search.config["test"], search.config["figures"]) == (False, "none")
    assert repetition.config["test"] is True
    searched = Sweep(read_command(["hydra/sweeper=optuna", "seed=0,1"]))
    (_, config), *_ = points(searched.command)
    assert searched.job(["seed=0"], config).config["test"] is False
    cases = jobs_of("sweep=ablation", "seed=1")
    assert not any(job.config["test"] for job in cases)  # a choice between cases
    assert cases[0].folder.name == "default"


def test_a_run_folder_is_no_sweep() -> None:
    (job,) = jobs_of("seed=3,3", "name=s")
    finish(job)
    with pytest.raises(UsageError, match="is no folder of jobs"):
        plan.check_folder(job.folder)


def test_a_damaged_record_is_left_alone_and_its_job_done_beside_it() -> None:
    job, _ = jobs_of("seed=0,1", "name=s")
    finish(job)
    (job.folder / "run.json").write_text("{")
    again, other = jobs_of("seed=0,1", "name=s")
    assert re.fullmatch(r"seed=0-[0-9a-f]{8}", again.folder.name)
    assert other.folder.name == "seed=1"
    assert plan.state(job.folder).status == "failed"
    assert plan.state(again.folder).status == "to do"


def test_the_end_tells_what_became_of_every_job() -> None:
    jobs = jobs_of("seed=range(7)", "name=s")
    finish(jobs[0])
    outcome = Outcome(Sweep(read_command(["seed=0,1", "name=s"])), jobs)
    assert outcome.left == jobs[1:]
    finish(jobs[1])
    finish(jobs[2], status="pruned", epochs_done=2)
    finish(jobs[3], status="failed", error="The loss is not finite.")
    outcome.note(jobs[4], UserError("Its process was killed by SIGKILL."))
    finish(jobs[5], status="running")
    jobs[6].folder.mkdir()
    with Lock(jobs[6].folder):
        outcome.note(jobs[6], BusyError("in use by process 7 on here"))
        lines, has_failed = outcome.summary()
    assert has_failed
    assert lines == [
        "7 jobs in sweeps/s: 1 done, 1 pruned, 1 skipped (finished before), 2 failed, "
        "1 running elsewhere, 1 interrupted",
        "  failed: seed=3: The loss is not finite.",
        "  failed: seed=4: Its process was killed by SIGKILL.",
        "  running elsewhere: seed=6: in use by process 7 on here",
        "  interrupted: seed=5",
    ]


def test_a_job_that_was_not_reached_is_not_started() -> None:
    jobs = jobs_of("seed=0,1", "name=s")
    outcome = Outcome(Sweep(read_command(["seed=0,1", "name=s"])), jobs)
    assert outcome.summary() == (
        ["2 jobs in sweeps/s: 2 not started", *(f"  not started: seed={i}" for i in (0, 1))],
        False,
    )


def test_preview_estimates_the_time_from_what_is_done() -> None:
    jobs = jobs_of("seed=range(4)", "name=s", "trainer.max_epochs=10")
    assert preview(jobs, 1)[-1] == "Time left: unknown until a first job is done."
    finish(jobs[0], duration_s=100.0)
    finish(jobs[1], duration_s=140.0)
    finish(jobs[2], status="interrupted", epochs_done=4)
    for job, seconds in ((jobs[0], 100.0), (jobs[1], 140.0)):
        run = record.read(job.folder)
        run.data["duration_s"] = seconds
        run.update()
    lines = preview(jobs, 2)  # 6 + 10 epochs of 12 s, two at a time
    assert lines[2] == "  interrupted   seed=2  4 of 10 epochs  val/acc 50.00%"
    assert lines[-1] == "Time left: about 2 min (12.0 s an epoch in 2 ended, 2 at a time)."
    for job in jobs:
        finish(job)
    assert preview(jobs, 2)[-1] == "Nothing is left to do."

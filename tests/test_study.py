"""Searches without training: what is proposed, in which order, and after which interruptions."""

import json
import math
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from fake_slurm import FakeSlurm
from omegaconf import OmegaConf
from optuna.distributions import FloatDistribution
from optuna.trial import Trial, TrialState

from fmnist import lock, record
from fmnist.command import Command, read_command
from fmnist.errors import UsageError, UserError
from fmnist.lock import Lock
from fmnist.sweeps.journal import Journal
from fmnist.sweeps.looks import Looks
from fmnist.sweeps.plan import Job, Sweep
from fmnist.sweeps.sampler import SeededSampler
from fmnist.sweeps.slurm import SlurmLauncher
from fmnist.sweeps.study import Monitor, Study
from fmnist.sweeps.sweepers import Search
from fmnist.sweeps.trials import JOURNAL, num_left

pytestmark = pytest.mark.usefixtures("workdir")

SPACE = [
    "optim.lr=tag(log,interval(1e-4,1e-1))",
    "data.batch_size=32,64",
    "model.hidden=range(8,65,8)",
]
BASE = ["hydra/sweeper=optuna", "name=s", "trainer.max_epochs=4"]
SETTINGS: dict[str, Any] = {
    "n_trials": 12,
    "n_startup_trials": 4,
    "sampler": "tpe",
    "pruner": "none",
    "n_warmup_trials": 2,
    "n_warmup_epochs": 1,
}


SLOW_SEEDS = [pytest.param(seed, marks=pytest.mark.kill) for seed in range(1, 12)]


class Killed(BaseException):
    pass


def command(*words: str) -> Command:
    return read_command([*BASE, *SPACE, *words])


@pytest.fixture(scope="module")
def asked() -> Command:
    return command()


def open_study(asked: Command, **settings: Any) -> Study:
    return Study(Sweep(asked), SETTINGS | settings)


def finish(job: Job, **fields: Any) -> None:
    """Leave the record that training would: the score depends on the parameters alone."""
    config = job.config
    score = 1 - abs(math.log10(config["optim"]["lr"]) + 2.5) / 5 - config["model"]["hidden"] / 1e4
    job.folder.mkdir(parents=True, exist_ok=True)
    run = record.open_record(job.folder, config, job.overrides)
    run.open_attempt(0)
    run.update(**{"status": "finished", "scores": {"val/acc": score, "val/loss": -score}} | fields)


def trials(folder: str = "s") -> list[tuple[int, dict[str, Any], str, Any]]:
    """Read the study as anybody would."""
    backend = optuna.storages.journal.JournalFileBackend(f"sweeps/{folder}/{JOURNAL}")
    storage = optuna.storages.JournalStorage(backend)
    study = optuna.load_study(study_name=folder, storage=storage)
    return [(t.number, t.params, t.state.name, t.value) for t in study.get_trials()]


def complete(asked: Command, **settings: Any) -> None:
    study = open_study(asked, **settings)
    finish_all(study)
    study.close()


def finish_all(study: Study) -> None:
    for _, job in study.propose():
        finish(job)
    study.tell()


def test_a_search_ends_at_n_trials_and_is_topped_up(asked: Command) -> None:
    complete(asked, n_trials=5)
    first = trials()
    assert [(n, state) for n, _, state, _ in first] == [(i, "COMPLETE") for i in range(5)]
    complete(asked, n_trials=5)
    assert trials() == first
    complete(asked, n_trials=8)
    assert trials()[:5] == first
    assert len(trials()) == 8


def test_values_are_rounded_and_lie_in_the_space(asked: Command) -> None:
    complete(asked)
    for _, params, _, _ in trials():
        lr = params["optim.lr"]
        assert 1e-4 <= lr <= 1e-1
        assert lr == float(f"{lr:.4g}")
        assert params["data.batch_size"] in ("32", "64")
        assert params["model.hidden"] in range(8, 65, 8)
    assert len({params["optim.lr"] for _, params, _, _ in trials()}) == 12


def test_a_bound_with_many_digits_is_kept() -> None:
    bound = 1.2345678e-4
    distribution = FloatDistribution(bound, bound * 1.00001)
    study = optuna.create_study(sampler=SeededSampler(0, SETTINGS))
    for _ in range(5):
        value = study.ask({"x": distribution}).params["x"]
        assert bound <= value <= bound * 1.00001


def test_it_learns(asked: Command) -> None:
    """Tree-structured Parzen estimators beat chance on a smooth function of three parameters."""
    complete(asked, n_trials=40)
    complete(command("name=chance"), n_trials=40, sampler="random")
    learned, chance = trials(), trials("chance")
    late = [value for _, _, _, value in learned[20:]]
    assert sum(late) / 20 > sum(v for _, _, _, v in chance[20:]) / 20 + 0.05


def interruptions(rng: random.Random, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function that arms the next kill, at a random write to the journal."""
    append = Journal.append_logs
    left = [0]

    def counted(self: Any, logs: list[dict[str, Any]]) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        append(self, logs)
        if left[0] == 1 and rng.random() < 0.5:  # right after a write
            left[0] = 0
            raise Killed

    monkeypatch.setattr(Journal, "append_logs", counted)

    def arm() -> None:
        left[0] = rng.randint(1, 25)

    return arm


@pytest.mark.parametrize("seed", [0, *SLOW_SEEDS])
def test_killed_and_repeated_proposes_the_same_trials(
    seed: int, asked: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete(asked)
    whole = trials()
    Path("sweeps/s").rename("sweeps/whole")
    rng = random.Random(seed)
    with monkeypatch.context() as patch:
        arm = interruptions(rng, patch)
        study = None
        for _ in range(8):
            arm()
            try:
                study = open_study(asked)
                for _, job in study.propose():
                    if rng.random() < 0.1:
                        raise Killed  # before the job has left anything
                    finish(job)
                    if rng.random() < 0.1:
                        raise Killed  # before the study was told
            except Killed:
                if study is not None:
                    study.close()  # as the kernel does for a dead process
    complete(asked)
    assert trials() == whole


def test_a_failed_trial_is_tried_again_under_its_own_number(asked: Command) -> None:
    study = open_study(asked, n_trials=3)
    jobs = {}
    for number, job in study.propose():
        jobs[number] = job
        finish(job, **({"status": "failed", "scores": {}} if number == 1 else {}))
    study.tell()
    study.close()
    assert [state for _, _, state, _ in trials()] == ["COMPLETE", "RUNNING", "COMPLETE"]
    again = list(open_study(asked, n_trials=3).propose())
    assert again == [(1, jobs[1])]


def test_a_trial_that_another_process_works_on_is_left_to_it(asked: Command) -> None:
    first = open_study(asked, n_trials=3)
    number, job = next(first.propose())
    first.close()  # its launcher has died, the job's own process has not
    job.folder.mkdir(parents=True)
    with Lock(job.folder):
        others = [n for n, _ in open_study(asked, n_trials=3).propose()]
    assert number == 0
    assert others == [1, 2]


def test_two_processes_share_the_trials(asked: Command) -> None:
    numbers = []
    streams: list[Iterator[tuple[int, Job]]] = [open_study(asked).propose() for _ in range(2)]
    locks = []
    while streams:
        for stream in list(streams):
            proposal = next(stream, None)
            if proposal is None:
                streams.remove(stream)
                continue
            numbers.append(proposal[0])
            proposal[1].folder.mkdir(parents=True, exist_ok=True)
            locks.append(Lock(proposal[1].folder).__enter__())
            finish(proposal[1])
            locks.pop().__exit__()
    assert sorted(numbers) == list(range(12))


def test_equal_parameters_train_once() -> None:
    few = read_command([*BASE, "data.batch_size=32,64"])
    started = []
    study = open_study(few, n_trials=9)
    for _, job in study.propose():
        started.append(job.folder.name)
        job.config["optim"]["lr"] = 0.01
        finish(job)
    assert sorted(started) == ["data.batch_size=32", "data.batch_size=64"]
    assert [state for _, _, state, _ in trials()] == ["COMPLETE"] * 9


def test_a_pruned_trial_counts_with_its_last_value(asked: Command) -> None:
    study = open_study(asked, n_trials=1, pruner="median")
    ((number, job),) = study.propose()
    search = SETTINGS | {"trial": number}
    monitor = Monitor(job.folder.parent, job.config, search)
    monitor([{"epoch": 1, "val/acc": 0.25}])
    finish(job, status="pruned")
    study.tell()
    assert trials() == [(0, trials()[0][1], "PRUNED", 0.25)]
    assert list(open_study(asked, n_trials=1).propose()) == []


def history(num_epochs: int, factor: float) -> list[dict[str, float]]:
    return [{"epoch": e, "val/acc": factor * e, "val/loss": 1.0} for e in range(1, num_epochs + 1)]


@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_the_monitor_prunes_as_optuna_does(pruner: str, asked: Command) -> None:
    """Against Optuna's own loop, with every epoch reported twice by a resumed job."""
    reference = optuna.create_study(
        study_name="s",
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(2, 1)
        if pruner == "median"
        else optuna.pruners.HyperbandPruner(1, 4, 3),
    )
    study = open_study(asked, pruner=pruner, n_trials=20)
    rng, decisions, expected = random.Random(0), [], []
    for number, job in study.propose():
        factor = rng.random() / 4
        trial = reference.ask()
        search = SETTINGS | {"pruner": pruner, "trial": number}
        monitor = Monitor(job.folder.parent, job.config, search)
        for epoch in range(1, 5):
            trial.report(factor * epoch, epoch)
            expected.append(trial.should_prune())
            decisions.append(monitor(history(epoch, factor)))
            assert monitor(history(epoch, factor)) == decisions[-1]
            if expected[-1]:
                break
        if expected[-1]:
            reference.tell(trial, state=TrialState.PRUNED)
            finish(job, status="pruned")
        else:
            reference.tell(trial, factor * 4)
            finish(job, scores={"val/acc": factor * 4})
    assert decisions == expected
    assert sum(decisions) > 5


def test_val_loss_is_minimised() -> None:
    low = command("metric=val/loss", "name=low")
    complete(low, n_trials=20)
    values = [value for _, _, _, value in trials("low")]
    assert sum(values[10:]) < sum(values[:10])
    with pytest.raises(UsageError, match="metric: val/loss, now val/acc"):
        open_study(command("name=low"))


def test_a_study_of_another_recipe_or_space_is_refused(asked: Command) -> None:
    complete(asked, n_trials=1)
    before = trials()
    for words in (
        SPACE[:2],
        [*SPACE, "model.dropout=0.0,0.1"],
        [*SPACE[1:], "optim.lr=tag(log,interval(1e-4,1))"],
        [*SPACE[1:], "optim.lr=interval(1e-4,1e-1)"],
    ):
        with pytest.raises(UsageError, match="was searched over another space"):
            open_study(read_command([*BASE, *words]))
    assert trials() == before
    with pytest.raises(UsageError, match=r"searched with another config \(seed: 0, now 1\)"):
        open_study(command("seed=1"))
    open_study(command("note=hi", "trainer=cpu", "hydra.sweeper.n_trials=50"))  # no part of it


def test_a_torn_last_line_is_taken_away(asked: Command) -> None:
    complete(asked, n_trials=2)
    before = trials()
    with Path(f"sweeps/s/{JOURNAL}").open("a") as file:
        file.write('{"op_code":4,"worker')
    complete(asked, n_trials=3)
    assert trials()[:2] == before
    for line in Path(f"sweeps/s/{JOURNAL}").read_text().splitlines():
        json.loads(line)


def test_a_damaged_journal_is_an_error(asked: Command) -> None:
    complete(asked, n_trials=1)
    path = Path(f"sweeps/s/{JOURNAL}")
    path.write_text("?\n" + path.read_text())
    with pytest.raises(UserError, match="study.journal cannot be read"):
        open_study(asked)


@pytest.mark.parametrize(
    "text",
    [
        "garbage",
        "{}",
        "[]",
        '{"op_code": 99}',
        '{"op_code":2,"worker_id":"a","study_id":0,"user_attr":{"asked":5}}',
        '{"op_code":2,"worker_id":"a","study_id":0,"user_attr":{"asked":{"config":{}}}}',
    ],
)
def test_lines_that_are_none_of_a_journal_are_an_error(text: str, asked: Command) -> None:
    open_study(asked).close()
    path = Path("sweeps/s/study.journal")
    path.write_text(path.read_text() + text + "\n")
    with pytest.raises(UserError, match="study.journal cannot be read .*Restore it from a copy"):
        open_study(asked)


def test_a_search_without_validation_is_refused() -> None:
    for word in ("data.val_size=0", "trainer.limit_val_batches=0", "trainer.max_epochs=1"):
        more = ["trainer.check_val_every_n_epoch=2"] if "max_epochs" in word else []
        with pytest.raises(UsageError, match="A search needs val/acc of every job"):
            open_study(command(word, *more, "name=none"))


def test_looking_at_a_search_makes_nothing(asked: Command) -> None:
    assert Study(Sweep(asked), SETTINGS, writes=False).known() == {}
    assert not Path("sweeps").exists()


INVALID = ["optim=sgd", "optim.optimizer.momentum=0.9,0.0", "optim.optimizer.nesterov=false,true"]


def test_values_that_do_not_go_together_cost_their_trial_alone() -> None:
    odd = read_command([*BASE, *INVALID, "hydra.sweeper.sampler=random", "name=odd"])
    settings = {"n_trials": 12, "sampler": "random"}
    study = open_study(odd, **settings)
    for _, job in study.propose():
        job.config["model"]["hidden"] = 8
        finish(job)
    study.tell()
    states = [state for _, _, state, _ in trials("odd")]
    assert {"COMPLETE", "FAIL"} == set(states)
    again = open_study(odd, **settings)
    assert list(again.propose()) == []
    assert len(again.known()) == states.count("COMPLETE")
    assert len(again.refused()) == states.count("FAIL")
    assert "nesterov=true needs optim.optimizer.momentum > 0" in again.refused()[0]


def test_a_proposal_that_cannot_run_is_refused_after_a_kill_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    odd = read_command([*BASE, *INVALID, "hydra.sweeper.sampler=random", "name=odd"])
    settings = {"n_trials": 12, "sampler": "random"}

    def die(*_: Any, **__: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Trial, "set_user_attr", die)  # before it is told
        study = open_study(odd, **settings)
        with pytest.raises(Killed):
            finish_all(study)
        study.close()
    complete(odd, **settings)
    states = [state for _, _, state, _ in trials("odd")]
    assert {"COMPLETE", "FAIL"} == set(states)
    assert len(states) == 12


@pytest.mark.parametrize("name", [".asking", ".journal"])
def test_a_lock_of_a_killed_process_is_free(name: str, asked: Command) -> None:
    complete(asked, n_trials=1)
    code = (
        "import sys, time; from pathlib import Path; from fmnist.sweeps.journal import FileLock;"
        "FileLock(Path(sys.argv[1])).acquire(); print('held', flush=True); time.sleep(600)"
    )
    path = Path("sweeps/s") / name
    holder = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    assert Looks().is_alive(path)
    holder.kill()
    holder.communicate()
    complete(asked, n_trials=2)
    assert len(trials()) == 2


def test_a_proposed_trial_is_its_proposers_before_its_job_begins(asked: Command) -> None:
    one, other = open_study(asked, n_trials=2), open_study(asked, n_trials=2)
    mine, theirs = one.propose(), other.propose()
    assert next(mine)[0] == 0
    assert next(theirs)[0] == 1
    assert next(mine, None) is None
    assert next(theirs, None) is None
    one.close()  # its process dies
    number, _ = next(open_study(asked, n_trials=2).propose())
    assert number == 0


class Elsewhere:
    """Locks as a process on another machine holds them: they beat until it is killed."""

    def __init__(self, *paths: Path) -> None:
        self.paths = paths
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"host": "n7", "pid": 41, "started": "1", "token": "t"}))
        self._killed = threading.Event()
        self._thread = threading.Thread(target=self._beat)
        self._thread.start()

    def _beat(self) -> None:
        stamp = 1e9
        while not self._killed.wait(0.01):
            stamp += 1
            for path in self.paths:
                os.utime(path, (stamp, stamp))

    def kill(self) -> None:
        self._killed.set()
        self._thread.join()


def propose_elsewhere(asked: Command, n_trials: int, *jobs: bool) -> Elsewhere:
    """Let a process on another machine have the first trials; with True it is at the job."""
    study = open_study(asked, n_trials=n_trials)
    paths = []
    for is_at_work, (number, job) in zip(jobs, study.propose(), strict=False):
        paths += [Path(f"sweeps/s/.trial-{number}"), *[job.folder / ".lock"] * is_at_work]
    study.close()
    return Elsewhere(*paths)


@pytest.mark.parametrize("is_at_work", [False, True])
def test_a_trial_of_a_worker_that_was_killed_on_another_machine_is_taken_over(
    is_at_work: bool, asked: Command, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(lock, "QUIET_S", 0.2)
    propose_elsewhere(asked, 3, is_at_work).kill()
    study = open_study(asked, n_trials=3)
    assert [number for number, _ in study.propose()] == [1, 2, 0]
    assert capsys.readouterr().err == ""
    study.close()
    assert list(Path("sweeps/s").glob(".trial-*")) == []


def test_a_trial_that_was_held_elsewhere_is_taken_over_once_its_worker_is_dead(
    asked: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = propose_elsewhere(asked, 3, True)
    try:
        stream = open_study(asked, n_trials=3).propose()
        assert [next(stream)[0], next(stream)[0]] == [1, 2]  # and it was seen alive
    finally:
        other.kill()
    monkeypatch.setattr(lock, "QUIET_S", 0.2)
    assert [number for number, _ in stream] == [0]


def test_living_workers_elsewhere_are_not_waited_for_while_there_is_a_new_trial(
    asked: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = propose_elsewhere(asked, 6, True, True, False)
    try:
        stream = open_study(asked, n_trials=6).propose()
        with monkeypatch.context() as patch:
            patch.setattr(time, "sleep", lambda _: pytest.fail("it waits"))
            assert [next(stream)[0] for _ in range(3)] == [3, 4, 5]
        assert next(stream, None) is None
    finally:
        other.kill()


def test_the_end_of_a_process_elsewhere_is_awaited_without_the_turn(
    asked: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "QUIET_S", 0.2)
    propose_elsewhere(asked, 1, False).kill()
    taken = []
    monkeypatch.setattr(time, "sleep", lambda _: taken.append(Path("sweeps/s/.asking").exists()))
    assert [number for number, _ in open_study(asked, n_trials=1).propose()] == [0]
    assert set(taken) == {False}


def test_a_trial_that_failed_elsewhere_is_left_to_the_next_start(asked: Command) -> None:
    one, other = open_study(asked, n_trials=2), open_study(asked, n_trials=2)
    _, job = next(one.propose())
    finish(job, status="failed", scores={})
    one.tell()
    one.close()
    assert [number for number, _ in other.propose()] == [1]
    other.close()
    assert [number for number, _ in open_study(asked, n_trials=2).propose()] == [0, 1]


def test_a_lock_left_before_its_trial_was_asked_for_is_taken_over(
    asked: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "QUIET_S", 0.2)
    complete(asked, n_trials=1)
    Elsewhere(Path("sweeps/s/.trial-1")).kill()
    complete(asked, n_trials=2)
    assert [state for _, _, state, _ in trials()] == ["COMPLETE"] * 2


def test_what_is_left_counts_trials_not_folders() -> None:
    few = read_command([*BASE, "data.batch_size=32,64"])
    assert num_left(Path("sweeps/s")) is None
    study = open_study(few, n_trials=9)
    for number, job in study.propose():
        assert num_left(Path("sweeps/s")) == study.num_left() <= 9 - number
        job.config["optim"]["lr"] = 0.01
        finish(job)
    assert num_left(Path("sweeps/s")) == study.num_left() == 0
    study = open_study(few, n_trials=11)
    assert num_left(Path("sweeps/s")) == study.num_left() == 2
    assert open_study(few, n_trials=5).num_left() == 0


def test_refused_trials_are_not_left() -> None:
    odd = read_command([*BASE, *INVALID, "hydra.sweeper.sampler=random", "name=odd"])
    settings = {"n_trials": 12, "sampler": "random"}
    complete(odd, **settings)
    assert open_study(odd, **settings).num_left() == num_left(Path("sweeps/odd")) == 0


def test_a_trial_that_ended_untold_is_not_left(asked: Command) -> None:
    study = open_study(asked, n_trials=4)
    jobs = dict(study.propose())
    finish(jobs[1])
    finish(jobs[2], status="pruned")
    study.close()  # killed before it told
    again = open_study(asked, n_trials=4)
    assert again.num_left() == 2
    again.tell_ended()
    assert num_left(Path("sweeps/s")) == again.num_left() == 2


def test_a_damaged_journal_tells_nothing_of_what_is_left(asked: Command) -> None:
    complete(asked, n_trials=1)
    path = Path(f"sweeps/s/{JOURNAL}")
    whole = path.read_text()
    for text in ("?\n" + whole, "[]\n" + whole, whole.replace('"state"', '"x"'), ""):
        path.write_text(text)
        assert num_left(path.parent) is None
    path.write_text(whole + '{"op_code":4')  # torn
    assert num_left(path.parent) == 0


def test_a_finished_search_is_not_submitted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    fake = FakeSlurm(tmp_path / "bin", monkeypatch)
    few = read_command([*BASE, "hydra/launcher=slurm", "optim.lr=0.01", "data.batch_size=32,64"])
    given = {"hydra": [], "task": ["optim.lr=0.01", "data.batch_size=32,64"]}
    search = Search(**SETTINGS | {"n_trials": 5})
    search.master = OmegaConf.create(
        {"hydra": {"overrides": given, "runtime": {"config_sources": []}}}
    )
    launcher = {key: value for key, value in few.hydra.launcher.items() if key != "_target_"}
    search.launcher = SlurmLauncher(**launcher | {"workers": 3})
    search.launcher.trainer = few.cfg.trainer
    for n_trials, expected in ((5, ""), (6, "Submitted 1 task"), (8, "Submitted 3 tasks")):
        study = open_study(few, n_trials=5)
        for _, job in list(study.propose()):
            finish(job)
        study.close()  # and nothing is told
        search.settings["n_trials"] = n_trials
        search.preview(Sweep(few))
        assert f"5 trials, {n_trials - 5} more to be proposed" in capsys.readouterr().err
        search.complete(Sweep(few))
        told = capsys.readouterr().out
        assert expected in told
        assert ("Submitted" in told) == bool(expected)
        assert num_left(Path("sweeps/s")) == n_trials - 5
    assert sum(call.startswith("sbatch") for call in fake.calls) == 2

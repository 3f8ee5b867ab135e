"""Jobs in one process: none notices that another one ran before it."""

import os
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fmnist import build, config, data, record, sources
from fmnist.errors import UserError
from fmnist.sweeps import jobs

pytestmark = pytest.mark.usefixtures("small_data", "workdir")

FAST = ["data.batch_size=50", "data.val_size=100", "trainer.max_epochs=2", "trainer=cpu"]
DRAWING = [*FAST, "augment=strong", "model.dropout=0.3"]


def task(name: str, *words: str, **search: Any) -> jobs.Task:
    overrides = [*words, f"name={name}"]
    plain = config.settle(config.check(config.compose(overrides)), ["optim.lr"])
    return jobs.Task(plain, overrides, f"sweeps/s/{name}", search or None)


def weights(name: str) -> dict[str, torch.Tensor]:
    path = Path(f"sweeps/s/{name}/checkpoints/best.ckpt")
    return torch.load(path, weights_only=True)["state_dict"]  # type: ignore[no-any-return]


def test_a_job_after_another_equals_the_same_job_alone() -> None:
    jobs.carry_out(task("alone", *DRAWING))
    jobs.carry_out(task("before", *DRAWING, "seed=5", "trainer.deterministic=true"))
    with pytest.raises(UserError):
        jobs.carry_out(task("fails", *DRAWING, "optim=sgd", "optim.lr=1e9", "seed=2"))
    jobs.carry_out(task("after", *DRAWING))
    one, other = weights("alone"), weights("after")
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_job_leaves_the_process_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "-m", "seed=0,1"])
    torch.manual_seed(1)
    torch.rand(3)
    environment, files = dict(os.environ), len(os.listdir("/proc/self/fd"))
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()
    jobs.carry_out(task("a", *DRAWING, "trainer.deterministic=true"))
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()
    assert torch.equal(before[0], after[0])
    assert before[1] == after[1]
    assert all(np.array_equal(a, b) for a, b in zip(before[2], after[2], strict=True))
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.benchmark
    assert dict(os.environ) == environment
    assert sys.argv == ["train.py", "-m", "seed=0,1"]
    assert len(os.listdir("/proc/self/fd")) == files


def test_the_data_are_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loads = []
    load = data.FashionMNIST
    monkeypatch.setattr(data, "FashionMNIST", lambda *a, **k: loads.append(1) or load(*a, **k))
    data._load.cache_clear()
    for name in ("a", "b", "c"):
        jobs.carry_out(task(name, *FAST))
    assert len(loads) == 2  # the training and the test file


def test_data_changed_between_jobs_are_noticed(small_data: Path) -> None:
    jobs.carry_out(task("a", *FAST))
    path = small_data / "FashionMNIST" / "raw" / next(iter(sources.FILES))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        unprepared = build.data(task("b", *FAST).config)
        with pytest.raises(UserError, match="data.dir must hold the four"):
            unprepared.setup()
    finally:
        path.write_bytes(whole)


def test_a_trial_is_pruned_and_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from fmnist.sweeps import study

    asked: list[int] = []

    class Worse:
        def __init__(self, *_: Any) -> None:
            pass

        def __call__(self, rows: list[dict[str, float]]) -> bool:
            asked.append(len(rows))
            return len(rows) >= 2

    monkeypatch.setattr(study, "Monitor", Worse)
    trial = task("a", *FAST, "trainer.max_epochs=5", trial=0)
    done = jobs.carry_out(trial)
    assert done.status == "pruned"
    assert done.data["epochs_done"] == 2
    assert "pruned" not in done.data
    assert done.scores["val/acc"] == record.read(Path("sweeps/s/a")).scores["val/acc"]
    assert sorted(os.listdir("sweeps/s/a/checkpoints")) == ["best.ckpt"]
    before = Path("sweeps/s/a/run.json").read_bytes()
    assert jobs.carry_out(trial).status == "pruned"
    assert Path("sweeps/s/a/run.json").read_bytes() == before
    assert asked == [1, 2]


def test_a_trial_in_its_last_epoch_is_not_pruned(monkeypatch: pytest.MonkeyPatch) -> None:
    from fmnist.sweeps import study

    monkeypatch.setattr(study, "Monitor", lambda *_: lambda rows: len(rows) == 2)
    assert jobs.carry_out(task("a", *FAST, trial=0)).status == "finished"


@pytest.mark.parametrize("moment", ["asked", "pruned"])
def test_a_trial_killed_around_its_pruning_is_pruned_when_it_goes_on(
    moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fmnist import fit
    from fmnist.sweeps import study

    class Killed(BaseException):
        pass

    def die(*_: Any) -> bool:
        raise Killed

    def ask(rows: list[dict[str, float]]) -> bool:
        return len(rows) >= 2

    with monkeypatch.context() as patch:
        last_words = die if moment == "asked" else ask
        patch.setattr(study, "Monitor", lambda *_: lambda rows: len(rows) >= 2 and last_words(rows))
        if moment == "pruned":
            patch.setattr(fit, "_complete", die)
        patch.setattr("fmnist.endings.note_bug", lambda *_: None)
        with pytest.raises(Killed):
            jobs.carry_out(task("a", *FAST, "trainer.max_epochs=5", trial=0))
    monkeypatch.setattr(study, "Monitor", lambda *_: ask)
    done = jobs.carry_out(task("a", *FAST, "trainer.max_epochs=5", trial=0))
    assert (done.status, done.data["epochs_done"]) == ("pruned", 2)

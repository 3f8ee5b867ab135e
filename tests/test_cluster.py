import os
import socket
import threading
import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning.utilities import rank_zero_only
from test_launch import SRUN, TORCHRUN
from torch import nn
from torch.distributed import TCPStore

from fmnist import build, cluster, config, launch, mates, run, team
from fmnist.classifier import Classifier
from fmnist.cluster import Environment
from fmnist.data import FashionMNISTData
from fmnist.errors import LostError, UsageError
from fmnist.launch import Launch

CPU = ["trainer=ddp", "trainer.accelerator=cpu"]


def check(*words: str, given: Launch | None = None) -> int:
    with build.isolated(), build.quiet():
        return build.check_trainer(config.compose([*CPU, *words]), given)


def test_processes_are_counted() -> None:
    srun = launch.find(SRUN)
    assert check("trainer.devices=3") == 3
    assert check("trainer.devices=2", "trainer.num_nodes=2", given=srun) == 4
    assert check("trainer=cpu") == 1
    assert rank_zero_only.rank == 0, "the next run of this process logs again"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["trainer.num_nodes=2"],
            r"trainer.num_nodes=2 needs a process on each machine, got this one alone. Start them "
            r"by srun, in a job with #SBATCH --nodes=2 --ntasks-per-node=2, or by torchrun --nn",
        ),
        (
            ["trainer.strategy=ddp_spawn"],
            r"trainer.strategy must be one of separate processes, got 'ddp_spawn'. Use trainer=ddp",
        ),
        (
            ["data.batch_size=1"],
            "data.batch_size must be at least the number of processes that share it, 2, got 1",
        ),
        (["trainer.sync_batchnorm=true"], "trainer.sync_batchnorm=true needs GPUs, got the CPU"),
    ],
)
def test_what_processes_cannot_do_together(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check(*words)


def test_srun_and_settings_that_differ_name_the_lines_that_fit() -> None:
    with pytest.raises(
        UsageError,
        match="must multiply to the number of processes, 4 on 2 nodes by srun, got 2 x 1. "
        "Set trainer=ddp trainer.devices=2 trainer.num_nodes=2, or submit the job with "
        "#SBATCH --nodes=1 --ntasks-per-node=2",
    ):
        check(given=launch.find(SRUN))
    with pytest.raises(UsageError, match=r"8 on 2 nodes by torchrun, got 1 x 1. Set trainer=ddp"):
        check("trainer.devices=1", given=launch.find(TORCHRUN))


def test_lightning_sees_the_processes_as_they_were_started() -> None:
    given = launch.find(SRUN)
    assert given is not None
    with build.isolated():
        seen = Environment(given, port=4000)
    assert seen.creates_processes_externally
    assert (seen.main_address, seen.main_port) == ("gpu07", 4000)
    seen.set_global_rank(0)
    seen.set_world_size(1)
    numbers = (seen.global_rank(), seen.world_size(), seen.local_rank(), seen.node_rank())
    assert numbers == (3, 4, 1, 1)
    assert not Environment.detect()


def test_the_port_of_the_training_is_held_until_torch_takes_it() -> None:
    store, port = cluster.open_store()
    with pytest.raises(OSError, match="in use"):
        socket.create_server(("", port))
    taken = TCPStore(launch.LOCAL, port, 1, is_master=True, multi_tenant=True)  # as torch does
    assert taken.port == port
    del store, taken
    socket.create_server(("", port)).close()


@pytest.mark.parametrize("step", ["import_torch", "prepare_data"])
def test_a_process_lost_before_the_training_ends_the_run_in_order(
    step: str, monkeypatch: pytest.MonkeyPatch, workdir: Path, small_data: Path
) -> None:
    """The first process comes back from what it was at, says why, and has begun no run."""
    ended: list[int] = []
    words = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "here"}
    for name, value in {**words, "MASTER_PORT": str(uuid.uuid4().int)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(mates, "HANG_S", 0.0)
    monkeypatch.setattr(os, "_exit", ended.append)

    def lose(*_: object) -> None:
        first = team._current
        assert isinstance(first, mates.Leader)
        threading.Thread(target=first.lose, args=(1, mates.GONE)).start()
        assert first.wait(lambda: bool(first.lost), 20)

    place = run.process if step == "import_torch" else FashionMNISTData
    monkeypatch.setattr(place, step, lose)
    with pytest.raises(LostError, match="Process 1 of 2 ended without a word"):
        run.train([*CPU, "trainer.devices=2", "figures=none", "name=a"])
    assert not Path("runs").exists()
    assert not ended


def test_the_shares_of_a_batch_are_told() -> None:
    asked = config.compose(["data.batch_size=50", *CPU])
    (line,) = cluster.explain_share(3, asked, nn.Linear(2, 2))
    assert line.startswith("3 processes share each batch of 50 (data.batch_size): 16 or 17 images")
    lines = cluster.explain_share(2, asked, nn.Sequential(nn.BatchNorm2d(3)))
    assert lines[0].endswith("25 images each. The learning rate is as set.")
    assert "trainer.sync_batchnorm=true takes the whole batch" in lines[1]


def test_a_run_that_torchrun_may_start_again_needs_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with pytest.raises(UsageError, match=r"name must be set where torchrun starts processes again"):
        run.preview(config.compose([]), [])
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "mine")
    assert run.preview(config.compose([]), []).startswith("runs/torchrun-mine-")


def test_uneven_shares_weigh_each_image_alike() -> None:
    """What DDP makes of three processes' losses is the mean over the images of the batch."""
    losses, size = torch.rand(50, generator=torch.Generator().manual_seed(0)), 3
    shares = [losses[rank::size] for rank in range(size)]
    batches = SimpleNamespace(batch_size=50)
    module: Any = SimpleNamespace(trainer=SimpleNamespace(world_size=3, train_dataloader=batches))
    weighed = [part.mean() * Classifier._weight(module, len(part)) for part in shares]
    torch.testing.assert_close(sum(weighed) / size, losses.mean())

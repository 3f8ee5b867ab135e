"""How Lightning sees the processes that train together, and what they must agree on."""

import os
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment as Alone
from pytorch_lightning.strategies import SingleDeviceStrategy
from pytorch_lightning.strategies.launchers import _MultiProcessingLauncher
from torch import nn

from fmnist.errors import UsageError
from fmnist.launch import LOCAL, Launch

__all__ = ["Alone", "Environment", "check_processes", "explain_share", "open_store"]


class Environment(ClusterEnvironment):
    """Processes that exist already: of srun, of torchrun or of our own.

    Lightning's own for SLURM would requeue the job, from a checkpoint of another kind. They meet at
    a port that process 0 holds.
    """

    def __init__(self, launch: Launch, port: int = 0) -> None:
        super().__init__()
        self.launch = launch
        self.port = port
        # Or all would look for torchrun's store at that port, where process 0 is to open its own.
        os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return self.launch.address

    @property
    def main_port(self) -> int:
        return self.port

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self.launch.size

    def set_world_size(self, size: int) -> None:
        """Leave it as it is."""

    def global_rank(self) -> int:
        return self.launch.rank

    def set_global_rank(self, rank: int) -> None:
        """Leave it as it is."""

    def local_rank(self) -> int:
        return self.launch.local_rank

    def node_rank(self) -> int:
        return self.launch.node


def open_store() -> tuple[object, int]:
    """Let the processes meet at a free port of this machine; returns what holds it, and its number.

    As long as that lives nobody else can take the port. The store that torch opens there shares its
    server: `multi_tenant`, as in torch.distributed.rendezvous.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    store = TCPStore(LOCAL, 0, is_master=True, wait_for_workers=False, multi_tenant=True)
    return store, store.port


def check_processes(trainer: pl.Trainer, config: Mapping[str, Any], launch: Launch | None) -> int:
    """Return how many processes train; raises UsageError where they cannot do it together."""
    devices, nodes = trainer.num_devices, trainer.num_nodes
    size, batch_size = devices * nodes, config["data"]["batch_size"]
    if launch is not None and (size, nodes) != (launch.size, launch.num_nodes):
        raise UsageError(_misfit(launch, devices, nodes))
    if launch is None and nodes > 1:
        raise UsageError(
            f"trainer.num_nodes={nodes} needs a process on each machine, got this one alone. Start "
            f"them by srun, in a job with {_sbatch(nodes, devices)}, or by torchrun "
            f"--nnodes={nodes} --nproc-per-node={devices}."
        )
    if size == 1:
        return 1
    if isinstance(trainer.strategy, SingleDeviceStrategy) or isinstance(
        trainer.strategy.launcher, _MultiProcessingLauncher
    ):
        raise UsageError(
            f"trainer.strategy must be one of separate processes, got "
            f"{config['trainer'].get('strategy')!r}. Use trainer=ddp."
        )
    if batch_size < size:
        raise UsageError(
            f"data.batch_size must be at least the number of processes that share it, {size}, got "
            f"{batch_size}. Each needs an image."
        )
    if config["callbacks"]["finetuning"]["frozen_epochs"]:
        # DDP decides at its start which gradients it averages.
        raise UsageError(
            "callbacks.finetuning.frozen_epochs must be null or 0 where several processes train, "
            f"got {size} of them. Use trainer=gpu, or freeze nothing."
        )
    if config["trainer"].get("sync_batchnorm") and trainer.strategy.root_device.type == "cpu":
        raise UsageError(
            "trainer.sync_batchnorm=true needs GPUs, got the CPU. Leave it out: each process "
            "normalises over its share of the batch."
        )
    return int(size)


def _misfit(launch: Launch, devices: int, nodes: int) -> str:
    per_node = launch.size // launch.num_nodes
    remedy = f"trainer=ddp trainer.devices={per_node} trainer.num_nodes={launch.num_nodes}"
    text = (
        "trainer.devices and trainer.num_nodes must multiply to the number of processes, "
        f"{launch.size} on {launch.num_nodes} {'node' if launch.num_nodes == 1 else 'nodes'} by "
        f"{launch.kind}, got {devices} x {nodes}. Set {remedy}"
    )
    if launch.kind == "srun" and devices * nodes > 1:
        return f"{text}, or submit the job with {_sbatch(nodes, devices)}."
    return f"{text}."


def _sbatch(nodes: int, devices: int) -> str:
    return f"#SBATCH --nodes={nodes} --ntasks-per-node={devices}"


def explain_share(size: int, config: Mapping[str, Any], net: nn.Module) -> list[str]:
    """Say in the log what several processes do to the batch, and what not."""
    batch_size = config["data"]["batch_size"]
    share, rest = divmod(batch_size, size)
    each = f"{share} images each" if not rest else f"{share} or {share + 1} images each"
    lines = [
        f"{size} processes share each batch of {batch_size} (data.batch_size): {each}. The "
        "learning rate is as set."
    ]
    norms = (nn.modules.batchnorm._BatchNorm,)
    if any(isinstance(m, norms) for m in net.modules()) and not config["trainer"].get(
        "sync_batchnorm"
    ):
        lines.append(
            "Note: batch normalisation is over each process's share; trainer.sync_batchnorm=true "
            "takes the whole batch, on GPUs."
        )
    return lines

"""Make our sweepers and launchers known to Hydra."""

from hydra.core.plugins import Plugins

from fmnist.sweeps.launchers import LocalLauncher
from fmnist.sweeps.pool import PoolLauncher
from fmnist.sweeps.slurm import SlurmLauncher
from fmnist.sweeps.sweepers import Grid, Search


def register() -> None:
    """Let conf/hydra name our classes.

    Hydra 1.3 instantiates plugins only under a name in the package hydra_plugins.
    """
    for plugin in (Grid, Search, LocalLauncher, PoolLauncher, SlurmLauncher):
        Plugins.instance().class_name_to_class[f"hydra_plugins.fmnist.{plugin.__name__}"] = plugin

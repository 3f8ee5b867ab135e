"""What the first process of a run and the others agree on before they train. Imports no torch."""

from typing import Any

from fmnist import endings, record
from fmnist.mates import Leader, Mates


def tell(mates: Mates | None, **word: Any) -> None:
    """Tell those that follow this process, if any do, what to do."""
    if isinstance(mates, Leader):
        mates.tell(**word)


def check(mates: Mates | None) -> None:
    """Raise why this process should not go on, if another one is lost or was stopped."""
    if mates is not None:
        mates.check()


def begin(mates: Mates | None, run: record.Record, digest: str) -> None:
    """Wait for the other processes, if this one leads any, and let them train.

    `digest` is of the config and of what the user typed: the same for all.
    """
    if not isinstance(mates, Leader):
        return
    from fmnist import cluster

    mates.gather()
    mates.store, mates.port = cluster.open_store()
    mates.on_hang = lambda reason: endings.abandon(run, reason)
    word = {"folder": str(run.folder), "port": mates.port, "record": run.data}
    if mates.launch.kind == "local":  # on whose word they may build what it names
        word["config"] = run.data["config"]
    mates.tell(do="train", digest=digest, **word)
    mates.await_ready()

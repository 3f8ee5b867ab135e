"""Whether the holders of locks live, found out without waiting: by looking again later."""

import time
from pathlib import Path

from fmnist import holders, lock


class Looks:
    """What this process has seen of locks. Only heartbeats tell of a holder on another machine."""

    def __init__(self) -> None:
        self._beats: dict[Path, tuple[object, float]] = {}  # and since when each is as it is

    def is_alive(self, path: Path) -> bool | None:
        """Say whether the holder of a lock lives; None where only a later look can tell.

        A lock that has stayed as it was for QUIET_S seconds between two looks is taken away. False
        where there is none, or none any more.
        """
        holder = lock.look_at(path)
        alive = holder is not None and holders.is_alive(holder)
        if holder is None or alive is not None:
            return alive
        beat = (holder.get("token"), lock.stamp(path))
        last, since = self._beats.setdefault(path, (beat, time.monotonic()))
        if beat != last:
            self._beats[path] = (beat, time.monotonic())
            return True
        if time.monotonic() - since < lock.QUIET_S:
            return None
        lock.remove(path, holder)
        del self._beats[path]
        return False

"""One process per run folder, also across hosts on a shared file system.

The holder's `.lock` says who it is and what it is doing. Its modification time is the heartbeat: an
observer watches whether it changes and compares it with no clock. Needs exclusive creation and
atomic rename, no flock. A dead holder on this machine is known at once by pid and start time;
elsewhere, by a heartbeat that stays quiet.
"""

import contextlib
import errno
import json
import os
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from fmnist import layout
from fmnist.errors import BusyError, UserError, one_line, shortened
from fmnist.holders import is_alive, myself, ours
from fmnist.reading import MAX_TEXT, open_bounded, read_json

LOCK = ".lock"
BEAT_S = 5.0
QUIET_S = 30.0  # six missed beats
STALE_S = 600.0


class Lock:
    """A context in which this process alone works in `folder`.

    Raises:
        BusyError: on entry, when a living process holds it; names its host and pid.
    """

    def __init__(self, folder: Path, name: str = LOCK) -> None:
        self.path = folder / name
        self.holder = {**myself(), "token": uuid.uuid4().hex, "phase": "starting"}
        self.lost = False
        self._done = threading.Event()

    def take(self) -> bool:
        """Take the lock where it is free or its holder is known to be dead; else return False."""
        ours.add(self.holder["token"])  # before others can read it
        if not self._make():
            ours.discard(self.holder["token"])
            return False
        threading.Thread(target=self._beat, daemon=True).start()
        return True

    def _make(self) -> bool:
        while not _create(self.path, self.holder):
            holder = look_at(self.path)
            if holder is None and not self.path.is_symlink():
                continue
            if holder is None or is_alive(holder) is not False:  # None: a link to nowhere
                return False
            _take_away(self.path, holder)
        return True

    def __enter__(self) -> "Lock":
        while not self.take():
            _check_kind(self.path)
            holder = look_at(self.path)
            if holder is None:
                continue
            if is_alive(holder) is None:
                who = shortened(str(holder.get("host", "an unknown host")))
                line = f"was in use on {who}; watching {QUIET_S:.0f} s whether it still is."
                print(one_line(f"{self.path.parent} {line}"), file=sys.stderr)
            if is_alive(holder) or (is_alive(holder) is None and _beats(self.path)):
                raise _busy(self.path.parent, holder)
            _take_away(self.path, holder)
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if not self.lost:
            with contextlib.suppress(OSError):  # the next start finds that this process has ended
                remove(self.path, self.holder)
        ours.discard(
            self.holder["token"]
        )  # last, or another thread would remove it as a dead one's

    def note(self, phase: str) -> None:
        """Tell others what this process is doing."""
        self.holder["phase"] = phase
        with contextlib.suppress(OSError):  # a full disk is met where it matters
            if not self.is_lost():
                _write(self.path, self.holder)

    def check(self) -> None:
        """Raise UserError when another process has taken the folder, after a long sleep of ours."""
        if self.is_lost():
            raise UserError(
                f"{self.path.parent} was taken over by another process while this one was stopped "
                "or cut off. The other one goes on."
            )

    def is_lost(self) -> bool:
        """Look whether another process has taken the folder; a lock that cannot be read stays."""
        holder = look_at(self.path)
        if holder is None or holder.get("token", self.holder["token"]) != self.holder["token"]:
            self.lost = True
        return self.lost

    def _beat(self) -> None:
        while not self._done.wait(BEAT_S):
            if self.is_lost():
                return
            with contextlib.suppress(OSError):
                os.utime(self.path)


def refuse_if_busy(folder: Path) -> None:
    """Raise BusyError at once when a process of this machine works in `folder`."""
    holder = read(folder)
    if holder and is_alive(holder):
        raise _busy(folder, holder)


def read(folder: Path) -> dict[str, Any] | None:
    """Return what the holder of a folder says of itself, {} when unreadable, None when free."""
    return look_at(folder / LOCK)


def look_at(path: Path) -> dict[str, Any] | None:
    """Return what the holder of a lock says of itself, as `read` does."""
    try:
        return _parse(path)
    except FileNotFoundError:
        return None
    except OSError:
        return {}


def is_held(folder: Path) -> bool:
    """Say whether a process holds `folder`, for display.

    One on another machine counts as alive until its heartbeat is ten minutes old; only here are
    clocks compared.
    """
    holder = read(folder)
    if holder is None:
        return False
    alive = is_alive(holder)
    if alive is None:
        return time.time() - (stamp(folder / LOCK) or 0) / 1e9 < STALE_S
    return alive


def _busy(folder: Path, holder: dict[str, Any]) -> BusyError:
    return BusyError(
        f"{folder} is in use by process {holder.get('pid', '?')} on {holder.get('host', '?')}. "
        "Wait for its end, or stop it and start again."
    )


def _parse(path: Path) -> dict[str, Any]:
    try:
        holder = read_json(path)
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _beats(path: Path) -> bool:
    """Watch a heartbeat for up to QUIET_S seconds."""
    first = stamp(path)
    deadline = time.monotonic() + QUIET_S
    while time.monotonic() < deadline:
        pause()
        if stamp(path) != first:
            return True
    return False


def pause() -> None:
    """Sleep between two looks at a heartbeat."""
    time.sleep(min(1.0, QUIET_S / 5))


def stamp(path: Path) -> int | None:
    """Return a lock's heartbeat, which means something by changing; None where there is no lock."""
    try:
        with open_bounded(path, MAX_TEXT) as file:  # opening makes a network file system look again
            return os.fstat(file.fileno()).st_mtime_ns
    except OSError:
        return None


def _create(path: Path, holder: dict[str, Any]) -> bool:
    """Make the lock with its content in one step; False where one exists."""
    temporary = path.with_name(f"{path.name}-{holder['token']}")
    try:
        temporary.write_text(json.dumps(holder), encoding="utf-8")
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            with contextlib.suppress(FileExistsError):
                path.open("x").close()
                _write(path, holder)
                return True
            return False
        return True
    except OSError as error:
        raise UserError(
            f"Cannot write in {path.parent} ({error.strerror}). "
            "Free some space or make the folder writable, then type the same line again."
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _write(path: Path, holder: dict[str, Any]) -> None:
    temporary = path.with_name(f"{path.name}-{holder['token']}")
    try:
        temporary.write_text(json.dumps(holder), encoding="utf-8")
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def remove(path: Path, holder: dict[str, Any]) -> None:
    """Take away the lock of `holder`, and put it back if it turns out to be another's by now."""
    aside = path.with_name(f"{path.name}-{uuid.uuid4().hex}")
    if _parse(path).get("token") != holder.get("token"):
        return
    os.rename(path, aside)
    if _parse(aside).get("token") == holder.get("token"):
        aside.unlink()
    else:
        _put_back(aside, path)


def _take_away(path: Path, holder: dict[str, Any]) -> None:
    """Remove the lock of one that has ended; raises UserError where that is refused for good."""
    try:
        remove(path, holder)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESTALE):  # another process was faster
            return
        raise UserError(
            f"{path} cannot be taken over ({error.strerror}), though its process seems to have "
            "ended. Delete it, then type the same line again."
        ) from None


def _check_kind(path: Path) -> None:
    """Raise UserError for what no process made as a lock, and so no process will remove."""
    layout.check_file(path)
    with contextlib.suppress(OSError):
        if path.lstat().st_size > MAX_TEXT:
            raise UserError(f"{path} is no lock. Delete it, then type the same line again.")


def _put_back(aside: Path, path: Path) -> None:
    """Give a lock its name again, unless another one has it by now."""
    try:
        os.link(aside, path)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        with contextlib.suppress(FileExistsError):
            path.open("x").close()
            os.replace(aside, path)
            return
    aside.unlink()

import errno
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fmnist import holders, lock
from fmnist.errors import UserError
from fmnist.lock import Lock

HOLD = "import sys, time; from fmnist.lock import Lock; from pathlib import Path\n"
HOLD += "with Lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT_S", 0.05)
    monkeypatch.setattr(lock, "QUIET_S", 0.5)


def hold_elsewhere(folder: Path, **changes: object) -> None:
    """Let the lock look as if a process on another machine had taken it."""
    holder = {"host": "node7", "pid": 41, "started": "1", "token": "t"}
    (folder / lock.LOCK).write_text(json.dumps({**holder, "phase": "training", **changes}))


def test_lock_names_its_holder_and_leaves_nothing(tmp_path: Path) -> None:
    with Lock(tmp_path) as held:
        held.note("training epoch 3")
        holder = lock.read(tmp_path)
        assert holder is not None
        assert (holder["pid"], holder["phase"]) == (os.getpid(), "training epoch 3")
        assert lock.is_held(tmp_path)
    assert os.listdir(tmp_path) == []
    assert not lock.is_held(tmp_path)


def test_living_process_is_refused_with_host_and_pid(tmp_path: Path) -> None:
    with (
        Lock(tmp_path),
        pytest.raises(UserError, match=f"is in use by process {os.getpid()} on "),
        Lock(tmp_path),
    ):
        pass
    assert os.listdir(tmp_path) == []


def test_lock_of_a_killed_process_is_taken_over_at_once(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    assert lock.is_held(tmp_path)
    with pytest.raises(UserError, match=str(process.pid)), Lock(tmp_path):
        pass
    process.kill()
    process.communicate()
    assert not lock.is_held(tmp_path)
    begin = time.monotonic()
    with Lock(tmp_path):
        assert time.monotonic() - begin < lock.QUIET_S / 2
    assert os.listdir(tmp_path) == []


def test_reused_pid_or_a_reboot_is_not_taken_for_the_holder(tmp_path: Path) -> None:
    with Lock(tmp_path) as held:
        mine = dict(held.holder)
    for changes in ({"started": "0"}, {"boot": "before the power cut"}):
        (tmp_path / lock.LOCK).write_text(json.dumps({**mine, **changes}))
        assert not lock.is_held(tmp_path)
        with Lock(tmp_path):
            pass


@pytest.mark.usefixtures("hurry")
def test_quiet_lock_of_another_machine_is_taken_over(tmp_path: Path) -> None:
    hold_elsewhere(tmp_path)
    os.utime(tmp_path / lock.LOCK, (2e9, 2e9))  # its clock is decades ahead
    with Lock(tmp_path):
        pass
    assert os.listdir(tmp_path) == []


def test_beating_lock_of_another_machine_is_respected(tmp_path: Path) -> None:
    hold_elsewhere(tmp_path)
    done = threading.Event()

    def beat() -> None:
        stamp = 1e9  # its clock is decades behind
        while not done.wait(0.02):
            stamp += 1
            os.utime(tmp_path / lock.LOCK, (stamp, stamp))

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(UserError, match="process 41 on node7"), Lock(tmp_path):
            pass
    finally:
        done.set()
        thread.join()
    assert lock.read(tmp_path) is not None


def test_lock_of_another_machine_is_shown_as_held_until_it_is_stale(tmp_path: Path) -> None:
    hold_elsewhere(tmp_path)
    assert lock.is_held(tmp_path)
    long_ago = time.time() - 2 * lock.STALE_S
    os.utime(tmp_path / lock.LOCK, (long_ago, long_ago))
    assert not lock.is_held(tmp_path)


@pytest.mark.usefixtures("hurry")
@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_unreadable_lock_is_taken_over_when_quiet(tmp_path: Path, text: str) -> None:
    (tmp_path / lock.LOCK).write_text(text)
    with Lock(tmp_path):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("hurry")
def test_holder_notices_that_it_was_taken_over(tmp_path: Path) -> None:
    with Lock(tmp_path) as held:
        held.check()
        hold_elsewhere(tmp_path)
        deadline = time.monotonic() + 20
        while not held.lost and time.monotonic() < deadline:  # by its heartbeat
            time.sleep(0.01)
        with pytest.raises(UserError, match="was taken over by another process"):
            held.check()
    assert lock.is_held(tmp_path), "the other's lock stays"


def test_who_was_taken_over_sees_it_before_its_next_beat_and_writes_nothing(tmp_path: Path) -> None:
    with Lock(tmp_path) as held:
        hold_elsewhere(tmp_path)
        held.note("training epoch 2")
        holder = lock.read(tmp_path)
        assert holder is not None
        assert holder["host"] == "node7"
        with pytest.raises(UserError, match="was taken over by another process"):
            held.check()


@pytest.mark.usefixtures("hurry")
def test_a_lock_that_cannot_be_read_for_a_while_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Path] = []

    def refused(path: Path) -> object:
        looks.append(path)
        raise OSError(errno.ESTALE, "Stale file handle")

    with Lock(tmp_path) as held:
        monkeypatch.setattr(lock, "read_json", refused)
        deadline = time.monotonic() + 20
        while len(looks) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        held.check()
        monkeypatch.undo()
        held.check()
    assert len(looks) >= 3
    assert os.listdir(tmp_path) == []


def test_a_process_of_which_nothing_is_seen_may_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with hidepid=2, where /proc does not show the processes of other users."""

    def kill(pid: int, signum: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", kill)
    unseen = 4_194_400  # above the largest pid of Linux
    assert holders.is_alive({**holders.myself(), "pid": unseen, "token": "x"}) is None
    monkeypatch.undo()
    assert holders.is_alive({**holders.myself(), "pid": unseen, "token": "x"}) is False


def test_one_of_many_starters_wins(tmp_path: Path) -> None:
    code = HOLD.replace("time.sleep(60)", "sys.stdin.read()")
    code = "import time, sys; time.sleep(max(0, float(sys.argv[2]) - time.time()))\n" + code
    at = str(time.time() + 1.5)
    starters = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), at],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(5)
    ]
    deadline = time.monotonic() + 60
    while sum(s.poll() is None for s in starters) > 1 and time.monotonic() < deadline:
        time.sleep(0.02)
    outputs = [s.communicate(timeout=60)[0] for s in starters]  # the end of stdin ends who holds it
    assert outputs.count("held\n") == 1
    assert os.listdir(tmp_path) == []


def test_unwritable_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Cannot write in"), Lock(tmp_path / "nowhere"):
        pass


@pytest.mark.parametrize("kind", ["folder", "pipe", "link to nowhere", "10 MB"])
def test_what_no_process_made_as_a_lock_is_named_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / lock.LOCK
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "10 MB":
        path.touch()
        os.truncate(path, 10 << 20)
    else:
        path.symlink_to("nowhere")
    with pytest.raises(UserError, match=r"\.lock is .*Delete it, then"), Lock(tmp_path):
        pass
    assert os.listdir(tmp_path) == [lock.LOCK]


def test_a_lock_that_the_system_does_not_let_go_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a folder for all, with the sticky bit, for the lock of another user."""
    with Lock(tmp_path) as held:
        mine = dict(held.holder)
    (tmp_path / lock.LOCK).write_text(json.dumps({**mine, "started": "0"}))

    def refused(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "rename", refused)
    with (
        pytest.raises(UserError, match=r"\.lock cannot be taken over \(Op.*Delete"),
        Lock(tmp_path),
    ):
        pass


@pytest.mark.usefixtures("hurry")
def test_a_holder_cannot_steer_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hold_elsewhere(tmp_path, host="\x1b[2Jevil\nError: all fine" + "x" * 9999)
    with Lock(tmp_path):
        pass
    said = capsys.readouterr().err
    assert r"was in use on \x1b[2Jevil\nError: all fine" in said
    assert said.count("\n") == 1
    assert len(said) < 1000

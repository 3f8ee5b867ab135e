"""How one of several processes ends: with the code of the first, and with nothing to add."""

import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator

import pytest

from fmnist import launch, team
from fmnist.errors import Interrupted, LostError, ToldError, UsageError, UserError
from fmnist.mates import Follower, Leader

VARIABLES = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "here"}
PORT = str(uuid.uuid4().int)  # a name here: other tests run at the same time


@pytest.fixture
def leader(monkeypatch: pytest.MonkeyPatch) -> Iterator[Leader]:
    """The first process; this one is the second."""
    for name, value in {**VARIABLES, "MASTER_PORT": PORT, "RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    before = signal.getsignal(signal.SIGTERM)
    given = launch.find()
    assert given is not None
    first = Leader(given._replace(rank=0))
    yield first
    first.close()
    signal.signal(signal.SIGTERM, before)


def end(error: BaseException, ready: bool = False) -> int:
    """Return the code that the second process ends with."""

    def fail() -> None:
        with team.exit_codes(), team.together() as mates:
            assert isinstance(mates, Follower)
            if ready:
                mates.say_ready()
            raise error

    with pytest.raises(SystemExit) as exited:
        fail()
    return int(exited.value.code or 0)


def test_an_error_in_the_training_is_said_by_the_first(
    leader: Leader, capsys: pytest.CaptureFixture[str]
) -> None:
    assert end(UserError("Out of memory"), ready=True) == 1
    assert leader.wait(lambda: "with an error: Out of memory" in leader.lost, 10)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("error", "code"), [(Interrupted(signal.SIGTERM), 143), (KeyboardInterrupt(), 130)]
)
def test_a_signal_ends_the_first_too(
    error: BaseException, code: int, leader: Leader, capsys: pytest.CaptureFixture[str]
) -> None:
    assert end(error) == code
    assert leader.wait(lambda: leader.signum == code - 128, 10)
    with pytest.raises(Interrupted):
        leader.check()
    assert capsys.readouterr().err == ""


def test_a_mistake_of_all_is_said_once(leader: Leader, capsys: pytest.CaptureFixture[str]) -> None:
    leader.done = True  # it ends with the same mistake
    leader.tell(do="end", code=2, text="Unknown key")
    assert end(UsageError("Unknown key")) == 2
    assert capsys.readouterr().err == ""


def test_what_the_first_cannot_hear_is_said(
    leader: Leader, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        with team.exit_codes(), team.together() as mates:
            assert mates is not None
            leader.close()
            assert mates.wait(lambda: bool(mates.lost), 10)
            mates.done = True
            raise UserError("This disk is full")

    with pytest.raises(SystemExit) as exited:
        fail()
    assert exited.value.code == 1
    assert "This disk is full" in capsys.readouterr().err


def test_a_process_alone_joins_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    with team.together() as mates, team.started(1) as others:
        assert mates is None
        assert others is None
        assert not team.is_follower()
    with pytest.raises(SystemExit) as exited, team.exit_codes():
        raise ToldError(3)
    assert exited.value.code == 3


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        ("os.kill(os.getpid(), 9)", LostError, "ended without a word: killed"),
        ("sys.exit(3)", UserError, "ended with exit code 3"),
    ],
)
def test_a_process_that_ends_before_its_first_word_is_lost_or_failed(
    code: str, error: type[UserError], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = [sys.executable, "-c", f"import os, sys; {code}"]
    monkeypatch.setattr(team, "_start", lambda _: subprocess.Popen(start))

    def train() -> None:
        with team.started(2) as mates:
            assert isinstance(mates, Leader)
            assert mates.wait(lambda: bool(mates.lost), 60)
            mates.check()

    with pytest.raises(error, match=message) as caught:
        train()
    assert type(caught.value) is error

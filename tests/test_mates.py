"""The words between processes, here between threads of one."""

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from threading import Semaphore

import pytest

from fmnist import launch, links, mates
from fmnist.errors import Interrupted, LostError, ToldError, UserError
from fmnist.launch import Launch
from fmnist.links import Link

MARK = uuid.uuid4().hex  # other tests run at the same time


def place(rank: int, size: int = 2, mark: str = MARK, ports: tuple[int, ...] = (0,)) -> Launch:
    """One of `size` processes; the first one listens where it is free."""
    return Launch("torchrun", rank, size, rank, 0, 1, launch.LOCAL, ports, mark)


def beside(leader: mates.Leader, rank: int) -> Launch:
    """Return the place of another process that knows where the first one listens."""
    return leader.launch._replace(rank=rank, local_rank=rank)


@pytest.fixture(autouse=True)
def _all_closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close what a test leaves open."""
    made: list[mates.Mates] = []
    make = mates.Mates.__init__

    def note(self: mates.Mates, given: Launch) -> None:
        make(self, given)
        made.append(self)

    monkeypatch.setattr(mates.Mates, "__init__", note)
    yield
    for one in made:
        if hasattr(one, "_server") or hasattr(one, "_link"):
            one.close()


@pytest.fixture
def leader() -> mates.Leader:
    return mates.Leader(place(0))


def test_what_is_told_late_and_early_arrives(leader: mates.Leader) -> None:
    leader.tell(do="prepare")
    follower = mates.Follower(beside(leader, 1))
    assert follower.listen() == {"do": "prepare"}
    leader.gather()
    leader.tell(do="train", folder="x")
    assert follower.listen() == {"do": "train", "folder": "x"}
    follower.say_ready()
    leader.await_ready()


def test_all_end_with_the_code_of_the_first(leader: mates.Leader) -> None:
    follower = mates.Follower(beside(leader, 1))
    ending = threading.Thread(target=leader.end, args=(2, "no"))
    ending.start()
    with pytest.raises(ToldError) as told:
        follower.listen()
    follower.close()
    ending.join(10)
    assert told.value.exit_code == 2


def test_a_follower_that_ends_is_noticed(leader: mates.Leader) -> None:
    follower = mates.Follower(beside(leader, 1))
    leader.gather()
    follower.close()
    with pytest.raises(UserError, match="Process 1 of 2 ended without a word"):
        leader.await_ready()
    assert isinstance(leader.explain(RuntimeError("Connection closed by peer")), UserError)
    assert leader.explain(TypeError("a bug of its own")) is None


def test_why_a_follower_fails_is_known(leader: mates.Leader) -> None:
    follower = mates.Follower(beside(leader, 1))
    follower.say_ready()
    assert follower.report("Out of memory")
    follower.close()
    assert leader.wait(lambda: bool(leader.lost), 10)
    with pytest.raises(UserError, match="ended with an error: Out of memory"):
        leader.check()


def test_one_that_fails_before_the_first_does_hears_how_all_end(leader: mates.Leader) -> None:
    follower = mates.Follower(beside(leader, 1))
    heard: list[bool] = []
    reporting = threading.Thread(target=lambda: heard.append(follower.report("Unknown key")))
    reporting.start()
    assert leader.wait(lambda: bool(leader.lost), 10)
    leader.end(2, "Unknown key")
    reporting.join(20)
    assert heard == [True]
    assert follower.verdict is not None
    assert follower.verdict["code"] == 2
    follower.close()


def test_a_signal_of_one_stops_all() -> None:
    first = mates.Leader(place(0, size=3))
    followers = [mates.Follower(beside(first, rank)) for rank in (1, 2)]
    first.gather()
    followers[0].note_signal(15)
    for process in (first, followers[1]):
        assert process.wait(lambda process=process: process.signum is not None, 10)
        with pytest.raises(Interrupted):
            process.check()


def test_a_leader_that_ends_is_noticed_and_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(mates, "HANG_S", 0.1)
    monkeypatch.setattr(os, "_exit", ended.append)
    first = mates.Leader(place(0))
    follower = mates.Follower(beside(first, 1))
    first.gather()
    follower.say_ready()
    first.note(done=True)
    first.arrived[1].close()  # as the kernel does with a process's end
    with pytest.raises(UserError, match="Process 0 of 2 ended without a word"):
        follower.listen()
    deadline = time.monotonic() + 10
    while not ended and time.monotonic() < deadline:  # its main thread does not come back
        time.sleep(0.01)
    assert ended == [1]
    assert "Error: Process 0 of 2 ended without a word" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (LostError("Process 1 of 2\nended"), "Error: Process 1 of 2\\nended\n"),
        (Interrupted(15), "Interrupted by SIGTERM.\n"),
        (ToldError(2), ""),
    ],
)
def test_one_that_gives_up_says_why_unless_that_was_told(
    reason: BaseException, said: str, leader: mates.Leader, capsys: pytest.CaptureFixture[str]
) -> None:
    leader.on_hang(reason)
    assert capsys.readouterr().err == said


def test_before_the_training_a_loss_waits_for_the_next_check(
    leader: mates.Leader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the data that it gets, its lock and its own processes are left in order."""
    ended: list[int] = []
    monkeypatch.setattr(mates, "HANG_S", 0.0)
    monkeypatch.setattr(os, "_exit", ended.append)
    noticing = threading.Thread(target=leader.lose, args=(1, mates.GONE))
    noticing.start()
    noticing.join(0.3)
    assert noticing.is_alive()
    with pytest.raises(LostError, match="Process 1 of 2 ended without a word"):
        leader.check()
    leader.close()
    noticing.join(20)
    assert not ended


def test_a_first_process_that_answers_late_is_joined_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing torch, it may hear nothing for long; what came and went by then is nobody's end."""
    accept, tries, answers = links.accept, Semaphore(0), threading.Event()

    def accept_late(server: socket.socket, serve: Callable[[Link], None]) -> None:
        answers.wait(20)
        accept(server, serve)

    def hear(link: Link, seconds: float | None) -> links.Message:
        if threading.current_thread() is joining and not answers.is_set():
            tries.release()
            seconds = 0.05
        return real_hear(link, seconds)

    real_hear = Link.hear
    monkeypatch.setattr(links, "accept", accept_late)
    monkeypatch.setattr(Link, "hear", hear)
    first = mates.Leader(place(0))
    followers: list[mates.Follower] = []
    joining = threading.Thread(target=lambda: followers.append(mates.Follower(beside(first, 1))))
    joining.start()
    for _ in range(3):
        assert tries.acquire(timeout=20)
    answers.set()
    joining.join(20)
    first.gather()
    followers[0].say_ready()
    first.await_ready()
    assert not first.lost


def test_strangers_and_earlier_starts_are_not_believed() -> None:
    with socket.create_server((launch.LOCAL, 0)) as stranger:
        old = mates.Leader(place(0, mark="of an earlier start"))
        new = mates.Leader(place(0, mark="now"))
        threading.Thread(target=_answer_nonsense, args=(stranger,), daemon=True).start()
        new.tell(do="prepare")
        ports = (stranger.getsockname()[1], *old.launch.ports, *new.launch.ports)
        follower = mates.Follower(place(1, mark="now", ports=ports))
        assert follower.listen() == {"do": "prepare"}
        assert not old.arrived


def test_one_that_comes_twice_is_sent_away(
    leader: mates.Leader, monkeypatch: pytest.MonkeyPatch
) -> None:
    mates.Follower(beside(leader, 1))
    monkeypatch.setattr(links, "CONNECT_S", 0.2)
    with pytest.raises(UserError, match="Process 0 of 2 processes started by torchrun cannot be"):
        mates.Follower(beside(leader, 1))


def test_missing_processes_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "CONNECT_S", 0.2)
    first = mates.Leader(place(0, size=4))
    mates.Follower(beside(first, 2))
    with pytest.raises(UserError, match=r"did not come within 0 s: \[1, 3\]"):
        first.gather()


def test_a_name_that_does_not_resolve_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "CONNECT_S", 0.2)
    with pytest.raises(UserError, match=r"at nowhere.invalid:.* or set MASTER_ADDR to its"):
        links.join(place(1)._replace(address="nowhere.invalid"))


def test_a_taken_port_is_told() -> None:
    with (
        socket.create_server((launch.LOCAL, 0)) as taken,
        pytest.raises(UserError, match="cannot listen on port .*Set MASTER_PORT to a free one"),
    ):
        links.listen(place(0, ports=(taken.getsockname()[1],)))


def _answer_nonsense(server: socket.socket) -> None:
    connection, _ = server.accept()
    link = Link(connection)
    link.hear(links.HELLO_S)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    link.close()

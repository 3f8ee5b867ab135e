"""What the processes of one run tell each other: the first decides and writes, the others follow.

All of them end with the exit code of the first, and a message is said once. Torch-free: where a run
is finished or refused, none of them has work to do.
"""

import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from fmnist import links
from fmnist.errors import Interrupted, LostError, ToldError, UserError, one_line
from fmnist.launch import Launch
from fmnist.links import Link, Message

WORD_S = 3.0  # for news of another process, after a collective operation failed
HANG_S = 15.0  # for a process to come back from an operation whose partner is gone
PREPARE_S = 600.0  # before it trains: it waits for no partner, but it may get the data
ARRIVE_S = 60.0  # for a late process, when the first one ends
LOST = (
    "Process {rank} of {size} ended {how}. What was saved stays: type the same line again and "
    "it goes on from the last checkpoint."
)
GONE = "without a word: killed, out of memory, or its machine is lost"


class Mates:
    """What one process knows of those it trains with."""

    def __init__(self, given: Launch) -> None:
        self.launch = given
        self.signum: int | None = None  # that stopped one of them
        self.lost = ""  # why one of them ended before its time
        self.verdict: Message | None = None  # how all of them end
        self.port = 0  # of process 0, for the training itself
        self.store: object = None  # what holds it there
        self.trains = False  # else it comes soon to where it checks
        self.on_hang: Callable[[BaseException], None] = _say  # before it gives up
        self._news = threading.Condition()
        self.done = False

    @property
    def leads(self) -> bool:
        return self.launch.rank == 0

    def note_signal(self, signum: int) -> None:
        """Let all processes stop because of a signal."""
        raise NotImplementedError

    def close(self) -> None:
        """End all connections; nobody is told more."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise why this process should not go on, if so."""
        reason = self._reason()
        if reason is not None:
            raise reason

    def explain(self, error: BaseException) -> BaseException | None:
        """Return what the end of another process makes of `error`; None where it is its own."""
        if not isinstance(error, RuntimeError):
            return None
        self.wait(lambda: self._reason() is not None, WORD_S)
        return self._reason()

    def _reason(self) -> BaseException | None:
        if self.lost:
            return LostError(self.lost) if GONE in self.lost else UserError(self.lost)
        if self.signum is not None:
            return Interrupted(self.signum)
        return None

    def wait(self, met: Callable[[], bool], seconds: float | None = None) -> bool:
        with self._news:
            return self._news.wait_for(met, seconds)

    def note(self, **facts: Any) -> None:
        with self._news:
            for name, value in facts.items():
                setattr(self, name, value)
            self._news.notify_all()

    def _give_up(self) -> None:
        """End this process, unless it comes back soon from what it waits for in vain."""
        reason = self._reason()
        if reason is None:
            return
        self.wait(lambda: self.done or self.trains, PREPARE_S)
        if not self.wait(lambda: self.done, HANG_S):
            self.on_hang(reason)
            os._exit(exit_code(reason))


class Leader(Mates):
    """Process 0."""

    def __init__(self, given: Launch) -> None:
        super().__init__(given)
        self._server = links.listen(given)
        self.launch = given._replace(ports=(self._server.getsockname()[1],))
        self.arrived: dict[int, Link] = {}
        self._ready: set[int] = set()
        self._ended: set[int] = set()
        self._word: Message | None = None
        threading.Thread(target=links.accept, args=(self._server, self._serve), daemon=True).start()

    def tell(self, **word: Any) -> None:
        """Tell the others what to do, also those that come later."""
        with self._news:
            self._word = word
            for link in self.arrived.values():
                link.send(**word)

    def gather(self) -> None:
        """Wait for all to be there; raises UserError when one has ended or does not come."""
        if not self.wait(lambda: bool(self.lost) or self._is_complete(), links.CONNECT_S):
            missing = sorted(set(range(1, self.launch.size)) - self.arrived.keys())
            raise UserError(
                f"{len(missing)} of {self.launch.words} did not come within "
                f"{links.CONNECT_S:.0f} s: {missing}. Read what they said, or set MASTER_ADDR to "
                "an address of this machine that they can reach."
            )
        self.check()

    def await_ready(self) -> None:
        """Wait until all can begin; raises why one cannot.

        Until then nothing waits in a collective operation, where no signal is heard.
        """
        whole = self.launch.size - 1
        self.wait(lambda: self._reason() is not None or len(self._ready) == whole)
        self.note(trains=True)  # first: what is lost from now on is no longer looked for here
        self.check()

    def note_signal(self, signum: int) -> None:
        self.note(signum=signum)
        for link in list(self.arrived.values()):
            link.send(do="stop", signum=signum)

    def end(self, code: int, text: str = "") -> None:
        """Tell all others to end with `code`, and wait until they have heard it."""
        self.note(done=True)
        if not (code and self.launch.kind == "local"):
            seconds = WORD_S if code > 128 else ARRIVE_S
            self.wait(lambda: bool(self.lost) or self._is_complete(), seconds)
        links.close(self._server)
        self.tell(do="end", code=code, text=text)
        for link in list(self.arrived.values()):
            link.end()
        self.wait(lambda: self._ended >= self.arrived.keys(), WORD_S)

    def close(self) -> None:
        self.note(done=True)
        links.close(self._server)
        for link in list(self.arrived.values()):
            link.close()
        self.store = None

    def _is_complete(self) -> bool:
        return len(self.arrived) == self.launch.size - 1

    def _serve(self, link: Link) -> None:
        rank = self._receive(link)
        if rank is None:
            link.close()
            return
        how = GONE
        for message in link.messages():
            if message.get("do") == "stop":
                self.note_signal(message["signum"])
            elif message.get("do") == "ready":
                with self._news:
                    self._ready.add(rank)
                    self._news.notify_all()
            elif message.get("do") == "failed":
                how = f"with an error: {message['text']}"
        if how == GONE:
            link.close()  # else it waits to hear how all end
        self.lose(rank, how)

    def _receive(self, link: Link) -> int | None:
        """Let in a process that comes to stay; returns its rank, None for any other connection."""
        hello = link.hear(links.HELLO_S)
        rank = hello.get("rank")
        if hello.get("mark") != self.launch.mark or not isinstance(rank, int):
            return None
        if not 0 < rank < self.launch.size or rank in self.arrived:
            return None
        link.send(mark=self.launch.mark)
        if link.hear(None).get("do") != "joined":  # it had given up, and comes again
            return None
        with self._news:
            if rank in self.arrived:
                return None
            if self._word:
                link.send(**self._word)
            self.arrived[rank] = link
            self._news.notify_all()
        return rank

    def lose(self, rank: int, how: str) -> None:
        """Take in that a process has ended."""
        with self._news:
            self._ended.add(rank)
            if not (self.done or self.lost or self.signum):
                self.lost = LOST.format(rank=rank, size=self.launch.size, how=how)
            self._news.notify_all()
        if not self.done:
            self._give_up()


class Follower(Mates):
    """Any other process."""

    def __init__(self, given: Launch) -> None:
        super().__init__(given)
        self._words: list[Message] = []
        self._link = links.join(given)
        threading.Thread(target=self._listen, daemon=True).start()

    def listen(self) -> Message:
        """Return the next thing to do; raises ToldError or UserError when there is none."""
        self.wait(lambda: bool(self._words or self.verdict or self.lost))
        if self._words:
            return self._words.pop(0)
        self.check()
        raise AssertionError

    def say_ready(self) -> None:
        """Tell the first process that all is there to begin; raises why this one cannot."""
        self.note(trains=True)
        self.check()
        self._link.send(do="ready")

    def note_signal(self, signum: int) -> None:
        self.note(signum=signum)
        self._link.send(do="stop", signum=signum)

    def report(self, text: str) -> bool:
        """Tell the first process why this one fails; returns whether that is known there.

        Once training nothing is awaited: the first one may wait for this one to end.
        """
        was_lost = bool(self.lost)  # before: the end of this link counts as a loss too
        is_sent = self._link.send(do="failed", text=text)
        self._link.end()
        if self.trains or was_lost:
            return is_sent and not was_lost
        return self.wait(lambda: self.verdict is not None, 4 * WORD_S)

    def close(self) -> None:
        self.note(done=True)
        self._link.close()

    def _reason(self) -> BaseException | None:
        if self.verdict is not None:
            return ToldError(self.verdict["code"])
        if self.lost and self.launch.kind == "local":
            return ToldError(1)  # the terminal shows what became of the one that was typed
        return super()._reason()

    def _listen(self) -> None:
        for message in self._link.messages():
            if message.get("do") == "stop":
                self.note(signum=message["signum"])
            elif message.get("do") == "end":
                self.note(verdict=message)
            else:
                with self._news:
                    self._words.append(message)
                    self._news.notify_all()
        ended = self.verdict
        if ended is None:
            self.note(lost=LOST.format(rank=0, size=self.launch.size, how=GONE))
        if ended is None or ended["code"]:
            self._give_up()


def _say(reason: BaseException) -> None:
    """Say why this process ends, unless another one does."""
    if isinstance(reason, Interrupted):
        print(f"Interrupted by {reason}.", file=sys.stderr, flush=True)
    elif not isinstance(reason, ToldError):
        print(f"Error: {one_line(str(reason))}", file=sys.stderr, flush=True)


def exit_code(error: BaseException) -> int:
    """Return the code that a process ends with by `error`."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, UserError):
        return error.exit_code
    if isinstance(error, Interrupted):
        return 128 + error.signum
    return 130 if isinstance(error, KeyboardInterrupt) else 1

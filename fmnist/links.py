"""Connections between the processes of a run: JSON messages, one a line, over TCP. Torch-free.

Where one ends, however it ends, the other sides see it at once; a machine that is gone is noticed
by keep-alives. No file and no clock is involved, so nothing of an earlier start can be believed.
"""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from fmnist.errors import UserError
from fmnist.launch import LOCAL, Launch

CONNECT_S = 120.0  # for process 0 to answer
HELLO_S = 5.0  # for a stranger on one of our ports to say who it is
MARK_S = 30.0  # for process 0 to answer once connected: it may be importing torch
Message = dict[str, Any]


class Link:
    """One end of a connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lines = connection.makefile("r", encoding="utf-8", newline="\n")
        self._turn = threading.Lock()

    def send(self, **message: Any) -> bool:
        """Send a message; returns whether the other side can still be reached."""
        with self._turn, contextlib.suppress(OSError):
            self._connection.sendall((json.dumps(message) + "\n").encode())
            return True
        return False

    def messages(self) -> Iterator[Message]:
        """Yield what arrives, until the other side ends, which may still listen."""
        with contextlib.suppress(OSError, ValueError):
            for line in self._lines:
                message = json.loads(line)
                if isinstance(message, dict):
                    yield message

    def hear(self, seconds: float | None) -> Message:
        """Return the next message, {} where none comes in so many seconds or the link ends."""
        self._connection.settimeout(seconds)
        message = next(self.messages(), {})
        with contextlib.suppress(OSError):
            self._connection.settimeout(None)
        return message

    def end(self) -> None:
        """Say that nothing more will be sent; what was, arrives."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            self._lines.close()
        self._connection.close()


def listen(launch: Launch) -> socket.socket:
    """Listen on the first free port of `launch`, 0 being any; raises UserError where none is."""
    host = LOCAL if launch.num_nodes == 1 else ""
    for port in launch.ports:
        with contextlib.suppress(OSError):
            return socket.create_server((host, port), backlog=launch.size)
    raise UserError(
        f"Process 0 of {launch.words} cannot listen on port {launch.ports[0]}: it is in use. "
        "Set MASTER_PORT to a free one."
    )


def accept(server: socket.socket, serve: Callable[[Link], None]) -> None:
    """Serve each connection in a thread of its own until `server` is closed."""
    with contextlib.suppress(OSError):
        while True:
            connection, _ = server.accept()
            link = Link(_kept_alive(connection))
            threading.Thread(target=serve, args=(link,), daemon=True).start()


def close(server: socket.socket) -> None:
    """Stop listening; what waits for a connection gives up."""
    with contextlib.suppress(OSError):
        server.shutdown(socket.SHUT_RDWR)
    server.close()


def join(launch: Launch) -> Link:
    """Connect with process 0 of the same launch, wherever it listens.

    Raises:
        UserError: when it does not answer in CONNECT_S seconds.
    """
    deadline = time.monotonic() + CONNECT_S
    reason = ""
    while time.monotonic() < deadline:
        for port in launch.ports:
            try:
                connection = socket.create_connection((launch.address, port), HELLO_S)
            except OSError as error:
                reason = error.strerror or str(error)
                continue
            link = Link(_kept_alive(connection))
            link.send(mark=launch.mark, rank=launch.rank)
            if link.hear(MARK_S).get("mark") == launch.mark:
                # Only now: process 0 may come to a connection after it was given up here.
                link.send(do="joined")
                return link
            link.close()  # of another program, or of an earlier start that has not ended yet
        time.sleep(0.05)
    raise UserError(
        f"Process 0 of {launch.words} cannot be reached at {launch.address}:{launch.ports[0]} "
        f"({reason}). Read what it said, or set MASTER_ADDR to its machine's address."
    )


def _kept_alive(connection: socket.socket) -> socket.socket:
    """Notice within half a minute that the other machine is gone."""
    connection.settimeout(None)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):  # not on every system
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return connection

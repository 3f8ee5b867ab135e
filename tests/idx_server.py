"""A web server on the loopback that misbehaves on request."""

import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    """One request: `body` is the whole file, `begin` the first byte asked for."""

    server: "IdxServer"
    body: bytes
    begin: int

    def do_GET(self) -> None:
        asked = self.headers.get("Range", "")
        self.server.requests.append((self.path, asked))
        self.begin = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        self.body = self.server.files.get(self.path.lstrip("/"), b"")
        plan = self.server.plan
        (plan.pop(0) if plan else self.server.then)(self)

    def head(self, status: int, **headers: object) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), str(value))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


Behaviour = Callable[[Handler], None]


class IdxServer(ThreadingHTTPServer):
    """Serves `files`; the first requests as `plan` says, one each, the later ones as `then`."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes], *plan: Behaviour, then: Behaviour) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.plan, self.then = files, list(plan), then
        self.requests: list[tuple[str, str]] = []
        self.closing = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}/"
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that has seen enough hangs up

    def close(self) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()


def serve(h: Handler) -> None:
    """Behave, ranges included."""
    size = len(h.body)
    if not h.body:
        h.head(404, Content_Length=0)
    elif h.begin >= size:
        h.head(416, Content_Range=f"bytes */{size}", Content_Length=0)
    elif h.begin:
        span = f"bytes {h.begin}-{size - 1}/{size}"
        h.head(206, Content_Range=span, Content_Length=size - h.begin)
        h.wfile.write(h.body[h.begin :])
    else:
        h.head(200, Content_Length=size)
        h.wfile.write(h.body)


def whole(h: Handler) -> None:
    """Know no ranges."""
    h.begin = 0
    serve(h)


def truncate(h: Handler) -> None:
    """Promise all and send half."""
    h.head(200, Content_Length=len(h.body))
    h.wfile.write(h.body[: len(h.body) // 2])


def truncate_lie(h: Handler) -> None:
    """Promise all and send half as many other bytes."""
    h.body = bytes(len(h.body))
    truncate(h)


def truncate_chunked(h: Handler) -> None:
    """Send half in a chunk without saying how long it will be, and no end."""
    h.protocol_version = "HTTP/1.1"
    half = h.body[: len(h.body) // 2]
    h.head(200, Transfer_Encoding="chunked")
    h.wfile.write(b"%x\r\n" % len(h.body) + half)


def truncate_unsaid(h: Handler) -> None:
    """Send half, without a length that would tell."""
    h.head(200)
    h.wfile.write(h.body[: len(h.body) // 2])


def promise_less(h: Handler) -> None:
    """Send all and name a length that is too short."""
    h.head(200, Content_Length=len(h.body) - 100)
    h.wfile.write(h.body)


def promise_more(h: Handler) -> None:
    """Send all and name a length that is too long."""
    h.head(200, Content_Length=len(h.body) + 100)
    h.wfile.write(h.body)


def shift(h: Handler) -> None:
    """Answer with another range than was asked for."""
    h.head(206, Content_Range=f"bytes 7-{len(h.body) - 1}/{len(h.body)}")
    h.wfile.write(h.body[7:])


def unnumbered(h: Handler) -> None:
    """Answer with a range and do not say which."""
    h.head(206)
    h.wfile.write(h.body)


def lie(h: Handler) -> None:
    """Send as many other bytes."""
    h.head(200, Content_Length=len(h.body))
    h.wfile.write(bytes(len(h.body)))


def portal(h: Handler) -> None:
    """Send a page to log in on, as hotels do."""
    h.head(200, Content_Type="text/html")
    h.wfile.write(b"<html>Welcome!</html>")


def stall(h: Handler) -> None:
    """Send half and then nothing."""
    truncate(h)
    h.wfile.flush()
    h.server.closing.wait(20)


def silence(h: Handler) -> None:
    """Take the request and never answer."""
    h.server.closing.wait(20)


def plod(h: Handler) -> None:
    """Send all, slowly."""
    h.head(200, Content_Length=len(h.body))
    for i in range(0, len(h.body), 2_000):
        h.wfile.write(h.body[i : i + 2_000])
        time.sleep(0.04)


def drip(h: Handler) -> None:
    """Send a byte now and then, for ever."""
    h.head(200, Content_Length=len(h.body))
    for byte in h.body:
        h.wfile.write(bytes([byte]))
        time.sleep(0.02)


def drip_headers(h: Handler) -> None:
    """Send header lines now and then, for ever."""
    h.wfile.write(b"HTTP/1.0 200 OK\r\nX: ")
    while not h.server.closing.wait(0.02):
        h.wfile.write(b"x")


def endless(h: Handler) -> None:
    """Send for ever."""
    h.head(200)
    while not h.server.closing.is_set():
        h.wfile.write(bytes(1 << 16))


def hang_up(h: Handler) -> None:
    """Close without an answer."""


def status(code: int) -> Behaviour:
    return lambda h: h.head(code, Content_Length=0)


def redirect(url: str) -> Behaviour:
    return lambda h: h.head(302, Location=url.format(path=h.path.lstrip("/")), Content_Length=0)

import gzip
import io
import re
import shutil
import socket
import sys
import time
from pathlib import Path

import idx_server as web
import pytest
from idx_files import Capture, Files, Patch, Serve, read

from fmnist import download, sources
from fmnist.errors import UserError

pytest_plugins = ["idx_fixtures"]
pytestmark = pytest.mark.usefixtures("offline")


@pytest.fixture
def hurry(monkeypatch: Patch) -> None:
    monkeypatch.setattr(download, "STALL_S", 0.2)
    monkeypatch.setattr(download, "SLOW_S", 0.5)
    monkeypatch.setattr(download, "PATIENCE_S", 5.0)


def test_mirror_is_used(data_dir: Path, files: Files, serve: Serve) -> None:
    server = serve()
    assert sources.obtain(data_dir) == f"mirror {server.url}"
    assert server.requests == [(f"/{name}.gz", "") for name in files]
    assert read(data_dir) == files


@pytest.mark.parametrize(
    "first",
    [web.truncate, web.truncate_chunked, web.truncate_unsaid, web.promise_less, web.stall],
)
def test_broken_download_is_resumed(
    first: web.Behaviour,
    data_dir: Path,
    files: Files,
    serve: Serve,
    monkeypatch: Patch,
) -> None:
    if first is web.stall:
        monkeypatch.setattr(download, "STALL_S", 0.3)
    server = serve(first)
    sources.obtain(data_dir)
    again = [int(asked[6:-1]) for _, asked in server.requests if asked]
    assert len(server.requests) == 5
    assert len(again) == 1
    assert again[0] > 10_000
    assert read(data_dir) == files


@pytest.mark.parametrize(
    "plan",
    [
        (web.truncate, web.shift),
        (web.truncate, web.unnumbered),
        (web.truncate, web.status(503)),
        (web.status(429), web.status(500)),
        (web.truncate, web.hang_up),
        (web.truncate, web.status(416)),
        (web.promise_more,),
        (web.redirect("/{path}"),),
    ],
    ids=lambda plan: "-".join(step.__name__ for step in plan),
)
def test_clumsy_server_is_enough(
    plan: tuple[web.Behaviour, ...], data_dir: Path, files: Files, serve: Serve
) -> None:
    server = serve(*plan)
    assert sources.obtain(data_dir) == f"mirror {server.url}"
    assert read(data_dir) == files


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (web.lie, r"train-images-idx3-ubyte damaged \(sha256 \w+"),
        (web.portal, "train-images-idx3-ubyte damaged"),
        (web.status(403), "HTTP 403 Forbidden"),
        (web.status(404), "HTTP 404 Not Found"),
        (web.status(500), "HTTP 500 Internal Server Error"),
        (web.status(416), "train-images-idx3-ubyte missing"),
        (web.redirect("file:///{path}"), "HTTP 302 .* 'file:///.*' is not allowed"),
        (web.redirect("ftp://127.0.0.1/{path}"), "redirected to ftp://127.0.0.1/train"),
        (web.redirect("http://[/{path}"), "Invalid IPv6 URL"),
        (web.endless, "sent more than 200000 bytes"),
        (web.hang_up, "closed connection without response"),
        (web.truncate, r"train-images-idx3-ubyte ended \d+ bytes too early"),
    ],
)
def test_bad_mirror_is_left_for_the_next_at_once(
    bad: web.Behaviour,
    reason: str,
    data_dir: Path,
    files: Files,
    serve: Serve,
) -> None:
    first, second = serve(then=bad), serve()
    said: list[str] = []
    assert sources.obtain(data_dir, say=said.append) == f"mirror {second.url}"
    assert re.match(f"Data: mirror {first.url}: .*{reason}", said[-2])
    assert {path for path, _ in first.requests} == {"/train-images-idx3-ubyte.gz"}
    assert read(data_dir) == files


@pytest.mark.usefixtures("hurry")
@pytest.mark.parametrize(
    ("slow", "reason"),
    [
        (web.silence, "no answer for 0 s"),
        (web.drip_headers, "no answer for 0 s"),
        (web.drip, "no progress for [01] s"),
        (web.stall, "train-images-idx3-ubyte no progress for 0 s"),
    ],
)
def test_slow_mirror_is_left_in_time(
    slow: web.Behaviour, reason: str, data_dir: Path, serve: Serve
) -> None:
    server = serve(then=slow)
    began = time.monotonic()
    with pytest.raises(UserError, match=f"mirror {server.url}: {reason}\n"):
        sources.obtain(data_dir)
    assert time.monotonic() - began < 20


def test_what_one_mirror_began_another_ends(data_dir: Path, files: Files, serve: Serve) -> None:
    _, second = serve(web.truncate, then=web.status(404)), serve()
    sources.obtain(data_dir)
    assert second.requests[0][1].startswith("bytes=2")
    assert read(data_dir) == files


def test_what_a_lying_mirror_began_is_thrown_away(
    data_dir: Path, files: Files, serve: Serve
) -> None:
    _, second = serve(web.truncate_lie, then=web.status(404)), serve()
    sources.obtain(data_dir)
    assert [asked[:7] for _, asked in second.requests[:2]] == ["bytes=2", ""]
    assert read(data_dir) == files


def test_gzip_bomb_is_stopped(data_dir: Path, serve: Serve) -> None:
    server = serve()
    server.files["train-images-idx3-ubyte.gz"] = gzip.compress(bytes(50_000_000))
    with pytest.raises(UserError, match=f"{server.url}: train-.* longer than 200000 bytes"):
        sources.obtain(data_dir)


def test_moving_download_may_take_long(
    data_dir: Path, files: Files, serve: Serve, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(download, "SLOW_S", 0.4)
    monkeypatch.setattr(download, "SLOW_BYTES", 4_000)
    server = serve(web.plod)
    sources.obtain(data_dir)
    assert len(server.requests) == 4
    assert read(data_dir) == files


def test_server_without_ranges_starts_again(data_dir: Path, serve: Serve) -> None:
    server = serve(web.truncate, web.whole)
    sources.obtain(data_dir)
    assert len(server.requests) == 5


@pytest.mark.usefixtures("hurry")
def test_silent_mirrors_share_one_patience(
    data_dir: Path, serve: Serve, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(download, "PATIENCE_S", 0.3)
    servers = [serve(then=web.silence) for _ in range(4)]
    began = time.monotonic()
    with pytest.raises(UserError, match=f"{servers[3].url}: not asked, 0 s without progress"):
        sources.obtain(data_dir)
    assert time.monotonic() - began < 20
    assert servers[2].requests == servers[3].requests == []


def test_refused_connection_fails_fast(data_dir: Path, monkeypatch: Patch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/"
    monkeypatch.setattr(sources, "MIRRORS", (url, "http://name.invalid/"))
    waits: list[float] = []
    monkeypatch.setattr(download.Patience, "sleep", lambda _, duration_s: waits.append(duration_s))
    with pytest.raises(UserError, match=f"mirror {url}: Connection refused\n  mirror http://name"):
        sources.obtain(data_dir)
    assert waits == []


def test_proxy_of_the_environment_is_used(
    data_dir: Path, files: Files, serve: Serve, monkeypatch: Patch
) -> None:
    proxy = serve()
    proxy.files |= {f"http://name.invalid/{name}": body for name, body in proxy.files.items()}
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setattr(sources, "MIRRORS", ("http://name.invalid/",))
    assert sources.obtain(data_dir) == "mirror http://name.invalid/"
    assert read(data_dir) == files


def test_progress_is_shown_on_a_terminal_only(
    data_dir: Path, serve: Serve, monkeypatch: Patch, capsys: Capture
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    server = serve()
    sources.obtain(data_dir)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith(
        f"Data: downloading (30 MB)\nData: got 4 of 4 files from mirror {server.url}\n"
    )
    shutil.rmtree(data_dir)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    sources.obtain(data_dir)
    assert "train-images-idx3-ubyte.gz" in terminal.getvalue()

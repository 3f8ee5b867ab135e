import gzip
import hashlib
import io
import json
import os
import random
import re
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import idx_server as web
import pytest

from fmnist import sources
from fmnist.errors import UserError

REAL_FILES = dict(sources.FILES)
PROJECT = Path(__file__).parents[1]
SYSTEM_PATH = os.environ["PATH"]
LABELS, IMAGES = "t10k-labels-idx1-ubyte", "t10k-images-idx3-ubyte"
Content = dict[str, bytes]
Patch = pytest.MonkeyPatch
Capture = pytest.CaptureFixture[str]
Serve = Callable[..., web.IdxServer]


@pytest.fixture
def content() -> Content:
    """The four files, small, of bytes that do not compress."""
    rng = random.Random(0)
    return {n: rng.randbytes(40_000 if "images" in n else 1_000) for n in REAL_FILES}


@pytest.fixture(autouse=True)
def offline(content: Content, tmp_path: Path, monkeypatch: Patch) -> Patch:
    """Only what a test puts there can be reached."""
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
    monkeypatch.setattr(sources, "FILES", hashes)
    monkeypatch.setattr(sources, "MIRRORS", ())
    monkeypatch.setattr(sources, "SYSTEM_DIR", tmp_path / "no-system-copy")
    monkeypatch.setattr(sources, "PAUSE_S", 0.01)
    monkeypatch.setattr(sources, "MAX_BYTES", 200_000)
    for name in ("FMNIST_SYSTEM_DIR", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "no-programs"))
    return monkeypatch


@pytest.fixture
def hurry(monkeypatch: Patch) -> None:
    monkeypatch.setattr(sources, "STALL_S", 0.2)
    monkeypatch.setattr(sources, "SLOW_S", 0.5)
    monkeypatch.setattr(sources, "PATIENCE_S", 5.0)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def raw(data_dir: Path) -> Path:
    return data_dir / "FashionMNIST" / "raw"


@pytest.fixture
def system(tmp_path: Path, monkeypatch: Patch) -> Path:
    """The folder of the system copy, which does not exist yet."""
    monkeypatch.setenv("FMNIST_SYSTEM_DIR", str(tmp_path / "system"))
    return tmp_path / "system"


@pytest.fixture
def nobody() -> Iterator[Path]:
    """A folder for one who is not root: root may read and write whatever the modes say."""
    folder = Path(tempfile.mkdtemp())
    root = os.geteuid() == 0
    if root:
        os.chown(folder, 65534, 65534)
        os.seteuid(65534)
    yield folder
    if root:
        os.seteuid(0)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    shutil.rmtree(folder)


@pytest.fixture
def serve(content: Content, offline: Patch) -> Iterator[Serve]:
    """Start a server of the four .gz files and add it to the mirrors."""
    servers: list[web.IdxServer] = []

    def start(*plan: web.Behaviour, then: web.Behaviour = web.serve) -> web.IdxServer:
        packed = {f"{n}.gz": gzip.compress(data, mtime=0) for n, data in content.items()}
        servers.append(web.IdxServer(packed, *plan, then=then))
        offline.setattr(sources, "MIRRORS", tuple(s.url for s in servers))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def fill(folder: Path, content: Content, *, packed: bool = False) -> Path:
    folder.mkdir(parents=True)
    for name, data in content.items():
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(data))
        else:
            (folder / name).write_bytes(data)
    return folder


def flip_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[500] ^= 1
    path.write_bytes(data)


def read(data_dir: Path) -> Content:
    return {p.name: p.read_bytes() for p in (data_dir / "FashionMNIST/raw").iterdir()}


def test_right_data_folder_is_used_silently(
    data_dir: Path, raw: Path, content: Content, capsys: Capture
) -> None:
    fill(raw, content)
    assert sources.obtain(data_dir) == "data folder"
    sources.verify(raw)
    assert capsys.readouterr() == ("", "")
    assert read(data_dir) == content


@pytest.mark.parametrize("packed", [False, True])
def test_system_copy_is_used(
    packed: bool, data_dir: Path, system: Path, content: Content, capsys: Capture
) -> None:
    fill(system, content, packed=packed)
    assert sources.obtain(data_dir) == f"system copy {system}"
    assert read(data_dir) == content
    assert capsys.readouterr() == ("", f"Data: got 4 of 4 files from system copy {system}\n")


def test_default_system_copy_is_replaced_by_the_variable(
    data_dir: Path, system: Path, content: Content, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(sources, "SYSTEM_DIR", fill(system / "default", content))
    with pytest.raises(UserError, match=f"system copy {system}: none of the files is there"):
        sources.obtain(data_dir)
    monkeypatch.delenv("FMNIST_SYSTEM_DIR")
    assert sources.obtain(data_dir) == f"system copy {system}/default"


def test_gz_left_by_torchvision_is_unpacked(data_dir: Path, raw: Path, content: Content) -> None:
    fill(raw, content, packed=True)
    assert sources.obtain(data_dir) == "data folder"
    sources.verify(raw)


def test_damaged_raw_file_is_named_and_replaced(
    data_dir: Path, raw: Path, system: Path, content: Content
) -> None:
    flip_byte(fill(raw, content) / LABELS)
    fill(system, content)
    said: list[str] = []
    with pytest.raises(UserError, match=rf"{LABELS} damaged \(sha256 \w+\.\.\., expected \w+\.\."):
        sources.verify(raw)
    assert sources.obtain(data_dir, say=said.append) == f"system copy {system}"
    assert re.match(rf"Data: {LABELS} is damaged \(sha256 .*\); getting it again", said[0])
    assert said[1:] == [f"Data: got 1 of 4 files from system copy {system}"]
    assert read(data_dir) == content


def test_missing_file_is_named(raw: Path, content: Content) -> None:
    (fill(raw, content) / IMAGES).unlink()
    with pytest.raises(UserError, match=f"got '{raw}' with {IMAGES} missing. Delete"):
        sources.verify(raw)


def test_damaged_system_copy_is_not_used(
    data_dir: Path, system: Path, content: Content, serve: Serve
) -> None:
    flip_byte(fill(system, content, packed=True) / f"{IMAGES}.gz")
    server = serve()
    assert sources.obtain(data_dir) == f"system copy {system} and mirror {server.url}"
    assert [path for path, _ in server.requests] == [f"/{IMAGES}.gz"]
    assert read(data_dir) == content


def test_right_gz_beside_a_damaged_raw_file_is_used(
    data_dir: Path, system: Path, content: Content
) -> None:
    flip_byte(fill(system, content) / IMAGES)
    (system / f"{IMAGES}.gz").write_bytes(gzip.compress(content[IMAGES]))
    sources.obtain(data_dir)
    assert read(data_dir) == content


def test_data_hash_names_the_content(monkeypatch: Patch) -> None:
    before = sources.data_hash()
    monkeypatch.setattr(sources, "FILES", dict(reversed(sources.FILES.items())))
    assert sources.data_hash() == before
    monkeypatch.setitem(sources.FILES, LABELS, "0" * 64)
    assert sources.data_hash() != before


def test_given_folder_is_the_only_source(content: Content, nobody: Path) -> None:
    folder = fill(nobody / "given", content, packed=True)
    folder.chmod(0o555)
    assert sources.obtain(nobody / "data", folder) == f"folder {folder}"
    assert sources.obtain(nobody / "data", folder) == f"folder {folder}"
    assert read(nobody / "data") == content


def test_given_folder_with_faults_is_refused(
    data_dir: Path, raw: Path, tmp_path: Path, content: Content
) -> None:
    folder = fill(tmp_path / "given", content)
    fill(raw, content)
    flip_byte(folder / LABELS)
    (folder / IMAGES).unlink()
    match = rf"data.source must be .*given' \({IMAGES} missing; {LABELS} damaged .*\)\. Put them"
    with pytest.raises(UserError, match=match):
        sources.obtain(data_dir, folder)


def test_read_only_data_folder_is_enough_when_complete(nobody: Path, content: Content) -> None:
    raw = fill(nobody / "data/FashionMNIST/raw", content)
    raw.chmod(0o555)
    assert sources.obtain(nobody / "data") == "data folder"


def test_unwritable_data_folder_is_an_error(nobody: Path) -> None:
    nobody.chmod(0o555)
    with pytest.raises(UserError, match=r"data\.dir must be .* \(.*/data: Permission denied\), w"):
        sources.obtain(nobody / "data")


def test_file_in_place_of_the_data_folder_is_an_error(data_dir: Path) -> None:
    data_dir.write_text("")
    with pytest.raises(UserError, match=r"data\.dir must be a folder .* data\.dir=DIR"):
        sources.obtain(data_dir)


def test_unreadable_files_are_an_error(nobody: Path, content: Content) -> None:
    raw = fill(nobody / "data/FashionMNIST/raw", content)
    (raw / LABELS).chmod(0)
    with pytest.raises(
        UserError, match=rf"read, got '{raw}/{LABELS}' \(Permission denied\)\. Make"
    ):
        sources.obtain(nobody / "data")
    given = fill(nobody / "given", content)
    (given / LABELS).chmod(0)
    with pytest.raises(UserError, match=rf"{LABELS} unreadable \(Permission denied\)"):
        sources.obtain(nobody / "data", given)


def test_full_disk_is_an_error_and_leaves_nothing(
    data_dir: Path, raw: Path, system: Path, content: Content
) -> None:
    fill(system, content)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"with 90 MB free, got .*File too large"):
            sources.obtain(data_dir)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(raw.iterdir()) == []


def test_mirror_is_used(data_dir: Path, content: Content, serve: Serve) -> None:
    server = serve()
    assert sources.obtain(data_dir) == f"mirror {server.url}"
    assert server.requests == [(f"/{name}.gz", "") for name in content]
    assert read(data_dir) == content


@pytest.mark.parametrize(
    "first",
    [web.truncate, web.truncate_chunked, web.truncate_unsaid, web.promise_less, web.stall],
)
def test_broken_download_is_resumed(
    first: web.Behaviour,
    data_dir: Path,
    content: Content,
    serve: Serve,
    monkeypatch: Patch,
) -> None:
    if first is web.stall:
        monkeypatch.setattr(sources, "STALL_S", 0.3)
    server = serve(first)
    sources.obtain(data_dir)
    again = [int(asked[6:-1]) for _, asked in server.requests if asked]
    assert len(server.requests) == 5
    assert len(again) == 1
    assert again[0] > 10_000
    assert read(data_dir) == content


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
    plan: tuple[web.Behaviour, ...], data_dir: Path, content: Content, serve: Serve
) -> None:
    server = serve(*plan)
    assert sources.obtain(data_dir) == f"mirror {server.url}"
    assert read(data_dir) == content


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
    content: Content,
    serve: Serve,
) -> None:
    first, second = serve(then=bad), serve()
    said: list[str] = []
    assert sources.obtain(data_dir, say=said.append) == f"mirror {second.url}"
    assert re.match(f"Data: mirror {first.url}: .*{reason}", said[-2])
    assert {path for path, _ in first.requests} == {"/train-images-idx3-ubyte.gz"}
    assert read(data_dir) == content


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
    assert time.monotonic() - began < 3


def test_what_one_mirror_began_another_ends(data_dir: Path, content: Content, serve: Serve) -> None:
    _, second = serve(web.truncate, then=web.status(404)), serve()
    sources.obtain(data_dir)
    assert second.requests[0][1].startswith("bytes=2")
    assert read(data_dir) == content


def test_what_a_lying_mirror_began_is_thrown_away(
    data_dir: Path, content: Content, serve: Serve
) -> None:
    _, second = serve(web.truncate_lie, then=web.status(404)), serve()
    sources.obtain(data_dir)
    assert [asked[:7] for _, asked in second.requests[:2]] == ["bytes=2", ""]
    assert read(data_dir) == content


def test_gzip_bomb_is_stopped(data_dir: Path, serve: Serve) -> None:
    server = serve()
    server.files["train-images-idx3-ubyte.gz"] = gzip.compress(bytes(50_000_000))
    with pytest.raises(UserError, match=f"{server.url}: train-.* longer than 200000 bytes"):
        sources.obtain(data_dir)


def test_moving_download_may_take_long(
    data_dir: Path, content: Content, serve: Serve, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(sources, "SLOW_S", 0.4)
    monkeypatch.setattr(sources, "SLOW_BYTES", 4_000)
    server = serve(web.plod)
    sources.obtain(data_dir)
    assert len(server.requests) == 4
    assert read(data_dir) == content


def test_server_without_ranges_starts_again(data_dir: Path, serve: Serve) -> None:
    server = serve(web.truncate, web.whole)
    sources.obtain(data_dir)
    assert len(server.requests) == 5


@pytest.mark.usefixtures("hurry")
def test_silent_mirrors_share_one_patience(
    data_dir: Path, serve: Serve, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(sources, "PATIENCE_S", 0.3)
    servers = [serve(then=web.silence) for _ in range(4)]
    began = time.monotonic()
    with pytest.raises(UserError, match=f"{servers[3].url}: not asked, 0 s without progress"):
        sources.obtain(data_dir)
    assert time.monotonic() - began < 2
    assert servers[2].requests == servers[3].requests == []


def test_refused_connection_fails_fast(data_dir: Path, monkeypatch: Patch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/"
    monkeypatch.setattr(sources, "MIRRORS", (url, "http://name.invalid/"))
    began = time.monotonic()
    with pytest.raises(UserError, match=f"mirror {url}: Connection refused\n  mirror http://name"):
        sources.obtain(data_dir)
    assert time.monotonic() - began < 1


def test_proxy_of_the_environment_is_used(
    data_dir: Path, content: Content, serve: Serve, monkeypatch: Patch
) -> None:
    proxy = serve()
    proxy.files |= {f"http://name.invalid/{name}": body for name, body in proxy.files.items()}
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setattr(sources, "MIRRORS", ("http://name.invalid/",))
    assert sources.obtain(data_dir) == "mirror http://name.invalid/"
    assert read(data_dir) == content


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


START = """
import json, pathlib, sys
from fmnist import sources
data_dir, mirrors, files = json.loads(sys.argv[1])
sources.FILES.clear()
sources.FILES.update(files)
sources.MIRRORS = mirrors
sources.obtain(pathlib.Path(data_dir))
"""


def start(data_dir: Path) -> subprocess.Popen[str]:
    """Call obtain in a process of its own."""
    given = json.dumps([str(data_dir), sources.MIRRORS, sources.FILES])
    command = [sys.executable, "-c", START, given]
    return subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.PIPE, text=True)


def test_ten_processes_at_once_download_once(
    data_dir: Path, raw: Path, content: Content, serve: Serve
) -> None:
    server = serve()
    flip_byte(fill(raw, content) / LABELS)
    (raw / IMAGES).unlink()
    processes = [start(data_dir) for _ in range(10)]
    errors = [process.communicate(timeout=30)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 10, errors
    assert len(server.requests) == 2
    assert read(data_dir) == content


def test_ten_processes_without_a_lock_do_each_other_no_harm(
    data_dir: Path, content: Content, serve: Serve, monkeypatch: Patch
) -> None:
    serve(web.truncate, web.truncate)
    monkeypatch.setattr(sources, "WAIT_S", 0.0)
    with ThreadPoolExecutor(10) as pool:
        labels = list(pool.map(lambda _: sources.obtain(data_dir), range(10)))
    assert len(labels) == 10
    assert read(data_dir) == content


def test_what_another_process_brings_meanwhile_is_used(
    data_dir: Path, raw: Path, content: Content, serve: Serve
) -> None:
    def lose(h: web.Handler) -> None:
        for name, data in content.items():
            (raw / name).write_bytes(data)
        h.head(403, Content_Length=0)

    serve(lose)
    assert sources.obtain(data_dir) == "data folder"
    assert read(data_dir) == content


def test_killed_download_is_resumed_at_once(
    data_dir: Path, raw: Path, content: Content, serve: Serve, monkeypatch: Patch
) -> None:
    server = serve(web.stall)
    process = start(data_dir)
    while not any(path.stat().st_size for path in raw.glob("*.part.*")):
        time.sleep(0.01)
    process.kill()
    process.communicate()
    (raw / f"{LABELS}.0.tmp").write_bytes(b"of a process killed while it wrote")
    monkeypatch.setattr(sources, "ORPHAN_S", 0.0)
    assert sources.obtain(data_dir) == f"mirror {server.url}"
    assert server.requests[1][1].startswith("bytes=")
    assert read(data_dir) == content


@pytest.mark.parametrize(
    "owner",
    ["1 another-machine", f"1 {socket.gethostname()}", ""],
    ids=["elsewhere", "living", "unknown"],
)
def test_lock_is_not_waited_for_long(
    owner: str, data_dir: Path, system: Path, content: Content, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(sources, "WAIT_S", 0.1)
    fill(system, content)
    raw = data_dir / "FashionMNIST/raw"
    raw.mkdir(parents=True)
    (raw / ".lock").write_text(owner)
    os.utime(raw / ".lock", (time.time() + 1000,) * 2)  # clocks of file servers differ
    began = time.monotonic()
    sources.obtain(data_dir)
    assert 0.1 < time.monotonic() - began < 2
    assert read(data_dir) == content


def test_old_lock_is_not_waited_for(
    data_dir: Path, raw: Path, system: Path, content: Content
) -> None:
    fill(system, content)
    raw.mkdir(parents=True)
    (raw / ".lock").write_text("1 another-machine")
    os.utime(raw / ".lock", (time.time() - 1000,) * 2)
    began = time.monotonic()
    sources.obtain(data_dir)
    assert time.monotonic() - began < 2
    assert read(data_dir) == content


@pytest.fixture
def programs(tmp_path: Path, content: Content, monkeypatch: Patch) -> Path:
    """A folder on PATH with an apt-get and a dpkg-deb that do what these tests need."""
    folder = tmp_path / "programs"
    fill(tmp_path / "package/usr/share/datasets/fashion-mnist", content, packed=True)
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{SYSTEM_PATH}")
    program(
        folder / "apt-get", 'echo "$@" >> "$0.log"; case "$*" in *download*) echo > x.deb;; esac'
    )
    program(folder / "dpkg-deb", f'[ "$1 $2" = "-x x.deb" ] && cp -r {tmp_path}/package/usr "$3"')
    return folder


def program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_package_is_used_when_no_mirror_answers(
    data_dir: Path, content: Content, programs: Path
) -> None:
    assert sources.obtain(data_dir) == "apt package dataset-fashion-mnist"
    assert read(data_dir) == content
    update, download = (programs / "apt-get.log").read_text().splitlines()
    assert re.fullmatch(r"-oDir::State=\S+ .*-oDebug::NoLocking=1 update", update)
    assert download.endswith(" download dataset-fashion-mnist")
    assert not Path(update.split()[0].partition("=")[2]).parent.exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "echo W: Failed a; echo E: no list; echo end; exit 100",
            "apt-get: W: Failed a E: no list",
        ),
        ("echo one; echo two; exit 1", "apt-get: two"),
        ("exit 1", "apt-get: "),
        ("exec sleep 20", "not done within 0 s"),
        (None, "apt-get: No such file or directory"),
    ],
)
def test_failing_package_manager_is_reported(
    text: str | None, reason: str, data_dir: Path, programs: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(sources, "APT_S", 0.2)
    if text is None:
        monkeypatch.setenv("PATH", "/nonexistent")
    else:
        program(programs / "apt-get", text)
    with pytest.raises(UserError, match=f"\n  apt package dataset-fashion-mnist: {reason}\n"):
        sources.obtain(data_dir)


def test_when_nothing_works_every_source_and_remedy_is_named(
    data_dir: Path, raw: Path, system: Path, content: Content, serve: Serve
) -> None:
    flip_byte(fill(raw, content) / LABELS)
    flip_byte(fill(system, content) / LABELS)
    servers = [serve(then=web.status(404)), serve(then=web.lie)]
    with pytest.raises(UserError) as caught:
        sources.obtain(data_dir)
    wrong = r"damaged \(sha256 \w{12}\.\.\., expected \w{12}\.\.\.\)"
    lines = [
        "data.dir must hold the four Fashion-MNIST files, and no source gave them all:",
        f"  data folder {raw}: {LABELS} {wrong}",
        f"  system copy {system}: {LABELS} {wrong}",
        f"  mirror {servers[0].url}: HTTP 404 Not Found",
        f"  mirror {servers[1].url}: {LABELS} {wrong}",
        "  apt package dataset-fashion-mnist: apt-get: No such file or directory",
        f"Copy {LABELS} .* into {raw}, .* data.source=DIR or the variable FMNIST_SYSTEM_DIR, .*"
        "'apt-get install dataset-fashion-mnist', .* set https_proxy and http_proxy.",
    ]
    for line, got in zip(lines, str(caught.value).splitlines(), strict=True):
        assert re.fullmatch(line, got)


@pytest.mark.realdata
def test_real_files_are_obtained(data_dir: Path, monkeypatch: Patch) -> None:
    monkeypatch.undo()
    label = sources.obtain(data_dir)
    raw = data_dir / "FashionMNIST/raw"
    sources.verify(raw)
    sizes = {path.name: path.stat().st_size for path in raw.iterdir()}
    assert set(sizes) == set(REAL_FILES), label
    assert sizes["train-images-idx3-ubyte"] == 16 + 60_000 * 28 * 28

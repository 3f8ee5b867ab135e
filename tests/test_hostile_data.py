"""Data files, folders, servers and packages that were made to hurt: an error, and nothing lost."""

import gzip
import io
import os
import socket
import stat
import tarfile
import time
from pathlib import Path

import idx_server as web
import pytest
import small
from idx_files import IMAGES, LABELS, Capture, Files, Patch, Serve, fill, flip_byte, read
from test_package import SYSTEM_PATH, program

from fmnist import content, data, download, package, sources, turns
from fmnist.augment import Augment
from fmnist.data import FashionMNISTData
from fmnist.errors import UserError

pytest_plugins = ["idx_fixtures"]


@pytest.fixture(autouse=True)
def _no_traps_left(request: pytest.FixtureRequest) -> None:
    if "small_data" not in request.fixturenames:
        request.getfixturevalue("offline")


def spoil(path: Path, way: str) -> None:
    """Put something else in place of a file."""
    path.unlink()
    match way:
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case "socket":
            os.mknod(path, stat.S_IFSOCK | 0o600)
        case "endless device":
            path.symlink_to("/dev/zero")
        case "link to itself":
            path.symlink_to(path.name)
        case "vast":
            path.touch()
            os.truncate(path, 1 << 40)


WAYS = {
    "pipe": "Not a regular file",
    "folder": "Is a directory",
    "socket": "Not a regular file|No such device",
    "endless device": "Not a regular file",
    "link to itself": "Too many levels of symbolic links",
    "vast": "longer than 200000 bytes",
}


@pytest.mark.parametrize("way", WAYS)
def test_a_given_folder_holds_only_regular_files(
    way: str, data_dir: Path, tmp_path: Path, files: Files
) -> None:
    given = fill(tmp_path / "g", files)
    spoil(given / LABELS, way)
    with pytest.raises(UserError, match=rf"data.source must be .*{LABELS} .*({WAYS[way]}).*Put"):
        sources.obtain(data_dir, given)
    (given / f"{LABELS}.gz").write_bytes(gzip.compress(files[LABELS]))
    assert sources.obtain(data_dir, given) == f"folder {given}"
    assert read(data_dir) == files


@pytest.mark.parametrize("way", WAYS)
def test_a_data_folder_holds_only_regular_files(
    way: str, raw: Path, data_dir: Path, system: Path, files: Files
) -> None:
    fill(system, files)
    spoil(fill(raw, files) / LABELS, way)
    with pytest.raises(UserError, match=rf"data.dir must .*{LABELS}.*({WAYS[way]}).*data.dir=DIR"):
        sources.obtain(data_dir)
    assert {path.name for path in raw.iterdir()} == set(files)


@pytest.mark.parametrize("way", WAYS)
def test_a_system_folder_with_traps_is_left_for_the_next_source(
    way: str, data_dir: Path, system: Path, files: Files, serve: Serve
) -> None:
    spoil(fill(system, files) / IMAGES, way)
    server = serve()
    assert sources.obtain(data_dir) == f"system copy {system} and mirror {server.url}"
    assert read(data_dir) == files


@pytest.mark.parametrize("value", ["x" * 5_000, "/dev/null", "no\x1bwhere", "-", "\udcff"])
def test_an_odd_system_folder_is_named_and_steers_no_terminal(
    value: str, data_dir: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    monkeypatch.setenv("FMNIST_SYSTEM_DIR", value)
    with pytest.raises(UserError, match=r"system copy .*: (none of the files|.*too long)"):
        sources.obtain(data_dir)
    assert "\x1b" not in capsys.readouterr().err


def test_a_name_that_no_file_can_have_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.dir must .*embedded null"):
        sources.obtain(tmp_path / "no\0name")
    with pytest.raises(UserError, match=r"data\.source must .*embedded null"):
        sources.obtain(tmp_path / "data", tmp_path / "no\0name")


def test_images_and_labels_in_each_other_s_place_are_found(
    data_dir: Path, tmp_path: Path, files: Files
) -> None:
    given = fill(tmp_path / "g", files)
    (given / IMAGES).write_bytes(files[LABELS])
    (given / LABELS).write_bytes(files[IMAGES])
    with pytest.raises(UserError, match=rf"{IMAGES} damaged .*; {LABELS} damaged"):
        sources.obtain(data_dir, given)


@pytest.mark.parametrize("change", ["header", "body", "cut", "longer", "labels out of range"])
def test_any_change_of_a_data_file_is_found(
    change: str, small_data: Path, small_files: Path, tmp_path: Path
) -> None:
    given = tmp_path / "given"
    given.mkdir()
    for path in small_files.iterdir():
        (given / path.name).write_bytes(path.read_bytes())
    body = bytearray((given / LABELS).read_bytes())
    match change:
        case "header":
            body[7] += 1
        case "body":
            body[8] ^= 1
        case "cut":
            del body[-1]
        case "longer":
            body += b"\0"
        case "labels out of range":
            body[8:] = bytes([10]) * len(body[8:])
    (given / LABELS).write_bytes(body)
    with pytest.raises(UserError, match=rf"{LABELS} damaged \(sha256"):
        sources.obtain(tmp_path / "data", given)


def load(folder: Path) -> None:
    none = Augment(flip=False, max_shift_px=0, erase_px=0)
    FashionMNISTData(folder, None, 32, 100, "train", 0, 0, none).setup()


@pytest.mark.parametrize("way", ["vanishes", "is cut", "is another"])
def test_a_file_that_changes_while_it_is_read_is_told(
    way: str, small_data: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    sources.obtain(folder := tmp_path / "data")
    raw = folder / "FashionMNIST" / "raw"
    verify = sources.verify

    def meddle(place: Path) -> None:
        verify(place)
        match way:
            case "vanishes":
                (raw / IMAGES).unlink()
            case "is cut":
                os.truncate(raw / IMAGES, 500)
            case "is another":
                images, _ = small.make_images(small.NUM_TEST, 9)
                (raw / "another").write_bytes(small.idx(images))
                (raw / "another").replace(raw / IMAGES)

    monkeypatch.setattr(sources, "verify", meddle)
    data._load.cache_clear()
    with pytest.raises(UserError, match=r"data\.dir must hold files that stay as they are .*Let"):
        load(folder)


@pytest.mark.parametrize("owner", [b"\xff\xfe", b"x y", b"9" * 99 + b" ", b"1" * 10**6, b"-1 "])
def test_a_lock_of_nonsense_holds_nobody_up(
    owner: bytes, raw: Path, data_dir: Path, system: Path, files: Files, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(turns, "WAIT_S", 0.3)
    fill(system, files)
    raw.mkdir(parents=True)
    (raw / ".lock").write_bytes(owner + socket.gethostname().encode())
    sources.obtain(data_dir)
    assert read(data_dir) == files


@pytest.mark.parametrize("way", ["pipe", "folder", "endless device", "link to itself"])
def test_a_lock_that_is_no_file_holds_nobody_up(
    way: str, raw: Path, data_dir: Path, system: Path, files: Files
) -> None:
    fill(system, files)
    raw.mkdir(parents=True)
    (raw / ".lock").touch()
    spoil(raw / ".lock", way)
    began = time.monotonic()
    sources.obtain(data_dir)
    assert time.monotonic() - began < 20
    assert {n: (raw / n).read_bytes() for n in files} == files


@pytest.mark.parametrize("kind", ["symbolic", "hard"])
def test_a_begun_download_that_is_a_link_changes_no_other_file(
    kind: str, raw: Path, data_dir: Path, tmp_path: Path, files: Files, serve: Serve
) -> None:
    server = serve()
    precious = tmp_path / "precious"
    precious.write_text("of great worth")
    raw.mkdir(parents=True)
    for name in files:
        part = raw / f"{name}.gz.part"
        part.symlink_to(precious) if kind == "symbolic" else os.link(precious, part)
    assert sources.obtain(data_dir) == f"mirror {server.url}"
    assert precious.read_text() == "of great worth"
    assert {n: (raw / n).read_bytes() for n in files} == files


@pytest.mark.parametrize("name", [f"{IMAGES}.gz.part", f"{IMAGES}.old.tmp"])
@pytest.mark.parametrize("way", ["pipe", "folder"])
def test_what_looks_like_left_work_and_is_none_is_let_be(
    name: str, way: str, raw: Path, data_dir: Path, files: Files, serve: Serve, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(turns, "ORPHAN_S", -1.0)
    serve()
    raw.mkdir(parents=True)
    (raw / name).touch()
    spoil(raw / name, way)
    sources.obtain(data_dir)
    assert {n: (raw / n).read_bytes() for n in files} == files


def test_a_server_that_drips_for_ever_is_left_in_time(
    data_dir: Path, serve: Serve, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(download, "SLOW_BYTES", 1)  # every byte is progress
    monkeypatch.setattr(download, "TOTAL_S", 0.4)
    servers = [serve(then=web.drip), serve(then=web.drip)]
    began = time.monotonic()
    with pytest.raises(UserError, match=f"mirror {servers[0].url}: .*not done within 0 s\n"):
        sources.obtain(data_dir)
    assert time.monotonic() - began < 20
    assert servers[1].requests == []


def test_what_a_server_says_steers_no_terminal(
    data_dir: Path, serve: Serve, capsys: Capture
) -> None:
    def shout(h: web.Handler) -> None:
        h.send_response(404, "\x1b]0;owned\x07")
        h.end_headers()

    serve(then=shout)
    with pytest.raises(UserError):
        sources.obtain(data_dir)
    err = capsys.readouterr().err
    assert "owned" in err
    assert not set("\x1b\x07") & set(err)


def test_a_gzip_file_in_a_gzip_file_is_unpacked_once(
    data_dir: Path, tmp_path: Path, files: Files
) -> None:
    given = fill(tmp_path / "g", files)
    (given / LABELS).unlink()
    (given / f"{LABELS}.gz").write_bytes(gzip.compress(gzip.compress(files[LABELS])))
    with pytest.raises(UserError, match=f"{LABELS} damaged"):
        sources.obtain(data_dir, given)


def make_deb(path: Path, *members: tuple[str, bytes, bytes | str]) -> None:
    """Write a package of (name, type of member, content or target of a link)."""

    def pack(*entries: tuple[str, bytes, bytes | str]) -> bytes:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz", format=tarfile.GNU_FORMAT) as archive:
            for name, kind, what in entries:
                info = tarfile.TarInfo(name)
                info.type = kind
                if isinstance(what, str):
                    info.linkname, info.mode = what, 0o755
                    archive.addfile(info)
                else:
                    info.size = len(what)
                    archive.addfile(info, io.BytesIO(what))
        return packed.getvalue()

    about = b"Package: x\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: x\n"
    parts = {
        "debian-binary": b"2.0\n",
        "control.tar.gz": pack(("./control", tarfile.REGTYPE, about)),
        "data.tar.gz": pack(*members),
    }
    with path.open("wb") as file:
        file.write(b"!<arch>\n")
        for name, body in parts.items():
            head = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(body):<10}`\n"
            file.write(head.encode() + body + b"\n" * (len(body) % 2))


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: Patch) -> Path:
    """Let an apt-get hand out `x.deb`; dpkg-deb and tar are the system's."""
    if not Path("/usr/bin/dpkg-deb").exists():
        pytest.skip("needs dpkg-deb")
    programs = tmp_path / "programs"
    programs.mkdir()
    deb = tmp_path / "x.deb"
    program(programs / "apt-get", f'case "$*" in *download*) cp {deb} .;; esac')
    monkeypatch.setenv("PATH", f"{programs}:{SYSTEM_PATH}")
    return deb


def test_a_real_package_is_unpacked(apt: Path, data_dir: Path, files: Files) -> None:
    place = f"./{sources.PACKAGE_DIR}"
    make_deb(apt, *((f"{place}/{n}", tarfile.REGTYPE, body) for n, body in files.items()))
    assert sources.obtain(data_dir) == "apt package dataset-fashion-mnist"
    assert read(data_dir) == files


R, L, H, D = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE


@pytest.mark.parametrize(
    "members",
    [
        [("../precious/new", R, b"x"), ("./usr/../../precious/new", R, b"x")],
        [("{precious}/new", R, b"x")],
        [("./usr", L, "{precious}"), ("./usr/new", R, b"x")],
        [("./usr", D, ""), ("./usr/share", L, "../../precious"), ("./usr/share/new", R, b"x")],
        [("./hard", H, "{precious}/old"), ("./hard", R, b"spoilt")],
    ],
    ids=["dots", "absolute", "link", "link upwards", "hard link"],
)
def test_a_package_writes_nowhere_else(
    members: list[tuple[str, bytes, bytes | str]],
    apt: Path,
    tmp_path: Path,
    data_dir: Path,
    monkeypatch: Patch,
) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "old").write_text("old")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(package.tempfile, "tempdir", str(tmp_path))
    named = [
        (n.format(precious=precious), k, w.format(precious=precious) if isinstance(w, str) else w)
        for n, k, w in members
    ]
    make_deb(apt, *named)
    with pytest.raises(UserError, match="apt package dataset-fashion-mnist: "):
        sources.obtain(data_dir)
    assert {path.name: path.read_text() for path in precious.iterdir()} == {"old": "old"}


def test_a_package_of_links_to_other_files_gives_nothing(
    apt: Path, data_dir: Path, files: Files, raw: Path
) -> None:
    place = f"./{sources.PACKAGE_DIR}"
    make_deb(apt, *((f"{place}/{n}", L, "/dev/zero") for n in files))
    with pytest.raises(UserError, match=r"apt package .*: .*Not a regular file"):
        sources.obtain(data_dir)
    assert list(raw.iterdir()) == []


def test_a_package_that_unpacks_to_much_is_stopped(
    apt: Path, data_dir: Path, monkeypatch: Patch
) -> None:
    small_limit = package.UNPACK.replace("524288", "200")  # of 512 bytes
    assert small_limit != package.UNPACK
    monkeypatch.setattr(package, "UNPACK", small_limit)
    make_deb(apt, ("./zeros", R, bytes(5_000_000)))
    with pytest.raises(UserError, match=r"apt package dataset-fashion-mnist: sh: .+"):
        sources.obtain(data_dir)


def test_nothing_is_lost_where_the_new_file_is_no_better(
    raw: Path, data_dir: Path, files: Files, serve: Serve
) -> None:
    flip_byte(fill(raw, files) / LABELS)
    before = read(data_dir)
    serve(then=web.lie)
    with pytest.raises(UserError, match="no source gave them all"):
        sources.obtain(data_dir)
    assert read(data_dir) == before


def test_a_file_may_have_the_largest_size_and_no_more(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(content, "MAX_BYTES", 100)
    (tmp_path / "a").write_bytes(bytes(100))
    assert len(content.hash_file(tmp_path / "a")) == 64
    (tmp_path / "a").write_bytes(bytes(101))
    with pytest.raises(OSError, match="longer than 100 bytes"):
        content.hash_file(tmp_path / "a")

import gzip
import re
import resource
from pathlib import Path

import idx_server as web
import pytest
from idx_files import IMAGES, LABELS, Capture, Files, Patch, Serve, fill, flip_byte, read

from fmnist import sources
from fmnist.errors import UserError

pytest_plugins = ["idx_fixtures"]
pytestmark = pytest.mark.usefixtures("offline")


def test_right_data_folder_is_used_silently(
    data_dir: Path, raw: Path, files: Files, capsys: Capture
) -> None:
    fill(raw, files)
    assert sources.obtain(data_dir) == "data folder"
    sources.verify(raw)
    assert capsys.readouterr() == ("", "")
    assert read(data_dir) == files


@pytest.mark.parametrize("packed", [False, True])
def test_system_copy_is_used(
    packed: bool, data_dir: Path, system: Path, files: Files, capsys: Capture
) -> None:
    fill(system, files, packed=packed)
    assert sources.obtain(data_dir) == f"system copy {system}"
    assert read(data_dir) == files
    assert capsys.readouterr() == ("", f"Data: got 4 of 4 files from system copy {system}\n")


def test_default_system_copy_is_replaced_by_the_variable(
    data_dir: Path, system: Path, files: Files, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(sources, "SYSTEM_DIR", fill(system / "default", files))
    with pytest.raises(UserError, match=f"system copy {system}: none of the files is there"):
        sources.obtain(data_dir)
    monkeypatch.delenv("FMNIST_SYSTEM_DIR")
    assert sources.obtain(data_dir) == f"system copy {system}/default"


def test_gz_left_by_torchvision_is_unpacked(data_dir: Path, raw: Path, files: Files) -> None:
    fill(raw, files, packed=True)
    assert sources.obtain(data_dir) == "data folder"
    sources.verify(raw)


def test_damaged_raw_file_is_named_and_replaced(
    data_dir: Path, raw: Path, system: Path, files: Files
) -> None:
    flip_byte(fill(raw, files) / LABELS)
    fill(system, files)
    said: list[str] = []
    with pytest.raises(UserError, match=rf"{LABELS} damaged \(sha256 \w+\.\.\., expected \w+\.\."):
        sources.verify(raw)
    assert sources.obtain(data_dir, say=said.append) == f"system copy {system}"
    assert re.match(rf"Data: {LABELS} is damaged \(sha256 .*\); getting it again", said[0])
    assert said[1:] == [f"Data: got 1 of 4 files from system copy {system}"]
    assert read(data_dir) == files


def test_missing_file_is_named(raw: Path, files: Files) -> None:
    (fill(raw, files) / IMAGES).unlink()
    with pytest.raises(UserError, match=f"got '{raw}' with {IMAGES} missing. Delete"):
        sources.verify(raw)


def test_damaged_system_copy_is_not_used(
    data_dir: Path, system: Path, files: Files, serve: Serve
) -> None:
    flip_byte(fill(system, files, packed=True) / f"{IMAGES}.gz")
    server = serve()
    assert sources.obtain(data_dir) == f"system copy {system} and mirror {server.url}"
    assert [path for path, _ in server.requests] == [f"/{IMAGES}.gz"]
    assert read(data_dir) == files


def test_right_gz_beside_a_damaged_raw_file_is_used(
    data_dir: Path, system: Path, files: Files
) -> None:
    flip_byte(fill(system, files) / IMAGES)
    (system / f"{IMAGES}.gz").write_bytes(gzip.compress(files[IMAGES]))
    sources.obtain(data_dir)
    assert read(data_dir) == files


def test_data_hash_names_the_content(monkeypatch: Patch) -> None:
    before = sources.data_hash()
    monkeypatch.setattr(sources, "FILES", dict(reversed(sources.FILES.items())))
    assert sources.data_hash() == before
    monkeypatch.setitem(sources.FILES, LABELS, "0" * 64)
    assert sources.data_hash() != before


def test_given_folder_is_the_only_source(files: Files, nobody: Path) -> None:
    folder = fill(nobody / "given", files, packed=True)
    folder.chmod(0o555)
    assert sources.obtain(nobody / "data", folder) == f"folder {folder}"
    assert sources.obtain(nobody / "data", folder) == f"folder {folder}"
    assert read(nobody / "data") == files


def test_given_folder_with_faults_is_refused(
    data_dir: Path, raw: Path, tmp_path: Path, files: Files
) -> None:
    folder = fill(tmp_path / "given", files)
    fill(raw, files)
    flip_byte(folder / LABELS)
    (folder / IMAGES).unlink()
    match = rf"data.source must be .*given' \({IMAGES} missing; {LABELS} damaged .*\)\. Put them"
    with pytest.raises(UserError, match=match):
        sources.obtain(data_dir, folder)


def test_read_only_data_folder_is_enough_when_complete(nobody: Path, files: Files) -> None:
    raw = fill(nobody / "data/FashionMNIST/raw", files)
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


def test_unreadable_files_are_an_error(nobody: Path, files: Files) -> None:
    raw = fill(nobody / "data/FashionMNIST/raw", files)
    (raw / LABELS).chmod(0)
    with pytest.raises(
        UserError, match=rf"read, got '{raw}/{LABELS}' \(Permission denied\)\. Make"
    ):
        sources.obtain(nobody / "data")
    given = fill(nobody / "given", files)
    (given / LABELS).chmod(0)
    with pytest.raises(UserError, match=rf"{LABELS} unreadable \(Permission denied\)"):
        sources.obtain(nobody / "data", given)


def test_full_disk_is_an_error_and_leaves_nothing(
    data_dir: Path, raw: Path, system: Path, files: Files
) -> None:
    fill(system, files)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"with 90 MB free, got .*File too large"):
            sources.obtain(data_dir)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(raw.iterdir()) == []


def test_when_nothing_works_every_source_and_remedy_is_named(
    data_dir: Path, raw: Path, system: Path, files: Files, serve: Serve
) -> None:
    flip_byte(fill(raw, files) / LABELS)
    flip_byte(fill(system, files) / LABELS)
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
    assert set(sizes) == set(sources.FILES), label
    assert sizes["train-images-idx3-ubyte"] == 16 + 60_000 * 28 * 28

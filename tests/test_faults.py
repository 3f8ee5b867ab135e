"""Every change that a run makes on its disk, made to fail."""

import errno
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import faulty
import pytest
import small

from fmnist import proof, record, run, sources
from fmnist.errors import UserError
from fmnist.lock import Lock

CODES = (errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO)
WORDS = ["model=mlp", "optim=adam", "trainer=cpu", "trainer.max_epochs=2", "figures=curves"]
WORDS += ["data.batch_size=100", "data.val_size=100", "name=run"]
SHARES = 4


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What threads would print of errors that nobody caught."""
    found: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: found.append(repr(args.exc_value)))
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """The run that nothing happened to, and how many changes it makes."""
    place = tmp_path_factory.mktemp("faults")
    small.write_files(place / "small")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "FILES", small.checksums(place / "small"))
        patch.setenv("FMNIST_SYSTEM_DIR", str(place / "small"))
        patch.setenv("FMNIST_DATA", str(place / "data"))
        patch.chdir(place)
        with faulty.failing(faulty.Disk(place / "runs", first=10**9)) as disk:
            run.train(WORDS)
        yield place, disk.count


def failing_run(disk: faulty.Disk) -> bool:
    """Train on `disk`; returns whether it came to its end."""
    try:
        with faulty.failing(disk):
            run.train(WORDS)
    except UserError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("share", range(SHARES))
def test_whichever_change_fails_the_run_goes_on_to_the_same_weights(
    whole: tuple[Path, int],
    share: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    printed: list[str],
) -> None:
    place, num_changes = whole
    assert num_changes > 100
    num_failed = 0
    for first in range(share, num_changes + 10, SHARES):
        folder = tmp_path / str(first)
        folder.mkdir()
        monkeypatch.chdir(folder)
        code = CODES[first // SHARES % len(CODES)]
        disk = faulty.Disk(folder, first, code, once=first // 16 % 2 == 1)
        ended = failing_run(disk)
        num_failed += not ended
        at = f"change {first}, {errno.errorcode[code]}: {disk.failed[:1]}"
        assert printed == [], at
        assert not (folder / "runs" / "run" / "error.txt").exists(), at
        assert run.train(WORDS).status == "finished", at
        assert proof.differences(place / "runs" / "run", folder / "runs" / "run") == [], at
        assert list((folder / "runs").rglob(".*.tmp")) == [], at
        shutil.rmtree(folder)
    assert num_failed > 10


def test_a_first_record_that_cannot_be_written_leaves_a_folder_to_start_in(
    whole: tuple[Path, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "run"
    with (
        faulty.failing(faulty.Disk(folder / ".run", first=0)),
        pytest.raises(UserError, match=r"Cannot write runs/run/run.json \(No space left"),
    ):
        run.train(WORDS)
    assert {path.name for path in folder.iterdir()} <= {".lock"}
    assert record.decide(folder, {}, []) == "start"


def test_a_full_disk_under_the_events_is_one_line(
    whole: tuple[Path, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    printed: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with (
        faulty.failing(faulty.Disk(tmp_path / "runs" / "run" / "events", first=3)),
        pytest.raises(UserError, match=r"Cannot write in runs/run \(No space left on device\)"),
    ):
        run.train(WORDS)
    assert printed == []
    assert record.read(tmp_path / "runs" / "run").status == "failed"


def test_errors_of_other_threads_are_still_printed(printed: list[str]) -> None:
    from fmnist.callbacks import quiet_writers

    def fail() -> None:
        raise OSError(errno.ENOSPC, "full")

    with quiet_writers():
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
    assert printed == ["OSError(28, 'full')"]


def test_a_lock_that_the_disk_did_not_let_go_is_no_hindrance_to_its_process(
    tmp_path: Path,
) -> None:
    with faulty.failing(faulty.Disk(tmp_path, first=10**9)) as disk, Lock(tmp_path):
        disk.first, disk.code = 0, errno.EROFS
    assert (tmp_path / ".lock").exists()
    with Lock(tmp_path) as lock:
        lock.check()
    assert not (tmp_path / ".lock").exists()

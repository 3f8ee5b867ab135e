"""Files of a folder that somebody else made: what waits, never ends or is too large is refused."""

import hashlib
import json
import os
from pathlib import Path

import hostile
import pytest

from fmnist import lock, reading, record
from fmnist.compare import collection, histories
from fmnist.errors import UserError

pytestmark = pytest.mark.usefixtures("workdir")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("folder", "Is a directory"),
        ("pipe", "Not a regular file"),
        ("loop", "Too many levels of symbolic links"),
        ("zeros", "Not a regular file"),
        ("terabyte", "Larger than 8,388,608 bytes"),
        ("empty", "Expecting value"),
    ],
)
def test_what_is_no_file_of_ours_is_named_and_why(kind: str, reason: str) -> None:
    Path("a").mkdir()
    hostile.special_files()[kind](Path("a/run.json"))
    with pytest.raises(UserError, match=rf"^a/run\.json cannot be read \(.*{reason}"):
        record.read(Path("a"))


def test_a_file_without_a_size_is_read_no_further_than_the_limit() -> None:
    """Files of /proc say that they are empty."""
    path = Path("/proc/self/environ")
    assert reading.read_bytes(path) == path.read_bytes()
    with pytest.raises(OSError, match="Larger than 10 bytes"):
        reading.read_bytes(path, limit=10)


def test_nesting_is_bounded() -> None:
    deep: list[object] = []
    for _ in range(reading.MAX_DEPTH - 1):
        deep = [deep]
    reading.check_depth(deep)
    with pytest.raises(ValueError, match="nested too deeply"):
        reading.check_depth([deep])
    for depth in (100, 100_000):
        Path("run.json").write_text("[" * depth + "]" * depth)
        with pytest.raises(ValueError, match="nested too deeply"):
            reading.read_json(Path("run.json"))


def test_a_pipe_in_place_of_any_file_is_not_waited_for() -> None:
    folder = Path("a")
    folder.mkdir()
    for name in (".lock", "metrics.csv", "eval-test.json"):
        os.mkfifo(folder / name)
    assert not lock.is_held(folder)
    assert histories.read_history(folder) == []
    (folder / "run.json").write_text(json.dumps({"schema": 1}))
    runs, skipped = collection.read_runs([folder])
    assert runs == []
    assert "not a record of this version" in skipped[0]


def test_a_digest_is_of_the_whole_file_and_of_no_pipe() -> None:
    Path("a").write_bytes(b"abc" * 1_000_000)
    expected = hashlib.sha256(b"abc" * 1_000_000).hexdigest()
    assert reading.digest(Path("a")) == expected
    os.mkfifo("b")
    with pytest.raises(OSError, match="Not a regular file"):
        reading.digest(Path("b"))


def test_a_home_that_is_nobodys_is_a_users_mistake() -> None:
    assert reading.expanded("data.dir", "~/x") == Path.home() / "x"
    assert reading.expanded("data.dir", "a/~x") == Path("a/~x")
    for typed in ("~nobody_such/x", "~\0/x"):
        with pytest.raises(UserError, match="data.dir must be a path on this machine, got '~"):
            reading.expanded("data.dir", typed)

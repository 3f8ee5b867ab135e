"""Broken pictures and data files by the thousand; whatever is found becomes a test elsewhere."""

import gzip
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import mutations
import pytest
import small
from conftest import PROJECT
from fuzzing import Tally, counts, seed

from fmnist import content, sources
from fmnist.content import SourceError
from fmnist.errors import UserError

pytestmark = pytest.mark.fuzz
NUM_PICTURES, NUM_IDX, NUM_FOLDERS = 20_000, 20_000, 200
SHARE = 1_000  # pictures of one process
QUIET_S = 900  # without an answer and without work: it waits for something


class Worker:
    """A process that tries pictures `first` to `last`; goes on behind each that kills it."""

    def __init__(self, first: int, last: int, folder: Path) -> None:
        self.last, self.report = last, folder / f"{first}.txt"
        self.report.touch()
        self.start(first)

    def start(self, first: int) -> None:
        words = [str(first), str(self.last), str(seed()), str(self.report)]
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(PROJECT / "tests" / "picture_fuzzer.py"), *words],
            env={**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.DEVNULL,  # libtiff says there what it thinks of a file
        )
        self.changed = time.monotonic()
        self.size = 0

    def is_done(self) -> bool:
        """Look after the process: end one that hangs, go on after one that died."""
        if (size := self.report.stat().st_size) != self.size:
            self.size, self.changed = size, time.monotonic()
        if time.monotonic() - self.changed > QUIET_S:
            self.process.kill()
            self.process.wait()
        code = self.process.poll()
        if code is None or code == 0:
            return code == 0
        tried = self.report.read_text().splitlines()
        assert tried, f"the fuzzer itself ended with {code}"
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        with self.report.open("a") as lines:
            lines.write(f"killed by {name}\n")
        self.start(int(tried[-1].split()[0]) + 1)
        return False


def test_no_picture_crashes_the_program(tmp_path: Path) -> None:
    total = counts(NUM_PICTURES)
    with Tally("pictures") as tally:
        waiting = [(n, min(n + SHARE, total)) for n in range(0, total, SHARE)][::-1]
        working: list[Worker] = []
        reports: list[Path] = []
        while waiting or working:
            while waiting and len(working) < (os.cpu_count() or 1):
                working.append(Worker(*waiting.pop(), tmp_path))
                reports.append(working[-1].report)
            time.sleep(0.05)
            working = [worker for worker in working if not worker.is_done()]
        for line in (line for report in reports for line in report.read_text().splitlines()):
            number, what = line.split(maxsplit=1)
            tally.num_tried += 1
            tally.num_refused += what == "refused"
            if what not in ("refused", "read"):
                tally.crashes.append(f"picture {number} of seed {seed()}: {what}")
    assert tally.num_tried == total
    assert (
        total // 20 < tally.num_refused < total - total // 20
    )  # neither all good nor all nonsense


def idx_bodies() -> dict[str, bytes]:
    images, labels = small.make_images(4, seed())
    return {
        "train-images-idx3-ubyte": small.idx(images),
        "train-labels-idx1-ubyte": small.idx(labels),
    }


def mutate_idx(name: str, bodies: dict[str, bytes], rng: random.Random) -> bytes:
    """Return what stands in place of a file: raw or packed, broken before or after packing."""
    right = bodies[name]
    match rng.randrange(6):
        case 0:
            data = mutations.lie(right, rng, reach=16)
        case 1:
            data = rng.choice([other for key, other in bodies.items() if key != name])
        case 2:
            data = right[:8] + bytes(rng.randrange(10, 256) for _ in right[8:])
        case 3:
            data = right + rng.randbytes(rng.randrange(9))
        case _:
            data = mutations.damage(right, rng)
    if rng.random() < 0.5:
        return data
    packed = gzip.compress(data, 1, mtime=0)
    change = rng.choice((mutations.lie, mutations.damage, lambda data, _: data + data))
    return packed if rng.random() < 0.3 else change(packed, rng)


def unpacked(data: bytes) -> bytes | None:
    """Return what a file holds, by the other program that reads gzip; None where it is broken."""
    done = subprocess.run(["gzip", "-dc"], input=data, capture_output=True, check=False)
    return done.stdout if done.returncode == 0 else None


def test_no_idx_file_is_taken_for_another(tmp_path: Path) -> None:
    bodies = idx_bodies()
    digests = {name: hashlib.sha256(body).hexdigest() for name, body in bodies.items()}
    rng = random.Random(seed())
    with Tally("idx files") as tally:
        for number in range(counts(NUM_IDX)):
            name = rng.choice(list(bodies))
            path, target = tmp_path / f"{name}.gz", tmp_path / "installed"
            path.write_bytes(data := mutate_idx(name, bodies, rng))
            tally.num_tried += 1
            try:
                found, faults = content.search(tmp_path, {name: digests[name]})
                assert bool(found) is not bool(faults)
                content.install(path, target, digests[name])
                assert found
                assert target.read_bytes() == bodies[name]
                target.unlink()
            except SourceError:
                tally.num_refused += 1
                assert not found
                if number % 200 == 0 and data[:2] == b"\x1f\x8b":
                    assert unpacked(data) != bodies[name]
            except Exception as error:
                tally.crashes.append(f"{number} of seed {seed()}: {type(error).__name__} {error}")
            assert not target.exists()


def test_no_folder_of_idx_files_crashes_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small.write_files(tmp_path / "right")
    right = {path.name: path.read_bytes() for path in (tmp_path / "right").iterdir()}
    monkeypatch.setattr(sources, "FILES", small.checksums(tmp_path / "right"))
    rng = random.Random(seed())
    folder, data_dir = tmp_path / "given", tmp_path / "data"
    raw = data_dir / "FashionMNIST" / "raw"
    folder.mkdir()
    raw.mkdir(parents=True)
    with Tally("folders of idx files") as tally:
        for number in range(counts(NUM_FOLDERS)):
            for name, body in right.items():
                is_broken = rng.random() < 0.2
                (folder / name).write_bytes(mutate_idx(name, right, rng) if is_broken else body)
                if rng.random() < 0.2:
                    (raw / name).write_bytes(mutate_idx(name, right, rng))
            before = {path.name: path.read_bytes() for path in raw.iterdir()}
            tally.num_tried += 1
            try:
                sources.obtain(data_dir, folder, say=lambda _: None)
                assert {path.name: path.read_bytes() for path in raw.iterdir()} == right
            except UserError:
                tally.num_refused += 1
                assert {path.name: path.read_bytes() for path in raw.iterdir()} == before
            except Exception as error:
                tally.crashes.append(f"{number} of seed {seed()}: {type(error).__name__} {error}")
    assert 0 < tally.num_refused < tally.num_tried

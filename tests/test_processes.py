"""Several processes train one run, whoever started them, and end alike."""

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import PROJECT, Run

from fmnist import proof, record
from fmnist.lock import Lock

pytestmark = pytest.mark.slow

WORDS = [
    *("trainer.accelerator=cpu", "trainer.precision=32-true", "trainer.max_epochs=3"),
    *("data.batch_size=50", "data.val_size=101", "figures=none", "model=mlp"),
]
AUGMENTED = ["model=cnn", "optim=adam", "augment=strong"]
SIZES = {1: [], 2: ["trainer=ddp", "trainer.devices=2"], 3: ["trainer=ddp", "trainer.devices=3"]}
Ranks = Callable[..., tuple[list[int], list[str]]]


def some_job() -> str:
    """Return the number of a job that no other test has, on which marks and ports depend."""
    return str(uuid.uuid4().int)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that all of these runs are in."""
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def ranks(small_files: Path, place: Path) -> Iterator[Ranks]:
    """Train in several processes; returns their exit codes and what each said."""
    environment = {**os.environ, "FMNIST_DATA": str(place / "data"), "OMP_NUM_THREADS": "1"}
    environment |= {"PYTHONPATH": str(PROJECT), "COLUMNS": "100"}
    process = subprocess.Popen(
        [sys.executable, str(PROJECT / "tests" / "ranks.py"), str(small_files)],
        cwd=place,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def run(
        size: int,
        *words: str,
        kind: str = "torchrun",
        signals: dict[int, int] | None = None,
        job: str | None = None,
    ) -> tuple[list[int], list[str]]:
        every = sorted([*WORDS, *SIZES[size], *words], key=lambda word: word != "-m")
        task = [kind, size, every, signals or {}, job or some_job()]
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(task) + "\n")
        process.stdin.flush()
        codes, said = json.loads(process.stdout.readline())
        return codes, said

    yield run
    process.stdin.close()
    process.wait(60)
    process.stdout.close()


@pytest.fixture(scope="module")
def whole(ranks: Ranks, place: Path) -> Path:
    """The run of two processes that nothing interrupted."""
    codes, said = ranks(2, *AUGMENTED, "name=2")
    assert codes == [0, 0], said
    return place / "runs" / "2"


@pytest.mark.parametrize("size", [1, 3])
def test_any_number_of_processes_trains_alike(
    size: int, ranks: Ranks, place: Path, whole: Path
) -> None:
    """50 images a batch and 101 to validate on, which 2 and 3 processes share unevenly."""
    codes, said = ranks(size, *AUGMENTED, f"name={size}")
    assert codes == [0] * size, said
    other, two = record.read(place / "runs" / str(size)), record.read(whole)
    assert (other.data["num_processes"], two.data["num_processes"]) == (size, 2)
    assert other.scores == pytest.approx(two.scores, rel=1e-4)
    assert other.scores["val/acc"] * 101 == pytest.approx(round(other.scores["val/acc"] * 101))
    assert other.data["split_hash"] == two.data["split_hash"]


def test_the_log_tells_how_the_batch_is_shared(whole: Path) -> None:
    log = (whole / "train.log").read_text()
    assert "2 processes share each batch of 50 (data.batch_size): 25 images each" in log
    assert "The learning rate is as set" in log


def test_batch_normalisation_is_explained(ranks: Ranks, place: Path) -> None:
    codes, _ = ranks(2, "model=cnn_bn", "trainer.max_epochs=1", "name=bn")
    assert codes == [0, 0]
    log = (place / "runs" / "bn" / "train.log").read_text()
    assert "batch normalisation is over each process's share" in log


def test_a_finished_run_answers_once_and_all_end_well(ranks: Ranks, whole: Path) -> None:
    before = (whole / "run.json").read_bytes()
    codes, said = ranks(2, *AUGMENTED, "name=2")
    assert codes == [0, 0]
    assert ["Results:" in text for text in said] == [True, False]
    assert said[1] == ""
    assert (whole / "run.json").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["name=2", "optim.lr=0.5"], "runs/2 was made with another config"),
        (["name=no", "optim.lrr=1"], "Unknown key optim.lrr"),
        (["name=no", "trainer.devices=3"], r"2 on 1 node by torchrun, got 3 x 1. Set trainer=ddp"),
        (["name=no", "data.batch_size=1"], "data.batch_size must be at least .* 2, got 1"),
        (["name=no", "trainer.sync_batchnorm=true"], "trainer.sync_batchnorm=true needs GPUs"),
        (["name=no", "trainer.strategy=ddp_spawn"], "trainer.strategy must be one of separate"),
        (["-m", "name=no", "seed=0,1"], "-m must be one process"),
    ],
)
def test_a_refused_start_says_so_once_and_all_end_with_2(
    words: list[str], message: str, ranks: Ranks, whole: Path
) -> None:
    codes, said = ranks(2, *words)
    assert codes == [2, 2], said
    assert said[0].count("Error: ") == 1
    assert pytest.importorskip("re").search(message, said[0]), said[0]
    assert said[1] == ""
    assert not (whole.parent / "no").exists()


def test_a_busy_folder_ends_all(ranks: Ranks, place: Path) -> None:
    folder = place / "runs" / "busy"
    folder.mkdir(parents=True)
    with Lock(folder):
        codes, said = ranks(2, "name=busy")
    assert codes == [1, 1]
    assert f"in use by process {os.getpid()}" in said[0]
    assert said[1] == ""


@pytest.mark.kill
@pytest.mark.parametrize(
    ("rank", "signum", "codes", "status"),
    [
        (1, signal.SIGKILL, [1, -9], "interrupted"),
        (0, signal.SIGKILL, [-9, 1], "interrupted"),
        (1, signal.SIGTERM, [143, 143], "interrupted"),
        (0, signal.SIGTERM, [143, 143], "interrupted"),
        (0, signal.SIGINT, [130, 130], "interrupted"),
    ],
)
def test_the_end_of_one_is_the_end_of_all_and_the_run_goes_on(
    rank: int,
    signum: int,
    codes: list[int],
    status: str,
    ranks: Ranks,
    place: Path,
    whole: Path,
) -> None:
    name = f"{rank}-{signum}"
    ended, said = ranks(2, *AUGMENTED, f"name={name}", signals={rank: int(signum)})
    assert ended == codes, said
    run = record.read(place / "runs" / name)
    assert run.status == status
    if codes == [1, -9]:
        assert "Process 1 of 2 ended without a word" in run.data["error"]
    ended, said = ranks(2, *AUGMENTED, f"name={name}")
    assert ended == [0, 0], said
    assert proof.differences(whole, run.folder) == []


def test_srun_starts_one_run_that_a_requeued_job_finds(ranks: Ranks, place: Path) -> None:
    """The nodes' names do not resolve, which on one machine does not matter."""
    words, job = ["trainer.max_epochs=1"], some_job()
    codes, said = ranks(2, *words, kind="srun", job=job)
    assert codes == [0, 0], said
    (folder,) = (place / "runs").glob(f"slurm-{job}-*")
    codes, said = ranks(2, *words, kind="srun", job=job)  # another step or start
    assert codes == [0, 0]
    assert f"Results:     runs/{folder.name}" in said[0]
    codes, _ = ranks(2, *words, "seed=1", kind="srun", job=job)
    assert codes == [0, 0]
    assert len(list((place / "runs").glob(f"slurm-{job}-*"))) == 2


@pytest.mark.parametrize("size", [2, 3])
def test_torchrun(size: int, small_files: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={size}"]
    command += ["--standalone"]  # at a free port
    command += [str(PROJECT / "tests" / "small.py"), str(small_files)]
    done = subprocess.run(
        [*command, str(PROJECT / "scripts" / "train.py"), *WORDS, *SIZES[size], "name=a"],
        cwd=tmp_path,
        env={**os.environ, "FMNIST_DATA": str(tmp_path / "data"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Results:") == 1
    run = record.read(tmp_path / "runs" / "a")
    assert (run.status, run.data["num_processes"]) == ("finished", size)


def test_one_command_starts_its_own_processes(script: Run, tmp_path: Path) -> None:
    done = script("train.py", *WORDS, *SIZES[2], "name=a", timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Results:") == 1
    assert record.read(tmp_path / "runs" / "a").data["num_processes"] == 2

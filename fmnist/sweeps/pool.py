"""Several jobs of a sweep at a time, each in a worker process of its own."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, NamedTuple

from hydra.core.utils import JobReturn, JobStatus

from fmnist.errors import BusyError, UserError, raising
from fmnist.sweeps.jobs import Task
from fmnist.sweeps.launchers import JobLauncher

STOP_S = 60.0  # for the workers to come to a safe point after Ctrl-C
DIED = "died"
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


class Ended(NamedTuple):
    """What a worker says of a job: its value, or which kind of error with which words."""

    value: float | None = None
    kind: str = ""
    text: str = ""


class PoolLauncher(JobLauncher):
    """Keeps `workers` processes busy. Each loads torch and the data once and takes job after job.

    Processor threads and GPUs are divided among them. A worker that dies costs its own job; another
    one takes its place.
    """

    def __init__(self, workers: int | None, threads: int | None) -> None:
        gpus = _gpus()
        processors = num_processors()
        self.num_workers = workers or len(gpus) or max(processors // 2, min(processors, 2))
        self.threads = threads or max(processors // self.num_workers, 1)
        self.gpus = gpus

    def launch(
        self, job_overrides: Iterable[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run the jobs as workers get free; a Ctrl-C or SIGTERM ends them all and is raised."""
        ended: queue.Queue[tuple[int, Ended]] = queue.Queue()
        coming = enumerate(job_overrides)
        given: dict[int, Sequence[str]] = {}
        results: dict[int, Ended] = {}
        busy: dict[int, Worker] = {}  # job -> its worker
        free = [Worker(i, self._environment(i), ended) for i in range(self.num_workers)]
        with _stopping(free, busy):
            while True:
                while free and (job := next(coming, None)):
                    number, given[job[0]] = job
                    whole, cfg = self.compose(given[number], initial_job_idx + number)
                    print(f"[{number + 1}] {whole.hydra.sweep.subdir}", file=sys.stderr, flush=True)
                    busy[number] = free.pop()
                    busy[number].start(number, Task.read(cfg, whole.hydra))
                if not busy:
                    break
                number, results[number] = ended.get()
                if results[number].kind == DIED:
                    print(f"[{number + 1}] {results[number].text}", file=sys.stderr, flush=True)
                free.append(busy.pop(number))
        return [_result(given[number], results[number]) for number in sorted(given)]

    def _environment(self, index: int) -> dict[str, str]:
        """Return the variables of worker `index`: its share of the processors and its GPU."""
        environment = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(self.threads))}
        if self.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = self.gpus[index % len(self.gpus)]
        return environment


class Worker:
    """A process that carries out one task after the other; made again when it has died."""

    def __init__(
        self, index: int, environment: dict[str, str], ended: "queue.Queue[tuple[int, Ended]]"
    ) -> None:
        self.environment = environment
        self.ended = ended
        self.process: subprocess.Popen[str] | None = None

    def start(self, number: int, task: Task) -> None:
        """Begin a task; its end is put on the queue, with the job's number."""
        if self.process is None or self.process.poll() is not None:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "fmnist.sweeps.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,  # a terminal's Ctrl-C is ours to pass on
                env=self.environment | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
            threading.Thread(target=_pass_on, args=(self.process.stderr,), daemon=True).start()
        with contextlib.suppress(BrokenPipeError):  # died at its start: `_await` tells
            assert self.process.stdin is not None
            self.process.stdin.write(json.dumps([number + 1, *task]) + "\n")
            self.process.stdin.flush()
        threading.Thread(target=self._await, args=(number,), daemon=True).start()

    def _await(self, number: int) -> None:
        process = self.process
        assert process is not None
        assert process.stdout is not None
        line = process.stdout.readline()
        if line:
            self.ended.put((number, Ended(*json.loads(line))))
            return
        code = process.wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
        self.ended.put((number, Ended(kind=DIED, text=f"Its process {how}.")))

    def stop(self) -> None:
        """Ask the process to come to a safe point and end."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def join(self) -> None:
        """Let the process end, after what it is at; kill it when it takes too long."""
        if self.process is None:
            return
        with contextlib.suppress(OSError):
            assert self.process.stdin is not None
            self.process.stdin.close()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def _stopping(free: list[Worker], busy: dict[int, Worker]) -> Iterator[None]:
    """End all workers with the block; a signal stops them at a safe point and is raised."""
    signals = (signal.SIGINT, signal.SIGTERM)
    with raising(*signals):
        try:
            yield
        except BaseException:
            for signum in signals:
                signal.signal(signum, signal.SIG_IGN)  # one is enough
            for worker in busy.values():
                worker.stop()
            raise
        finally:
            for worker in [*free, *busy.values()]:
                worker.join()


def _pass_on(stream: IO[str] | None) -> None:
    """Copy what a worker says to our own stderr, a line at a time."""
    assert stream is not None
    for line in stream:
        sys.stderr.write(line)
        sys.stderr.flush()


def _result(overrides: Sequence[str], ended: Ended) -> JobReturn:
    if not ended.kind:
        return JobReturn(overrides, status=JobStatus.COMPLETED, _return_value=ended.value)
    error = BusyError(ended.text) if ended.kind == BusyError.__name__ else UserError(ended.text)
    return JobReturn(overrides, status=JobStatus.FAILED, _return_value=error)


def num_processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gpus() -> list[str]:
    """Return the GPUs this process may use, as CUDA_VISIBLE_DEVICES names them; no torch needed."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name for name in visible.split(",") if name.strip() not in ("", "-1")]
    words = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        listed = subprocess.run(words, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return []
    return listed.stdout.split()

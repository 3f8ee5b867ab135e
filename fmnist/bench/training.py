"""Measures of all contestants: epochs, start-up, whole processes, evaluation, time to 90 %."""

import sys
from pathlib import Path

from fmnist.bench import process
from fmnist.bench.contestants import NAME, SAME_RECIPE, Task, last_line, read_report, read_run
from fmnist.bench.process import ContestantError
from fmnist.bench.results import Sample
from fmnist.bench.rounds import Bench

ENOUGH = 0.90  # test accuracy
MAX_EPOCHS = 20  # for it
IMPORTS = "import torch, pytorch_lightning"


def measure_matmul(bench: Bench) -> None:
    command = [sys.executable, "-m", "fmnist.bench.machine", "--rates"]
    command += ["--device", bench.settings.device]

    def rates(place: Path) -> Sample:
        told = last_line(process.run(command, place, bench.contestants.environment()))
        return {**told["rates"], "sizes": told["sizes"], "tried": told["tried"]}

    bench.play("matmul", "matmul", {"machine": rates}, shown="float32")


def measure_epoch(bench: Bench) -> None:
    for size in bench.settings.batch_sizes:
        task = Task(epochs=2 if bench.settings.quick else bench.settings.epochs, batch_size=size)
        bench.play_contestants("epoch", task, case=f"epoch-{size}", shown="epoch_s")


def measure_process(bench: Bench) -> None:
    bench.play_contestants("process", Task(epochs=2 if bench.settings.quick else 10))


def measure_startup(bench: Bench) -> None:
    """Time the way to the first training step, against the imports that nobody gets around."""

    def ours(place: Path) -> Sample:
        words = ["trainer.max_epochs=1", *SAME_RECIPE, "test=false"]
        done = bench.contestants.ours(words, place, max_batches=2, watched=True)
        moments = last_line(done)
        if len(moments) != 2:
            raise ContestantError("fmnist.data.Batches drew no batch")
        return {f"{name}_s": at - done.began for name, at in moments.items()}

    def imports(place: Path) -> Sample:
        code = f"{IMPORTS}, time; print('{{\"first_batch\": %r}}' % time.monotonic())"
        command = [sys.executable, "-c", code]
        return read_report(process.run(command, place, bench.contestants.environment()))

    bench.play_contestants(
        "startup",
        Task(epochs=1, num_workers=0, max_batches=2),
        shown="first_batch_s",
        others={"ours": ours, "imports": imports},
    )


def measure_eval(bench: Bench) -> None:
    """Time the evaluation of the test set: ours by the model of a run, peers as they validate."""
    evals, device = 1 if bench.settings.quick else 3, bench.settings.device

    def ours(place: Path) -> Sample:
        words = ["trainer.max_epochs=1", *SAME_RECIPE, "test=false"]
        bench.contestants.ours(words, place, max_batches=2)
        command = [sys.executable, "-m", "fmnist.bench.ours", f"runs/{NAME}"]
        command += [f"--data={bench.settings.data_dir}", f"--device={device}", f"--evals={evals}"]
        return read_report(process.run(command, place, bench.contestants.environment()))

    bench.play_contestants("eval", Task(evals=evals), shown="eval_rate", others={"ours": ours})


def measure_accuracy(bench: Bench) -> None:
    """Time the whole process until the test accuracy is ENOUGH.

    Ours is the default recipe with the fewest epochs that reach it, as its schedule needs to know
    their number; peers look at the test set after each epoch and stop.
    """
    enough = 0.0 if bench.settings.quick else ENOUGH
    num_epochs = 1

    def ours(place: Path) -> Sample:
        nonlocal num_epochs
        while num_epochs <= MAX_EPOCHS:
            part = place / str(num_epochs)
            part.mkdir()
            done = bench.contestants.ours([f"trainer.max_epochs={num_epochs}"], part)
            sample = read_run(done, part)
            if sample["test_acc"] >= enough:
                return sample
            bench.say(f"accuracy, ours: {sample['test_acc']:.2%} after {num_epochs} epochs")
            num_epochs += 1
        raise ContestantError(f"below {enough:.0%} after {MAX_EPOCHS} epochs")

    task = Task(epochs=MAX_EPOCHS, until=enough)
    bench.play_contestants("accuracy", task, others={"ours": ours})

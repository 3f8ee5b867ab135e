"""Measures of ours alone: answers, sweeps, growth."""

import csv
import json
import sys
from pathlib import Path

from fmnist.bench import process
from fmnist.bench.contestants import NAME, SAME_RECIPE, read_run
from fmnist.bench.results import Sample
from fmnist.bench.rounds import Bench, Play

NUM_COMPARED = 1000
JOBS = (2, 10, 50)  # of the sweeps; a further job costs what the last has more than the first
QUICK_JOBS = (2, 3, 4)
BATCH_SIZES = (64, 256, 1024, 4096)
REPEATS = (1, 10)
GROWTH_BATCH_SIZE = 512  # for different numbers of images


def measure_answers(bench: Bench) -> None:
    """Time what has to answer at once: each a process of its own, with the exit code it owes."""
    finished, many = bench.folder / "finished", bench.folder / "many"
    finished.mkdir()
    words = ["trainer=smoke", "test=false", f"name={NAME}", *_own_split(bench)]
    bench.contestants.script("train.py", words, finished)
    copy_runs(finished / "runs" / NAME, many / "runs", NUM_COMPARED)

    def play(script: str, words: list[str], folder: Path, expected: int = 0) -> Play:
        def act(_: Path) -> Sample:
            done = bench.contestants.script(script, words, folder, expected=expected)
            return {"wall_s": done.wall_s, "memory_mb": done.memory_mb}

        return act

    plays = {
        "--help": play("train.py", ["--help"], bench.folder),
        "a typo": play("train.py", ["trainer.max_epoch=3"], bench.folder, expected=2),
        "a finished run": play("train.py", words, finished),
        f"compare {NUM_COMPARED:,} runs": play("compare.py", ["runs"], many),
    }
    bench.play("answers", "answers", plays)


def copy_runs(run: Path, to: Path, count: int) -> None:
    """Write `count` records like that of `run`: 200 learning rates with several seeds each."""
    record = json.loads((run / "run.json").read_text("utf-8"))
    for i in range(count):
        lr, name = round(1e-4 * (1 + i % 200), 6), f"r{i:04}"
        record["seed"] = record["config"]["seed"] = i // 200
        record["config"]["optim"]["lr"] = lr
        record["config"]["name"] = name
        record["overrides"] = [f"optim.lr={lr}", f"seed={i // 200}", f"name={name}"]
        record["scores"]["val/acc"] = 0.9 + (i * 37 % 100) / 5000
        record["partial"] = False
        (to / name).mkdir(parents=True)
        (to / name / "run.json").write_text(json.dumps(record, indent=2), "utf-8")


def measure_sweep(bench: Bench) -> None:
    """Time sweeps of several lengths over smoke jobs, and the training within them."""

    def play(num_jobs: int) -> Play:
        def act(place: Path) -> Sample:
            words = ["-m", f"seed=range({num_jobs})", "trainer=smoke", "figures=none"]
            words += [f"name={NAME}", *_own_split(bench)]
            done = bench.contestants.script("train.py", words, place)
            return {
                "wall_s": done.wall_s,
                "memory_mb": done.memory_mb,
                "train_s": sum(map(_train_s, (place / "sweeps" / NAME).glob("*/metrics.csv"))),
                "num_jobs": num_jobs,
            }

        return act

    jobs = QUICK_JOBS if bench.settings.quick else JOBS
    bench.play("sweep", "sweep", {f"{count} jobs": play(count) for count in jobs})


def _train_s(path: Path) -> float:
    with path.open(encoding="utf-8") as file:
        return sum(float(row["epoch_s"]) for row in csv.DictReader(file))


def measure_growth(bench: Bench) -> None:
    """Time epochs of ours by batch size, and by the number of images: the same ones repeated."""

    def play(batch_size: int, times: int) -> Play:
        def act(place: Path) -> Sample:
            data_dir = None if times == 1 else repeated(times)
            words = ["trainer.max_epochs=2", f"data.batch_size={batch_size}", *SAME_RECIPE]
            if times > 1:
                words.append(f"data.val_size={bench.settings.val_size * times}")
            done = bench.contestants.ours([*words, "test=false"], place, data_dir=data_dir)
            return read_run(done, place)

        return act

    def repeated(times: int) -> Path:
        to = bench.folder / f"data-{times}"
        if not to.exists():
            source = f"--data={bench.settings.data_dir}"
            words = ["-m", "fmnist.bench.prepare", source, f"--repeat={times}", f"--to={to}"]
            process.run([sys.executable, *words], bench.folder, bench.contestants.environment())
        return to

    sizes = BATCH_SIZES[:2] if bench.settings.quick else BATCH_SIZES
    repeats = (1, 2) if bench.settings.quick else REPEATS
    plays = {f"batch {size}": play(size, 1) for size in sizes}
    plays |= {
        f"images x{times}, batch {GROWTH_BATCH_SIZE}": play(GROWTH_BATCH_SIZE, times)
        for times in repeats
    }
    bench.play("growth", "growth", plays, shown="epoch_s")


def _own_split(bench: Bench) -> list[str]:
    settings = bench.settings
    return [f"data.val_size={settings.val_size}"] if settings.own_data else []

"""Results as tables: one for each case."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from fmnist.bench.derived import best_rate, floor_ratio, floor_s, flops_per_image, job_costs
from fmnist.bench.results import Results, Spread
from fmnist.bench.settings import CONTESTANTS

ABSENT = "-"
QUICK = " - QUICK, a few batches: it runs; the numbers mean nothing"


@dataclass
class Table:
    """Lines of text for people; the first column is a name, the others are numbers."""

    title: str
    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Column(NamedTuple):
    """A value of every contestant; `is_ratio`: that of ours divided by it, round by round."""

    title: str
    value: str
    form: Callable[[float], str]
    is_ratio: bool = False
    to: str = "ours"


def build_tables(results: Results) -> list[Table]:
    """Return a table for every case, in the order in which they were measured."""
    made = []
    for case in results.cases:
        kind, _, size = case.partition("-")
        made.append(_case_table(results, case, TITLES[kind].format(size), COLUMNS[kind]))
        made[-1].notes += NOTES.get(kind, [])
        if kind == "epoch":
            made[-1].notes += _floor_notes(results, case)
        if kind == "sweep":
            made[-1].notes += _sweep_notes(results)
    if results.header.get("quick"):
        for table in made:
            table.title += QUICK
    return made


def _case_table(results: Results, case: str, title: str, columns: Iterable[Column]) -> Table:
    found = results.cases[case]
    columns = [c for c in columns if _is_known(results, case, c)]
    num_rounds = max(len(series.samples) for series in found.values())
    rounds = f"{num_rounds} round" + "s" * (num_rounds != 1)
    table = Table(f"{title} ({rounds})", ["", *(column.title for column in columns)])
    for name, series in found.items():
        cells = [_cell(results, case, name, column) for column in columns]
        table.rows.append([name, *cells])
        remarks = [CONTESTANTS.get(name, ""), *_facts(results, case, name), series.note]
        if series.error:
            remarks.append(f"FAILED: {series.error}")
        if told := ", ".join(filter(None, remarks)):
            table.notes.append(f"{name}: {told}")
    sizes = {
        s["num_parameters"] for f in found.values() for s in f.samples if "num_parameters" in s
    }
    if sizes:
        table.notes.append("parameters: " + ", ".join(f"{size:,}" for size in sorted(sizes)))
    return table


def _is_known(results: Results, case: str, column: Column) -> bool:
    return any(_cell(results, case, name, column) != ABSENT for name in results.cases[case])


def _cell(results: Results, case: str, name: str, column: Column) -> str:
    if column.is_ratio:
        is_self = name == column.to
        found = None if is_self else results.ratio(case, column.to, name, column.value)
    else:
        found = results.spread(case, name, column.value)
    return ABSENT if found is None else show(found, column.form)


def show(spread: Spread, form: Callable[[float], str]) -> str:
    """Return `median (lowest-highest)`, or the one value there is."""
    median, low, high = (form(x) for x in spread[:3])
    return median if low == high else f"{median} ({low}-{high})"


def _facts(results: Results, case: str, name: str) -> list[str]:
    """Return what the first sample says of a contestant beside numbers."""
    samples = results.series(case, name).samples
    if not samples:
        return []
    first = samples[0]
    facts = [f"{k} {v}" for k, v in first.get("versions", {}).items()]
    if first.get("precision"):
        facts.append(str(first["precision"]))
    if "sizes" in first:
        facts.append(", ".join(f"{k} best at {v} x {v}" for k, v in first["sizes"].items()))
        facts.append("tried " + ", ".join(map(str, first["tried"])))
    return facts


def _floor_notes(results: Results, case: str) -> list[str]:
    rate = best_rate(results)
    counts = [results.spread(case, name, "num_images") for name in results.cases[case]]
    images = next((count.median for count in counts if count), None)
    if not rate or not images:
        return []
    ratios = {name: floor_ratio(results, case, name) for name in results.cases[case]}
    told = ", ".join(f"{name} {r.median:.1f}" for name, r in ratios.items() if r)
    work = images * flops_per_image() / 1e12
    least = floor_s(images, rate)
    return [
        f"floor: {images:,.0f} images are {work:.3f} TFLOP, at {rate:.2f} TFLOP/s {least:.2f} s",
        f"epoch / floor: {told}",
    ]


def _sweep_notes(results: Results) -> list[str]:
    costs = job_costs(results)
    told = ", ".join(f"{jobs} jobs {cost:.3f} s" for jobs, cost in costs.items())
    return [f"one more job beyond its training, from sweeps of: {told}"] if costs else []


def _seconds(value: float) -> str:
    return f"{value:.3g}" if value < 0.1 else f"{value:.2f}"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _ratio(value: float) -> str:
    return f"{value:.2f}"


def _percent(value: float) -> str:
    return f"{value:.1%}"


_WALL = Column("whole process, s", "wall_s", _seconds)
_WALL_RATIO = Column("ours / it", "wall_s", _ratio, is_ratio=True)
_MEMORY = Column("peak memory, MB", "memory_mb", _count)
_EPOCH = (
    Column("epoch, s", "epoch_s", _seconds),
    Column("ours / it", "epoch_s", _ratio, is_ratio=True),
    Column("first epoch, s", "first_epoch_s", _seconds),
    Column("images/s", "images_per_s", _count),
    _MEMORY,
    Column("val acc", "val_acc", _percent),
)
COLUMNS = {
    "matmul": (
        Column("float32, TFLOP/s", "float32", _ratio),
        Column("bfloat16, TFLOP/s", "bfloat16", _ratio),
    ),
    "workers": (Column("epoch, s", "epoch_s", _seconds),),
    "epoch": _EPOCH,
    "startup": (
        Column("first step begins, s", "first_batch_s", _seconds),
        Column("ours / it", "first_batch_s", _ratio, is_ratio=True),
        Column("first step done, s", "first_step_s", _seconds),
    ),
    "process": (
        _WALL,
        _WALL_RATIO,
        Column("its epochs, s", "loop_s", _seconds),
        _MEMORY,
        Column("val acc", "val_acc", _percent),
    ),
    "eval": (
        Column("images/s", "eval_rate", _count),
        Column("time: ours / it", "eval_image_s", _ratio, is_ratio=True),
        Column("test acc", "test_acc", _percent),
    ),
    "accuracy": (
        _WALL,
        _WALL_RATIO,
        Column("epochs", "num_epochs", _count),
        Column("test acc", "test_acc", _percent),
    ),
    "answers": (Column("s", "wall_s", _seconds), _MEMORY),
    "sweep": (_WALL, Column("of it training, s", "train_s", _seconds), _MEMORY),
    "growth": (
        Column("epoch, s", "epoch_s", _seconds),
        Column("images/s", "images_per_s", _count),
        _MEMORY,
    ),
    "recipe": (
        Column("its epochs, s", "loop_s", _seconds),
        _WALL,
        Column("test acc", "test_acc", _percent),
    ),
    "busy": (
        Column("GPU busy", "busy", _percent),
        Column("samples", "num_samples", _count),
        Column("epoch, s", "epoch_s", _seconds),
    ),
}
TITLES = {
    "matmul": "Matrix-multiply rate",
    "workers": "DataLoader workers tried, batch {}",
    "epoch": "Epoch, batch {}",
    "startup": "Process start to the first training step",
    "process": "Whole process, batch 64",
    "eval": "Evaluation of the test set, batch 64 (ours and hand: 1000)",
    "accuracy": "Time to 90 % test accuracy, batch 64",
    "answers": "Answers",
    "sweep": "Sweep over smoke jobs",
    "growth": "Growth of ours",
    "recipe": "10 epochs of the default recipe, batch 512",
    "busy": "GPU busy while training, batch 512",
}
NOTES = {
    "epoch": [
        "an epoch is whole: training, validation, checkpoint, log; the first is not counted in",
        "peak memory: the largest process; DataLoader workers come on top",
    ],
    "startup": ["imports: import torch, pytorch_lightning in a fresh process"],
    "accuracy": [
        "ours: the default recipe with the fewest epochs that reach it, figures and all; the "
        "others look at the test set after each epoch, at a constant rate of 1e-3"
    ],
}

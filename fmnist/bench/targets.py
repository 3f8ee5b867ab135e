"""What is to be reached, and whether it was: docs/performance.md has the reasons."""

from collections.abc import Callable
from typing import NamedTuple

from fmnist.bench.derived import floor_ratio, job_costs
from fmnist.bench.framework import NUM_COMPARED
from fmnist.bench.results import Results
from fmnist.bench.tables import ABSENT, QUICK, Table


class Target(NamedTuple):
    """`read` returns the measured value, None where it is not among the results."""

    what: str
    limit: float
    read: Callable[[Results], float | None]
    measure: str
    unit: str = ""
    at_least: bool = False
    device: str = "cpu"

    @property
    def command(self) -> str:
        device = " --device cuda" if self.device == "cuda" else ""
        return f"python scripts/bench.py{device} --measure {self.measure}"


def ratio(case: str, other: str, value: str) -> Callable[[Results], float | None]:
    def read(results: Results) -> float | None:
        found = results.ratio(case, "ours", other, value)
        return found.median if found else None

    return read


def median(case: str, name: str, value: str) -> Callable[[Results], float | None]:
    def read(results: Results) -> float | None:
        found = results.spread(case, name, value)
        return found.median if found else None

    return read


def per_floor(results: Results) -> float | None:
    found = floor_ratio(results, "epoch-64")
    return found.median if found else None


def job_cost_s(results: Results) -> float | None:
    """Return the seconds that one more job of a sweep costs beyond its training."""
    costs = list(job_costs(results).values())
    return costs[-1] if costs else None


TARGETS = (
    Target(
        "epoch, batch 64: ours / plain PyTorch",
        0.30,
        ratio("epoch-64", "pytorch", "epoch_s"),
        "epoch",
    ),
    Target("epoch, batch 64: ours / Keras", 0.40, ratio("epoch-64", "keras", "epoch_s"), "epoch"),
    Target(
        "epoch, batch 64: ours / ordinary Lightning",
        0.28,
        ratio("epoch-64", "lightning", "epoch_s"),
        "epoch",
    ),
    Target(
        "epoch, batch 64: ours / hand-written loop",
        1.10,
        ratio("epoch-64", "hand", "epoch_s"),
        "epoch",
    ),
    Target("epoch, batch 64 / floor: first aim", 3.0, per_floor, "matmul,epoch"),
    Target("epoch, batch 64 / floor: second aim", 2.0, per_floor, "matmul,epoch"),
    Target("--help", 0.6, median("answers", "--help", "wall_s"), "answers", " s"),
    Target("a typo", 0.6, median("answers", "a typo", "wall_s"), "answers", " s"),
    Target("a finished run", 0.6, median("answers", "a finished run", "wall_s"), "answers", " s"),
    Target(
        f"compare on {NUM_COMPARED:,} runs",
        0.6,
        median("answers", f"compare {NUM_COMPARED:,} runs", "wall_s"),
        "answers",
        " s",
    ),
    Target(
        "start to first step / imports",
        1.3,
        ratio("startup", "imports", "first_batch_s"),
        "startup",
    ),
    Target("one more sweep job beyond its training", 0.15, job_cost_s, "sweep", " s"),
    Target(
        "10 epochs of the recipe, batch 512: loop",
        2.0,
        median("recipe", "ours", "loop_s"),
        "recipe",
        " s",
        device="cuda",
    ),
    Target(
        "10 epochs of the recipe, batch 512: process",
        12.0,
        median("recipe", "ours", "wall_s"),
        "recipe",
        " s",
        device="cuda",
    ),
    Target(
        "GPU, batch 512: ours / CUDA-graph loop",
        1.3,
        ratio("epoch-512", "hand", "epoch_s"),
        "epoch",
        device="cuda",
    ),
    Target(
        "GPU busy while training",
        0.80,
        median("busy", "ours", "busy"),
        "busy",
        at_least=True,
        device="cuda",
    ),
)


def build_table(results: Results) -> Table:
    """Return the table of the targets; the notes say how to fill in what was not measured."""
    is_quick = results.header.get("quick")
    table = Table("Targets" + QUICK * bool(is_quick), ["", "measured", "target", ""])
    missing: dict[str, list[str]] = {}
    for target in TARGETS:
        is_here = results.header.get("device") == target.device
        value = target.read(results) if is_here else None
        sign = "\N{GREATER-THAN OR EQUAL TO}" if target.at_least else "\N{LESS-THAN OR EQUAL TO}"
        limit = f"{sign} {target.limit:.2f}{target.unit}"
        if value is None:
            table.rows.append([target.what, ABSENT, limit, "not measured here"])
            missing.setdefault(target.command, []).append(target.what)
        else:
            is_met = value >= target.limit if target.at_least else value <= target.limit
            verdict = "quick" if is_quick else "met" if is_met else "MISSED"
            table.rows.append([target.what, f"{value:.2f}{target.unit}", limit, verdict])
    for command, whats in missing.items():
        table.notes.append(f"{'; '.join(whats)}: measured by `{command}`")
    return table

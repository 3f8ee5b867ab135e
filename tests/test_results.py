"""The recorded experiments: what may be recorded, and that all shown comes from one file."""

import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from run_folders import COMMIT, usual_record, write_history
from scipy import stats

from fmnist import evaluation, origin, process
from fmnist.command import Command, read_command
from fmnist.errors import UsageError, UserError
from fmnist.messages import CONF_DIR
from fmnist.results import (
    ablation,
    claims,
    collect,
    headers,
    page,
    plan,
    render,
    rerun,
    store,
    update,
    words,
)
from fmnist.results.store import Ablation, Entry, Results, SeedRun
from fmnist.sweeps.plan import Job

BODY = "defaults:\n  - override /model: mlp  # why\r\n\n# not the header\noptim:\n  lr: 0.001"
ACCURACIES = (0.91, 0.93, 0.92)


def make_entry(name: str = "mlp", accs: tuple[float, ...] = ACCURACIES, **changes: Any) -> Entry:
    runs = [
        SeedRun(
            seed=seed,
            val_acc=min(acc + 0.01, 1.0),
            test_acc=acc,
            train_acc=min(acc + 0.05, 1.0),
            last_val_acc=acc + 0.004,
            best_epoch=8,
            epochs=10,
            duration_s=40.0 + seed,
            train_s=38.0 + seed,
        )
        for seed, acc in enumerate(accs)
    ]
    facts: dict[str, Any] = {
        "command": plan.command_line(name),
        "commit": COMMIT,
        "date": "2026-11-23",
        "device": "cpu",
        "cpu": "AMD EPYC",
        "num_threads": 2,
        "precision": "bf16-mixed",
        "selected_on": "val",
        "num_parameters": 247_766,
        "runs": runs,
    }
    return Entry(**facts | changes)


def make_ablation(**cases: tuple[float, ...]) -> Ablation:
    facts = make_entry(plan.ABLATION).model_dump(include=set(store.Origin.model_fields))
    values = {name: dict(enumerate(accs)) for name, accs in cases.items()}
    return Ablation(**facts, whole="whole", cases=values)


def make_results(**entries: Entry) -> Results:
    return Results(schema=1, experiments=entries)


# What is committed


def test_every_header_and_the_page_are_what_the_results_render_to() -> None:
    for path, text in render.texts(store.read()).items():
        assert path.read_bytes().decode() == text, f"{path}: run make results ARGS=--render"


@pytest.mark.parametrize("name", plan.experiments())
def test_every_experiment_has_a_row_and_is_a_repetition(name: str) -> None:
    text = (CONF_DIR.parent / "docs" / "results.md").read_text("utf-8")
    assert text.count(f"| [{name}](../conf/experiment/{name}.yaml) |") == 2
    assert (CONF_DIR / "experiment" / f"{name}.yaml").read_text().count(headers.TITLE) == 1
    command = plan.read(name)
    assert command.varied == ["seed"]


def test_what_is_committed_is_as_it_would_be_written() -> None:
    assert store.PATH.read_text("utf-8") == store.read().text()


@pytest.mark.slow
def test_ablation_has_five_seeds_and_one_case_that_changes_nothing() -> None:
    command = plan.read(plan.ABLATION)
    assert len(command.axes["seed"].values) >= 5
    assert [name for name, case in command.cases.items() if not case] == ["whole"]
    jobs, cases = plan.jobs(command), plan.cases(command)
    for job, case in zip(jobs, cases, strict=True):
        assert job.words[:-1] == command.cases[case]
        assert job.config["test"] is False


def test_what_is_recorded_was_made_with_the_recipes_of_today() -> None:
    results = store.read()
    assert all(entry.recipe for entry in results.experiments.values())
    assert plan.older(results, plan.experiments()) == set()


# Recipes


@pytest.mark.slow
def test_the_hash_of_a_recipe_counts_what_is_trained_and_nothing_else() -> None:
    def recipe(*words: str) -> str:
        return plan.recipe(read_command(["seed=0,1", *words]))

    assert recipe() == recipe("name=other") == recipe("trainer=cpu") == recipe("optim.lr=5e-3")
    assert recipe("optim.lr=1") == recipe("optim.lr=1.0")
    more = [recipe(w) for w in ("optim.lr=1e-3", "model=mlp", "select=last", "data.batch_size=32")]
    assert len({recipe(), *more}) == 5
    assert plan.recipe(read_command(["seed=3,4,5"])) == recipe()


def test_a_result_of_another_recipe_is_shown_as_such() -> None:
    today = plan.recipe(plan.read("mlp"))
    results = make_results(
        mlp=make_entry(recipe=today), notebook=make_entry(recipe="0" * 16), cnn=make_entry("cnn")
    )
    names = ["mlp", "notebook", "cnn", "resnet18"]
    older = plan.older(results, names)
    assert older == {"notebook", "cnn"}
    text = page.render(results, names, older)
    shown = [name for name in names if f"{name}.yaml), of an older recipe |" in text]
    assert shown == ["notebook", "cnn"]
    assert "of an older recipe" in " ".join(headers.render("x", make_entry(), is_older=True))
    assert "of an older recipe" not in " ".join(headers.render("x", make_entry()))


# The data file


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    results = make_results(mlp=make_entry(), wide_resnet=make_entry(device="H100", cpu=None))
    results = results.replaced({}, make_ablation(whole=(0.9, 0.91), no_flips=(0.8, 0.82)))
    store.write(results, tmp_path / "results.json")
    assert store.read(tmp_path / "results.json") == results
    lines = (tmp_path / "results.json").read_text().splitlines()
    assert sum('"seed":' in line and '"test_acc":' in line for line in lines) == 6


def test_what_is_not_run_keeps_its_result() -> None:
    old = make_results(cnn=make_entry("cnn"), mlp=make_entry())
    old = old.replaced({}, make_ablation(whole=(0.9, 0.91)))
    new = old.replaced({"mlp": make_entry(accs=(0.5,))}, None)
    assert (new.experiments["cnn"], new.ablation) == (old.experiments["cnn"], old.ablation)
    assert len(new.experiments["mlp"].runs) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"partial": True}, "damaged at experiments.mlp.partial"),
        ({"commit": "abc"}, "damaged at experiments.mlp.commit"),
        ({"runs": []}, "damaged at experiments.mlp.runs"),
        ({"mood": "good"}, "damaged at experiments.mlp.mood"),
    ],
)
def test_damaged_data_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    data = json.loads(make_results(mlp=make_entry()).text())
    data["experiments"]["mlp"] |= change
    path = tmp_path / "results.json"
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match=message):
        store.read(path)


# Headers


def test_header_keeps_every_other_byte_and_writing_it_twice_changes_nothing() -> None:
    block = headers.render("mlp", make_entry())
    for head in ("# @package _global_\n", "# @package _global_\n# What it is.\n#\n# And why.\n"):
        once = headers.replace(head + BODY, block)
        assert once.startswith(head + headers.TITLE)
        assert once.endswith(BODY)
        assert headers.replace(once, block) == once
        later = headers.replace(once, headers.render("mlp", None))
        assert "not measured; to fill it: make results ARGS=mlp" in later
        assert headers.replace(later, block) == once


def test_header_of_a_file_that_is_all_comment() -> None:
    assert headers.replace("# @package _global_", ["# x"]) == "# @package _global_\n# x\n"


def test_header_tells_command_scores_time_machine_and_commit() -> None:
    text = " ".join(" ".join(headers.render("mlp", make_entry())).replace("#", "").split())
    mean, sd = 100 * sum(ACCURACIES) / 3, 100 * stats.tstd(ACCURACIES)
    assert "python scripts/train.py -m experiment=mlp 'seed=range(5)' name=results-mlp" in text
    assert f"val {mean + 1:.2f} +- {sd:.2f} %, test {mean:.2f} +- {sd:.2f} %" in text
    assert "(mean +- sd, n = 3); 10 epochs, 41.0 s a run on 2 threads of AMD EPYC" in text
    assert "bf16-mixed, 2026-11-23, commit 0123456" in text
    assert "selected_on" not in text
    entry = make_entry(selected_on="test", device="NVIDIA H100")
    other = " ".join(" ".join(headers.render("x", entry)).replace("#", "").split())
    assert "selected_on: test" in other
    assert "a run on NVIDIA H100" in other


def test_header_of_one_run_has_no_spread() -> None:
    text = " ".join(headers.render("wide_resnet", make_entry(accs=(0.968,))))
    assert "test 96.80 % (n = 1)" in text
    assert "+-" not in text


# The page


def row_of(text: str, name: str) -> list[str]:
    line = next(line for line in text.splitlines() if f"[{name}]" in line)
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_rows_are_ranked_by_val_and_those_selected_on_test_have_no_rank() -> None:
    results = make_results(
        mlp=make_entry(accs=(0.89, 0.9)),
        cnn=make_entry(accs=(0.93, 0.94)),
        notebook_as_published=make_entry(accs=(0.98, 0.99), selected_on="test"),
    )
    names = ["cnn", "mlp", "notebook_as_published", "resnet18"]
    text = page.render(results, names)
    assert page.ranked(results, names) == ["cnn", "mlp"]
    assert [row_of(text, name)[0] for name in names] == ["1", "2", "-", "-"]
    assert "`notebook_as_published` is selected on the test set" in text
    assert row_of(text, "cnn")[2:10] == [
        *["247,766", "10", "94.50 ± 0.71", "93.50 ± 0.71", "2", "5.00 ± 0.00", "40.5 s", "38.5 s"],
    ]
    assert row_of(text, "resnet18")[4:6] == ["not measured", "not measured"]
    assert "not measured: `make results ARGS=resnet18`" in text
    assert row_of(text, "resnet18")[-1] == "ResNet18 94.9"


@pytest.mark.parametrize(("acc", "verdict"), [(0.941, "reaches"), (0.939, "does not reach")])
def test_speedrun_is_held_against_94_percent(acc: float, verdict: str) -> None:
    text = page.render(make_results(speedrun=make_entry(accs=(acc - 0.001, acc + 0.001))), [])
    assert f"`speedrun` {verdict} 94% on the mean over its seeds: test {100 * acc:.2f} %" in text
    assert "after 38.50 s of training" in text
    assert "first epoch" not in text


def test_speedrun_states_the_first_epoch_apart() -> None:
    runs = [run.model_copy(update={"first_epoch_s": 11.0}) for run in make_entry().runs]
    text = page.render(make_results(speedrun=make_entry(runs=runs)), [])
    assert "the first epoch has +7.89 s against the mean of the others" in text  # 11 - 28 / 9


def test_page_of_no_results_has_no_number_of_ours() -> None:
    text = page.render(make_results(), ["cnn", "resnet18"])
    assert text.count("Not measured.") == len(claims.check(make_results()))
    assert "Not measured: `make results ARGS=ablation`" in text
    assert "ablation.png" not in text


def test_every_published_number_is_on_the_page() -> None:
    text = page.render(make_results(), [])
    numbers = "83.5 88.3 87.6\N{EN DASH}91.6 92.5 93.4 93.9 94.9 95.0 95.4 95.9 96.3 96.7"
    for number in numbers.split():
        assert f"| {number} |" in text


# Claims


def said(**entries: Entry) -> str:
    return "\n".join(line for claim in claims.check(make_results(**entries)) for line in claim[1])


@pytest.mark.parametrize(
    ("accs", "verdict"),
    [
        ((0.894, 0.895, 0.896), "Confirmed"),
        ((0.914, 0.915, 0.916), "Corrected: it is more"),
        ((0.874, 0.875, 0.876), "Corrected: it is less"),
        ((0.88, 0.90, 0.92), "Not decided"),
        ((0.895,), "Not decided by one run"),
    ],
)
def test_verdict_on_the_accuracy_follows_the_interval(
    accs: tuple[float, ...], verdict: str
) -> None:
    found = claims.check(make_results(notebook=make_entry(accs=accs)))[0].findings
    assert len(found) == 1
    assert found[0].startswith(verdict)


def with_gaps(gap: float) -> list[SeedRun]:
    """Return runs whose train/acc is `gap` more than test/acc, and a little more by seed."""
    runs = make_entry().runs
    return [r.model_copy(update={"train_acc": r.test_acc + gap + r.seed / 1000}) for r in runs]


def test_verdict_on_the_gap_follows_the_numbers() -> None:
    assert "Corrected: more than the 2 points" in said(notebook=make_entry(runs=with_gaps(0.05)))
    assert "Confirmed: less than 2 points" in said(notebook=make_entry(runs=with_gaps(0.0)))
    assert "Not decided, where 2 points" in said(notebook=make_entry())  # equal: no interval
    runs = [run.model_copy(update={"train_acc": None}) for run in make_entry().runs]
    assert "train minus test" not in said(notebook=make_entry(runs=runs))


def test_networks_are_compared_by_seed() -> None:
    first, second = (0.91, 0.93, 0.92), (0.90, 0.90, 0.915)
    text = said(cnn=make_entry(accs=first), mlp=make_entry(accs=(*second, 0.1)))
    test = stats.ttest_rel(first, second)
    low, high = (100 * end for end in test.confidence_interval())
    assert f"+1.50 points (95 % interval {low:+.2f} to {high:+.2f}, n = 3)" in text
    assert "Not decided. The nearest recipes: `cnn` minus `mlp`" in text
    worse = said(cnn=make_entry(accs=(0.1, 0.101)), mlp=make_entry(accs=(0.9, 0.902)))
    assert "Corrected: it is the other way round. The nearest recipes: `cnn` minus" in worse


def test_a_network_is_not_credited_for_its_recipe() -> None:
    both = {"cnn": make_entry(accs=(0.93, 0.935)), "notebook": make_entry(accs=(0.91, 0.916))}
    text = said(**both, mlp=make_entry(accs=(0.90, 0.901)))
    assert "With recipes further apart: `notebook` minus `mlp`" in text
    assert "none of these is the worth of the network alone: `mlp` 10 epochs by Muon" in text
    assert "`notebook` 10 epochs by Adam at a constant rate, in batches of 32, without" in text


def test_what_selecting_on_test_adds_is_measured_within_each_run() -> None:
    runs = [
        SeedRun(seed=i, test_acc=acc, last_val_acc=last, best_epoch=8, epochs=10, duration_s=1.0)
        for i, (acc, last) in enumerate([(0.912, 0.910), (0.914, 0.912), (0.914, 0.911)])
    ]
    text = said(notebook_as_published=make_entry(selected_on="test", runs=runs))
    assert "In each run of `notebook_as_published`, test of the epoch that is best" in text
    assert (
        "of the last epoch: 0.23 points on the mean, 0.20 to 0.30 over the seeds, n = 3; "
        "by construction never negative." in text
    )
    assert "interval" not in text[text.index("test of the epoch") :]
    honest = said(notebook_as_published=make_entry(selected_on="val", runs=runs))
    assert "In each run" not in honest


def test_what_selecting_on_val_adds_is_measured_on_the_same_images() -> None:
    runs = [
        run.model_copy(update={"last_val_acc": run.val_acc - run.seed / 1000})
        for run in make_entry().runs
        if run.val_acc
    ]
    text = said(cnn=make_entry(runs=runs))
    assert "minus val of the last one: 0.10 points on the mean, 0.00 to 0.20 over" in text
    assert "val minus test" not in text


# Ablation


def test_effects_are_paired_by_seed_and_sorted() -> None:
    whole, flips, rate = (0.93, 0.935, 0.92), (0.92, 0.93, 0.915), (0.94, 0.94, 0.95)
    found = ablation.effects(make_ablation(whole=whole, constant_rate=rate, no_flips=flips))
    assert [effect.label for effect in found] == ["no flips", "constant rate"]
    test = stats.ttest_rel(flips, whole)
    interval = test.confidence_interval()
    change = found[0].change
    assert (change.low, change.high) == pytest.approx((interval.low, interval.high))
    equal = tuple(acc - 0.01 for acc in whole)
    cases = make_ablation(whole=whole, no_flips=flips, equal=equal)
    results = make_results().replaced({}, cases)
    assert "| equal | -1.00 | - | 3 |" in page.render(results, [])
    assert f"| no flips | {100 * change.mean:+.2f} |" in page.render(results, [])


# Collecting


def finish(job: Job, seed: int, **changes: Any) -> None:
    """Leave what a finished run leaves, of the recipe that is asked for."""
    job.folder.mkdir(parents=True, exist_ok=True)
    scores = {"val/acc": 0.92, "test/acc": 0.91 + seed / 1000}
    facts = {"cpu": "AMD EPYC", "num_threads": 2, "started": f"2026-11-2{seed}T10:00:00+0000"}
    data = usual_record(seed=seed, scores=scores, **facts) | changes
    data |= {"config": job.config, "overrides": job.overrides}
    (job.folder / "run.json").write_text(json.dumps(data))
    write_history(job.folder, [0.9, 0.92, 0.915])
    lines = (job.folder / "metrics.csv").read_text().splitlines()
    timed = [f"{line},{2.5 if i else 'epoch_s'}" for i, line in enumerate(lines)]
    (job.folder / "metrics.csv").write_text("\n".join(timed))


find_jobs = plan.jobs


@functools.cache
def notebook() -> tuple[Command, list[Job]]:
    """Compose them once; to be called where there are no runs."""
    command = plan.read("notebook")
    return command, plan.jobs(command)


@pytest.fixture
def measured(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Finished runs of the notebook; to measure train/acc is left out."""
    found = {"scores": {"train/acc": 0.95}}
    monkeypatch.setattr(evaluation, "evaluate", lambda folder, split: found)
    command, jobs = notebook()
    monkeypatch.setattr(plan, "read", lambda name: command)
    monkeypatch.setattr(plan, "jobs", lambda command: jobs)
    for seed, job in enumerate(jobs):
        finish(job, seed)
    return jobs


def test_an_entry_tells_what_the_runs_recorded(measured: list[Job]) -> None:
    entry = collect.collect("notebook", plan.read("notebook"))
    assert [run.seed for run in entry.runs] == [0, 1, 2, 3, 4]
    assert entry.values("test_acc") == {seed: 0.91 + seed / 1000 for seed in range(5)}
    assert (entry.date, entry.commit, entry.machine) == (
        *("2026-11-20", COMMIT, "2 threads of AMD EPYC"),
    )
    assert entry.runs[0] == SeedRun(
        seed=0,
        val_acc=0.92,
        test_acc=0.91,
        train_acc=0.95,
        last_val_acc=0.915,
        best_epoch=10,
        epochs=10,
        duration_s=80.0,
        train_s=7.5,
        first_epoch_s=2.5,
    )
    assert entry.recipe == plan.recipe(plan.read("notebook"))


def test_what_validated_on_test_has_no_val(measured: list[Job]) -> None:
    for seed, job in enumerate(measured):
        finish(job, seed, selected_on="test")
    entry = collect.collect("notebook", plan.read("notebook"))
    assert (entry.selected_on, entry.values("val_acc")) == ("test", {})
    assert len(entry.values("last_val_acc")) == 5


def test_training_accuracy_of_what_needs_a_gpu_is_not_measured_here(
    measured: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "needs_gpu", lambda command: True)
    assert collect.collect("notebook", plan.read("notebook")).gaps() == {}


OTHER = "f" * 40
ATTEMPTS = [{"start_epoch": 0, "commit": COMMIT}, {"start_epoch": 4, "commit": OTHER}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dirty": True}, "seed=1 ran with uncommitted changes on 0123456. Delete the folder"),
        ({"partial": True}, "seed=1 is partial"),
        ({"status": "interrupted"}, "seed=1 is not finished but interrupted. Complete the runs"),
        ({"commit": OTHER}, "holds runs of 2 commits (0123456, fffffff)"),
        ({"attempts": ATTEMPTS}, "seed=1 was made at several commits (0123456, fffffff)"),
        ({"commit": None}, "seed=1 has no commit"),
        ({"device": "NVIDIA H100"}, "holds runs that differ in device: cpu, NVIDIA H100"),
        ({"num_processes": 2}, "holds runs that differ in num_processes: 1, 2"),
        ({"best_epoch": None}, "seed=1: best_epoch is missing or no valid value, got None"),
        ({"scores": {"val/acc": 0.9}}, "seed=1 has no test/acc"),
    ],
)
def test_what_is_no_one_result_is_refused(
    measured: list[Job], changes: dict[str, Any], message: str
) -> None:
    finish(measured[1], 1, **changes)
    with pytest.raises(UserError) as refused:
        collect.collect("notebook", plan.read("notebook"))
    assert message in str(refused.value)


def test_runs_without_a_device_are_refused(measured: list[Job]) -> None:
    for seed, job in enumerate(measured):
        finish(job, seed, device=None)
    with pytest.raises(UserError, match="results-notebook: device is missing or no valid value"):
        collect.collect("notebook", plan.read("notebook"))


def test_resumed_runs_are_refused_where_their_seconds_count(
    measured: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    resumed = [{"start_epoch": 0, "commit": COMMIT}, {"start_epoch": 4, "commit": COMMIT}]
    finish(measured[1], 1, attempts=resumed)
    assert len(collect.collect("notebook", plan.read("notebook")).runs) == 5
    monkeypatch.setattr(plan, "TIMED", ("notebook",))
    with pytest.raises(UserError, match="seed=1 was interrupted and resumed"):
        collect.collect("notebook", plan.read("notebook"))


def test_runs_of_another_recipe_are_not_taken(
    measured: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "jobs", find_jobs)
    data = json.loads((measured[2].folder / "run.json").read_text())
    data["config"]["optim"]["lr"] = 0.5
    (measured[2].folder / "run.json").write_text(json.dumps(data))
    with pytest.raises(UserError, match=r"seed=2-\w+ is not finished but to do"):
        collect.collect("notebook", plan.read("notebook"))


@pytest.mark.slow
def test_ablation_is_read_by_case_and_seed(workdir: Path) -> None:
    command = plan.read(plan.ABLATION)
    for i, (job, case) in enumerate(zip(plan.jobs(command), plan.cases(command), strict=True)):
        gain = 0.01 if case == "whole" else 0
        finish(job, i % 5, scores={"val/acc": 0.9 + gain + i % 5 / 1000})
    found = collect.collect_ablation(command)
    assert found.whole == "whole"
    assert list(found.cases) == list(command.cases)
    for effect in ablation.effects(found):
        assert effect.change.mean == pytest.approx(-0.01)
        assert effect.change.n == 5


# Running


@pytest.fixture
def at_a_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clean checkout on a machine without a GPU."""
    monkeypatch.setattr(origin, "commit", lambda: {"commit": COMMIT, "dirty": False})
    monkeypatch.setattr(rerun, "untracked", list)
    monkeypatch.setattr(process, "has_gpu", lambda: False)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The experiments that are run, for which nothing is done."""
    names: list[str] = []
    monkeypatch.setattr(rerun, "run", lambda name: names.append(name) or True)
    return names


def test_a_dirty_tree_is_refused_before_anything_starts(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, ran: list[str]
) -> None:
    monkeypatch.setattr(origin, "commit", lambda: {"commit": COMMIT, "dirty": True})
    with pytest.raises(UsageError, match="uncommitted changes"):
        update.measure(make_results(), ["notebook"], print)
    assert ran == []


@pytest.mark.usefixtures("at_a_commit")
def test_finished_runs_are_recorded_and_the_rest_keeps_its_result(
    measured: list[Job], ran: list[str]
) -> None:
    old = make_results(mlp=make_entry())
    found, is_whole = update.measure(old, ["notebook"], print)
    assert (ran, is_whole) == (["notebook"], True)
    assert sorted(found.experiments) == ["mlp", "notebook"]
    assert found.experiments["mlp"] == old.experiments["mlp"]


@pytest.mark.usefixtures("at_a_commit")
def test_what_cannot_be_recorded_is_said_and_keeps_its_old_result(
    measured: list[Job], ran: list[str]
) -> None:
    finish(measured[1], 1, partial=True)
    old = make_results(notebook=make_entry("notebook"))
    lines: list[str] = []
    found, is_whole = update.measure(old, ["notebook"], lines.append)
    assert (found, is_whole) == (old, False)
    assert lines[-1].startswith(
        "Error: notebook is not recorded: sweeps/results-notebook/seed=1 is"
    )


@pytest.mark.usefixtures("at_a_commit")
def test_runs_of_another_commit_are_not_completed(measured: list[Job], ran: list[str]) -> None:
    for job in measured[3:]:
        (job.folder / "run.json").unlink()
    finish(measured[0], 0, commit=OTHER)
    with pytest.raises(UsageError, match="seed=0 is of commit fffffff, and now it is 0123456"):
        update.measure(make_results(), ["notebook"], print)
    assert ran == []


@pytest.mark.usefixtures("at_a_commit")
def test_what_needs_a_gpu_is_skipped_aloud_without_one(
    measured: list[Job], ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "choose", lambda names, known: ["notebook"])
    monkeypatch.setattr(plan, "fits", lambda command, has_gpu: has_gpu)
    lines: list[str] = []
    found, is_whole = update.measure(make_results(), [], lines.append)
    assert (found, is_whole, ran) == (make_results(), True, [])
    where = "Where there is one: make results ARGS=notebook"
    assert lines == [f"notebook: skipped. It needs a GPU, and there is none here. {where}"]
    with pytest.raises(UsageError, match="notebook: It needs a GPU, and there is none here"):
        update.measure(make_results(), ["notebook"], print)
    monkeypatch.setattr(process, "has_gpu", lambda: True)
    update.measure(make_results(), ["notebook"], print)
    assert ran == ["notebook"]


@pytest.mark.usefixtures("at_a_commit")
def test_a_gpu_does_not_overwrite_what_is_recorded_on_cpus(
    measured: list[Job], ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "choose", lambda names, known: ["notebook"])
    monkeypatch.setattr(process, "has_gpu", lambda: True)
    old = make_results(notebook=make_entry("notebook"))
    lines: list[str] = []
    assert update.measure(old, [], lines.append) == (old, True)
    assert lines[0].startswith("notebook: skipped. It is recorded on a CPU, and the GPU")
    with pytest.raises(UsageError, match="CUDA_VISIBLE_DEVICES= make results ARGS=notebook"):
        update.measure(old, ["notebook"], print)
    assert ran == []


@pytest.mark.parametrize(("trainer", "fits"), [("cpu", (1, 1)), ("gpu", (0, 1)), ("auto", (1, 0))])
def test_what_fits_a_machine_hangs_on_the_trainer(trainer: str, fits: tuple[int, int]) -> None:
    command = read_command(["seed=0,1", f"trainer={trainer}"])
    assert tuple(plan.fits(command, has_gpu) for has_gpu in (False, True)) == fits


@pytest.mark.usefixtures("at_a_commit")
def test_files_that_git_does_not_know_are_refused(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, ran: list[str]
) -> None:
    monkeypatch.setattr(rerun, "untracked", lambda: ["conf/experiment/mine.yaml"])
    for change in (update.measure, update.take):
        with pytest.raises(UsageError, match=r"mine\.yaml: not under git"):
            change(make_results(), ["notebook"], print)
    assert ran == []


def test_untracked_files_are_those_of_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rerun, "ROOT", tmp_path)
    assert rerun.untracked() == []
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    for name in ("conf", "notes"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "new.yaml").touch()
    assert rerun.untracked() == ["conf/"]


@pytest.mark.usefixtures("at_a_commit")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dirty": True}, "seed=0 ran with uncommitted changes. Delete"),
        ({"status": "interrupted"}, "seed=0 was interrupted, and its seconds count. Delete"),
    ],
)
def test_what_could_not_be_recorded_is_not_completed(
    measured: list[Job],
    ran: list[str],
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.setattr(plan, "TIMED", ("notebook",))
    (measured[4].folder / "run.json").unlink()
    finish(measured[0], 0, **changes)
    with pytest.raises(UsageError, match=message):
        update.measure(make_results(), ["notebook"], print)
    assert ran == []


def test_trainer_gpu_is_what_needs_a_gpu(tmp_path: Path) -> None:
    assert plan.needs_gpu(read_command(["seed=0,1", "trainer=gpu"]))
    assert not plan.needs_gpu(read_command(["seed=0,1"]))


def test_unknown_experiment_is_named() -> None:
    with pytest.raises(UsageError, match="Unknown experiment notebok. Did you mean notebook?"):
        update.take(make_results(), ["notebok"], print)


@pytest.mark.usefixtures("at_a_commit")
def test_nothing_to_collect_is_an_error(workdir: Path) -> None:
    with pytest.raises(UserError, match=r"no sweeps/results-\* here holds runs"):
        update.take(make_results(), [], print)


PARENT = """
import sys
from fmnist.errors import exit_codes, raising
from fmnist.results import rerun
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell's & started
with exit_codes(), raising(signal.SIGTERM):
    rerun.run("mlp", [sys.executable, "-c", sys.argv[1]])
"""
CHILD = """
import signal, sys, time
from pathlib import Path
def stop(*_):
    time.sleep(0.5)
    Path("stopped").touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, lambda *_: sys.exit("interrupted twice"))
Path("started").touch()
time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_handed_on_and_the_end_waited_for(
    tmp_path: Path, signum: int, code: int
) -> None:
    command = [sys.executable, "-c", PARENT, CHILD]
    parent = subprocess.Popen(command, cwd=tmp_path, env={**os.environ})
    while not (tmp_path / "started").exists():
        time.sleep(0.05)
    parent.send_signal(signum)
    assert parent.wait(timeout=30) == code
    assert (tmp_path / "stopped").exists()


def test_words_of_one_value_claim_no_interval() -> None:
    found = words.estimate({0: 0.9})
    assert found is not None
    assert found.percent == "90.00 % (n = 1, no interval)"
    assert found.side(0.0) == 0
    assert words.estimate({}) is None


def test_equal_differences_claim_no_interval() -> None:
    found = words.difference({0: 0.93, 1: 0.92}, {0: 0.91, 1: 0.90})
    assert found is not None
    assert found.points == "+2.00 points (n = 2, no interval)"
    assert found.side(0.0) == 0
    assert found.sd == pytest.approx(0)


def test_the_one_test_set_leaves_half_a_point() -> None:
    low, high = stats.binom.interval(0.95, 10_000, 0.93)
    assert words.by_chance(0.93) == pytest.approx((high - low) / 2 / 10_000, abs=1e-4)
    text = page.render(make_results(), [])
    assert "the one test set of 10,000 images adds about ±0.5 points at 93 %" in text

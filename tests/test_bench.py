"""The benchmark's arithmetic, its rounds, tables and answers to mistakes; nothing is trained."""

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Run

from fmnist.bench import benchmark, gpu, output, process, results, tables, targets
from fmnist.bench.contestants import last_line, read_report
from fmnist.bench.derived import floor_ratio, job_costs
from fmnist.bench.process import ContestantError, Done
from fmnist.bench.results import Results, Sample, Series
from fmnist.bench.rounds import Bench
from fmnist.bench.settings import CONTESTANTS, MEASURES, Settings
from fmnist.errors import UsageError, UserError

MACHINE = {
    "cpu": "a CPU",
    "cores": 2,
    "threads": 2,
    "instructions": "AVX2",
    "bf16": False,
    "gpu": None,
    "cuda": None,
}
HEADER: dict[str, Any] = {
    "date": "today",
    "command": "python scripts/bench.py",
    "device": "cpu",
    "quick": False,
    "machine": MACHINE,
    "versions": {"torch": "2"},
}


def series(*epochs_s: float, **more: Any) -> Series:
    return Series([{"epoch_s": s, "num_images": 60_000, "wall_s": s, **more} for s in epochs_s])


def measured() -> Results:
    """Three rounds on a machine that is twice as slow in the second."""
    epoch = {"ours": series(1.0, 2.2, 1.1), "pytorch": series(4.0, 8.0, 4.0)}
    epoch["hand"] = Series(error="out of memory")
    epoch["keras"] = Series(note="not installed")
    matmul = {"machine": Series([{"float32": 0.5}, {"float32": 1.0}])}
    sweep = {
        f"{n} jobs": Series([{"wall_s": 5 + 1.2 * n, "train_s": 1.0 * n, "num_jobs": n}])
        for n in (2, 10, 50)
    }
    return Results(dict(HEADER), {"matmul": matmul, "epoch-64": epoch, "sweep": sweep})


def bench(folder: Path, lines: list[str], **settings: Any) -> Bench:
    given = Settings(folder, own_data=True, **settings)
    return Bench(given, folder, {}, lines.append, lambda _: None)


def test_ratio_is_taken_within_each_round() -> None:
    found = measured().ratio("epoch-64", "ours", "pytorch", "epoch_s")
    assert found == pytest.approx((0.275, 0.25, 0.275, 3))


def test_value_that_was_not_measured_has_no_spread() -> None:
    assert measured().spread("epoch-64", "hand", "epoch_s") is None
    assert measured().spread("process", "ours", "wall_s") is None
    assert measured().ratio("epoch-64", "ours", "keras", "epoch_s") is None


def test_floor_is_that_of_the_images_and_the_best_rate() -> None:
    found = floor_ratio(measured(), "epoch-64")
    assert found is not None
    assert found.median == pytest.approx(1.1 / 0.947, abs=0.001)


def test_job_of_a_sweep_costs_what_a_longer_sweep_adds() -> None:
    assert job_costs(measured()) == pytest.approx({"2 to 10": 0.2, "10 to 50": 0.2, "2 to 50": 0.2})


def test_results_survive_json(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    path.write_text(measured().to_json(), "utf-8")
    assert results.read(path) == measured()


@pytest.mark.parametrize("text", ["", "[]", '{"cases": 1, "header": {}}', '{"header": {}}'])
def test_file_of_another_kind_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bench.json"
    path.write_text(text, "utf-8")
    with pytest.raises(UserError, match="holds no results of bench.py --json"):
        results.read(path)


def test_results_measured_in_pieces_are_shown_together() -> None:
    more = Results({**HEADER, "command": "another"}, {"process": {"ours": series(9.0)}})
    found = results.merge([measured(), more])
    assert {*found.cases} == {"matmul", "epoch-64", "sweep", "process"}
    assert found.header["command"] == "python scripts/bench.py; another"
    more.header["commit"] = "abc"
    with pytest.raises(UserError, match="one commit each can be shown together, got None and"):
        results.merge([measured(), more])


def test_tables_show_medians_failures_and_what_is_not_installed() -> None:
    matmul, epoch, sweep = tables.build_tables(measured())
    assert epoch.title == "Epoch, batch 64 (3 rounds)"
    assert epoch.columns == ["", "epoch, s", "ours / it"]
    assert epoch.rows[0] == ["ours", "1.10 (1.00-2.20)", "-"]
    assert epoch.rows[1] == ["pytorch", "4.00 (4.00-8.00)", "0.28 (0.25-0.28)"]
    assert epoch.rows[2:] == [["hand", "-", "-"], ["keras", "-", "-"]]
    notes = "\n".join(epoch.notes)
    assert "FAILED: out of memory" in notes
    assert "not installed" in notes
    assert "60,000 images are 0.947 TFLOP, at 1.00 TFLOP/s 0.95 s" in notes
    assert matmul.rows == [["machine", "0.75 (0.50-1.00)"]]
    assert "2 to 50 jobs 0.200 s" in sweep.notes[-1]


def test_every_measure_has_its_table() -> None:
    assert {*tables.COLUMNS} == {*tables.TITLES} == {*MEASURES, "workers"}
    assert {*benchmark.MEASURES} == {*MEASURES}


def verdicts(found: Results) -> dict[str, list[str]]:
    return {row[0]: row[1:] for row in targets.build_table(found).rows}


def test_targets_are_met_missed_or_not_measured_with_the_command_that_does() -> None:
    rows = verdicts(measured())
    assert rows["epoch, batch 64: ours / plain PyTorch"] == ["0.28", "≤ 0.30", "met"]
    assert rows["one more sweep job beyond its training"] == ["0.20 s", "≤ 0.15 s", "MISSED"]
    assert rows["--help"] == ["-", "≤ 0.60 s", "not measured here"]
    notes = targets.build_table(measured()).notes
    assert any(n.startswith("--help; a typo") and n.endswith("--measure answers`") for n in notes)


def test_targets_of_a_gpu_are_judged_on_a_gpu_alone() -> None:
    found = measured()
    found.cases["busy"] = {"ours": series(1.0, busy=0.75)}
    assert verdicts(found)["GPU busy while training"][-1] == "not measured here"
    found.header["device"] = "cuda"
    assert verdicts(found)["GPU busy while training"] == ["0.75", "≥ 0.80", "MISSED"]
    assert verdicts(found)["epoch, batch 64: ours / plain PyTorch"][-1] == "not measured here"


def test_quick_is_said_in_every_table_and_judges_nothing() -> None:
    found = measured()
    found.header["quick"] = True
    assert all("QUICK" in table.title for table in output.all_tables(found))
    assert verdicts(found)["epoch, batch 64: ours / plain PyTorch"][-1] == "quick"


def test_tables_are_printed_uncut_and_as_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    output.write_tables(measured())
    shown = capsys.readouterr().out
    assert "a CPU, 2 cores, 2 torch threads" in shown
    assert "pytorch  4.00 (4.00-8.00)  0.28 (0.25-0.28)" in shown
    text = output.to_markdown(measured())
    assert "| pytorch | 4.00 (4.00-8.00) | 0.28 (0.25-0.28) |" in text


def test_contestants_take_turns_and_one_that_fails_sits_out(tmp_path: Path) -> None:
    turns: list[str] = []
    lines: list[str] = []

    def play(name: str, fails_in: int = 0) -> Any:
        def act(place: Path) -> Sample:
            assert not list(place.iterdir())
            (place / "left").touch()
            turns.append(name)
            if turns.count(name) == fails_in:
                raise ContestantError("it broke")
            return {"wall_s": 1.0}

        return act

    game = bench(tmp_path, lines, rounds=3)
    game.play("epoch", "epoch-64", {"ours": play("ours"), "hand": play("hand", 2)})
    assert turns == ["ours", "hand", "hand", "ours", "ours"]
    assert lines[0] == "epoch-64, round 1 of 3, ours: 1.00 s"
    assert "epoch-64, round 2 of 3, hand: failed: it broke" in lines
    assert len(game.results.series("epoch-64", "ours").samples) == 3
    assert game.results.series("epoch-64", "hand").error == "it broke"
    assert game.results.has_failed


def test_number_of_workers_is_the_fastest_and_found_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    game = bench(tmp_path, [], contestants=("ours", "pytorch"), num_workers=(0, 1, 2))
    tried = []

    def train(name: str, task: Any, place: Path) -> Sample:
        tried.append(task.num_workers)
        if task.num_workers == 2:
            raise ContestantError("no shared memory")
        return {"epoch_s": 3.0 - task.num_workers}

    monkeypatch.setattr(game.contestants, "train", train)
    assert game.num_workers(64) == game.num_workers(64) == {"pytorch": 1}
    assert tried == [0, 1, 2]


def test_process_tells_time_and_memory(tmp_path: Path) -> None:
    code = "x = b'1' * 300_000_000; import time; time.sleep(0.2); print('{\"a\": 1}')"
    done = process.run([sys.executable, "-c", code], tmp_path, {})
    assert 0.2 < done.wall_s < 10
    assert done.memory_mb > 300
    assert last_line(done) == {"a": 1}


def test_failed_process_is_told_by_its_last_line(tmp_path: Path) -> None:
    code = "import sys; print('first', file=sys.stderr); sys.exit('the reason')"
    with pytest.raises(ContestantError, match="^the reason$"):
        process.run([sys.executable, "-c", code], tmp_path, {})
    with pytest.raises(ContestantError, match="exit code 3, nothing said"):
        process.run([sys.executable, "-c", "raise SystemExit(3)"], tmp_path, {})
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    with pytest.raises(ContestantError, match="not done within 0 s"):
        process.run(sleep, tmp_path, {}, timeout_s=0.3)


def test_output_that_is_no_json_is_a_failure() -> None:
    with pytest.raises(ContestantError, match="its last line of output is not JSON"):
        last_line(Done(0.0, 1.0, 1.0, 0, "hello\n", ""))


def test_sample_of_a_peer_leaves_out_the_first_epoch() -> None:
    told = '{"epochs_s": [9, 2, 4], "num_images": 30, "val_acc": [0.1, 0.2], "first_batch": 12.5}'
    sample = read_report(Done(10.0, 20.0, 100.0, 0, told, ""))
    assert sample["epoch_s"] == 3
    assert sample["first_epoch_s"] == 9
    assert sample["images_per_s"] == 10
    assert sample["first_batch_s"] == 2.5
    assert sample["val_acc"] == 0.2
    assert sample["test_acc"] is None


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"measures": ("epochs",)}, "--measure must be of matmul, .*, got 'epochs'"),
        ({"contestants": ("me",)}, "--only and --skip must be of ours, .*, got 'me'"),
        ({"contestants": ()}, "leave no contestant"),
        ({"measures": ("busy",)}, "--measure busy needs --device cuda, got cpu"),
        ({"measures": ("sweep",), "device": "cuda"}, "--measure sweep needs --device cpu"),
        ({"measures": ("sweep",), "contestants": ("hand",)}, "is of ours alone"),
        ({"epochs": 1}, "--epochs must be >= 2, got 1"),
        ({"keras_python": "/none/python"}, "--keras-python must be a Python, got '/none/python'"),
    ],
)
def test_what_cannot_be_measured_is_refused(choices: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Settings(Path(), **choices)


def test_device_has_its_measures() -> None:
    assert "busy" not in Settings(Path()).measures
    assert "busy" in Settings(Path(), device="cuda").measures
    assert Settings(Path()).rounds_of("epoch") == 5
    assert Settings(Path(), rounds=2).rounds_of("sweep") == 2
    assert Settings(Path(), rounds=2, quick=True).rounds_of("epoch") == 1


def test_missing_gpu_is_a_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    describe = Done(0.0, 1.0, 1.0, 0, '{"gpu": null}', "")
    monkeypatch.setattr(process, "run", lambda *_, **__: describe)
    settings = Settings(tmp_path, device="cuda")
    with pytest.raises(UsageError, match="--device cuda needs a CUDA device"):
        benchmark.run(settings, "", say=lambda _: None)


def test_contestant_that_is_not_installed_is_a_note(tmp_path: Path) -> None:
    game = bench(tmp_path, [], contestants=("ours", "keras"))
    game.absent = benchmark._absent(game) or {"keras": benchmark.INSTALL}
    assert game.names == ["ours"]
    assert "pip install" in game.absent["keras"]


def test_busy_shares_are_those_of_the_training(tmp_path: Path) -> None:
    begin = time.mktime((2026, 11, 22, 12, 0, 0, 0, 0, -1))
    lines = [f"2026/11/22 12:00:{s:02}.500, {10 * s}" for s in range(6)]
    (tmp_path / "gpu.csv").write_text("\n".join([*lines, "2026/11/22 12:00:04.900, [N/A]", "20"]))
    assert gpu.shares(tmp_path / "gpu.csv", begin, begin + 4) == [0.1, 0.2, 0.3]


def test_gpu_is_sampled_by_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/sh\necho "$@"\nexec sleep 60\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with gpu.sampling(tmp_path / "gpu.csv"):
        time.sleep(0.3)
    assert "--id=0 --query-gpu=timestamp,utilization.gpu" in (tmp_path / "gpu.csv").read_text()
    program.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ContestantError, match="nvidia-smi is not there"), gpu.sampling(tmp_path):
        pass


class Finished:
    """Stands for our contestant: every run takes 2 s, the first batch comes after 0.5."""

    def ours(self, words: list[str], place: Path, **_: Any) -> Done:
        folder = place / "runs" / "bench"
        folder.mkdir(parents=True)
        (folder / "metrics.csv").write_text("epoch_s,step,val/acc\n0.9,10,0.8\n0.6,20,0.9\n")
        told = {"config": {"data": {"batch_size": 512}}, "scores": {"test/acc": 0.9}}
        told |= {"num_parameters": 7, "precision": "bf16-mixed"}
        (folder / "run.json").write_text(json.dumps(told))
        began = time.monotonic() - 2
        return Done(began, 2.0, 900.0, 0, json.dumps({"first_batch": began + 0.5}), "")


def test_recipe_and_busy_share_of_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    game = bench(tmp_path, [], device="cuda", rounds=1)
    monkeypatch.setattr(game, "contestants", Finished())
    monkeypatch.setattr(gpu, "sampling", lambda _: contextlib.nullcontext())
    monkeypatch.setattr(gpu, "shares", lambda *_: [0.7, 0.9])
    gpu.measure_recipe(game)
    gpu.measure_busy(game)
    game.results.header = {**HEADER, "device": "cuda"}
    rows = verdicts(game.results)
    assert rows["10 epochs of the recipe, batch 512: loop"] == ["1.50 s", "≤ 2.00 s", "met"]
    assert rows["10 epochs of the recipe, batch 512: process"] == ["2.00 s", "≤ 12.00 s", "met"]
    assert rows["GPU busy while training"] == ["0.80", "≥ 0.80", "met"]
    monkeypatch.setattr(gpu, "shares", lambda *_: [])
    gpu.measure_busy(game)
    assert "gave no sample" in game.results.series("busy", "ours").error


def test_measure_whose_preparation_fails_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Bench) -> None:
        raise ContestantError("no room")

    told = Done(0.0, 1.0, 1.0, 0, json.dumps(MACHINE), "")
    monkeypatch.setattr(process, "run", lambda *_, **__: told)
    monkeypatch.setitem(benchmark.MEASURES, "answers", fail)
    settings = Settings(tmp_path, measures=("answers",), own_data=True)
    found = benchmark.run(settings, "", say=lambda _: None)
    assert found.series("answers", "preparation").error == "no room"
    assert "FAILED: no room" in output.to_markdown(found)


def test_help_lists_measures_and_contestants(script: Run) -> None:
    done = script("bench.py", "--help")
    assert done.returncode == 0
    for name in (*MEASURES, *CONTESTANTS):
        assert f"\n  {name} " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--measure", "epochs"], "Error: --measure must be of"),
        (["--skip", "me"], "Error: --skip must be of ours"),
        (["--json", "none/b.json"], "Error: --json must name a file in a folder that is there"),
        (["--rounds", "0"], "must be a whole number from 1 on, got '0'"),
        (["--batch-sizes", "a"], "must be whole numbers like 64,512, got 'a'"),
    ],
)
def test_mistake_is_exit_2(script: Run, arguments: list[str], message: str) -> None:
    done = script("bench.py", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_stored_results_are_shown_again(script: Run, tmp_path: Path) -> None:
    (tmp_path / "bench.json").write_text(measured().to_json(), "utf-8")
    done = script("bench.py", "--show", "bench.json", "--md", "bench.md")
    assert done.returncode == 1  # a contestant had failed
    assert "Epoch, batch 64" in done.stdout
    assert "### Targets" in (tmp_path / "bench.md").read_text("utf-8")
    assert next(iter(CONTESTANTS)) in done.stdout

import errno
import functools
import json
import math
import os
import random
from pathlib import Path
from typing import Any

import pytest
from run_folders import read, usual_record, write_history, write_run

from fmnist import config
from fmnist.compare import captions, collection, formats, histories, page, table
from fmnist.errors import UsageError
from fmnist.lock import Lock


def test_runs_and_sweeps_are_found_wherever_the_path_points(workdir: Path) -> None:
    write_run(Path("runs/a"))
    write_run(Path("sweeps/lr/lr=1"))
    write_run(Path("sweeps/lr/lr=2"))
    assert [run.label for run in read(Path("runs/a"))] == ["runs/a"]
    assert [run.label for run in read(Path("sweeps/lr"))] == ["sweeps/lr/lr=1", "sweeps/lr/lr=2"]
    assert [run.label for run in read(Path("sweeps"))] == ["sweeps/lr/lr=1", "sweeps/lr/lr=2"]
    assert len(read(Path("runs"), Path("sweeps"))) == 3


def test_run_is_listed_once_under_its_own_name(workdir: Path) -> None:
    for name in ("a", "z"):
        write_run(Path("runs") / name)
    Path("runs/latest").symlink_to("z")
    Path("runs/gone").symlink_to("nowhere")
    paths = [Path("runs"), Path("runs/a"), Path("./runs/../runs"), workdir / "runs"]
    assert [run.label for run in read(*paths)] == ["runs/a", "runs/z"]
    assert [run.label for run in read(Path("runs/latest"))] == ["runs/z"]


def test_path_that_is_no_folder_is_refused(workdir: Path) -> None:
    Path("file").write_text("")
    with pytest.raises(UsageError, match="runs does not exist. Give run folders"):
        collection.read_runs([Path("runs")])
    with pytest.raises(UsageError, match="file is no folder"):
        collection.read_runs([Path("file")])


def test_damaged_and_foreign_folders_are_named_once_and_skipped(workdir: Path) -> None:
    write_run(Path("runs/good"))
    for name, text in (("cut", '{"schema": 1, "con'), ("other", '{"schema": 2}'), ("list", "[]")):
        Path("runs", name).mkdir()
        Path("runs", name, "run.json").write_text(text)
    Path("runs/deep").mkdir()
    Path("runs/deep/run.json").write_text("[" * 100_000)
    Path("runs/bytes").mkdir()
    Path("runs/bytes/run.json").write_bytes(b'{"schema": "\xff"}')
    Path("runs/photos/2026").mkdir(parents=True)
    Path("runs/.hidden").mkdir()
    Path("runs/notes.txt").write_text("mine")
    runs, skipped = collection.read_runs([Path("runs"), Path("runs")])
    assert [run.label for run in runs] == ["runs/good"]
    for name in ("cut", "other", "list", "deep", "bytes", "photos"):
        assert sum(f"runs/{name}" in line for line in skipped) == 1
    assert len(skipped) == 6


def test_unreadable_folder_is_named_and_skipped(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(Path("runs/good"))
    Path("runs/shut").mkdir()
    scan = os.scandir

    def refuse(folder: Path) -> Any:
        if folder == Path("runs/shut"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    runs, skipped = collection.read_runs([Path("runs")])
    assert len(runs) == 1
    assert skipped == ["runs/shut cannot be read (Permission denied)."]


def test_running_without_a_process_reads_interrupted(workdir: Path) -> None:
    folder = write_run(Path("runs/a"), None, status="running", epochs_done=3)
    assert read(folder)[0].status == "interrupted"
    with Lock(folder):
        assert read(folder)[0].status == "running"


@pytest.mark.parametrize("holder", ["{}", "[]", "x", '{"pid": 1}', '{"pid": "?"}'])
def test_damaged_lock_costs_nothing(workdir: Path, holder: str) -> None:
    folder = write_run(Path("runs/a"), None, status="running")
    with Lock(folder) as lock:
        complete = dict(lock.holder)
    (folder / ".lock").write_text(holder)
    assert read(folder)[0].status in ("running", "interrupted")
    del complete["started"]
    (folder / ".lock").write_text(json.dumps(complete))
    assert read(folder)[0].status == "interrupted"


def test_test_scores_of_eval_are_merged_unless_training_read_them(workdir: Path) -> None:
    scores = {"schema": 1, "split": "test", "scores": {"test/acc": 0.8, "val/acc": 0.1}}
    for name, own in (("with", {"val/acc": 0.9, "test/acc": 0.7}), ("without", {"val/acc": 0.9})):
        folder = write_run(Path("runs") / name, scores=own)
        (folder / "eval-test.json").write_text(json.dumps(scores))
    without, with_own = sorted(read(Path("runs")), key=lambda run: -run.scores["test/acc"])
    assert without.scores == {"val/acc": 0.9, "test/acc": 0.8}
    assert with_own.scores["test/acc"] == 0.7


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"schema": 1, "split": "val", "scores": {"test/acc": 1}}',
        '{"schema": 2, "split": "test", "scores": {}}',
        '{"schema": 1, "split": "test", "scores": []}',
    ],
)
def test_damaged_scores_of_eval_are_named_and_not_used(workdir: Path, text: str) -> None:
    folder = write_run(Path("runs/a"))
    (folder / "eval-test.json").write_text(text)
    runs, skipped = collection.read_runs([folder])
    assert "test/acc" not in runs[0].scores
    assert len(skipped) == 1
    assert "runs/a/eval-test.json is not used" in skipped[0]


def test_keys_that_older_code_did_not_record_have_their_defaults(workdir: Path) -> None:
    write_run(Path("runs/new"), seed=0)
    old = usual_record(seed=1)
    del old["config"]["callbacks"]["ema"]
    del old["config"]["augment"]["erase_px"]
    Path("runs/old").mkdir()
    Path("runs/old/run.json").write_text(json.dumps(old))
    write_run(Path("runs/clipped"), seed=0, trainer__gradient_clip_val=1.0)
    rows = table.build_table(read(Path("runs")))
    assert sorted(row.n for row in rows.rows) == [1, 2]
    assert list(rows.keys) == ["trainer.gradient_clip_val"]
    assert {row.best.identity["trainer.gradient_clip_val"] for row in rows.rows} == {None, 1}


def test_precision_that_the_trainer_chose_is_no_key_but_still_told(workdir: Path) -> None:
    chosen = usual_record(trainer__precision="32-true", seed=0)
    chosen["overrides"] = []
    Path("runs/chosen").mkdir(parents=True)
    Path("runs/chosen/run.json").write_text(json.dumps(chosen))
    write_run(Path("runs/typed"), trainer__precision="16-mixed", seed=1)
    first, second = read(Path("runs"))
    assert first.identity["trainer.precision"] is None
    assert first.fields["trainer.precision"] == "32-true"
    assert second.identity["trainer.precision"] == "16-mixed"


def test_key_of_another_model_is_not_lacking(workdir: Path) -> None:
    write_run(Path("runs/cnn"))
    write_run(Path("runs/mlp"), model="mlp")
    runs = {run.label: run for run in read(Path("runs"))}
    assert "model.widths" in runs["runs/mlp"].identity
    assert "model.widths" not in runs["runs/cnn"].identity
    assert runs["runs/cnn"].fields["model"] == "cnn"
    assert runs["runs/cnn"].fields["optim.optimizer"] == "Adam"


def test_commits_of_all_attempts_are_told(workdir: Path) -> None:
    attempts = [{"commit": "aaaaaaaaaa"}, {"commit": "bbbbbbbbbb", "dirty": True}, "nonsense"]
    folder = write_run(Path("runs/a"), commit="aaaaaaaaaa", attempts=attempts)
    fields = read(folder)[0].fields
    assert fields["commit"] == "aaaaaaaaaa,bbbbbbbbbb"
    assert fields["dirty"] is True


def test_scores_that_are_no_numbers_are_left_out(workdir: Path) -> None:
    scores = {"val/acc": 0.9, "a": "0.5", "b": True, "c": None, "d": [1], "e": float("nan")}
    scores |= {"f": float("inf"), "g": 10**400, "h": 1}
    found = read(write_run(Path("runs/a"), scores=scores))[0].scores
    assert {name for name, value in found.items() if math.isnan(value)} == {"e", "f", "g"}
    assert {n: v for n, v in found.items() if not math.isnan(v)} == {"val/acc": 0.9, "h": 1.0}


def test_text_of_a_record_cannot_steer_a_terminal(workdir: Path) -> None:
    error = "\x1b[2J\x1b]0;owned\x07 bad \udcff\u202eevil"
    folder = write_run(Path("runs/a"), status="failed", error=error, note="\x1b[31m")
    fields = read(folder)[0].fields
    for value in (fields["error"], fields["note"] or ""):
        assert not set(value) & {"\x1b", "\x07", "\udcff", "\u202e"}
    assert "bad" in fields["error"]
    fields["error"].encode()


HOSTILE: list[Any] = [
    None,
    True,
    -1,
    10**400,
    1e308,
    math.nan,
    math.inf,
    "",
    "text",
    "<script>\x1b[2J{{title}}\ud800\n=1+1|`*",
    [],
    [[1, "a"], {"b": None}],
    {},
    {"a": {"b": [math.nan]}},
]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """List the paths to all parts of a record."""
    inner = value.items() if isinstance(value, dict) else []
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))]


def spoil(record: dict[str, Any], draw: random.Random) -> None:
    """Take a random part of a record away, or put something else in its place."""
    *above, last = draw.choice(places(record)[1:])
    place: Any = record
    for key in above:
        place = place[key]
    if draw.random() < 0.25:
        del place[last]
    else:
        place[last] = draw.choice(HOSTILE)


def test_no_record_crashes_the_table(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "defaults", functools.cache(config.defaults))  # Hydra is slow
    draw = random.Random(0)
    num_read = 0
    for trial in range(100):
        root = Path(f"{trial}")
        for i in range(4):
            record = usual_record(draw.random(), seed=i % 2, model=draw.choice(["cnn", "mlp"]))
            record["status"] = draw.choice(["finished", "finished", "failed", "pruned", "odd"])
            for _ in range(draw.randrange(4)):
                spoil(record, draw)
            folder = root / f"{i}"
            folder.mkdir(parents=True)
            (folder / "run.json").write_text(json.dumps(record), "utf-8")
            write_history(folder, [draw.choice([0.1, 0.9, math.nan, 1e300]) for _ in range(3)])
        runs, skipped = collection.read_runs([root])
        assert len(runs) + len(skipped) >= 4
        num_read += len(runs)
        if runs:
            exercise(runs, draw)
    assert num_read > 200


def exercise(runs: list[collection.Run], draw: random.Random) -> None:
    """Rank, sort and write `runs` in every form; what is written can be read by its readers."""
    key = draw.choice(list({name for run in runs for name in run.fields}))
    for rows in (table.build_table(runs), table.build_table(runs, sort=key, each=True)):
        assert sum(len(row.runs) for row in rows.rows) == len(runs)
        json.loads(formats.to_json(rows), parse_constant=pytest.fail)
        assert "\n" in formats.to_csv(rows)
        formats.to_markdown(rows).encode()
        captions.footer(rows, "")
        text = page.render(rows, histories.read_curves(rows))
        text.encode()
        assert text.count("<script>") == 1
        assert "\x1b" not in text

"""Thousands of damaged and hostile run folders: each is read or refused in words; none runs."""

import contextlib
import functools
import json
import os
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import hostile
import pytest
from conftest import Run
from fuzzing import Tally, counts, seed
from run_folders import usual_record, write_history, write_run

from fmnist import config, evaluation, lock, record, reports, revival, run
from fmnist.compare import captions, collection, formats, histories, page, table
from fmnist.errors import UsageError
from fmnist.record import Record
from fmnist.summary import print_summary

pytestmark = [pytest.mark.fuzz, pytest.mark.usefixtures("workdir")]

SECRET = "sesame-4711"
NAMES = [
    *("os.system", "torch.utils.collect_env.run", "hostile_canary.Net", "builtins.eval"),
    *("fmnist.models.cnn ", "torch.optim", "fmnist.models", "__main__.x", "a..b", ".", "\x1b[2J"),
    *("subprocess.Popen", "hydra.utils.get_object", "torch.load", "torch.hub.load", ""),
]
CALL: dict[str, Any] = {"_target_": "torch.utils.collect_env.run", "command": "touch was-run"}
LOOKUPS = ["${oc.env:SECRET}", "${oc.env:SECRET,x}", "${name}", "${oc.create:{a: 1}}", "${", "???"]
SUBSTITUTES: list[Any] = [
    *(None, True, -1, 0, 1.5, 10**400, 1e308, float("nan"), float("inf"), "", "x", [], {}, [[1]]),
    *("<script>\x1b[2J\ud800[/red]\n=1+1|`*", "../../..", "/dev/zero", "a" * 10_000, "\0"),
    *(CALL, [CALL], {"a": {"b": CALL}}, {"_target_": CALL}, {"_args_": [1], "_partial_": True}),
    *NAMES,
    *LOOKUPS,
]
WORDS = [
    *("model=mlp", "model=../../../../tmp/x", "+hydra.searchpath=[pkg://hostile_canary]"),
    *("[" * 900, "a=" + "[" * 900, "data.dir=${oc.env:SECRET}", "seed=1,2", "~model", "'", ""),
    *("x=range(0,10000000000)", "hydra.run.dir=/tmp", "model@_global_=mlp", "note='${name}'"),
    *("+model._target_=os.system", "\0"),
]


@pytest.fixture(autouse=True)
def guarded(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have something to steal and to run; compose each list of overrides once: Hydra is slow."""
    (workdir / "hostile_canary").mkdir()
    code = "from pathlib import Path\nPath('was-run').touch()\n"
    (workdir / "hostile_canary" / "__init__.py").write_text(code)
    monkeypatch.syspath_prepend(str(workdir))
    monkeypatch.setenv("SECRET", SECRET)
    composed = functools.cache(config.recompose)

    def recompose(words: list[str]) -> dict[str, Any]:
        return json.loads(json.dumps(composed(tuple(words))))

    monkeypatch.setattr(config, "recompose", recompose)


def spoilt(draw: random.Random) -> bytes:
    """Return a run.json with something wrong in it."""
    made = usual_record(draw.random(), model=draw.choice(["cnn", "mlp"]), seed=draw.randrange(3))
    made["status"] = draw.choice(["finished", "interrupted", "failed", "running", "odd"])
    if draw.random() < 0.3:
        made["weights"] = {"source": "run", "network": dict(made["config"]["model"])}
    for _ in range(draw.choice([1, 1, 1, 2, 4])):
        hostile.spoil(made, draw, SUBSTITUTES)
    if draw.random() < 0.3:  # a name where one is expected
        for section in (made.get("config"), made.get("weights")):
            for inner in section.values() if isinstance(section, dict) else ():
                if isinstance(inner, dict):
                    inner["_target_"] = draw.choice(NAMES)
    if draw.random() < 0.01 and isinstance(made.get("overrides"), list):
        made["overrides"].append(draw.choice(WORDS))
    content = json.dumps(made).encode()
    kind = draw.randrange(20)
    if kind == 0:
        return hostile.torn(content, draw)
    if kind == 1:
        depth = draw.choice([10, 100, 100_000])
        return content.replace(b'"note": null', b'"note": ' + b"[" * depth + b"]" * depth)
    return b"\xff" + content if kind == 2 else content


def use(folder: Path, draw: random.Random) -> None:
    """Do with a folder what the scripts do, up to where they would build a network."""
    found = record.read(folder)
    print_summary(found)
    revived = revival.revive(found)
    names = [value for key, value in flat(revived).items() if key.endswith("_target_")]
    assert set(names) <= revival.SHIPPED
    assert SECRET not in json.dumps(revived.config)
    with contextlib.suppress(UsageError):  # it was made with another config
        run.preview(asked(folder.name), [f"name={folder.name}"])


@functools.cache
def asked(name: str) -> Any:
    return config.compose([f"name={name}"])


def flat(revived: revival.Revived) -> dict[str, Any]:
    return record.flatten({"config": revived.config, "weights": revived.weights or {}})


def test_no_run_folder_crashes_or_runs(capsys: pytest.CaptureFixture[str]) -> None:
    draw, tally = random.Random(seed()), Tally("run folders")
    for i in range(counts(4000)):
        folder = write_run(Path(f"runs/{i % 4}"))
        content = spoilt(draw)
        (folder / "run.json").write_bytes(content)
        with tally.trying(content[:3000]):
            use(folder, draw)
        if i % 8 == 7:
            with tally.trying(content[:3000]):
                compare(draw)
    output = capsys.readouterr()
    with capsys.disabled():
        tally.tell()
    assert SECRET not in output.out + output.err
    assert "\x1b" not in output.out + output.err
    assert not hostile.CANARY.exists()
    assert "hostile_canary" not in sys.modules


def compare(draw: random.Random) -> None:
    """Rank what is in runs/, in every form."""
    for folder in Path("runs").iterdir():
        write_history(folder, [draw.choice([0.1, 0.9, float("nan"), 1e300]) for _ in range(3)])
        history = folder / "metrics.csv"
        history.write_bytes(hostile.torn(history.read_bytes(), draw))
    runs, _ = collection.read_runs([Path("runs")])
    if not runs:
        return
    rows = table.build_table(runs)
    for text in (formats.to_json(rows), formats.to_csv(rows), formats.to_markdown(rows)):
        text.encode()
    captions.footer(rows, "")
    html = page.render(rows, histories.read_curves(rows))
    assert html.count("<script>") == 1
    assert SECRET not in html


def test_no_report_of_an_evaluation_crashes(capsys: pytest.CaptureFixture[str]) -> None:
    draw, tally = random.Random(seed() + 1), Tally("reports of evaluations")
    folder = write_run(Path("runs/a"))
    names = [str(i) for i in range(2)]
    rows = [{"name": n, "images": 2, "precision": 1.0, "recall": 0.5, "f1": 0.7} for n in names]
    ends = {"precision": [0.5, 1], "recall": [0, 1], "f1": [0.1, 0.9]}
    made = {
        **{"schema": 1, "split": "test", "num_images": 4, "best_epoch": 1, "notes": ["a"]},
        "scores": {f"test/{n}": 0.75 for n in ("acc", "loss", "f1", "brier", "ece")},
        "intervals": {"test/acc": [0.5, 0.9]},
        "classes": [{**row, "intervals": ends} for row in rows],
        "confusion": [[2, 0], [1, 1]],
        "confused": [{"true": "0", "predicted": "1", "count": 1, "share": 0.5}],
        "checkpoint_sha256": "",
    }
    for _ in range(counts(1000)):
        value = json.loads(json.dumps(made))
        hostile.spoil(value, draw, SUBSTITUTES)
        content = json.dumps(value).encode()
        if draw.random() < 0.1:
            content = hostile.torn(content, draw)
        reports.path(folder, "test").write_bytes(content)
        with tally.trying(content):
            kept = reports.read(folder, "test")
            collection.read_runs([folder])
            if kept:
                from fmnist import report

                report.tell(kept["notes"])
                report.print_evaluation(folder, kept)
    output = capsys.readouterr()
    with capsys.disabled():
        tally.tell()
    assert "\x1b" not in output.out + output.err


def test_no_special_file_hangs() -> None:
    """What waits for ever, or never ends, is refused in the same breath."""
    tally = Tally("special files")
    for name, make in hostile.special_files().items():
        for file in ("run.json", ".lock", "metrics.csv", "eval-test.json"):
            folder = write_run(Path(f"runs/{name}"))
            (folder / file).unlink(missing_ok=True)
            make(folder / file)
            with tally.trying((name, file)):
                lock.is_held(folder)
                collection.read_runs([Path("runs")])
                histories.read_history(folder)
                reports.read(folder, "test")
                evaluation.choose(folder)
                revival.revive(record.read(folder))
            shutil.rmtree(folder)
    tally.tell()


def test_the_scripts_refuse_hostile_folders(script: Run) -> None:
    run_command = {"model___target_": CALL["_target_"], "model__command": CALL["command"]}
    cases: list[tuple[str, str, dict[str, Any]]] = [
        ("resume.py", "interrupted", run_command),
        ("eval.py", "finished", {"model___target_": "hostile_canary.Net"}),
        ("predict.py", "finished", {"optim__optimizer": CALL}),
        ("export.py", "finished", {"data__dir": "${oc.env:SECRET}"}),
    ]
    paths = {"SECRET": SECRET, "PYTHONPATH": str(Path.cwd())}
    environment = {**os.environ, "COLUMNS": "100", **paths}
    for name, status, changes in cases:
        write_run(Path("runs/a"), status=status, **changes)
        Path("a.png").touch()
        done = script(name, "runs/a", *["a.png"] * (name == "predict.py"), env=environment)
        assert done.returncode == 1, (name, done.stderr)
        assert done.stderr.startswith("Error: runs/a/run.json: "), done.stderr
        assert SECRET not in done.stdout + done.stderr
        shutil.rmtree("runs/a")
    assert not hostile.CANARY.exists()


def test_the_canary_runs_where_it_is_trusted() -> None:
    made = Record(Path("a"), usual_record(model___target_="hostile_canary.Net"))
    assert revival.revive(made, trust=True).config["model"]["_target_"] == "hostile_canary.Net"
    __import__("hostile_canary")
    assert hostile.CANARY.exists()
    del sys.modules["hostile_canary"]

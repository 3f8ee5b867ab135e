"""scripts/predict.py as a user types it, and the parts that need no network."""

import csv
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
from conftest import PROJECT, Run
from PIL import Image
from test_scripts import on_a_terminal

from fmnist import CLASSES, answers, prediction, preview
from fmnist.errors import UserError
from fmnist.prediction import Answer

TOP = (("Shirt", 0.75), ("Coat", 0.2), ("T-shirt/top", 0.05))


def draw(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    picture = Image.new("RGB", (90, 60), "white")
    thing = rng.integers(0, 120, (40, 30, 3), dtype=np.uint8)
    picture.paste(Image.fromarray(thing), (int(rng.integers(60)), int(rng.integers(20))))
    picture.save(path)
    return path


def test_folders_are_searched_patterns_expanded_and_files_named_once(workdir: Path) -> None:
    for name in ("b/2.PNG", "b/1.jpg", "b/deep/3.webp", "b/.hidden/4.png", "a.bin", "c.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"")
    for name in ("b/notes.txt", "b/._1.jpg"):
        Path(name).write_bytes(b"")
    Path("link.png").symlink_to("c.png")
    found, num_skipped = prediction.find_files(["b"])
    assert list(map(str, found)) == ["b/1.jpg", "b/2.PNG", "b/deep/3.webp"]
    assert num_skipped == 2
    found, _ = prediction.find_files(["a.bin", "**/*.webp", "c.png", "link.png", "c.png", "no*"])
    assert list(map(str, found)) == ["a.bin", "b/deep/3.webp", "c.png", "no*"]


def test_a_name_with_brackets_is_no_pattern_where_it_exists(workdir: Path) -> None:
    Path("[1].png").write_bytes(b"")
    assert prediction.find_files(["[1].png"])[0] == [Path("[1].png")]


ROWS = [
    Answer(Path("a.png"), TOP, False, None, np.ones((28, 28), np.uint8)),
    Answer(Path("b, c.png"), TOP, True, None, np.zeros((28, 28), np.uint8)),
    Answer(Path("\x1b[2Jd.png"), error="empty file."),
]


def test_json_has_the_keys_of_the_contract(capsys: pytest.CaptureFixture[str]) -> None:
    assert answers.write(ROWS, "json") == 1
    rows = json.loads(capsys.readouterr().out)
    assert rows[0] == {
        "file": "a.png",
        "label": "Shirt",
        "prob": 0.75,
        "top3": [{"label": name, "prob": prob} for name, prob in TOP],
        "unlike": False,
        "error": None,
    }
    assert rows[2] == {
        **{"file": "\x1b[2Jd.png", "label": None, "prob": None, "top3": []},
        **{"unlike": False, "error": "empty file."},
    }
    answers.write([], "json")
    assert json.loads(capsys.readouterr().out) == []


def test_csv_has_a_row_per_file(capsys: pytest.CaptureFixture[str]) -> None:
    answers.write(ROWS, "csv")
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["file"] for row in rows] == [str(row.file) for row in ROWS]
    assert [row["label"] for row in rows] == ["Shirt", "Shirt", ""]
    assert [row["unlike"] for row in rows] == ["false", "true", ""]
    assert rows[0]["top3"] == "Shirt 0.750000; Coat 0.200000; T-shirt/top 0.050000"


def test_the_table_is_aligned_whole_and_steers_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    answers.write(ROWS, "table")
    head, rule, *lines = capsys.readouterr().out.splitlines()
    assert set(rule) == {"─"}
    assert [line.index("75.0%") for line in lines[:2]] == [head.index("prob") - 1] * 2
    assert lines[1].endswith("unlike the training data: nothing stands out from the ground")
    assert lines[2].startswith("�[2Jd.png")
    assert lines[2].endswith("empty file.")


def test_the_preview_shows_the_first_and_says_so(tmp_path: Path) -> None:
    thumbnail = np.random.default_rng(0).random((60, 90, 4), dtype=np.float32)
    image = np.arange(784, dtype=np.uint8).reshape(28, 28)
    rows = [Answer(Path(f"{i}.png"), TOP, bool(i % 2), None, image, thumbnail) for i in range(5)]
    rows.append(Answer(Path("x" * 80 + "$.png"), error="empty file."))
    figure = preview.draw(rows, 300)
    (axes,) = figure.axes
    words = [text.get_text() for text in axes.texts]
    assert "the first 6 of 300" in axes.get_title("left")
    assert words.count("Shirt 75.0%") == 5
    assert words.count("unlike the training data") == 2
    assert any("empty file." in word for word in words)
    assert max(map(len, words)) < 50
    preview.save(rows, 300, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 500
    with pytest.raises(UserError, match="Cannot write"):
        preview.save(rows, 300, tmp_path / "no" / "sheet.png")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["runs/no", "a.png"], 2, "runs/no does not exist"),
        (["run", "folder"], 1, "There is no picture in folder."),
        (["run", "a.png", "--preview", "sheet.jpg"], 2, "must name a file that ends in .png"),
        (["run", "a.png", "--preview", "no/sheet.png"], 2, "there is no folder no"),
        (["run", ".", "--preview", "./a.png"], 2, "--preview a.png is one of the pictures"),
        (["run", "a.png", "--format", "xml"], 2, "invalid choice: 'xml'"),
        (["run"], 2, "the following arguments are required: PATH"),
    ],
)
def test_mistakes_are_told_before_torch_is_imported(
    script: Run, tmp_path: Path, words: list[str], code: int, message: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    draw(tmp_path / "a.png")
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{PROJECT}"}
    done = script("predict.py", *words, env=environment)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_people_s_pictures_are_labelled(script: Run, small_files: Path, tmp_path: Path) -> None:
    done = script("train.py", "data.batch_size=50", "data.val_size=100", "trainer.max_epochs=2",
                  "name=demo", "figures=none")  # fmt: skip
    assert done.returncode == 0, done.stderr
    for i in range(600):
        draw(tmp_path / "many" / f"{i:03}.png", i)
    images, _ = small.make_images(20, 7)
    for i, image in enumerate(images):
        (tmp_path / "small").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / "small" / f"{i:02}.png")
    (tmp_path / "many" / "300.png").write_bytes(b"")
    (tmp_path / "many" / "notes.txt").write_text("")

    whole = script("predict.py", "runs", "many", "nowhere.png", "--format", "json")
    assert whole.returncode == 1
    rows = json.loads(whole.stdout)
    assert len(rows) == 601
    assert [Path(row["file"]).name for row in rows[:2]] == ["000.png", "001.png"]
    assert {row["file"]: row["error"] for row in rows if row["error"]} == {
        "many/300.png": "empty file.",
        "nowhere.png": "cannot be read: No such file or directory",
    }
    good = [row for row in rows if not row["error"]]
    assert {row["label"] for row in good} <= set(CLASSES)
    assert all(len(row["top3"]) == 3 and row["prob"] == row["top3"][0]["prob"] for row in good)
    assert "Skipped 1 file that is not named like pictures." in whole.stderr
    assert "2 of 601 pictures could not be read." in whole.stderr

    single = script("predict.py", "runs/demo", "many/005.png", "--format", "csv",
                    "--preview", "sheet.png")  # fmt: skip
    assert single.returncode == 0, single.stderr
    (row,) = csv.DictReader(io.StringIO(single.stdout))
    assert (row["label"], float(row["prob"])) == (good[5]["label"], pytest.approx(good[5]["prob"]))
    assert "Wrote sheet.png" in single.stderr
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")

    plain = [
        "--no-invert",
        "--no-background",
        "--no-crop",
        "--no-centre",
        "--no-sharpen",
        "--no-stretch",
    ]
    kept = script("predict.py", "runs/demo", "small", *plain, "--format", "json")
    probs = [row["prob"] for row in json.loads(kept.stdout)]
    assert probs == pytest.approx(probabilities(tmp_path, images), abs=2e-6)

    command = [sys.executable, str(PROJECT / "scripts" / "predict.py"), "runs/demo", "many"]
    code, output = on_a_terminal(command, tmp_path)
    assert code == 1
    assert "Pictures" in output
    assert "empty file." in output


def probabilities(folder: Path, images: Any) -> list[float]:
    """Return the highest probability of each image, by the model from Python."""
    from fmnist.run import load

    return [float(p) for p in load(folder / "runs" / "demo").predict(images).max(1)]

"""TensorBoard's pages in a real browser: they show what the runs recorded."""

import csv
import json
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import everywhere
import numpy as np
import pytest
from board_server import serving
from conftest import PROJECT
from pages import watched
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fmnist import record, schema

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

pytestmark = pytest.mark.browser

TRAIN = str(PROJECT / "scripts" / "train.py")
SHORT = [  # ten steps an epoch
    *["data.batch_size=50", "data.val_size=100", "trainer=cpu", "trainer.max_epochs=2"],
    *["trainer.log_every_n_steps=1", "optim.lr=3e-4"],
]
SWEEP = [TRAIN, "-m", *SHORT, "model=cnn,mlp", "seed=0,1", "figures=all", "name=s"]
STEPS = list(range(1, 21))
CURVES = ("train/loss", "train/acc", "val/loss", "val/acc", "lr")
FIGURES = (
    *("samples", "augmented", "curves"),
    *("predictions", "mistakes", "confusion", "reliability"),
)
CELLS = """grid => [...grid.shadowRoot.querySelectorAll("thead tr, tbody tr")]
    .filter(row => row.getBoundingClientRect().height > 0)
    .map(row => [...row.children].filter(cell => !cell.part.contains("details-cell"))
        .map(cell => cell.querySelector("slot").assignedNodes())
        .map(nodes => nodes.map(node => node.textContent).join("").trim()))"""


class Board(NamedTuple):
    """A TensorBoard and the run folders that it has to show, by the name it gives them."""

    url: str
    runs: dict[str, Path]

    @property
    def records(self) -> dict[str, record.Record]:
        return {name: record.read(folder) for name, folder in self.runs.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, small_files: Path) -> Path:
    """A run, and a sweep whose first job was killed and whose second one was interrupted."""
    folder = tmp_path_factory.mktemp("board")
    environment = everywhere.environment(folder, small_files)

    def train(*words: str) -> int:
        command = [sys.executable, *words]
        done = subprocess.run(
            command, cwd=folder, env=environment, timeout=180, capture_output=True, check=False
        )
        return done.returncode

    killer = [str(PROJECT / "tests" / "killer.py"), str(small_files)]
    assert train(*killer, "training", "15", *SWEEP) == -signal.SIGKILL
    assert train(*killer, "interruption", "25", *SWEEP) == 130
    assert train(*SWEEP) == 0
    assert train(TRAIN, *SHORT, "figures=none", "name=one", "augment=strong") == 0
    return folder


@pytest.fixture(scope="module", params=["scripts/board.py", "tensorboard --logdir sweeps"])
def board(request: pytest.FixtureRequest, folder: Path) -> Iterator[Board]:
    """What a user opens; the second one reads events by another program than the first."""
    top, command = folder, [str(PROJECT / "scripts" / "board.py")]
    if request.param != "scripts/board.py":
        top, command = folder / "sweeps", ["-m", "tensorboard.main", "--logdir", "sweeps"]
    places = [*folder.glob("runs/*/run.json"), *folder.glob("sweeps/*/*/run.json")]
    runs = [p.parent for p in places if top in p.parents and not p.parent.is_symlink()]
    with serving([sys.executable, *command, "--port", "0"], folder) as url:
        board = Board(url, {str(run.relative_to(top)): run for run in runs})
        wait_for_events(board)
        yield board


@pytest.fixture
def page(browser: Any) -> Iterator["Page"]:
    """A page on which any error in a script fails the test."""
    with watched(browser, (1600, 1000), timeout_ms=20_000) as (opened, _):
        yield opened


def wait_for_events(board: Board) -> None:
    """Wait until the last thing that every run wrote was read."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def read() -> dict[str, Any]:
        with opener.open(f"{board.url}data/plugin/scalars/tags", timeout=10) as answer:
            return dict(json.load(answer))

    tags = eventually(
        read, lambda tags: len(tags) == len(board.runs) and all(map(has_scores, tags.values()))
    )
    assert tags.keys() == board.runs.keys()


def has_scores(tags: dict[str, Any]) -> bool:
    return "best/val/acc" in tags


def eventually(read: Callable[[], Any], is_right: Callable[[Any], bool]) -> Any:
    """Return what is read as soon as it is right, or what it is after 20 seconds."""
    deadline = time.monotonic() + 20
    while not is_right(found := read()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def hparams(page: "Page", num_rows: int, column: str) -> list[dict[str, str]]:
    """Return the rows of the table as they stand on the page, once it has `column`."""
    grid = page.locator("vaadin-grid#sessionGroupsTable")
    grid.wait_for()
    eventually(
        lambda: grid.evaluate(CELLS),
        lambda cells: len(cells) == num_rows + 1 and column in cells[0] and "" not in cells[0],
    )
    page.wait_for_timeout(500)  # the cells follow the headers
    cells = grid.evaluate(CELLS)
    return [dict(zip(cells[0], row, strict=True)) for row in cells[1:]]


def shows(cell: str, value: Any) -> bool:
    """Say whether a cell of the table shows a value of run.json; numbers have five digits there."""
    if type(value) in (int, float):
        return cell != "" and float(cell) == float(f"{np.float32(value):.5g}")
    return cell == (value if isinstance(value, str) else json.dumps(value))


def history(run: Path, column: str) -> list[tuple[int, float]]:
    with (run / "metrics.csv").open() as file:
        return [(int(row["step"]), float(row[column])) for row in csv.DictReader(file)]


def test_the_stopped_jobs_put_some_points_down_twice(folder: Path) -> None:
    """Or the other tests here could not find a doubled curve."""
    jobs = {
        path.parent.name: record.read(path.parent) for path in folder.glob("sweeps/s/*/run.json")
    }
    starts = {job: [a["start_epoch"] for a in jobs[job].data["attempts"]] for job in sorted(jobs)}
    assert list(starts.values()) == [[0, 1], [0, 1], [0], [0]]
    interrupted = jobs["model=cnn,seed=1"].folder
    events = EventAccumulator(str(interrupted), purge_orphaned_data=False).Reload()
    steps = [event.step for event in events.Scalars("train/loss_step")]
    assert len(steps) > len(set(steps)) == len(STEPS)


def test_hparams_opens_with_what_differs_and_the_scores(board: Board, page: "Page") -> None:
    page.goto(f"{board.url}#hparams")
    columns = hparams(page, len(board.runs), "best/val/acc")[0].keys()
    differ = ["model._target_", "model.channels", "model.hidden", "model.widths", "seed"]
    if "runs/one" in board.runs:
        differ = ["augment.erase_px", "augment.max_shift_px", *differ]
    assert set(differ) & columns == set(differ[:5])
    assert {"best/train/acc", "best/train/loss", "best/val/acc"} <= columns


def test_hparams_has_one_row_per_run_with_its_config_and_scores(board: Board, page: "Page") -> None:
    page.goto(f"{board.url}#hparams")
    hparams(page, len(board.runs), "best/val/acc")
    pane = page.locator("tf-hparams-query-pane")
    boxes = pane.locator(".hparam-checkbox, .metric-checkbox")
    boxes.and_(pane.locator("[aria-checked=false]")).evaluate_all("x => x.forEach(y => y.click())")
    table = hparams(page, len(board.runs), "val/loss")
    assert sorted(row["Trial ID"] for row in table) == sorted(board.runs)
    rows = {row["Trial ID"]: row for row in table}
    scores = {f"best/{name}" for run in board.records.values() for name in run.scores}
    keys = {key for key in schema.all_keys() if key not in record.NOT_IDENTITY}
    keys = {key for key in keys if not key.endswith("_partial_")}
    for name, run in board.records.items():
        row, expected = rows[name], {**schema.all_keys(), **record.identity(run.data)}
        assert row.keys() >= keys | scores
        assert [key for key in keys if not shows(row[key], expected[key])] == []
        measured = {f"best/{name}": value for name, value in run.scores.items()}
        assert [key for key in measured if not shows(row[key], measured[key])] == []
        assert [key for key in scores - measured.keys() if row[key]] == []


def test_time_series_shows_every_point_of_every_run_once(board: Board, page: "Page") -> None:
    responses: list[Any] = []

    def keep(response: Any) -> None:
        responses.append(response)

    page.on("response", keep)
    page.goto(f"{board.url}#timeseries")
    for tag in CURVES:
        rows = shown_rows(page, tag, len(board.runs))
        assert [row[0] for row in rows] == sorted(board.runs)
        for run, _, value, step, _ in rows:
            last_step, last_value = history(board.runs[run], tag)[-1]
            assert int(step) == last_step
            assert float(value) == pytest.approx(last_value, rel=1e-3, abs=5e-5), tag
    shown_rows(page, "train/loss_step", len(board.runs))
    drawn = drawn_curves(responses)
    for run, folder in board.runs.items():
        for tag in CURVES:
            curve, rows = drawn[tag][run], dict(history(folder, tag))
            assert list(curve) == (STEPS if tag == "lr" else list(rows)), tag
            assert {step: curve[step] for step in rows} == pytest.approx(rows), tag
        assert list(drawn["train/loss_step"][run]) == STEPS


def drawn_curves(responses: list[Any]) -> dict[str, dict[str, dict[int, float]]]:
    """Return what the page got for its charts: tag -> run -> step -> value."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    for response in responses:
        for part in response.json() if response.url.endswith("timeseries/timeSeries") else ():
            for run, points in part["runToSeries"].items():
                curve = {point["step"]: point["value"] for point in points}
                assert len(curve) == len(points), f"{part['tag']} of {run} is doubled"
                found.setdefault(part["tag"], {})[run] = curve
    return found


def shown_rows(page: "Page", tag: str, num_rows: int) -> list[list[str]]:
    """Look for the chart of `tag`; return its table: run, smoothed, value, step, time."""
    page.locator("input[placeholder='Filter tags (regex)']").fill(f"^{tag}$")
    card = page.locator("scalar-card").filter(has=page.locator(f"[title='{tag}']")).first
    rows = card.locator("tb-data-table-content-row")
    read = "rows => rows.map(row => [...row.children].map(cell => cell.textContent.trim()))"
    cells = eventually(lambda: rows.evaluate_all(read), lambda rows: len(rows) == num_rows)
    return [[cell for cell in row if cell] for row in cells]


def test_images_show_the_figures_of_every_job(board: Board, page: "Page") -> None:
    page.goto(f"{board.url}#images")
    jobs = {name for name, run in board.runs.items() if run.parent.name == "s"}
    assert len(jobs) == 4
    for figure in FIGURES:
        assert shown_images(page, f"figures/{figure}", len(jobs)) == jobs


def shown_images(page: "Page", tag: str, num_images: int) -> set[str]:
    """Look for the images of `tag` and return the runs whose image is really there."""
    page.locator("tf-tag-filterer input").fill(f"^{tag}$")
    loaders: Locator = page.locator("tf-image-loader")
    read = """loaders => loaders.filter(x => x.tag == TAG)
        .filter(x => x.shadowRoot.querySelector("img")?.naturalWidth > 300)
        .map(x => x.run)""".replace("TAG", json.dumps(tag))
    return eventually(lambda: set(loaders.evaluate_all(read)), lambda runs: len(runs) == num_images)

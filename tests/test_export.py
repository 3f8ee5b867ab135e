"""scripts/export.py: one file that answers as the model does, without this package."""

import errno
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import venv
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import small
import torch
from conftest import PROJECT, Run
from numpy.typing import NDArray
from PIL import Image

from fmnist import CLASSES, evaluation, export, record, run, sources
from fmnist.card import Exported
from fmnist.errors import UsageError, UserError

FAST = ["data.batch_size=50", "data.val_size=100", "trainer.max_epochs=1", "trainer=cpu"]
KEPT = ["figures=none", "checkpoints=best"]
IMAGES = small.make_images(64, seed=3)[0][:, None]
LOADING = "The given buffer is not writable, and PyTorch"  # torch 2.11 about a file without pickles
OWN = """\
import pathlib
import time

import torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(784, 10)

    def forward(self, images):
        return self.linear(images.flatten(1) / 255)

class Normed(Net):
    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(1)
        self.shift = torch.ones(784)  # no buffer: a constant of the traced program

    def forward(self, images):
        return self.linear(self.norm(images / 255).flatten(1) + self.shift)

class Asks(Net):
    def forward(self, images):
        logits = super().forward(images)
        return logits + 1 if logits.sum() > 0 else logits

class Strange(Net):
    def forward(self, images):
        logits = super().forward(images)
        return -logits if torch.compiler.is_compiling() else logits

class Sleeps(Net):
    def forward(self, images):
        if torch.compiler.is_compiling():
            pathlib.Path("asleep").touch()
            time.sleep(60)
        return super().forward(images)

class Rare(Net):
    def forward(self, images):
        logits = super().forward(images)
        return logits if self.training else torch.special.bessel_j1(logits)
"""


def train(folder: str, *words: str) -> Path:
    run.train([*FAST, *KEPT, f"name='{Path(folder).name}'", *words], folder=Path(folder))
    return Path(folder)


def train_own(name: str) -> Path:
    dropped = [f"~model.{key}" for key in ("channels", "hidden", "dropout", "init")]
    return train(f"runs/{name}", f"model._target_=own_nets.{name}", *dropped)


@pytest.fixture
def own_nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "own_nets.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("own_nets", None)


@pytest.fixture(scope="module")
def exported(
    small_files: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Exported]]:
    """One run with flip averaging whose test set was not read, in both formats."""
    folder = tmp_path_factory.mktemp("exported")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "FILES", small.checksums(small_files))
        patch.setenv("FMNIST_SYSTEM_DIR", str(small_files))
        patch.chdir(folder)
        place = train(str(folder / "mine"), f"data.dir='{folder}/data'", "test=false")
        assert record.read(place).data["config"]["augment"]["test_flip"]
        yield {kind: export.export(place, kind)[0] for kind in export.SUFFIXES}


def open_onnx(path: Path) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})[0]  # type: ignore[no-any-return]


def open_torch(path: Path) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    network = torch.export.load(path).module()
    return lambda images: network(torch.from_numpy(images)).numpy()  # type: ignore[no-any-return]


OPEN = {"onnx": open_onnx, "torch_export": open_torch}
BOTH = pytest.mark.parametrize("kind", ["onnx", "torch_export"])


def assert_equal_to_model(folder: Path, made: Exported) -> None:
    predict, model = OPEN[made.kind](made.path), run.load(folder, trust=True)
    for num_images in (0, 1, 2, 64, 1000):
        images = np.resize(IMAGES, (num_images, 1, 28, 28))
        probs = predict(images)
        assert probs.dtype == np.float32
        assert probs.shape == (num_images, 10)
        np.testing.assert_allclose(probs, model.predict(images), atol=1e-5, rtol=0)


@BOTH
@pytest.mark.filterwarnings(f"ignore:{LOADING}")
def test_a_file_gives_the_probabilities_of_the_model(
    exported: dict[str, Exported], kind: str
) -> None:
    made = exported[kind]
    assert_equal_to_model(made.path.parent, made)
    assert made.check.num_images == small.NUM_TEST
    assert made.check.images == "test images"
    assert 0 <= made.check.difference <= export.TOLERANCE


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize(
    "words", [["model=mlp"], ["augment.test_flip=false"], ["model=mlp", "augment.test_flip=false"]]
)
@pytest.mark.usefixtures("small_data", "workdir")
def test_other_recipes_are_exported_as_well(kind: str, words: list[str]) -> None:
    folder = train("runs/a", *words)
    assert_equal_to_model(folder, export.export(folder, kind)[0])


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("name", ["Net", "Normed"])
@pytest.mark.usefixtures("small_data", "workdir", "own_nets")
def test_a_network_of_ones_own_is_exported(kind: str, name: str) -> None:
    folder = train_own(name)
    assert_equal_to_model(folder, export.export(folder, kind, trust=True)[0])


def read_metadata(made: Exported) -> dict[str, Any]:
    if made.kind == "torch_export":
        files = {"metadata.json": ""}
        torch.export.load(made.path, extra_files=files)
        return dict(json.loads(files["metadata.json"]))
    read = {prop.key: prop.value for prop in onnx.load(made.path).metadata_props}
    for key in ("class_names", "versions", "config", "scores", "best_epoch", "dirty", "partial"):
        if key in read:
            read[key] = json.loads(read[key])
    return read


@BOTH
@pytest.mark.filterwarnings(f"ignore:{LOADING}")
def test_metadata_tell_the_classes_and_where_the_weights_are_from(
    exported: dict[str, Exported], kind: str
) -> None:
    made = exported[kind]
    found, done = read_metadata(made), record.read(made.path.parent).data
    assert found["class_names"] == list(CLASSES)
    assert found["run"] == "mine"
    assert found["created"]
    for key in ("data_hash", "split_hash", "scores", "best_epoch", "versions", "selected_on"):
        assert found[key] == done[key], key
    assert done["config"]["data"]["dir"]
    assert found["config"] == {**done["config"], "data": {**done["config"]["data"], "dir": None}}


@BOTH
def test_a_file_names_no_place_of_this_machine(exported: dict[str, Exported], kind: str) -> None:
    made = exported[kind]
    content = made.path.read_bytes()
    for place in (PROJECT, made.path.parent, Path(torch.__file__).parent, Path.home()):
        assert str(place).encode() not in content, place
    assert b"predict_logits" not in content  # no source code either
    assert b"Traceback" not in content
    assert str(made.path.parent) not in made.card.read_text()


def test_onnx_is_valid_whole_and_plain(exported: dict[str, Exported]) -> None:
    model = onnx.load(exported["onnx"].path, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 18)]
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    (images,), (probs,) = model.graph.input, model.graph.output
    kinds = [value.type.tensor_type.elem_type for value in (images, probs)]
    assert kinds == [onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT]
    shapes = [
        [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (images, probs)
    ]
    assert (images.name, probs.name, shapes) == ("images", "probs", [["N", 1, 28, 28], ["N", 10]])
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)


def test_an_archive_of_torch_holds_no_pickle(exported: dict[str, Exported]) -> None:
    with zipfile.ZipFile(exported["torch_export"].path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    weights = [name for name in contents if re.search(r"/weights/weight_\d+$", name)]
    num_bytes = sum(len(contents.pop(name)) for name in weights)
    assert num_bytes == 4 * (225_034 + 1)  # nothing but float32; one is the divisor
    for name, content in contents.items():
        assert content.decode().isprintable() or json.loads(content), name


def test_the_test_set_is_never_first_read_by_an_export(exported: dict[str, Exported]) -> None:
    folder = exported["onnx"].path.parent
    assert not (folder / "eval-test.json").exists()
    assert "No test score is known." in exported["onnx"].card.read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("small_data", "workdir")
def test_scores_of_a_test_that_was_read_are_on_the_card() -> None:
    folder = train("runs/a", "model=mlp")
    made, faults = export.export(folder, "torch_export")
    scores = record.read(folder).scores
    text = made.card.read_text()
    assert f"{100 * scores['val/acc']:.2f} % (" in text
    assert f"{100 * scores['test/acc']:.2f} % (" in text
    assert f"`{made.sha256}`" in text
    assert faults == ()
    made.path.write_bytes(b"old")
    again, _ = export.export(folder, "torch_export")
    assert hashlib.sha256(made.path.read_bytes()).hexdigest() == again.sha256
    assert f"`{again.sha256}`" in made.card.read_text()
    assert sorted(path.name for path in folder.glob("*model.*")) == ["model.pt2", "model.pt2.md"]


@pytest.mark.usefixtures("small_data", "workdir")
def test_without_the_data_random_images_check_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = train("runs/a", "model=mlp")

    def obtain(*_: Any, **__: Any) -> str:
        raise UserError("no source has them")

    monkeypatch.setattr(sources, "obtain", obtain)
    made, faults = export.export(folder, "torch_export")
    assert (made.check.num_images, made.check.images) == (1000, "random images")
    assert faults == ("Checked with random images only, and no score measured: no source has them",)
    text = made.card.read_text()
    assert "on 1,000 random images" in text
    assert "Not measured." in text
    assert f"{100 * record.read(folder).scores['test/acc']:.2f} % (" in text


def lines_of(made: Exported) -> str:
    found = re.search(r"```python\n(.*?)```", made.card.read_text(), re.DOTALL)
    assert found
    assert len(found[1].splitlines()) <= 10
    return found[1]


def run_lines(made: Exported, python: str, forbidden: str, folder: Path) -> None:
    """Run the card's lines on a picture beside the file, in a process without `forbidden`."""
    Image.fromarray(IMAGES[0, 0]).save(folder / "picture.png")
    (folder / made.path.name).write_bytes(made.path.read_bytes())
    before = f"import sys; sys.modules.update(dict.fromkeys({forbidden.split()}))\n"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [python, "-W", "error", "-W", f"ignore:{LOADING}", "-c", before + lines_of(made)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    (probs,) = run.load(made.path.parent).predict(IMAGES[0])
    label, prob = done.stdout.rsplit(maxsplit=1)
    assert label == CLASSES[probs.argmax()]
    assert float(prob) == pytest.approx(probs.max(), abs=1e-5)


def test_the_lines_of_the_card_need_neither_torch_nor_this_package(
    exported: dict[str, Exported], tmp_path: Path
) -> None:
    run_lines(exported["onnx"], sys.executable, "torch onnx fmnist", tmp_path)


@pytest.mark.slow
def test_the_lines_of_the_card_for_torch_need_not_this_package(
    exported: dict[str, Exported], tmp_path: Path
) -> None:
    run_lines(exported["torch_export"], sys.executable, "fmnist pytorch_lightning", tmp_path)


@pytest.mark.slow
def test_the_lines_of_the_card_run_where_only_onnxruntime_is(
    exported: dict[str, Exported], tmp_path: Path
) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    needed = re.search(r"`pip install (.*?)`", exported["onnx"].card.read_text())
    assert needed
    options = ["-q", "--disable-pip-version-check", "-c", str(PROJECT / "constraints.txt")]
    subprocess.run([python, "-m", "pip", "install", *options, *needed[1].split()], check=True)
    run_lines(exported["onnx"], python, "", tmp_path)


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("Strange", "torch_export", r"answers otherwise than the model: \d+ of 200 labels differ"),
        ("Asks", "torch_export", "cannot be exported: Could not guard on data-dependent"),
        pytest.param(
            "Rare",
            "onnx",
            "cannot be written as ONNX: No ONNX function found.*bessel.*Try --format torch_export.",
            marks=pytest.mark.slow,
        ),
    ],
)
@pytest.mark.usefixtures("small_data", "workdir", "own_nets")
def test_a_network_that_cannot_be_exported_leaves_one_line_and_no_file(
    name: str, kind: str, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = train_own(name)
    capfd.readouterr()
    before = sorted(folder.rglob("*"))
    with pytest.raises(UserError, match=message) as caught:
        export.export(folder, kind, trust=True)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    assert sorted(folder.rglob("*")) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("failure", "seen", "message"),
    [
        (
            OSError(errno.EROFS, os.strerror(errno.EROFS)),
            UserError,
            "^Cannot write .*model.pt2.md .*Read-only.* Name another place with --out FILE.$",
        ),
        (KeyboardInterrupt("now"), KeyboardInterrupt, "^now$"),
    ],
)
def test_what_cannot_be_written_leaves_nothing(
    failure: BaseException,
    seen: type[BaseException],
    message: str,
    exported: dict[str, Exported],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = exported["torch_export"].path.parent
    before = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    calls = []

    def replace(source: Path, target: Path) -> None:
        calls.append(source.read_bytes())
        raise failure

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(seen, match=message):
        export.export(folder, "torch_export")
    assert calls
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("a.pt2", "--out must name a file that ends in .onnx, got a.pt2."),
        ("taken.onnx", "--out taken.onnx: its card, taken.onnx.md, is a folder. Name another."),
        ("folder.onnx", "--out must name a file that ends in .onnx, got folder.onnx."),
        ("no/a.onnx", "--out no/a.onnx: there is no folder no. Make it first."),
    ],
)
def test_a_place_that_no_file_can_have_is_refused(workdir: Path, out: str, message: str) -> None:
    (workdir / "folder.onnx").mkdir()
    (workdir / "taken.onnx.md").mkdir()
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        export.export(workdir, "onnx", Path(out))
    with pytest.raises(UsageError, match="must be one of onnx, torch_export, got 'tflite'"):
        export.export(workdir, "tflite")


def finished(folder: Path, **changes: Any) -> Path:
    from run_folders import write_run

    return write_run(folder, **changes)


def test_only_a_finished_run_is_exported(workdir: Path) -> None:
    folder = finished(workdir / "a", status="interrupted")
    with pytest.raises(UserError, match="is not finished but interrupted. Train it to its end"):
        export.export(folder)


def test_a_missing_package_is_named(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"needs onnxruntime, not .* pip install -e '.\[export\]'"):
        export.export(finished(workdir / "a"), "onnx")


def test_help_answers_without_torch(script: Run, tmp_path: Path) -> None:
    code = "import runpy, sys; sys.modules['torch'] = None; sys.argv = ['export.py', '--help']\n"
    code += f"runpy.run_path({str(PROJECT / 'scripts' / 'export.py')!r}, run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--format {onnx,torch_export}" in done.stdout


@pytest.mark.slow
def test_the_best_run_of_a_sweep_is_exported_from_another_place(
    script: Run, tmp_path: Path
) -> None:
    words = ["-m", *FAST, "model=mlp", "seed=0,1", "test=false", "name=s"]
    assert script("train.py", *words).returncode == 0
    (tmp_path / "sweeps").rename(tmp_path / "elsewhere")
    best, _ = evaluation.choose(tmp_path / "elsewhere" / "s")
    done = script("export.py", "elsewhere/s", "--format", "torch_export", "--out", "best.pt2")
    assert done.returncode == 0, done.stderr
    place = Path("elsewhere/s")
    assert done.stderr == f"{place / best.name}: the best by val/acc in {place}\n"
    first, check, speed, last = done.stdout.splitlines()
    assert re.fullmatch(r"best\.pt2: 1\.\d\d MB", first)
    assert re.fullmatch(
        r"checked on 200 test images: labels equal, probabilities (equal|at most .* apart)", check
    )
    assert re.fullmatch(r"[\d,]+ images/s; the model: [\d,]+ images/s", speed)
    assert last == "card: best.pt2.md"
    assert f"from the run `{best.name}`" in (tmp_path / "best.pt2.md").read_text()
    assert not list(best.glob("model.*"))


@pytest.mark.slow
def test_a_stopped_export_leaves_nothing(small_files: Path, tmp_path: Path, script: Run) -> None:
    (tmp_path / "own_nets.py").write_text(OWN)
    dropped = [f"~model.{key}" for key in ("channels", "hidden", "dropout", "init")]
    words = [*FAST, *KEPT, "model._target_=own_nets.Sleeps", *dropped, "name=a"]
    done = script("train.py", *words)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs" / "a"
    before = sorted(path.name for path in folder.iterdir())
    small_script = [sys.executable, str(PROJECT / "tests" / "small.py"), str(small_files)]
    process = subprocess.Popen(
        [*small_script, str(PROJECT / "scripts" / "export.py"), "runs/a", "--trust"],
        cwd=tmp_path,
        env={**os.environ, "FMNIST_DATA": str(tmp_path / "data")},
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (tmp_path / "asleep").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert (process.returncode, told) == (143, "Interrupted by SIGTERM.\n")
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.usefixtures("small_data", "workdir")
def test_an_old_runtime_can_read_the_file(exported: dict[str, Exported]) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(exported["onnx"].path)
    assert (model.ir_version, model.opset_import[0].version) == (8, 18)

"""A config read back from a folder: it names what fmnist ships, or nothing of it is imported."""

import json
import re
import runpy
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import PROJECT, Run
from run_folders import usual_config, usual_record

from fmnist import build, consent, evaluation, export, proof, record, run, weights
from fmnist.errors import UserError
from fmnist.model import load_model
from fmnist.record import Record
from fmnist.revival import SHIPPED, revive

CALL = {"_target_": "torch.utils.collect_env.run", "command": "touch was-run"}
FAST = ["data.batch_size=50", "data.val_size=100", "trainer.max_epochs=1", "trainer=cpu"]
FAST += ["figures=none", "logger=none"]
OWN = """\
from pathlib import Path
from torch import nn

Path("was-run").touch()

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(784, 10))

    def forward(self, images):
        return super().forward(images / 255)
"""

NEIGHBOUR = """\
import torch

class MyNet(torch.nn.Module):
    def __init__(self, width, depth):
        super().__init__()
        sizes = [784, *[width] * depth]
        pairs = zip(sizes, sizes[1:])
        self.layers = torch.nn.ModuleList(torch.nn.Linear(*pair) for pair in pairs)
        self.last = torch.nn.Linear(width, 10)

    def forward(self, images):
        from sizes import NUM_PIXELS

        values = images.reshape(-1, NUM_PIXELS) / 255
        for layer in self.layers:
            values = layer(values)
        return self.last(values)
"""


def found(**changes: Any) -> Record:
    return Record(Path("runs/a"), usual_record(**changes))


def targets(values: Any) -> Iterator[str]:
    if isinstance(values, dict):
        yield from (v for k, v in values.items() if k == "_target_")
        yield from (name for value in values.values() for name in targets(value))


def test_the_names_that_may_be_read_back_are_those_of_conf() -> None:
    """Hydra's own plugins stand in no record."""
    in_files = set()
    for path in (PROJECT / "conf").rglob("*.yaml"):
        if (PROJECT / "conf" / "hydra") not in path.parents:
            in_files |= set(targets(yaml.safe_load(path.read_text())))
    assert in_files == SHIPPED


def test_each_shipped_model_is_read_back() -> None:
    for path in (PROJECT / "conf" / "model").glob("*.yaml"):
        made = Record(Path("a"), {"config": usual_config(path.stem), "overrides": []})
        assert revive(made).config == made.data["config"]


@pytest.mark.parametrize("value", ["os.system", "fmnist.models", "fmnist.models.cnn.x", "mine.Net"])
@pytest.mark.parametrize(
    "place",
    [
        *("model", "optim.optimizer", "optim.schedule", "callbacks.mine", "hydra.job"),
        *("model.channels.0", "trainer.a.b.c"),
    ],
)
def test_a_name_that_is_not_shipped_is_refused_wherever_it_stands(place: str, value: str) -> None:
    made = found()
    *sections, last = place.split(".")
    values = made.data["config"]
    for section in sections:
        values = (
            values.setdefault(section, {}) if isinstance(values, dict) else values[int(section)]
        )
    new = {"_target_": value}
    if isinstance(values, list):
        values[int(last)] = new
    else:
        values[last] = {**values[last], **new} if isinstance(values.get(last), dict) else new
    said = (
        rf"^runs/a/run\.json: {re.escape(place)}\._target_={re.escape(value)} is none of the names"
    )
    with pytest.raises(UserError, match=rf"{said}.* add --trust: it runs the code") as caught:
        revive(made)
    assert caught.value.exit_code == 1


def test_the_network_of_the_weights_is_checked_too() -> None:
    network: dict[str, Any] = usual_config("mlp")["model"]
    assert revive(found(weights={"network": network})).weights == {"network": network}
    for bad, match in (
        (CALL, r"weights\.network\._target_=torch\.utils\.collect_env\.run is none of the names"),
        ({**network, "widths": "x"}, r"run\.json: weights\.network\.widths must be a list"),
        ({**network, "more": 1}, r"run\.json: Unknown key weights\.network\.more"),
        ({"_target_": "torch.optim.SGD"}, r"weights\.network is no network, but torch\.optim\.SGD"),
        (["x"], r"weights\.network must name a network, got \['x'\]"),
        ({}, r"weights\.network must name a network, got \{\}"),
    ):
        with pytest.raises(UserError, match=match):
            revive(found(weights={"network": bad}))


def test_what_the_overrides_add_is_checked_too() -> None:
    """A key that the config lacks has the default that its overrides mean today."""
    made = found()
    del made.data["config"]["model"]
    made.data["overrides"] = ["model._target_=os.system"]
    with pytest.raises(UserError, match=r"model\._target_=os\.system is none of the names"):
        revive(made)


@pytest.mark.parametrize("key", ["note", "data__dir", "model__hidden", "optim__lr"])
@pytest.mark.parametrize("text", ["${oc.env:SECRET}", "a ${name}", "${unheard.of:x}", "${"])
def test_nothing_is_looked_up(monkeypatch: pytest.MonkeyPatch, key: str, text: str) -> None:
    monkeypatch.setenv("SECRET", "sesame")
    made = found(**{key: text})
    made.data["config"]["note" if key == "note" else "name"] = text
    with pytest.raises(UserError, match=r"asks to look something up") as caught:
        revive(made)
    assert "sesame" not in str(caught.value)


def test_words_of_a_folder_read_no_other_folder(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "evil.yaml").write_text("_target_: os.system\n")
    made = found()
    expected = revive(made).config
    del made.data["config"]["callbacks"]
    for word in (f"hydra.searchpath=[file://{tmp_path}]", f"model=../..{tmp_path}/model/evil"):
        made.data["overrides"] = [word]
        assert revive(made).config == expected


@pytest.mark.parametrize("value", [1, None, [], {}, {"_target_": "os.system"}, ""])
def test_a_name_that_is_no_text_is_refused(value: Any) -> None:
    made = found()
    made.data["config"]["model"]["_target_"] = value
    with pytest.raises(UserError, match=r"^runs/a/run\.json: "):
        revive(made, trust=True)


@pytest.fixture
def own(
    workdir: Path,
    small_data: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A run of a class of the user's own, which tells by a file when it is imported."""
    Path("our_net.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(workdir))
    kept = tmp_path_factory.getbasetemp() / "own"
    if not kept.exists():
        drop = [f"~model.{key}" for key in ("channels", "hidden", "dropout", "init")]
        run.train([*FAST, "model._target_=our_net.Net", *drop, "name=own"])
        shutil.copytree("runs/own", kept)
        shutil.rmtree("runs/own")
    shutil.copytree(kept, "runs/own")
    forget()
    return Path("runs/own")


def forget() -> None:
    sys.modules.pop("our_net", None)
    Path("was-run").unlink(missing_ok=True)


USES: dict[str, Callable[[Path, bool], Any]] = {
    "load": lambda folder, trust: run.load(folder, trust=trust),
    "resume": lambda folder, trust: run.resume(folder, trust=trust),
    "evaluate": lambda folder, trust: evaluation.evaluate(folder, "val", trust=trust),
    "export": lambda folder, trust: export.export(folder, "torch_export", trust=trust),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_an_own_class_needs_trust_to_be_read_back(
    own: Path, use: Callable[[Path, bool], Any]
) -> None:
    with pytest.raises(UserError, match=r"model\._target_=our_net\.Net is none .* add --trust"):
        use(own, False)
    assert not Path("was-run").exists()
    use(own, True)
    assert not consent.is_given()


def test_an_own_class_that_is_typed_needs_none(own: Path) -> None:
    """Neither to begin nor to go on: the config is the user's, not the folder's."""
    made = record.read(own)
    made.data["scores"] = {}
    made.update(status="interrupted")
    words = made.data["overrides"]
    assert run.train(words).status == "finished"
    assert len(record.read(own).data["attempts"]) == 2


def test_a_transfer_from_an_own_class_needs_trust(own: Path) -> None:
    words = ["model=transfer", f"model.weights={own}", "name=heir"]
    with pytest.raises(
        UserError, match=r"model\.weights=runs/own: .*our_net\.Net is none .* --trust"
    ):
        run.train([*FAST, *words])
    assert not Path("was-run").exists()
    with consent.given(True):
        done = run.train([*FAST, *words])
    with pytest.raises(UserError, match=r"weights\.network\._target_=our_net\.Net is none"):
        load_model(done.folder)
    assert load_model(done.folder, trust=True).config["model"]["_target_"] == weights.TARGET


@pytest.mark.slow
def test_the_scripts_take_trust(own: Path, script: Run) -> None:
    """`resume.py RUN --trust` and the others; without it they end with 1 and what to add."""
    made = record.read(own)
    Path("a.pgm").write_bytes(b"P5 28 28 255 " + bytes(784))
    for name, more in (
        ("eval.py", ["--split", "val"]),
        ("predict.py", ["a.pgm"]),
        ("export.py", ["--format", "torch_export"]),
        ("resume.py", []),
    ):
        if name == "resume.py":
            made.data["scores"] = {}
            made.update(status="interrupted")
        refused = script(name, str(own), *more)
        assert (refused.returncode, Path("was-run").exists()) == (1, False), refused.stderr
        assert refused.stderr.startswith("Error: runs/own/run.json: model._target_=our_net.Net")
        done = script(name, str(own), *more, "--trust")
        assert (done.returncode, Path("was-run").exists()) == (0, True), done.stderr
        forget()


@pytest.mark.slow
def test_train_takes_trust(own: Path, script: Run) -> None:
    words = [*FAST, "model=transfer", f"model.weights={own.resolve()}", "name=heir"]
    refused = script("train.py", *words)
    assert (refused.returncode, Path("was-run").exists()) == (1, False), refused.stderr
    done = script("train.py", *words, "--trust")
    assert done.returncode == 0, done.stderr
    assert json.loads(Path("runs/heir/run.json").read_text())["status"] == "finished"


@pytest.mark.slow
def test_an_own_class_is_found_where_its_user_types(workdir: Path, script: Run) -> None:
    """The README's example, in each process of trainer=ddp too; its neighbours at any time."""
    Path("my_package").mkdir()
    Path("my_package/__init__.py").write_text("from my_package.net import MyNet as MyNet\n")
    Path("my_package/net.py").write_text(NEIGHBOUR)
    Path("sizes.py").write_text("NUM_PIXELS = 784\n")
    Path("groups/model").mkdir(parents=True)
    lines = "_target_: my_package.MyNet\nwidth: 64\ndepth: 2\n"
    Path("groups/model/mine.yaml").write_text(lines)
    two = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]
    words = [*FAST, *two, "model=mine", "model.width=8", "name=a"]
    done = script("train.py", "--config-dir", "groups", *words)
    assert done.returncode == 0, done.stderr
    again = script("eval.py", "runs/a", "--split", "val", "--trust")
    assert again.returncode == 0, again.stderr


def test_a_class_that_cannot_be_imported_is_told_once(
    workdir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    config = {**usual_config("mlp"), "model": {"_target_": "torch.nn.Nope"}}
    with pytest.raises(UserError, match=r"torch\.nn\.Nope cannot be imported: No module"):
        build.net(config)
    assert not caplog.records


def test_verify_resume_hands_trust_on(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(proof, "verify", lambda train, *_: commands.append(train) or True)
    for more in ([], ["--trust"]):
        monkeypatch.setattr(sys, "argv", ["verify_resume.py", "seed=1", *more])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(PROJECT / "scripts" / "verify_resume.py"), run_name="__main__")
        assert ended.value.code == 0
    assert [command[-1] for command in commands] == ["checkpoints=all", "--trust"]

"""What a run of model=transfer starts from: torchvision's weights, a file's, another run's."""

import functools
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.transforms._presets import ImageClassification

from fmnist import build, config, export, portable, run, weights
from fmnist.classifier import Classifier
from fmnist.errors import UsageError, UserError
from fmnist.models import last_layer

ARCH, SIZE_PX = "shufflenet_v2_x0_5", 40
ENTRY = models.ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1
WORDS = ["model=transfer", f"model.arch={ARCH}", f"model.size_px={SIZE_PX}"]
FAST = ["data.batch_size=50", "data.val_size=100", "figures=none", "trainer=cpu"]


@pytest.fixture
def theirs() -> nn.Module:
    """torchvision's network with 1,000 classes, its running statistics not those of a new one."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = models.get_model(ARCH)
        for layer in net.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean = torch.randn(layer.num_features) / 10
                layer.running_var = torch.rand(layer.num_features) + 0.5
    return net.eval()


@pytest.fixture
def file(theirs: nn.Module, workdir: Path) -> Path:
    torch.save(theirs.state_dict(), "given.pth")
    return workdir / "given.pth"


def begin(*words: str) -> tuple[Classifier, dict[str, Any] | None]:
    return weights.begin(config.settle(config.check(config.compose([*WORDS, *words]))), None)


def check_features(
    ours: Classifier, theirs: nn.Module, mean: list[float], std: list[float]
) -> None:
    """Compare what the last layer is given with what torchvision's network gives its own."""
    images = torch.randint(0, 256, (4, 1, 28, 28), dtype=torch.uint8)
    preset = ImageClassification(crop_size=SIZE_PX, resize_size=SIZE_PX, mean=mean, std=std)
    theirs.fc = nn.Identity()
    expected = theirs(preset(images.expand(-1, 3, -1, -1) / 255))
    seen: list[Tensor] = []
    head = last_layer(ours.net)[1]
    head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    assert ours.eval()(images).shape == (4, 10)
    assert expected.std() > 0.01
    torch.testing.assert_close(seen[0], expected, rtol=1e-4, atol=1e-4)


IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def test_features_of_a_file_are_those_of_its_network(file: Path, theirs: nn.Module) -> None:
    module, facts = begin("model.weights=given.pth")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert facts == {"source": "file", "name": "given.pth", "file": file.name, "sha256": digest}
    check_features(module, theirs, *IMAGENET)


def test_statistics_of_a_file_can_be_given(file: Path, theirs: nn.Module) -> None:
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
    module, _ = begin(f"model.weights={file}", f"model.mean={mean}", f"model.std={std}")
    check_features(module, theirs, mean, std)


@pytest.fixture
def hub(file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A server (file://) that has the weights, and torchvision's empty folder; returns its file."""
    name = f"given-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}.pth"
    shutil.move(file, file.with_name(name))
    monkeypatch.setenv("TORCH_HOME", str(file.parent / "home"))
    preset = functools.partial(ImageClassification, crop_size=224, mean=(0.5,) * 3, std=(0.25,) * 3)
    monkeypatch.setattr(ENTRY.value, "url", file.with_name(name).as_uri())
    monkeypatch.setattr(ENTRY.value, "transforms", preset)
    return file.parent / "home" / "hub" / "checkpoints" / name


@pytest.mark.parametrize("name", ["DEFAULT", "ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1"])
def test_features_of_torchvisions_weights_are_those_of_its_network(
    hub: Path, theirs: nn.Module, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    module, facts = begin(f"model.weights={name}")
    assert facts
    assert facts["name"] == "ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1"
    assert facts["sha256"] == hashlib.sha256(hub.read_bytes()).hexdigest()
    assert capsys.readouterr().out == ""
    check_features(module, theirs, [0.5] * 3, [0.25] * 3)


def test_torchvisions_weights_are_downloaded_once(hub: Path) -> None:
    begin("model.weights=DEFAULT")
    (hub.parents[3] / hub.name).unlink()
    begin("model.weights=DEFAULT")


@pytest.mark.parametrize("has_right_name", [True, False])
def test_code_in_the_cache_of_torchvision_is_not_run(
    hub: Path, monkeypatch: pytest.MonkeyPatch, has_right_name: bool
) -> None:
    """Nor where its sha256 is that of its name, which torchvision looks at in a download only."""
    content = hostile.saved(hostile.Exploit(*hostile.CALLS[0]))
    name = f"given-{hashlib.sha256(content).hexdigest()[:8]}.pth" if has_right_name else hub.name
    monkeypatch.setattr(ENTRY.value, "url", f"file:///nowhere/{name}")
    hub.parent.mkdir(parents=True)
    (hub.parent / name).write_bytes(content)
    match = "it calls posix.system" if has_right_name else "its sha256 does not begin with"
    with pytest.raises(UserError, match=match):
        begin("model.weights=DEFAULT")
    assert not hostile.CANARY.exists()


def test_an_unreachable_hub_says_what_to_type(hub: Path) -> None:
    (hub.parents[3] / hub.name).unlink()
    with pytest.raises(UserError) as caught:
        begin("model.weights=DEFAULT")
    assert caught.value.exit_code == 1
    text = str(caught.value)
    assert text.startswith("Cannot download model.weights=ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1")
    for what in (ENTRY.url, str(hub.parent), f"model.weights=PATH/{hub.name}"):
        assert what in text


@pytest.mark.parametrize("damage", ["half", "another"])
def test_a_damaged_download_is_found(hub: Path, theirs: nn.Module, damage: str) -> None:
    begin("model.weights=DEFAULT")
    if damage == "half":
        hub.write_bytes(hub.read_bytes()[:100_000])
    else:
        nn.init.zeros_(theirs.fc.weight)
        torch.save(theirs.state_dict(), hub)
    with pytest.raises(UserError, match=f"{hub} is damaged .* Delete it"):
        begin("model.weights=DEFAULT")


def rename(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: rename("module.", state),
        lambda state: {"model": state, "epoch": 3, "optimizer": {"state": {}}},
        lambda state: {"state_dict": rename("net.net.", state), "epoch": 3},
        lambda state: {k: v for k, v in state.items() if not k.startswith("fc.")},
        lambda state: {k: v for k, v in state.items() if "num_batches" not in k},
    ],
    ids=["DataParallel", "torchvision", "Lightning", "backbone", "torch 0.4"],
)
def test_other_layouts_of_a_file_are_read(
    theirs: nn.Module, workdir: Path, wrap: Callable[[dict[str, Tensor]], Any]
) -> None:
    torch.save(wrap(dict(theirs.state_dict())), "given.pt")
    check_features(begin("model.weights=given.pt")[0], theirs, *IMAGENET)


def test_a_file_with_the_old_names_of_densenet_is_read(workdir: Path) -> None:
    theirs = models.densenet121()
    old = {
        key.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."): value
        for key, value in theirs.state_dict().items()
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, "given.pth")
    module, _ = begin("model.weights=given.pth", "model.arch=densenet121")
    name = "features.denseblock1.denselayer1.norm1.weight"
    torch.testing.assert_close(module.net.state_dict()[f"net.{name}"], theirs.state_dict()[name])


def test_a_file_of_grey_images_wants_statistics_of_one_channel(
    theirs: nn.Module, workdir: Path
) -> None:
    first = theirs.get_submodule("conv1.0")
    assert isinstance(first, nn.Conv2d)
    first.weight = nn.Parameter(first.weight.sum(1, keepdim=True))
    first.in_channels = 1
    torch.save(theirs.state_dict(), "grey.pth")
    with pytest.raises(UsageError, match=r"For images of 1 channels give that many values to"):
        begin("model.weights=grey.pth")
    module, _ = begin("model.weights=grey.pth", "model.mean=[0.3]", "model.std=[0.4]")
    weight = module.net.get_submodule("net.conv1.0").weight
    torch.testing.assert_close(weight, first.weight)
    assert module.net.get_submodule("normalise")(torch.zeros(1, 1, 28, 28)).shape[1] == 1
    for mean, got in (("[0.3]", "1 and 3"), ("[]", "0 and 3")):
        with pytest.raises(UsageError, match=f"must have a value per channel each, got {got}"):
            begin("model.weights=grey.pth", f"model.mean={mean}")


def damaged_file() -> None:
    torch.save(models.get_model(ARCH).state_dict(), "bad.pth")
    Path("bad.pth").write_bytes(Path("bad.pth").read_bytes()[:50_000])


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (Path.touch, (Path("was-run"),))  # type: ignore[return-value]


def nan_file() -> None:
    state = models.get_model(ARCH).state_dict()
    state["conv1.0.weight"].fill_(torch.nan)
    torch.save(state, "bad.pth")


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (damaged_file, r"bad.pth is damaged or no file of torch.save .* Fetch it again\."),
        (lambda: Path("bad.pth").write_text("<html>"), "bad.pth is damaged"),
        (lambda: torch.save({"x": Evil()}, "bad.pth"), "holds other objects than tensors"),
        (lambda: torch.save([1], "bad.pth"), "holds no state_dict, but a list"),
        (lambda: torch.save({}, "bad.pth"), "does not fit .*: conv1.0.weight is missing"),
        (
            lambda: torch.save(models.squeezenet1_1().state_dict(), "bad.pth"),
            f"does not fit {ARCH}: .* Set model.arch to the network they are of",
        ),
        (nan_file, "conv1.0.weight holds values that are not finite"),
        (lambda: None, "model.weights=bad.pth: there is no such file or run folder here"),
        (lambda: Path("bad.pth").mkdir(), "bad.pth is no run folder: run.json is missing"),
    ],
    ids=["cut", "page", "code", "list", "empty", "arch", "nan", "absent", "folder"],
)
def test_a_file_that_cannot_be_taken_is_explained(
    workdir: Path, make: Callable[[], Any], match: str
) -> None:
    make()
    with pytest.raises(UserError, match=match):
        begin("model.weights=bad.pth")
    assert not Path("was-run").exists()


def test_weights_of_a_deeper_network_of_the_family_are_refused(workdir: Path) -> None:
    """All of ResNet-18's weights have a counterpart in ResNet-34."""
    with torch.device("meta"):
        net = models.resnet34()
    torch.save({k: torch.zeros(v.shape) for k, v in net.state_dict().items()}, "deep.pth")
    with pytest.raises(UsageError, match=r"layer1.2.conv1.weight is not in it. Set model.arch"):
        begin("model.weights=deep.pth", "model.arch=null")


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["model.weights=DEFALT"], rf"no weights of {ARCH}\. Did you mean DEFAULT\?"),
        (["model.weights=ResNet18_Weights.DEFAULT"], rf"no weights of {ARCH}\."),
        (["model.arch=shuflenet_v2_x0_5"], r"is not in torchvision. Did you mean shufflenet_v2"),
    ],
)
def test_unknown_names_are_explained(workdir: Path, words: list[str], match: str) -> None:
    with pytest.raises(UsageError, match=match) as caught:
        begin(*words)
    assert caught.value.exit_code == 2


def families() -> list[str]:
    """Name the smallest network of each family of torchvision."""
    return [
        *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s"),
        *("googlenet", "inception_v3", "maxvit_t", "mnasnet0_5", "mobilenet_v2"),
        *("mobilenet_v3_small", "regnet_y_400mf", "resnet18", "resnext50_32x4d"),
        *("shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11", "vit_b_16"),
        "wide_resnet50_2",
    ]


@pytest.mark.parametrize("arch", families())
def test_the_last_layer_of_every_family_is_found(arch: str) -> None:
    with torch.device("cpu" if arch.startswith("regnet") else "meta"):
        net = models.get_model(arch, num_classes=10, **quick(arch))
    name, layer = last_layer(net)
    others = [n for n, m in net.named_modules() if isinstance(m, type(layer)) and n != name]
    assert name.split(".")[0] in ("fc", "classifier", "head", "heads")
    assert layer.weight.shape[0] == 10
    assert not any(net.get_submodule(n).weight.shape[0] == 10 for n in others)


def quick(arch: str) -> dict[str, Any]:
    is_old = arch in ("googlenet", "inception_v3")
    return {"aux_logits": False, "init_weights": False} if is_old else {}


def test_every_family_of_torchvision_is_looked_at() -> None:
    of = {models.get_model_builder(n).__module__ for n in models.list_models(module=models)}
    assert {models.get_model_builder(n).__module__ for n in families()} == of


def test_a_network_without_such_a_layer_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be a Linear or Conv2d with 10 outputs, got Linear"):
        last_layer(nn.Sequential(nn.Linear(4, 5)))


@pytest.fixture
def source(small_data: Path, workdir: Path) -> Path:
    words = ["name=source", "trainer.max_epochs=1", "trainer.limit_train_batches=2"]
    return run.train([*FAST, *words]).folder


def state(folder: Path, name: str = "best") -> dict[str, Tensor]:
    path = folder / "checkpoints" / f"{name}.ckpt"
    loaded: dict[str, Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return loaded


FROM_RUN = ["model=transfer", "model.weights=runs/source", *FAST, "trainer.max_epochs=2"]


class Killed(BaseException):
    pass


@pytest.mark.slow
def test_a_run_goes_on_and_loads_when_what_it_started_from_is_gone(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, words = state(source), [*FROM_RUN, "callbacks.finetuning.frozen_epochs=1"]
    whole = run.train([*words, "name=whole"])
    update = run.record.Record.update
    with monkeypatch.context() as patch:

        def die(self: run.record.Record, **fields: Any) -> None:
            update(self, **fields)
            if fields.get("epochs_done") == 1:
                raise Killed

        patch.setattr(run.record.Record, "update", die)
        with pytest.raises(Killed):
            run.train([*words, "name=killed"])
    frozen = state(Path("runs/killed"), "last")
    moved = {k for k, v in frozen.items() if k.startswith("net.") and not torch.equal(v, given[k])}
    assert moved == {"net.dense2.weight", "net.dense2.bias"}
    shutil.rmtree(source)
    killed = run.resume("runs/killed")
    assert run.train([*words, "name=whole"]).data == whole.data
    assert not any(
        torch.equal(v, given[k])
        for k, v in state(killed.folder, "last").items()
        if k.endswith("weight")
    )
    for name, values in state(whole.folder, "last").items():
        assert torch.equal(values, state(killed.folder, "last")[name]), name
    assert run.load("runs/killed").evaluate("val")["val/acc"] == killed.scores["val/acc"]
    facts = killed.data["weights"]
    assert (facts["source"], facts["name"], len(facts["sha256"])) == ("run", "runs/source", 64)
    assert facts["network"]["_target_"] == "fmnist.models.cnn"


@pytest.mark.slow
def test_a_chain_of_runs_is_exported_alone(source: Path) -> None:
    first = run.train([*FROM_RUN, "name=first"]).folder
    words = [*FROM_RUN, "model.weights=runs/first", "name=second"]
    second = run.train(words).folder
    shutil.rmtree(source)
    shutil.rmtree(first)
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    made, _ = export.export(second, "onnx")
    probs = portable.FORMATS["onnx"][1](made.path.read_bytes())(images[:, None])
    assert np.abs(probs - run.load(second).predict(images)).max() < 1e-5
    assert made.metadata["weights"]["name"] == "runs/first"


@pytest.mark.parametrize(
    ("word", "match"),
    [
        (
            "model.size_px=64",
            r"model.size_px must be null where model.weights=runs/source is a run",
        ),
        ("model.mean=[0.5]", r"model.mean must be null where"),
        ("model.arch=resnet18", r"is a run of cnn, not of model.arch=resnet18"),
    ],
)
def test_what_a_run_decides_cannot_be_said_otherwise(source: Path, word: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        run.train([*FROM_RUN, word, "name=b"])
    assert not Path("runs/b").exists()


def set_data(folder: Path, **values: Any) -> None:
    """Let the record of `folder` say that the run was made with other `values` of data."""
    path = folder / "run.json"
    data = json.loads(path.read_text())
    data["config"]["data"] |= values
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("theirs", "words", "match"),
    [
        (
            {"val_from": "test", "val_size": 0},
            [],
            r"was selected on the test set \(data.val_from=test\).* Take another run, or set",
        ),
        (
            {"val_from": "test", "val_size": 0},
            ["data.val_size=0"],
            r"was selected on the test set",
        ),
        (
            {"val_size": 0},
            [],
            r"has trained on images that validate here\. .* as there: data.val_size=0 data.split_s",
        ),
        ({"val_size": 50}, [], r"validate here\. .*: data.val_size=50 data.split_seed=0\."),
        ({"split_seed": 7}, [], r"validate here\. .*: data.val_size=100 data.split_seed=7\."),
    ],
)
def test_a_run_that_saw_what_is_measured_here_is_refused(
    source: Path, theirs: dict[str, Any], words: list[str], match: str
) -> None:
    set_data(source, **theirs)
    with pytest.raises(UsageError, match=match):
        run.train([*FROM_RUN, *words, "name=b"])
    assert not Path("runs/b").exists()


@pytest.mark.parametrize(
    ("theirs", "words"),
    [
        ({"split_seed": 7}, ["data.val_size=0"]),  # nothing validates here
        ({"val_from": "test", "val_size": 0}, ["data.val_from=test", "data.val_size=0"]),
        ({"split_seed": 7}, ["data.split_seed=7"]),
    ],
)
def test_a_run_that_did_not_is_taken(
    source: Path, theirs: dict[str, Any], words: list[str]
) -> None:
    set_data(source, **theirs)
    values = config.settle(config.check(config.compose([*FROM_RUN, *words])))
    facts = weights.begin(values, None)[1]
    assert facts
    assert facts["source"] == "run"


def test_the_link_to_the_newest_run_is_refused(source: Path) -> None:
    for word in ("runs/latest", "runs/latest/checkpoints/best.ckpt"):
        named = word.replace("latest", "source")
        with pytest.raises(UsageError, match=f"Name the run itself: model.weights={named}$"):
            run.train([*FROM_RUN, f"model.weights={word}", "name=b"])


@pytest.mark.parametrize("typed", ["~nosuchuser/x.pth", "x" * 300, "x" * 300 + "/best.ckpt"])
def test_what_can_be_no_path_is_explained(workdir: Path, typed: str) -> None:
    with pytest.raises(UsageError, match=r"cannot be looked up \(.*\)\. Give the path of a file"):
        begin(f"model.weights='{typed}'")


@pytest.mark.slow
def test_a_run_that_lacks_its_last_write_needs_its_source_no_more(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*FROM_RUN, "checkpoints=best", "name=b"]
    update = run.record.Record.update

    def die(self: run.record.Record, **fields: Any) -> None:
        if fields.get("status") == "finished":
            raise Killed
        update(self, **fields)

    with monkeypatch.context() as patch:
        patch.setattr(run.record.Record, "update", die)
        with pytest.raises(Killed):
            run.train(words)
    assert not Path("runs/b/checkpoints/last.ckpt").exists()
    before = run.record.read(Path("runs/b"))
    shutil.rmtree(source)
    done = run.train(words)
    assert (done.status, done.scores) == ("finished", before.scores)
    assert done.data["weights"] == before.data["weights"]
    assert run.load("runs/b").evaluate("val")["val/acc"] == done.scores["val/acc"]


def test_a_run_without_its_best_checkpoint_is_explained(source: Path) -> None:
    (source / "checkpoints" / "best.ckpt").unlink()
    with pytest.raises(UserError, match=r"model.weights=runs/source: .*best.ckpt is missing"):
        run.train([*FROM_RUN, "name=b"])
    assert not Path("runs/b").exists()


def test_a_checkpoint_of_ours_brings_its_statistics(theirs: nn.Module, workdir: Path) -> None:
    first = {"mean": torch.tensor([0.1, 0.2, 0.3]), "std": torch.tensor([0.4, 0.5, 0.6])}
    saved = rename("net.net.", theirs.state_dict())
    saved |= {f"net.normalise.{k}": v.view(1, -1, 1, 1) for k, v in first.items()}
    torch.save({"state_dict": saved}, "best.ckpt")
    module, _ = begin("model.weights=best.ckpt")
    check_features(module, theirs, first["mean"].tolist(), first["std"].tolist())


def test_nothing_is_read_where_a_run_only_is_looked_at(workdir: Path) -> None:
    words = [*WORDS, "model.weights=nowhere/at/all.pth"]
    cfg = config.compose(words)
    assert "would start" in run.preview(cfg, words)
    assert build.net(config.check(cfg)) is not None


def test_random_weights_need_no_source(workdir: Path) -> None:
    assert begin("model.weights=null")[1] is None


def test_the_shipped_choices_are_those_of_the_contract() -> None:
    cfg = config.compose(["experiment=transfer"])
    assert cfg.callbacks.finetuning.frozen_epochs == 2
    assert config.compose(["model=transfer"]).callbacks.finetuning.frozen_epochs is None
    assert cfg.model.weights == "DEFAULT"

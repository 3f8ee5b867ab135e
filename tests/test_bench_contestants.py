"""The benchmark's contestants: the same network and images, on the small data."""

import importlib
import json
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small
import torch
from run_folders import write_run
from torch.utils.flop_counter import FlopCounterMode

from fmnist import models, process, sources
from fmnist.bench import benchmark, framework, hand, launch, machine, network, prepare
from fmnist.bench.derived import flops_per_image
from fmnist.bench.peer import read_images, read_split
from fmnist.bench.settings import Settings
from fmnist.compare import collection
from fmnist.data import split_indices

NUM_VAL = 100
NUM_TRAIN = (small.NUM_TRAIN - NUM_VAL) // 50 * 50
Main = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def bench_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the small files, and split.npz beside it."""
    folder = tmp_path_factory.mktemp("bench-data")
    small.write_files(folder / "FashionMNIST" / "raw")
    prepare.write_split(folder, folder / "split.npz", NUM_VAL)
    return folder


@pytest.fixture
def run_main(
    bench_data: Path,
    workdir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Main:
    """Run a contestant in this process and return what its last line says."""

    def run(name: str, *options: str) -> dict[str, Any]:
        monkeypatch.setattr(process, "keep_memory", lambda: None)  # not for the other tests
        places = [f"--data={bench_data}", f"--split={bench_data / 'split.npz'}"]
        monkeypatch.setattr(sys, "argv", [name, *places, "--batch-size=50", *options])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peers are as their tutorials write them
            importlib.import_module(f"fmnist.bench.{name}").main()
        found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
        return found

    return run


@pytest.mark.parametrize("name", ["pytorch", "lightning", "hand"])
def test_peer_trains_the_same_images_and_tells_its_epochs(run_main: Main, name: str) -> None:
    told = run_main(name, "--epochs=2", "--evals=1")
    assert told["num_images"] == NUM_TRAIN
    assert told["num_parameters"] == 225_034
    assert len(told["epochs_s"]) == len(told["val_acc"]) == 2
    assert all(seconds > 0 for seconds in told["epochs_s"])
    assert told["first_batch"] < told["first_step"]
    assert told["num_evaluated"] == small.NUM_TEST
    assert len(told["eval_s"]) == 1
    assert told["test_acc"][-1] > 0.3  # it learns; chance is 0.1


@pytest.mark.parametrize("name", ["pytorch", "lightning", "hand"])
def test_peer_stops_at_the_accuracy_asked_for(run_main: Main, name: str) -> None:
    told = run_main(name, "--epochs=9", "--until=0.2", "--max-batches=4")
    assert told["test_acc"][-1] >= 0.2
    assert all(accuracy < 0.2 for accuracy in told["test_acc"][:-1])
    assert len(told["epochs_s"]) == len(told["test_acc"]) < 9
    assert told["num_images"] == 200


def test_keras_trains_the_same_images(run_main: Main) -> None:
    pytest.importorskip("keras")
    told = run_main("keras", "--epochs=2", "--evals=1")
    assert told["num_images"] == NUM_TRAIN
    assert told["num_parameters"] == 225_034
    assert len(told["epochs_s"]) == len(told["val_acc"]) == 2


def test_flops_are_those_that_torch_counts() -> None:
    with FlopCounterMode(display=False) as counter:
        network.cnn()(torch.zeros(1, 1, 28, 28))
    assert flops_per_image() == 3 * counter.get_total_flops()


def test_hand_written_network_gives_the_same_logits() -> None:
    net, ours = hand.Net(), models.cnn((32, 64), 128, 0.0, "torch")
    for mine, theirs in zip(net.parameters(), ours.parameters(), strict=True):
        theirs.data.copy_(mine.data)
    images = torch.randint(0, 256, (4, 1, 28, 28), dtype=torch.uint8)
    torch.testing.assert_close(net(images), ours(images))
    peer = network.cnn()
    for mine, theirs in zip(net.parameters(), peer.parameters(), strict=True):
        theirs.data.copy_(mine.data)
    torch.testing.assert_close(net(images), peer(images / 255))


def test_split_is_that_of_a_run(bench_data: Path) -> None:
    labels = torch.from_numpy(read_images(bench_data, "train")[1].astype(np.int64))
    for found, expected in zip(
        read_split(bench_data / "split.npz"), split_indices(labels, NUM_VAL, 0), strict=True
    ):
        np.testing.assert_array_equal(found, expected.numpy())


def test_repeated_data_are_the_same_images_in_a_row(bench_data: Path, tmp_path: Path) -> None:
    prepare.repeat(bench_data, tmp_path / "more", 3)
    for split, times in (("train", 3), ("t10k", 1)):
        for found, once in zip(
            read_images(tmp_path / "more", split), read_images(bench_data, split), strict=True
        ):
            np.testing.assert_array_equal(found, np.concatenate([once] * times))


def test_matmul_rate_is_positive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "TRY_S", 0.001)
    monkeypatch.setattr(machine, "SIZES", {"cpu": (32, 64)})
    told: Any = machine.measure("cpu")
    assert all(rate > 0 for rate in told["rates"].values())
    assert set(told["sizes"].values()) <= {32, 64}
    assert {"cpu", "cores", "threads", "gpu"} <= {*machine.describe()}


def test_moments_are_those_of_the_first_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The batches are watched from the import on, and nothing else is imported for it."""
    module = types.ModuleType("batches")

    class Batches:
        def gather(self, chosen: int) -> int:
            return chosen

    vars(module)["Batches"] = Batches
    moments: dict[str, float] = {}
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    launch.watch_batches(moments)
    finder: Any = sys.meta_path[0]
    assert finder.find_spec("json", None) is None
    finder.act(module)
    assert [Batches().gather(i) for i in range(3)] == [0, 1, 2]
    assert moments["first_batch"] <= moments["first_step"]


def test_module_is_patched_when_it_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "patched_by_bench.py").write_text("value = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    finder = launch.AfterImport("patched_by_bench", lambda module: setattr(module, "value", 2))
    monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
    assert importlib.import_module("patched_by_bench").value == 2


def test_own_data_are_trusted(bench_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "FILES", dict(sources.FILES))
    launch.trust_data(bench_data)
    sources.verify(bench_data / "FashionMNIST" / "raw")


def test_synthesised_runs_are_read_and_ranked(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", partial=True)
    framework.copy_runs(run, tmp_path / "runs", 401)
    runs, skipped = collection.read_runs([tmp_path / "runs"])
    assert skipped == []
    assert len(runs) == 401
    assert len({(r.fields["optim.lr"], r.fields["seed"]) for r in runs}) == 401


def quick(bench_data: Path, *measures: str, **choices: Any) -> Any:
    settings = Settings(
        bench_data,
        measures=measures,
        quick=True,
        own_data=True,
        val_size=NUM_VAL,
        batch_sizes=(50,),
        **choices,
    )
    return benchmark.run(settings, "bench.py --quick", say=lambda _: None)


@pytest.mark.slow
def test_benchmark_of_all_contestants(bench_data: Path) -> None:
    found = quick(bench_data, "matmul", "epoch", "startup")
    assert not found.has_failed, found.to_json()
    for name in ("ours", "pytorch", "lightning", "hand"):
        (epoch,) = found.series("epoch-50", name).samples
        assert epoch["num_images"] == 8 * 50
        assert epoch["num_parameters"] == 225_034
        (start,) = found.series("startup", name).samples
        assert 0 < start["first_batch_s"] < start["first_step_s"] < 60
    assert found.ratio("startup", "ours", "imports", "first_batch_s").median > 0.5
    assert found.spread("matmul", "machine", "float32").median > 0


@pytest.mark.slow
def test_benchmark_of_what_ours_does(bench_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framework, "BATCH_SIZES", (50,))
    measures = ("eval", "accuracy", "answers", "sweep", "growth")
    found = quick(bench_data, *measures, contestants=("ours", "hand"))
    assert not found.has_failed, found.to_json()
    for name in ("ours", "hand"):
        assert found.spread("eval", name, "eval_rate").median > 0
        assert found.spread("accuracy", name, "num_epochs").median == 1
    assert len(found.cases["answers"]) == 4
    assert found.series("sweep", "4 jobs").samples[0]["train_s"] > 0
    assert len(found.cases["growth"]) == 3


@pytest.mark.slow
def test_contestant_that_fails_does_not_stop_the_others(
    bench_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "keras.py").write_text("raise ImportError('a damaged Keras')\n")
    (tmp_path / "tensorflow.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = quick(bench_data, "epoch", contestants=("keras", "hand"))
    assert found.has_failed
    assert found.series("epoch-50", "keras").error == "ImportError: a damaged Keras"
    assert len(found.series("epoch-50", "hand").samples) == 1

"""Command lines of sweeps: axes, cases, presets, and the points they stand for."""

import itertools
from pathlib import Path
from typing import Any

import pytest

from fmnist import config
from fmnist.axes import Axis
from fmnist.command import Command, point, points, read_command
from fmnist.errors import UsageError
from fmnist.messages import CONF_DIR

OPTUNA = "hydra/sweeper=optuna"


def axis(*words: str) -> Axis:
    (found,) = read_command([OPTUNA, *words]).axes.values()
    return found


def refused(*words: str) -> str:
    with pytest.raises(UsageError) as caught:
        read_command(words)
    return str(caught.value)


def test_points_are_what_hydra_composes_of_their_words() -> None:
    words = ["model=cnn,mlp", "optim.lr=1e-3,3e-3", "optim/schedule=constant,one_cycle", "seed=1"]
    command = read_command(words)
    found = list(points(command))
    lists = [["model=cnn", "model=mlp"], ["optim.lr=0.001", "optim.lr=0.003"]]
    lists += [["optim/schedule=constant", "optim/schedule=one_cycle"]]
    assert [words for words, _ in found] == [list(p) for p in itertools.product(*lists)]
    for varied, plain in found:
        assert plain == config.check(config.compose(["seed=1", *varied]))


def test_cases_multiply_with_axes() -> None:
    command = read_command(["sweep=ablation", "seed=0,1"])
    found = [words for words, _ in points(command)]
    assert ["seed=0"] in found
    assert ["optim/schedule=constant", "optim.lr=1e-3", "seed=1"] in found
    assert len(found) == 2 * len(command.cases) == len({tuple(words) for words in found})


def test_a_point_of_a_search_is_what_hydra_composes() -> None:
    command = read_command([OPTUNA, "optim.lr=interval(1e-4,1e-2)", "model=cnn,mlp", "seed=7"])
    assert point(command, {"optim.lr": "0.005", "model": "mlp"}) == config.check(
        config.compose(["optim.lr=0.005", "model=mlp", "seed=7"])
    )


@pytest.mark.parametrize("preset", [p.stem for p in sorted((CONF_DIR / "sweep").glob("*.yaml"))])
def test_every_preset_is_a_sweep_that_checks(preset: str) -> None:
    command = read_command([f"sweep={preset}", "optim.optimizer.weight_decay=0"])
    assert command.is_sweep == (preset != "none")


def test_the_command_line_wins_over_a_preset() -> None:
    assert read_command(["sweep=lr", "optim.lr=0.5,0.6"]).axes["optim.lr"].values == ["0.5", "0.6"]
    fixed = read_command(["sweep=lr", "optim.lr=0.5"])
    assert not fixed.is_sweep
    assert fixed.cfg.optim.lr == 0.5


def test_a_preset_of_ones_own_is_found(tmp_path: Path) -> None:
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "mine.yaml").write_text(
        "# @package _global_\n"
        "defaults:\n  - override /hydra/sweeper: grid\n"
        "hydra:\n  sweeper:\n    params:\n      model.hidden: 16,32\n      seed: 4\n"
    )
    command = read_command(["sweep=mine"], tmp_path)
    assert command.varied == ["model.hidden"]
    assert command.cfg.seed == 4  # a single value is no axis
    assert [plain["model"]["hidden"] for _, plain in points(command)] == [16, 32]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("optim.lr=interval(1e-4,1e-2)", {"low": 1e-4, "high": 1e-2, "step": 0.0, "log": False}),
        ("optim.lr=tag(log,interval(1e-4,1e-2))", {"log": True, "is_integer": False}),
        ("model.hidden=int(interval(16,64))", {"low": 16, "high": 64, "is_integer": True}),
        ("model.hidden=range(16,65,16)", {"kind": "range", "low": 16, "high": 64, "step": 16}),
        ("model.hidden=range(10,15,2)", {"high": 14}),  # Hydra's range leaves its end out
        ("data.batch_size=choice(32,64)", {"kind": "choice", "values": ["32", "64"]}),
        ("model=mlp,cnn", {"kind": "choice", "values": ["mlp", "cnn"], "is_group": True}),
    ],
)
def test_a_search_space_is_hydras_syntax(word: str, expected: dict[str, Any]) -> None:
    found = axis(word)
    assert {name: getattr(found, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optim.lr=interval(0.1,0.2)"], "which the grid cannot enumerate. List values"),
        ([OPTUNA, "optim.lr=interval(0.2,0.1)"], "must be an interval with low < high"),
        ([OPTUNA, "optim.lr=tag(log,interval(0,0.1))"], "0 < low < high"),
        ([OPTUNA, "optim.lr=interval(-1,0.1)"], "optim.lr must be > 0, got -1.0"),
        ([OPTUNA, "model.dropout=interval(0.5,1)"], "model.dropout must be >= 0 and < 1, got 1.0"),
        ([OPTUNA, "model.hidden=interval(16,64)"], "must be an integer"),
        ([OPTUNA], "A search needs a key to vary"),
        ([OPTUNA, "seed=0,1", "hydra.sweeper.n_trials=0"], "n_trials must be >= 1, got 0"),
        ([OPTUNA, "seed=0,1", "hydra.sweeper.pruner=best"], "pruner must be median | hyperband"),
        ([OPTUNA, "seed=0,1", "hydra.sweeper.n_trails=9"], "Did you mean hydra.sweeper.n_trials?"),
        (
            ["seed=0,1", "hydra.sweeper.n_trials=9"],
            "the hydra/sweeper that is chosen has none",
        ),
        (["seed=0,1", "hydra/launcher=pool", "hydra.launcher.wokers=2"], "hydra.launcher.workers?"),
        (["seed=0,1", "hydra/launcher=pol"], "Did you mean pool?"),
        (["seed=0,1", "hydra/sweeper=basic"], "hydra/sweeper must be grid | optuna"),
        ([OPTUNA, "model.hidden=tag(log,range(16,65))"], "a range has even steps"),
        (["seed=0,1", "seed=2"], "seed is given twice: seed=0,1 and seed=2."),
        ([OPTUNA, "model=mlp", "model.hidden=range(16,64,8)"], "the model that is chosen has none"),
        (["sweep=lrs"], "Unknown choice sweep=lrs. Did you mean lr?"),
        (["metric=val/acc,val/loss"], "metric cannot be varied in a sweep"),
        (["name=a,b"], "name cannot be varied in a sweep"),
        (
            ["sweep=ablation", "hydra.sweeper.cases.mine=['model.hiden=3']"],
            "Did you mean model.hid",
        ),
        (["sweep=ablation", "hydra.sweeper.cases.mine=3"], "must be a list of overrides, got 3"),
        ([OPTUNA, "seed=0,1", "hydra.sweeper.cases={a:['seed=3']}"], "cases belong to a grid"),
        (["hydra.launcher.workers=1,2"], "is of the sweep as a whole, and takes one value, got"),
        (["hydra.sweeper.params=range(3)"], "hydra.sweeper.params is of the sweep as a whole"),
        (["hydra/launcher=pool,local"], "hydra/launcher is of the sweep as a whole"),
    ],
)
def test_a_wrong_sweep_is_refused_before_anything_starts(words: list[str], message: str) -> None:
    assert message in refused(*words)


def test_what_all_jobs_share_leaves_hydra_out() -> None:
    command: Command = read_command(["hydra/launcher=pool", "+seed=3", "optim.lr=0.1,0.2"])
    assert command.typed == ["seed=3"]

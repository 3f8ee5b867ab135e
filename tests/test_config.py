import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from fmnist import config, revival, schema
from fmnist.command import read_command
from fmnist.errors import UsageError
from fmnist.messages import CONF_DIR
from fmnist.record import Record


def refused(*overrides: str) -> str:
    with pytest.raises(UsageError) as caught:
        read_command(overrides)
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.max_epoch=3", "Unknown key trainer.max_epoch. Did you mean trainer.max_epochs?"),
        (
            "+trainer.max_epoch=3",
            "Unknown key +trainer.max_epoch. Did you mean trainer.max_epochs?",
        ),
        (
            "++trainer.max_epoch=3",
            "Unknown key ++trainer.max_epoch. Did you mean trainer.max_epochs?",
        ),
        ("max_epochs=3", "Unknown key max_epochs. Did you mean trainer.max_epochs?"),
        ("lr=0.1", "Unknown key lr. Did you mean optim.lr?"),
        ("modle=cnn", "Unknown key modle. Did you mean model?"),
        (
            "model.channels=[1,65537]",
            "model.channels must be a list of 2 values, each an integer in",
        ),
        ("model.chanels=[3,4]", "Unknown key model.chanels. Did you mean model.channels?"),
        ("optim.optimizer.bets=3", "Did you mean optim.optimizer.betas?"),
        ("optim/shedule=constant", "Unknown group optim/shedule. Did you mean optim/schedule?"),
        ("model=cmn", "Unknown choice model=cmn. Did you mean cnn? Choices: cnn, cnn_bn, "),
        ("experiment=nope", "Unknown choice experiment=nope. Choices: "),
        ("trainer=smok", "Unknown choice trainer=smok. Did you mean smoke?"),
        ("model=null", "model=null leaves nothing."),
        ("~model", "~model leaves nothing."),
        ("~seed", "seed is missing. Give it a value: seed=..."),
        ("data.val_size=60000", "data.val_size must be in 0..59999, got 60000."),
        ("data.val_size=abc", "data.val_size must be an integer in 0..59999, got 'abc'."),
        ("data.val_size=1.5", "data.val_size must be an integer in 0..59999, got 1.5."),
        ("data.batch_size=true", "data.batch_size must be an integer in 1..60000, got True."),
        ("trainer.max_epochs=ten", "trainer.max_epochs must be an integer >= 1, got 'ten'."),
        ("trainer.max_epochs=0", "trainer.max_epochs must be >= 1, got 0."),
        ("optim.lr=0", "optim.lr must be > 0, got 0."),
        ("optim.lr=nan", "optim.lr must be a number > 0, got nan."),
        ("optim.lr=null", "optim.lr must be a number > 0, got None."),
        ("optim.optimizer.betas=[0.9]", "betas must be a list of 2 values"),
        ("optim.optimizer.betas=[0.9,1.5]", "each a number >= 0 and < 1, got 1.5."),
        ("model.init=kerass", "model.init must be torch | keras, got 'kerass'."),
        ("trainer.precision=bf15", "got 'bf15'."),
        (
            "trainer.limit_val_batches=1.5",
            "trainer.limit_val_batches must be an integer >= 0 or a number in 0..1 or null",
        ),
        ("trainer.limit_train_batches=0", "trainer.limit_train_batches must be > 0 to train"),
        ("trainer.logger=false", "trainer.logger is set by fmnist itself. Use logger="),
        ("test=maybe", "test must be true or false or auto, got 'maybe'."),
        ("metric=acc", "metric must be val/acc | val/loss, got 'acc'."),
        ("seed=-1", "seed must be in 0..4294967295, got -1."),
        ("name=../../x", "name must consist of letters, digits and ._=,+- without '..'"),
        ("name=a/b", "got 'a/b'."),
        ("model._target_=fmnist.models.cmm", "Unknown model._target_ 'fmnist.models.cmm'."),
        ("model._target_=nowhere.Net", "no module 'nowhere' can be imported."),
        ("model._target_=[]", "model._target_ must name a class or function, got []."),
        ("name=latest", "name=latest is the link to the newest run."),
        ("name=a,b", "name cannot be varied in a sweep"),
        ("seed", "Cannot read 'seed'. Write key=value"),
        ("note=a b=c", "Cannot read 'note=a b=c'."),
        ("seed=${nope}", "The config does not resolve: Interpolation key 'nope' not found."),
        ("optim.lr=interval(0,1)", "is a continuous range, which the grid cannot enumerate."),
    ],
)
def test_mistake_is_named_with_its_remedy(override: str, message: str) -> None:
    assert message in refused(override)


def test_settings_that_exclude_each_other_are_refused() -> None:
    assert "watches the validation split" in refused("callbacks=early_stopping", "data.val_size=0")
    assert "needs optim.optimizer.momentum > 0" in refused(
        "optim=sgd", "optim.optimizer.momentum=0.0"
    )


AS_PUBLISHED = ["data.val_from=test", "data.val_size=0"]


def test_validating_on_the_test_set_excludes_what_contradicts_it() -> None:
    assert refused("data.val_from=test") == (
        "data.val_from=test holds no training images out: data.val_size must be 0, got 5000. "
        "Set data.val_size=0, or data.val_from=train."
    )
    assert "selects the best epoch on the test set" in refused(*AS_PUBLISHED, "select=last")
    assert "reads the test set every epoch, got test=false" in refused(*AS_PUBLISHED, "test=false")
    assert "data.val_from must be train | test, got 'val'" in refused("data.val_from=val")
    read_command([*AS_PUBLISHED, "callbacks=early_stopping"])


@pytest.mark.parametrize(
    "words",
    [
        [*AS_PUBLISHED, "optim.lr=1e-3,3e-3"],
        [*AS_PUBLISHED, "optim.lr=1e-3,3e-3", "seed=0,1", "test=true"],
        ["experiment=notebook,notebook_as_published", "seed=0,1"],
        ["data.val_from=train,test", "data.val_size=0"],
        [*AS_PUBLISHED, "sweep=ablation"],
        ["sweep=ablation", f"hydra.sweeper.cases.no_flips={AS_PUBLISHED!r}"],
        [*AS_PUBLISHED, "hydra/sweeper=optuna", "optim.lr=interval(1e-3,1e-2)"],
        [*AS_PUBLISHED, "hydra/sweeper=optuna", "seed=range(0,9)"],
    ],
    ids=" ".join,
)
def test_a_search_never_validates_on_the_test_set(words: list[str]) -> None:
    assert "a search never reads the test set" in refused(*words)


def test_a_repetition_may_validate_on_the_test_set() -> None:
    command = read_command(["experiment=notebook_as_published", "seed=range(3)"])
    assert command.settle(config.check(command.cfg))["test"] is True


def test_the_default_recipe_is_the_experiment_cnn() -> None:
    assert config.check(config.compose(["experiment=cnn"])) == config.check(config.compose())


def test_every_value_of_every_axis_is_checked() -> None:
    assert "optim.lr must be > 0, got -1" in refused("seed=0,1", "optim.lr=1e-3,3e-3,-1")
    assert "Unknown choice model=mpl" in refused("model=cnn,mpl", "seed=0,1")
    assert "Unknown key trainer.epochs" in refused("trainer.epochs=1,2")


def test_axes_are_read_in_hydras_syntax() -> None:
    command = read_command(["optim.lr=1e-3,3e-3", "seed=range(0,3)", "model=glob(c*)"])
    assert {key: axis.values for key, axis in command.axes.items()} == {
        "optim.lr": ["0.001", "0.003"],
        "seed": ["0", "1", "2"],
        "model": ["cnn", "cnn_bn"],
    }


def test_compose_refuses_a_sweep() -> None:
    with pytest.raises(UsageError, match="seed has several values, which is a sweep"):
        config.compose(["seed=0,1"])


@pytest.mark.parametrize(
    "override",
    [
        "trainer.gradient_clip_val=1.0",
        "+trainer.gradient_clip_val=1.0",
        "trainer.deterministic=true",
        "trainer.devices=[0]",
        "trainer.max_time=00:01:00:00",
        "trainer.precision=bf16-mixed",
        "trainer.precision=32",
        "trainer={max_epochs: 3}",
        "+experiment=notebook",
        "experiment=null",
        "callbacks.early_stopping.patience=3",
        "note='a, b'",
        "name=7",
    ],
)
def test_valid_override_is_accepted(override: str) -> None:
    read_command([override])


@pytest.mark.parametrize(
    ("words", "group"),
    [
        (["optim=adam", "optim.optimizer.momentum=0.9"], "optim"),
        (["optim/schedule=constant", "optim.schedule.warmup=0.1"], "optim/schedule"),
        (["model=mlp", "model.channels=[8,8]"], "model"),
    ],
)
def test_a_key_of_another_choice_names_a_group_that_exists(words: list[str], group: str) -> None:
    assert (CONF_DIR / group).is_dir()
    expected = f"the {group} that is chosen has none. Choose another {group}."
    assert refused(*words).endswith(expected)


def test_an_empty_text_is_named_so() -> None:
    message = refused("model=transfer", "model.weights=''")
    assert message == "model.weights must be a text that is not empty or null, got ''."
    assert "name must be a text that is not empty or null, got ''" in refused("name=''")


def test_a_number_is_a_name() -> None:
    assert config.check(config.compose(["name=7"]))["name"] == "7"


@pytest.mark.parametrize(
    "override",
    sorted(
        f"{path.parent.relative_to(CONF_DIR)}={path.stem}"
        for path in CONF_DIR.rglob("*.yaml")
        if path.parent not in (CONF_DIR, CONF_DIR / "trainer" / "limits")
        and path.relative_to(CONF_DIR).parts[0] not in ("hydra", "sweep")  # tests/test_command.py
    ),
)
def test_every_option_composes(override: str) -> None:
    config.compose([override])


@pytest.mark.parametrize(
    "experiment", sorted(p.stem for p in (CONF_DIR / "experiment").glob("*.yaml"))
)
def test_smoke_wins_over_every_experiment(experiment: str) -> None:
    cfg = config.compose([f"experiment={experiment}", "trainer=smoke"])
    assert cfg.trainer.max_epochs == 1
    assert cfg.trainer.accelerator == "cpu"
    assert cfg.trainer.limit_train_batches == 8
    assert cfg.data.batch_size <= 64
    assert cfg.figures == "none"


def test_what_the_user_types_wins_over_smoke() -> None:
    assert config.compose(["trainer=smoke", "trainer.max_epochs=2"]).trainer.max_epochs == 2


def test_notebook_is_the_notebooks_recipe() -> None:
    cfg = config.compose(["experiment=notebook"])
    assert (cfg.data.batch_size, cfg.optim.lr, cfg.trainer.max_epochs) == (32, 0.001, 10)
    assert (cfg.select, cfg.model.init, cfg.optim.optimizer.eps) == ("last", "keras", 1e-7)
    assert cfg.optim.schedule._target_ == "fmnist.schedules.constant"
    assert not cfg.augment.flip
    assert not cfg.augment.test_flip


def test_notebook_as_published_differs_in_what_selects_alone() -> None:
    notebook, published = (
        schema.flatten(config.check(config.compose([f"experiment={name}"])))
        for name in ("notebook", "notebook_as_published")
    )
    changed = {key: value for key, value in published.items() if notebook[key] != value}
    assert changed == {"select": "best", "data.val_from": "test", "data.val_size": 0}


@pytest.fixture
def own_conf(tmp_path: Path) -> Path:
    (tmp_path / "experiment").mkdir()
    return tmp_path


def test_typo_in_an_experiment_is_found(own_conf: Path) -> None:
    (own_conf / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ntrainer:\n  max_epoch: 3\n"
    )
    with pytest.raises(UsageError, match=r"Unknown key trainer.max_epoch in .*mine.yaml"):
        read_command(["experiment=mine"], own_conf)


def test_typo_in_a_defaults_list_is_found(own_conf: Path) -> None:
    (own_conf / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /modle: mlp\n"
    )
    with pytest.raises(UsageError, match=r"Unknown group modle in .*experiment/mine.yaml"):
        read_command(["experiment=mine"], own_conf)


def test_unknown_choice_in_a_defaults_list_is_found(own_conf: Path) -> None:
    (own_conf / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /model: mpl\n"
    )
    with pytest.raises(UsageError, match="Unknown choice model=mpl.*Did you mean mlp"):
        read_command(["experiment=mine"], own_conf)


def test_broken_yaml_is_named_with_file_and_line(own_conf: Path) -> None:
    (own_conf / "experiment" / "mine.yaml").write_text("seed: 1\nnote: [a\nname: x\n")
    with pytest.raises(UsageError, match=r"mine.yaml, line 3 is not valid YAML"):
        read_command(["experiment=mine"], own_conf)


def test_own_class_is_left_to_its_constructor() -> None:
    command = read_command(["model._target_=torchvision.models.get_model"])
    assert command.cfg.model._target_ == "torchvision.models.get_model"


def revived(config: dict[str, Any], overrides: list[str]) -> dict[str, Any]:
    return revival.revive(Record(Path("runs/a"), {"config": config, "overrides": overrides})).config


@pytest.mark.parametrize("words", [["optim=adam"], ["optim=sgd"], ["model=mlp", "optim=adamw"]])
def test_a_record_of_other_defaults_is_revived_as_it_is(words: list[str]) -> None:
    """What a run did not name then may mean another class today."""
    recorded = config.settle(config.check(config.compose(words)))
    assert revived(recorded, []) == recorded


def test_a_key_that_a_record_lacks_has_its_default() -> None:
    recorded = config.settle(config.check(config.compose(["model=mlp", "optim=adam"])))
    optim = {key: value for key, value in recorded["optim"].items() if key != "decay"}
    model = {key: value for key, value in recorded["model"].items() if key != "dropout"}
    old = {**recorded, "optim": optim, "model": model}
    assert revived(old, ["model=mlp"]) == recorded


def test_check_takes_plain_data_too() -> None:
    cfg = config.compose()
    assert config.check(OmegaConf.to_container(cfg)) == config.check(cfg)


def test_config_imports_no_torch() -> None:
    code = (
        "import sys; from fmnist import config, record, report, run, command;"
        "from fmnist.sweeps import plugins; config.compose();"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("text", ["trainer:\n  max_epochs: 3\n", "seed: 3\n"])
def test_experiment_without_its_first_line_is_explained(own_conf: Path, text: str) -> None:
    (own_conf / "experiment" / "mine.yaml").write_text(text)
    with pytest.raises(UsageError, match="Begin its file with the line `# @package _global_`"):
        read_command(["experiment=mine"], own_conf)


@pytest.mark.parametrize("content", [b"- a\n- b\n", b"\xff\xfe", b"hydra: {foo: 1}\n"])
def test_config_file_of_another_kind_is_an_error(own_conf: Path, content: bytes) -> None:
    (own_conf / "experiment" / "mine.yaml").write_bytes(b"# @package _global_\n" + content)
    with pytest.raises(UsageError):
        read_command(["experiment=mine"], own_conf)


def test_typo_on_an_axis_is_named_with_the_right_model() -> None:
    assert "Unknown key model.channels" in refused("model=cnn,mlp", "model.channels=[8,8]")

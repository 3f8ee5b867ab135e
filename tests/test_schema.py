import inspect
import typing
from collections.abc import Iterable

import pytest
import pytorch_lightning as pl
from hydra.utils import get_object
from omegaconf import OmegaConf

from fmnist import arguments, config, schema
from fmnist.errors import UsageError
from fmnist.messages import CONF_DIR

GIVEN = {  # arguments that the program passes itself
    "optim": {"params", "lr"},
    "schedule": {"progress"},
    "model": set[str](),
}


def parameters(target: str) -> set[str]:
    return set(inspect.signature(get_object(target)).parameters)


@pytest.mark.parametrize(
    ("kind", "target", "model"),
    [("model", t, m) for t, m in arguments.MODELS.items()]
    + [("optim", t, m) for t, m in arguments.OPTIMIZERS.items()]
    + [("schedule", t, m) for t, m in arguments.SCHEDULES.items()],
)
def test_schema_has_the_arguments_of_the_constructor(
    kind: str, target: str, model: type[arguments.Section]
) -> None:
    assert set(model.model_fields) == parameters(target) - GIVEN[kind]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model=wide_resnet", "model.depth=1000000000"], r"model.depth must be in 1\.\.1000, got"),
        (["model=wide_resnet", "model.width=65537"], r"model.width must be in 1\.\.65536, got"),
        (
            ["model=mlp", f"model.widths=[{','.join(['1'] * 101)}]"],
            r"model.widths must be a list of at most 100 values, each an integer in 1",
        ),
    ],
)
def test_a_network_without_end_is_refused(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        config.check(config.compose(words))


def test_schema_has_the_arguments_of_trainer() -> None:
    ours = set(schema.Trainer.model_fields) | set(schema.RESERVED_TRAINER_KEYS)
    theirs = set(inspect.signature(pl.Trainer).parameters)
    assert ours - {"enable_autolog_hparams", "model_registry"} <= theirs
    assert theirs <= ours


def test_precisions_are_lightnings() -> None:
    from lightning_fabric.plugins.precision.precision import (
        _PRECISION_INPUT_INT,
        _PRECISION_INPUT_STR,
    )

    field = schema.Trainer.model_fields["precision"].annotation
    ours = {v for part in typing.get_args(field) for v in typing.get_args(part)}
    theirs = {*typing.get_args(_PRECISION_INPUT_INT), *typing.get_args(_PRECISION_INPUT_STR)}
    assert ours == {*theirs, "auto"}


def leaves(model: type[arguments.Section], prefix: str = "") -> Iterable[str]:
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, arguments.Section):
            yield from leaves(inner, f"{prefix}{name}.")
        else:
            yield prefix + name


def test_no_default_stands_in_both_schema_and_yaml() -> None:
    required = {k for k in leaves(schema.Root) if not k.startswith("trainer.")}
    for name in required:
        model: type[arguments.Section] = schema.Root
        *path, last = name.split(".")
        for part in path:
            model = typing.cast("type[arguments.Section]", model.model_fields[part].annotation)
        assert model.model_fields[last].is_required(), name


def test_every_yaml_value_has_its_unit_or_range_beside_it() -> None:
    for file in CONF_DIR.rglob("*.yaml"):
        OmegaConf.load(file)  # each parses on its own
    for folder in ("data", "augment", "model"):
        for file in (CONF_DIR / folder).glob("*.yaml"):
            lines = [x for x in file.read_text().splitlines() if ": " in x and x[0].isalpha()]
            values = [x for x in lines if not x.startswith(("_target_", "defaults", "#"))]
            has_defaults = any(x.startswith("defaults") for x in lines)
            assert has_defaults or all("  # " in x for x in values), file

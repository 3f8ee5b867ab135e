import re
from pathlib import Path

import pytest
from run_folders import read, write_run

from fmnist.compare import filters
from fmnist.compare.collection import Run
from fmnist.errors import UsageError


@pytest.fixture
def runs(workdir: Path) -> list[Run]:
    write_run(Path("runs/a"), 0.92, optim__lr=0.001, data__dir="7")
    write_run(Path("runs/b"), 0.93, optim__lr=0.003, model="mlp", partial=True)
    write_run(Path("runs/c"), None, status="failed", model__channels=[8, 16], commit=None)
    return read(Path("runs"))


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("optim.lr=0.001", "a"),
        ("optim.lr = 1e-3", "a"),
        ("lr==.001", "a"),
        ("lr!=0.001", "bc"),
        ("lr<=0.003", "abc"),
        ("lr<0.003", "a"),
        ("val/acc>=0.93", "b"),
        ("val/acc>92%", "b"),
        ("val/acc<1", "ab"),
        ("val/acc=null", "c"),
        ("val/acc!=null", "ab"),
        ("status=finished", "ab"),
        ("status!=finished", "c"),
        ("partial=true", "b"),
        ("partial=False", "ac"),
        ("model=cnn", "ac"),
        ("model._target_=fmnist.models.mlp", "b"),
        ("model._target_=mlp", "b"),
        ("optimizer=Adam", "abc"),
        ("channels=[8,16]", "c"),
        ("channels=[8", ""),
        ("channels!=[8, 16]", "ab"),
        ("widths=null", "ac"),
        ("data.dir=7", "a"),
        ("run=runs/b", "b"),
        ("commit=0123456", "ab"),
        ("commit=012", ""),
    ],
)
def test_condition_selects(runs: list[Run], condition: str, expected: str) -> None:
    assert "".join(run.label[-1] for run in filters.select(runs, [condition])) == expected


def test_conditions_are_all_to_be_met(runs: list[Run]) -> None:
    found = filters.select(runs, ["status=finished", "lr>0.001"])
    assert [run.label for run in found] == ["runs/b"]
    assert filters.select(runs, []) == runs


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("optim.lrr=1", "Unknown key optim.lrr. Did you mean optim.lr?"),
        ("max_epoch=1", "Unknown key max_epoch. Did you mean max_epochs?"),
        ("val_acc>0.9", "Unknown key val_acc. Did you mean val/acc?"),
        ("qqq=1", "Unknown key qqq. It is a config key, a score or a fact of run.json."),
        ("acc>0.9", "acc is ambiguous: test/acc, train/acc, val/acc. Write one of them."),
        ("lr", "Cannot read the condition 'lr'. Write KEY=VALUE, !=, <, <=, > or >=."),
        ("=3", "Cannot read the condition '=3'."),
        ("lr<fast", "optim.lr< needs a number, got 'fast'. Use = or != for a text."),
        ("status>3", "status is no number, so nothing is > 3. Use = or !=."),
    ],
)
def test_mistake_is_named_with_its_remedy(runs: list[Run], condition: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        filters.select(runs, [condition])


def test_exact_key_wins_over_ends(runs: list[Run]) -> None:
    assert filters.find_key("precision", runs) == "precision"
    assert filters.find_key("seed", runs) == "seed"  # though data.split_seed ends like it

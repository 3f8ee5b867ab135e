"""The targets of the recorded experiments: met, missed, or not measured."""

from typing import Any

import pytest
from test_results import make_entry, make_results

from fmnist.results import page, plan, targets
from fmnist.results.targets import Target


def verdict(target: Target, **changes: Any) -> str:
    return targets.check(target, make_results(x=make_entry(**changes)))[1]


@pytest.mark.parametrize(
    ("accs", "expected"),
    [
        ((0.935, 0.936, 0.937), "met"),
        ((0.926, 0.930, 0.936), "met by the mean"),
        ((0.930, 0.930, 0.930), "met"),
        ((0.929, 0.930, 0.9305), "missed"),
        ((0.95, 0.951), "not measured in full"),
    ],
)
def test_accuracy_decides(accs: tuple[float, ...], expected: str) -> None:
    assert verdict(Target("x", 0.93), accs=accs) == expected


def test_limits_on_epochs_and_time_decide_too() -> None:
    accs = (0.96, 0.961, 0.962)  # 10 epochs, runs of 40, 41 and 42 s, their epochs 38 to 40 s
    for name, limit in (("max_epochs", 10), ("max_run_s", 42), ("max_train_s", 40)):
        within: dict[str, Any] = {name: limit}
        beyond: dict[str, Any] = {name: limit - 2}
        assert verdict(Target("x", 0.93, **within), accs=accs) == "met"
        assert verdict(Target("x", 0.93, **beyond), accs=accs) == "missed"
    runs = [run.model_copy(update={"train_s": None}) for run in make_entry(accs=accs).runs]
    assert verdict(Target("x", 0.93, max_train_s=40), runs=runs) == "not measured in full"


def test_one_run_is_enough_where_one_is_asked_for() -> None:
    assert verdict(Target("x", 0.967, num_seeds=1), accs=(0.968,)) == "met"


def test_every_target_has_a_row_and_is_of_an_experiment_that_runs_often_enough() -> None:
    text = page.render(make_results(), [])
    for target in targets.TARGETS:
        assert f"| {target.name} | {target.text} | {target.num_seeds} | - | not measured |" in text
        assert target.name in plan.experiments()
        assert plan.NUM_SEEDS.get(target.name, 3) >= target.num_seeds

import pytest

from fmnist.compare import texts
from fmnist.compare.statistics import Summary


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "null"),
        (True, "true"),
        (1e-05, "1e-05"),
        (0.1 + 0.2, "0.30000000000000004"),
        ("two\nlines", "two lines"),
        ([32, 64], "[32, 64]"),
        (10**30, str(10**30)),
    ],
)
def test_setting_loses_nothing(value: object, expected: str) -> None:
    assert texts.setting("optim.lr", value) == expected


def test_short_setting_keeps_the_digits_and_the_last_part_of_a_target() -> None:
    assert texts.setting("optim.lr", 0.00312345, 4) == "0.003123"
    assert texts.setting("model._target_", "fmnist.models.cnn", 4) == "cnn"
    assert texts.setting("data.source", "a.b", 4) == "a.b"


def test_accuracies_are_in_percent_and_losses_are_not() -> None:
    summary = Summary(3, 0.91234, 0.00123, 0.90, 0.92)
    assert texts.score("val/acc", summary) == "91.23 ± 0.12"
    assert texts.score("val/loss", summary) == "0.9123 ± 0.0012"
    assert texts.score("val/acc", Summary(1, 0.5)) == "50.00"
    assert texts.score("val/acc", None) == "-"
    assert texts.interval("val/acc", summary) == "90.00\N{EN DASH}92.00"
    assert texts.interval("val/acc", Summary(1, 0.5)) == "-"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.31, "0.3 s"), (99.0, "99.0 s"), (150.0, "2.5 min"), (7200.0, "2.0 h")],
)
def test_duration(seconds: float, expected: str) -> None:
    assert texts.duration(seconds) == expected


def test_first_line() -> None:
    assert texts.first_line("\n  Why.\nHow.") == "Why."
    assert texts.first_line(" \n ") == ""

from pathlib import Path

import pytest
from run_folders import read, write_run
from scipy import stats

from fmnist.compare import pairs
from fmnist.errors import UsageError, UserError

A = (0.91, 0.93, 0.92)
B = (0.90, 0.90, 0.915)


def make(side: str, accuracies: tuple[float, ...], **changes: object) -> Path:
    for seed, acc in enumerate(accuracies):
        name = "-".join(f"{value}" for value in changes.values())
        write_run(Path(side) / f"{name}-{seed}", acc, seed=seed, **changes)
    return Path(side)


def test_runs_of_one_seed_are_pairs(workdir: Path) -> None:
    found = pairs.match(read(make("a", A)), read(make("b", B, optim__lr=1)))
    assert [(a.fields["seed"], b.fields["seed"]) for a, b in found.matched] == [
        (i, i) for i in range(3)
    ]
    assert found.differing == [("optim.lr", "0.003", "1")]
    expected = stats.ttest_rel(A, B)
    test = found.tests()["val/acc"]
    assert (test.t, test.p) == pytest.approx((expected.statistic, expected.pvalue))
    texts = {column.key: column.texts[0] for column in found.columns()}
    assert (texts["A"], texts["B"], texts["difference"]) == ("92.00", "90.50", "+1.50")
    assert (texts["n"], texts["t"]) == ("3", f"{expected.statistic:.2f}")


def test_order_of_the_runs_changes_nothing(workdir: Path) -> None:
    first, second = read(make("a", A)), read(make("b", B, optim__lr=1))
    there, back = pairs.match(first, second), pairs.match(first[::-1], second[1:] + second[:1])
    assert there.matched == back.matched


def test_shared_settings_are_matched_too(workdir: Path) -> None:
    for size in (32, 64):
        make("a", tuple(x + size / 1e4 for x in A), data__batch_size=size)
        make("b", tuple(x + size / 1e4 for x in B), data__batch_size=size, optim__lr=1)
    found = pairs.match(read(Path("a")), read(Path("b")))
    assert len(found.matched) == 6
    for a, b in found.matched:
        assert a.identity["data.batch_size"] == b.identity["data.batch_size"]
        assert a.fields["seed"] == b.fields["seed"]
    assert [key for key, _, _ in found.differing] == ["optim.lr"]


def test_sides_of_other_models_are_compared(workdir: Path) -> None:
    found = pairs.match(read(make("a", A)), read(make("b", B, model="mlp")))
    assert len(found.matched) == 3
    differing = {key: (a, b) for key, a, b in found.differing}
    assert differing["model._target_"] == ("cnn", "mlp")
    assert differing["model.widths"][0] == "-"


def test_run_without_a_partner_is_named(workdir: Path) -> None:
    found = pairs.match(read(make("a", (*A, 0.9))), read(make("b", B, optim__lr=1)))
    assert len(found.matched) == 3
    assert found.left_out == ["a/-3 (no partner in B)"]
    assert "left out: a/-3 (no partner in B)" in found.notes()


def test_runs_that_cannot_be_compared_are_left_out_and_named(workdir: Path) -> None:
    make("a", (*A, 0.5))
    write_run(Path("a/-0"), 0.9, seed=0, status="pruned")
    make("b", (*B, 0.5), optim__lr=1)
    write_run(Path("b/1-1"), 0.9, seed=1, optim__lr=1, partial=True)
    found = pairs.match(read(Path("a")), read(Path("b")))
    assert [a.fields["seed"] for a, _ in found.matched] == [2, 3]
    assert "a/-0 (pruned)" in found.left_out
    assert "b/1-1 (partial)" in found.left_out


def test_several_runs_for_one_pair_are_refused(workdir: Path) -> None:
    make("a", A)
    make("b", B, optim__lr=1)
    make("b", B, optim__lr=2)
    message = "B has 2 runs for one pair: b/1-0 and b/2-0; they differ in optim.lr. Narrow B"
    with pytest.raises(UsageError, match=message):
        pairs.match(read(Path("a")), read(Path("b")))
    write_run(Path("a/again"), 0.9, seed=1)
    with pytest.raises(UsageError, match="A has 2 runs for one pair: .*; they are equal"):
        pairs.match(read(Path("a")), read(Path("b")))


def test_side_that_holds_a_run_of_the_other_is_refused(workdir: Path) -> None:
    make("a", A)
    with pytest.raises(UsageError, match="A and B share a/-0"):
        pairs.match(read(Path("a")), read(Path("a")))


def test_fewer_than_two_pairs_are_an_error(workdir: Path) -> None:
    make("a", A[:1])
    make("b", B, optim__lr=1)
    message = r"needs two pairs or more, got 1 pair \(1 in A and 3 in B can be compared\)"
    with pytest.raises(UserError, match=message) as caught:
        pairs.match(read(Path("a")), read(Path("b")))
    assert caught.value.exit_code == 1


def test_other_seeds_or_other_data_make_no_pairs(workdir: Path) -> None:
    for i in range(3):
        write_run(Path(f"a/{i}"), 0.9, seed=i)
        write_run(Path(f"b/{i}"), 0.9, seed=i + 3, optim__lr=1)
        write_run(Path(f"c/{i}"), 0.9, seed=i, optim__lr=1, data_hash="ee" * 32)
    for side in ("b", "c"):
        with pytest.raises(UserError, match="got 0 pairs"):
            pairs.match(read(Path("a")), read(Path(side)))


def test_test_scores_are_compared_where_all_have_them(workdir: Path) -> None:
    for i in range(3):
        write_run(Path(f"a/{i}"), scores={"val/acc": A[i], "test/acc": A[i] - 0.01}, seed=i)
        scores = {"val/acc": B[i], "test/acc": B[i] - 0.02}
        write_run(Path(f"b/{i}"), scores=scores, seed=i, optim__lr=1)
    found = pairs.match(read(Path("a")), read(Path("b")))
    assert found.tests()["test/acc"].difference == pytest.approx(0.025)
    write_run(Path("b/0"), B[0], seed=0, optim__lr=1)
    assert list(pairs.match(read(Path("a")), read(Path("b"))).tests()) == ["val/acc"]


def test_equal_differences_say_that_there_is_no_p(workdir: Path) -> None:
    make("a", A)
    make("b", tuple(x - 0.001 for x in A), optim__lr=1)
    found = pairs.match(read(Path("a")), read(Path("b")))
    texts = {column.key: column.texts[0] for column in found.columns()}
    assert (texts["t"], texts["p"], texts["ci95"]) == ("-", "-", "-")
    assert any("all differences are equal" in line for line in found.notes())


def test_same_config_on_both_sides_is_said(workdir: Path) -> None:
    found = pairs.match(read(make("a", A)), read(make("b", B)))
    assert found.differing == []
    assert "A and B have the same config" in found.notes()

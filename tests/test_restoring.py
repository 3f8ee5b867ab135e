"""All that a checkpoint holds beside the weights is compared with what goes on from it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile
import pytest
import torch

from fmnist import record, run
from fmnist.errors import UserError


def change(state: dict[str, Any], path: str, value: Any) -> None:
    *above, last = path.split("/")
    place: Any = state
    for key in above:
        place = place[int(key)] if key.isdecimal() else place[key]
    if value is KeyError:
        del place[last]
    else:
        place[last] = value


STATE, GROUP = "optimizer_states/0/state/0", "optimizer_states/0/param_groups/0"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (f"{STATE}/exp_avg", torch.zeros(2), r"exp_avg of weight 0 in its optimizer is \[2\], not"),
        (f"{STATE}/exp_avg", KeyError, "exp_avg of weight 0 in its optimizer is damaged"),
        (f"{STATE}/step", torch.zeros(3), "step of weight 0 in its optimizer is damaged"),
        (f"{STATE}/exp_avg_sq", ["x"], "exp_avg_sq of weight 0 in its optimizer is damaged"),
        (f"{GROUP}/lr", "fast", "param_groups.lr is 'fast'"),
        (f"{GROUP}/betas", 1, "param_groups.betas is no list of 2"),
        (f"{GROUP}/eps", KeyError, "its param_groups lack a key"),
        (f"{GROUP}/params", [0, 1, 2, 9], "its optimizer_states are of other weights"),
        ("optimizer_states", [], "its optimizer_states are of other optimizers"),
        ("lr_schedulers", KeyError, "it is no list of 1"),
        ("loops/fit_loop/epoch_progress/total/ready", "x", "total.ready is 'x'"),
        ("loops/fit_loop/epoch_progress", 5, "epoch_progress is no dict"),
        ("loops", KeyError, "it is no dict"),
        ("callbacks/History/rows", [{"epoch": 1}], "a row of its history is damaged"),
        ("callbacks/Checkpoints/best_epoch", None, "Checkpoints.best_epoch is None"),
        ("callbacks/Checkpoints", {"best_epoch": 1}, "KeyError"),
        ("pytorch-lightning_version", "x", "InvalidVersion"),
    ],
)
def test_what_does_not_fit_is_named_before_the_first_step(
    half_way: Path, path: str, value: Any, reason: str
) -> None:
    last = half_way / "checkpoints" / "last.ckpt"
    state = torch.load(last, weights_only=True)
    change(state, path, value)
    torch.save(state, last)
    with pytest.raises(
        UserError, match=rf"last\.ckpt does not fit this run \(.*{reason}"
    ) as caught:
        run.resume(half_way)
    assert caught.value.exit_code == 1
    assert record.read(half_way).data["status"] in ("failed", "interrupted")


def test_a_whole_checkpoint_is_gone_on_from(half_way: Path) -> None:
    assert run.resume(half_way).data["epochs_done"] == 2


@pytest.mark.parametrize("damage", ["nan", "code", "cut"])
def test_damaged_weights_fall_back_to_the_checkpoint_before(
    half_way: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights that are not finite are damage: no training goes on to save such."""
    folder = half_way / "checkpoints"
    os.replace(folder / "last.ckpt", folder / "previous.ckpt")
    state = torch.load(folder / "previous.ckpt", weights_only=True)
    next(iter(state["state_dict"].values())).fill_(torch.nan)
    made: dict[str, Callable[[], bytes]] = {
        "nan": lambda: hostile.saved(state),
        "code": lambda: hostile.saved({"state_dict": hostile.Exploit(*hostile.CALLS[0])}),
        "cut": lambda: (folder / "previous.ckpt").read_bytes()[:999],
    }
    (folder / "last.ckpt").write_bytes(made[damage]())
    assert run.resume(half_way).data["epochs_done"] == 2
    assert "last.ckpt is damaged" in capsys.readouterr().err
    assert not hostile.CANARY.exists()


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_log_that_leads_elsewhere_is_not_written_to(half_way: Path, kind: str) -> None:
    log, other = half_way / "train.log", Path("mine.txt")
    log.unlink(missing_ok=True)
    other.write_text("mine")
    if kind == "link":
        log.symlink_to(other.resolve())
    else:
        os.mkfifo(log)
    with pytest.raises(UserError, match=r"train\.log is a link or no file, and is not written to"):
        run.resume(half_way)
    assert other.read_text() == "mine"

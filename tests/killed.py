"""Train a run that is killed after its first epoch, and go on with it."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from fmnist import proof, record, run

SMALLER = {  # a network: overrides that let a CPU train it in seconds
    "mobilenet_v3": ["model.size=small"],
    "speedrun": ["model.channels=[8,16,16]"],
    "torchvision": ["model.arch=squeezenet1_1"],
    "transfer": [
        *("model.arch=squeezenet1_1", "model.size_px=40", "model.weights=null"),
        "callbacks.finetuning.frozen_epochs=1",
    ],
    "wide_resnet": ["model.depth=10", "model.width=1"],
}


class Killed(BaseException):
    """Ends a run as a kill would: nothing after it is executed."""


def train_killed(words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> record.Record:
    """Return the record of a run that went on after a kill at the end of its first epoch."""
    step = record.Record.update

    def die(self: record.Record, **fields: object) -> None:
        step(self, **fields)
        if fields.get("epochs_done") == 1:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(record.Record, "update", die)
        with pytest.raises(Killed):
            run.train(words)
    resumed = run.train(words)
    assert [attempt["start_epoch"] for attempt in resumed.data["attempts"]] == [0, 1]
    return resumed


def check_resumes(words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Train whole and killed, and compare both ends bit for bit; returns the whole run's folder."""
    whole = run.train([*words, "name=whole"])
    assert whole.status == "finished"
    resumed = train_killed([*words, "name=killed"], monkeypatch)
    assert proof.differences(whole.folder, resumed.folder) == []
    return whole.folder

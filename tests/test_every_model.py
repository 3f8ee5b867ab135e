"""Every network of conf/model/ trains, resumes exactly and is shipped: a few steps, small data."""

import numpy as np
import pytest

from fmnist import export, portable, proof, run
from fmnist.messages import CONF_DIR

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_data", "workdir")]

FEW = [
    *("data.batch_size=16", "data.val_size=100", "augment=strong", "figures=none", "trainer=cpu"),
    *("trainer.max_epochs=2", "trainer.limit_train_batches=3"),
    *("trainer.limit_val_batches=1", "trainer.limit_test_batches=1"),
]
SMALLER = {
    "mobilenet_v3": ["model.size=small"],
    "torchvision": ["model.arch=squeezenet1_1"],
    "transfer": [
        *("model.arch=squeezenet1_1", "model.size_px=40", "model.weights=null"),
        "callbacks.finetuning.frozen_epochs=1",
    ],
    "wide_resnet": ["model.depth=10", "model.width=1"],
}


class Killed(BaseException):
    """Ends a run as a kill would: nothing after it is executed."""


@pytest.mark.parametrize("model", sorted(path.stem for path in (CONF_DIR / "model").glob("*.yaml")))
def test_every_model_trains_resumes_and_is_shipped(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*FEW, f"model={model}", *SMALLER.get(model, [])]
    whole = run.train([*words, "name=whole"])
    assert whole.status == "finished"
    step = run.record.Record.update
    with monkeypatch.context() as patch:

        def die(self: run.record.Record, **fields: object) -> None:
            step(self, **fields)
            if fields.get("epochs_done") == 1:
                raise Killed

        patch.setattr(run.record.Record, "update", die)
        with pytest.raises(Killed):
            run.train([*words, "name=killed"])
    resumed = run.train([*words, "name=killed"])
    assert [attempt["start_epoch"] for attempt in resumed.data["attempts"]] == [0, 1]
    assert proof.differences(whole.folder, resumed.folder) == []
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    for kind in export.SUFFIXES:
        made, _ = export.export(whole.folder, kind)
        predict = portable.FORMATS[kind][1](made.path.read_bytes())
        expected = run.load(whole.folder).predict(images)
        assert np.abs(predict(images[:, None]) - expected).max() < 1e-5

"""Every network of conf/model/ trains, resumes exactly and is shipped: a few steps, small data."""

import numpy as np
import pytest
from killed import SMALLER, check_resumes

from fmnist import export, portable, run
from fmnist.messages import CONF_DIR

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_data", "workdir")]

FEW = [
    *("data.batch_size=16", "data.val_size=100", "augment=strong", "figures=none", "trainer=cpu"),
    *("trainer.max_epochs=2", "trainer.limit_train_batches=3"),
    *("trainer.limit_val_batches=1", "trainer.limit_test_batches=1"),
]


@pytest.mark.parametrize("model", sorted(path.stem for path in (CONF_DIR / "model").glob("*.yaml")))
def test_every_model_trains_resumes_and_is_shipped(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*FEW, f"model={model}", *SMALLER.get(model, [])]
    folder = check_resumes(words, monkeypatch)
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    for kind in export.SUFFIXES:
        made, _ = export.export(folder, kind)
        predict = portable.FORMATS[kind][1](made.path.read_bytes())
        expected = run.load(folder).predict(images)
        assert np.abs(predict(images[:, None]) - expected).max() < 1e-5

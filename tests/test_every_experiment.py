"""Every recipe of conf/experiment/ learns and resumes exactly: a few steps, small data, a CPU."""

import pytest
from killed import SMALLER, check_resumes

from fmnist import config, proof
from fmnist.messages import CONF_DIR

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("small_data", "workdir")]

FEW = [
    *("trainer=cpu", "trainer.max_epochs=3", "trainer.limit_train_batches=20"),
    *("data.batch_size=25", "figures=none", "logger=none"),
]
OTHERS = {  # an experiment: what it takes to learn in so few and small batches
    **{name: ["optim.lr=0.02"] for name in ("cnn", "cnn_long", "mlp")},
    "resnet18": ["trainer.max_epochs=2", "optim.lr=0.02"],
    "wide_resnet": ["trainer.max_epochs=5"],
}
EXPERIMENTS = sorted(path.stem for path in (CONF_DIR / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_learns_and_resumes(
    experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [f"experiment={experiment}", *FEW, *SMALLER.get(experiment, [])]
    words += OTHERS.get(experiment, [])
    if config.compose(words).data.val_size:
        words.append("data.val_size=100")
    rows = proof.rows(check_resumes(words, monkeypatch))
    first, last = (float(row["train/loss"]) for row in (rows[0], rows[-1]))
    assert last < 0.75 * first
    assert float(rows[-1]["train/acc"]) > 0.4  # of chance: 0.1

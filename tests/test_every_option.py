"""Every choice of how to train resumes exactly: a small dense network, killed after an epoch."""

import pytest
from killed import check_resumes

from fmnist import build, config, proof
from fmnist.messages import CONF_DIR

SHORT = [
    *("model=mlp", "model.dropout=0.1", "data.batch_size=50"),
    *("data.val_size=100", "trainer=cpu", "trainer.max_epochs=3", "figures=none", "logger=none"),
]
OPTIONS = [
    ["optim=adam"],
    ["optim=adam", "optim.optimizer.fused=null", "optim.optimizer.amsgrad=true"],
    ["optim=adamw", "optim.optimizer.weight_decay=0.1", "optim.decay=weights"],
    ["optim=adamw", "optim.optimizer.weight_decay=0.1", "optim.decay=all"],
    ["optim=sgd", "optim.lr=0.05"],
    ["optim=sgd", "optim.optimizer.nesterov=false", "optim.decay=all"],
    ["optim=muon", "optim.optimizer.weight_decay=0.1"],
    ["optim=muon", "callbacks=finetuning", "callbacks.finetuning.frozen_epochs=1"],
    ["optim/schedule=one_cycle"],
    ["optim/schedule=cosine"],
    ["optim/schedule=cosine", "optim.schedule.warmup=0.4"],
    ["optim/schedule=linear"],
    ["optim/schedule=step"],
    ["optim/schedule=step", "optim.schedule.warmup=0.4"],
    ["optim/schedule=constant"],
    ["optim.label_smoothing=0.1"],
    ["trainer.gradient_clip_val=0.5"],
    ["trainer.gradient_clip_val=0.01", "trainer.gradient_clip_algorithm=value", "optim=sgd"],
    ["trainer.accumulate_grad_batches=3"],
    ["trainer.check_val_every_n_epoch=2"],
    ["callbacks=default", "metric=val/loss"],
    ["callbacks=ema", "callbacks.ema.decay=0.9"],
    ["callbacks=ema", "optim=sgd", "model=cnn_bn"],
    ["callbacks=early_stopping", "callbacks.early_stopping.patience=1", "optim.lr=1e-9"],
    ["callbacks=finetuning", "callbacks.finetuning.frozen_epochs=1"],
    ["augment=none"],
    ["augment=flip"],
    ["augment=basic", "select=last"],
    ["augment=cutmix", "optim.label_smoothing=0.1"],
    ["augment=strong", "augment.test_flip=false", "trainer.precision=bf16-mixed"],
]


def test_every_choice_in_the_files_is_among_them() -> None:
    words = {word for option in OPTIONS for word in option}
    for group in ("augment", "callbacks", "optim", "optim/schedule"):
        for path in (CONF_DIR / group).glob("*.yaml"):
            assert f"{group}={path.stem}" in words


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "linear", "step"])
def test_a_warm_up_rises_from_near_zero_to_the_peak(schedule: str) -> None:
    words = [f"optim/schedule={schedule}", "optim.schedule.warmup=0.2"]
    rate = build._schedule(config.check(config.compose(words))["optim"]["schedule"])
    assert 0 <= rate(0.0) <= 0.04 < rate(0.1) < rate(0.19) < rate(0.2) == 1.0


@pytest.mark.slow
@pytest.mark.usefixtures("small_data", "workdir")
@pytest.mark.parametrize("option", OPTIONS, ids=" ".join)
def test_every_option_resumes(option: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    rows = proof.rows(check_resumes([*SHORT, *option], monkeypatch))
    is_stopped = "callbacks=early_stopping" in option
    assert len(rows) == (2 if is_stopped else 3)

"""Ordinary Lightning: a LightningModule, a LightningDataModule and the Trainer's defaults.

In the manner of github.com/ashleve/lightning-hydra-template (mnist_module, mnist_datamodule and its
ModelCheckpoint): torchmetrics logged each epoch and shown in the bar, validation each epoch, the
best and the last checkpoint kept, TensorBoard. float32, torch's own allocator.
"""

import argparse
import time
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from torchmetrics import MaxMetric, MeanMetric
from torchmetrics.classification.accuracy import Accuracy
from torchvision.datasets import FashionMNIST
from torchvision.transforms import ToTensor

from fmnist.bench.network import cnn
from fmnist.bench.peer import Report, parse_options, read_split

Batch = tuple[Tensor, Tensor]


class LitModule(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = cnn()
        self.criterion = nn.CrossEntropyLoss()
        self.train_acc = Accuracy(task="multiclass", num_classes=10)
        self.val_acc = Accuracy(task="multiclass", num_classes=10)
        self.test_acc = Accuracy(task="multiclass", num_classes=10)
        self.train_loss = MeanMetric()
        self.val_loss = MeanMetric()
        self.test_loss = MeanMetric()
        self.val_acc_best = MaxMetric()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)  # type: ignore[no-any-return]

    def model_step(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        x, y = batch
        logits = self.forward(x)
        loss = self.criterion(logits, y)
        return loss, torch.argmax(logits, dim=1), y

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss, preds, targets = self.model_step(batch)
        self.train_loss(loss)
        self.train_acc(preds, targets)
        self.log("train/loss", self.train_loss, on_step=False, on_epoch=True, prog_bar=True)
        self.log("train/acc", self.train_acc, on_step=False, on_epoch=True, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        loss, preds, targets = self.model_step(batch)
        self.val_loss(loss)
        self.val_acc(preds, targets)
        self.log("val/loss", self.val_loss, on_step=False, on_epoch=True, prog_bar=True)
        self.log("val/acc", self.val_acc, on_step=False, on_epoch=True, prog_bar=True)

    def on_validation_epoch_end(self) -> None:
        self.val_acc_best(self.val_acc.compute())
        self.log("val/acc_best", self.val_acc_best.compute(), sync_dist=True, prog_bar=True)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        loss, preds, targets = self.model_step(batch)
        self.test_loss(loss)
        self.test_acc(preds, targets)
        self.log("test/loss", self.test_loss, on_step=False, on_epoch=True, prog_bar=True)
        self.log("test/acc", self.test_acc, on_step=False, on_epoch=True, prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class DataModule(pl.LightningDataModule):
    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__()
        self.options = options
        self.is_set_up = False

    def setup(self, stage: str | None = None) -> None:
        if self.is_set_up:  # the Trainer calls this for fit and again for test
            return
        self.is_set_up = True
        folder = str(self.options.data)
        full = FashionMNIST(folder, train=True, transform=ToTensor())
        train, val = read_split(self.options.split)
        self.data_train = Subset(full, train.tolist())
        self.data_val = Subset(full, val.tolist())
        self.data_test = FashionMNIST(folder, train=False, transform=ToTensor())

    def train_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.data_train, is_train=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.data_val, is_train=False)

    def test_dataloader(self) -> DataLoader[Any]:
        return self._loader(self.data_test, is_train=False)

    def _loader(self, data: Dataset[Any], is_train: bool) -> DataLoader[Any]:
        return DataLoader(
            data,
            batch_size=self.options.batch_size,
            shuffle=is_train,
            drop_last=is_train,
            num_workers=self.options.num_workers,
            persistent_workers=self.options.num_workers > 0,
            pin_memory=self.options.device == "cuda",
        )


class Watch(Callback):
    """Reports whole epochs, from the start of one to the start of the next."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.num_epochs = 0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._end(trainer)

    def on_train_batch_start(self, *_: Any) -> None:
        self.report.mark("first_batch")

    def on_train_batch_end(self, *_: Any) -> None:
        self.report.mark("first_step")

    def _end(self, trainer: pl.Trainer) -> None:
        if self.num_epochs:
            num_images = int(trainer.num_training_batches) * self.report.options.batch_size
            self.report.end_epoch(num_images, float(trainer.callback_metrics["val/acc"]))
        else:
            self.report.begin()
        self.num_epochs += 1


def main() -> None:
    options = parse_options(__doc__)
    report = Report(options)
    module, data = LitModule(), DataModule(options)
    report.note(num_parameters=sum(p.numel() for p in module.parameters()))
    trainer = make_trainer(report, options.epochs)
    if options.until is not None:
        train_until(trainer, module, data, report)
    elif options.epochs:
        trainer.fit(module, datamodule=data)
    for i in range(options.evals + 1 if options.evals else 0):
        began = time.perf_counter()
        (scores,) = trainer.test(module, datamodule=data, verbose=False)
        if i:
            num_images = int(trainer.num_test_batches[0]) * options.batch_size
            report.end_eval(began, min(num_images, len(data.data_test)), scores["test/acc"])
    report.print()


def make_trainer(report: Report, max_epochs: int) -> pl.Trainer:
    options = report.options
    limit = 2 if options.max_batches else None
    return pl.Trainer(
        accelerator="gpu" if options.device == "cuda" else "cpu",
        devices=1,
        max_epochs=max_epochs,
        limit_train_batches=options.max_batches,
        limit_val_batches=limit,
        limit_test_batches=limit,
        callbacks=[ModelCheckpoint(monitor="val/acc", mode="max", save_last=True), Watch(report)],
    )


def train_until(trainer: pl.Trainer, module: LitModule, data: DataModule, report: Report) -> None:
    """Test after every epoch, with the module as it is, until it is good enough."""

    class Stop(Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            batches = report.limit(data.test_dataloader())
            was_training = module.training
            test_acc = accuracy(module, batches)
            module.train(was_training)
            trainer.should_stop = report.is_enough(test_acc)

    trainer.callbacks.append(Stop())  # type: ignore[attr-defined]
    trainer.fit(module, datamodule=data)


def accuracy(module: LitModule, batches: Any) -> float:
    from fmnist.bench.network import evaluate

    return evaluate(batches, module, str(module.device))[0]


if __name__ == "__main__":
    main()

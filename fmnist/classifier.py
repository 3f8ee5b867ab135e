"""The LightningModule: loss, metrics, optimizer. Knows no files and no config."""

import random
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.plugins.precision import MixedPrecision, Precision
from pytorch_lightning.utilities.enums import GradClipAlgorithmType
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import Metric

from fmnist import seeds
from fmnist.errors import UserError
from fmnist.models import last_layer

Schedule = Callable[[float], float]
Step = tuple[Tensor, Tensor, Tensor]  # loss, logits (B, K), labels (B,) or targets (B, K)


class OptimizerFactory(Protocol):
    def __call__(self, params: Any, *, lr: float) -> Optimizer: ...


class Tally(Metric):
    """Mean cross-entropy (nats) and accuracy over all images seen, also across processes."""

    full_state_update = False
    loss_sum: Tensor
    num_correct: Tensor
    num_images: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("loss_sum", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("num_correct", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("num_images", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Count images: `loss` is their mean, logits (N, K), labels (N,)."""
        self.loss_sum += loss.detach() * len(labels)
        self.num_correct += (logits.argmax(dim=1) == labels).sum()
        self.num_images += len(labels)

    def compute(self) -> dict[str, Tensor]:
        num_images = self.num_images.cpu().double()  # in float64 on the CPU: 0.92 is 0.92
        return {
            "loss": self.loss_sum.cpu().double() / num_images,
            "acc": self.num_correct.cpu().double() / num_images,
        }


class Classifier(pl.LightningModule):
    """Trains `net`, which maps uint8 images (B, 1, 28, 28) to logits (B, K).

    `lr` is the peak learning rate, `schedule` its factor at a point 0..1 of the training. Dropout
    is seeded by (seed, epoch). `test_flip` averages predictions over an image and its mirror image.
    `label_smoothing` is the share of a target that is spread over all classes (Szegedy et al. 2015,
    arXiv:1512.00567). Without `decays_all`, weight decay spares biases and norms. `backbone_ratio`
    is the learning rate of all but the last layer as a share of `lr`; None is for a network whose
    last layer need not be known.
    `scores` holds `split/loss` and `split/acc` of the current epoch; where images are mixed,
    `train/acc` counts the class with the larger share, of equal ones the first.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: OptimizerFactory,
        lr: float,
        schedule: Schedule,
        seed: int,
        test_flip: bool,
        label_smoothing: float = 0.0,
        decays_all: bool = True,
        backbone_ratio: float | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        self.optimizer_factory = optimizer
        self.lr = lr
        self.schedule = schedule
        self.seed = seed
        self.test_flip = test_flip
        self.label_smoothing = label_smoothing
        self.decays_all = decays_all
        self.backbone_ratio = backbone_ratio
        self.tallies = nn.ModuleDict({f"{s}_split": Tally() for s in ("train", "val", "test")})
        self.scores: dict[str, float] = {}
        self._steps: list[Step] = []  # not yet counted

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)  # type: ignore[no-any-return]

    def predict_logits(self, images: Tensor) -> Tensor:
        """Return float32 logits (B, K): the one path of every score and prediction."""
        with torch.autocast(images.device.type, enabled=False):
            logits: Tensor = self.net(images).float()
            if self.test_flip:
                logits = (logits + self.net(images.flip(-1)).float()) / 2
            return logits

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = self.optimizer_factory(self.net.parameters(), lr=self.lr)
        spares = not self.decays_all and bool(optimizer.defaults.get("weight_decay"))
        if spares or self.backbone_ratio is not None:
            optimizer = self.optimizer_factory(self._groups(spares), lr=self.lr)
        last_step = max(int(self.trainer.estimated_stepping_batches) - 1, 1)
        scheduler = LambdaLR(optimizer, lambda step: self.schedule(min(step / last_step, 1.0)))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def _groups(self, spares: bool) -> list[dict[str, Any]]:
        groups: list[dict[str, Any]] = [{"params": list(self.net.parameters())}]
        if self.backbone_ratio is not None:
            groups = _apart(self.net, self.lr * self.backbone_ratio)
        if spares:
            groups = [part for group in groups for part in _sparing(group)]
        return [group for group in groups if group["params"]]

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip also with a fused optimizer in bf16, where no gradient is scaled.

        Lightning 2.6 refuses that, as it should where a GradScaler is at work (16-mixed).
        """
        plugin = self.trainer.precision_plugin
        if isinstance(plugin, MixedPrecision) and plugin.scaler is None:
            kind = GradClipAlgorithmType(gradient_clip_algorithm or "norm")
            Precision.clip_gradients(plugin, optimizer, gradient_clip_val or 0.0, kind)
        else:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def on_train_epoch_start(self) -> None:
        seed = seeds.derive(self.seed, "dropout", self.current_epoch, self.global_rank)
        torch.manual_seed(seed)
        random.seed(seed)  # for a user's own network
        np.random.seed(seed % 2**32)
        self.scores = {}
        self._tally("train").reset()

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss, logits = self.loss_of(*batch)
        self.note_step(loss.detach(), logits.detach(), batch[1])
        return loss * self._weight(len(batch[1])) if self.trainer.world_size > 1 else loss

    def _weight(self, num_images: int) -> float:
        """Return how much more than others an image of this process must count.

        DDP takes the mean of the processes' means, and shares may differ by one image.
        """
        batches: Any = self.trainer.train_dataloader
        return num_images * self.trainer.world_size / float(batches.batch_size)

    def loss_of(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean loss of a batch, and its logits (B, K).

        `targets` are labels int64 (B,) or shares of classes float32 (B, K).
        """
        logits = self.net(images)
        return F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing), logits

    def note_step(self, loss: Tensor, logits: Tensor, targets: Tensor) -> None:
        """Keep a step of the training until its scores are counted."""
        self._steps.append((loss, logits, targets))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save a learning rate that a CUDA graph reads from the device as a number."""
        for state in checkpoint.get("optimizer_states", []):
            for group in state["param_groups"]:
                group["lr"] = float(group["lr"])
                if "capturable" in group:
                    group["capturable"] = False
        for state in checkpoint.get("lr_schedulers", []):
            state["_last_lr"] = [float(rate) for rate in state["_last_lr"]]

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        # Counted many at a time: one read from the device, a few calls instead of a few per step.
        if (batch_idx + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._count_steps(batch_idx)

    def on_train_epoch_end(self) -> None:
        self._count_steps(int(self.trainer.num_training_batches) - 1)
        if not all(bool(weight.isfinite().all()) for weight in self.net.parameters()):
            raise UserError(
                f"The weights are not finite after epoch {self.current_epoch + 1}. {self._remedy}"
            )
        self._log_scores("train")

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        return self._evaluate(batch, "val")

    def on_validation_epoch_end(self) -> None:
        self._log_scores("val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> dict[str, Tensor]:
        return self._evaluate(batch, "test")

    def on_test_epoch_end(self) -> None:
        self._log_scores("test")

    def _evaluate(self, batch: tuple[Tensor, Tensor], split: str) -> dict[str, Tensor]:
        images, labels = batch
        if not len(images):  # the last batch may have none for this process
            return {"logits": torch.empty(0, device=images.device), "labels": labels}
        logits = self.predict_logits(images)
        self._tally(split).update(F.cross_entropy(logits, labels), logits, labels)
        return {"logits": logits, "labels": labels}

    def _log_scores(self, split: str) -> None:
        tally = self._tally(split)
        scores = {f"{split}/{name}": value for name, value in tally.compute().items()}
        tally.reset()
        self.scores |= {name: value.item() for name, value in scores.items()}
        # logger=False: History hands an epoch's numbers to the loggers in one piece.
        self.log_dict({name: value.float() for name, value in scores.items()}, logger=False)

    def _tally(self, split: str) -> Tally:
        tally = self.tallies[f"{split}_split"]
        assert isinstance(tally, Tally)
        return tally

    @property
    def _remedy(self) -> str:
        return (
            f"Lower optim.lr (now {self.lr}) or set trainer.gradient_clip_val=1.0; "
            "what was saved up to the last epoch is kept."
        )

    def _count_steps(self, batch_idx: int) -> None:
        """Count the steps up to `batch_idx` that are not counted; stop at a non-finite loss."""
        if not self._steps:
            return
        losses, logits, targets = zip(*self._steps, strict=True)
        self._steps.clear()
        every, labels = torch.stack(losses).float(), torch.cat(targets)
        if labels.ndim > 1:
            labels = labels.argmax(dim=1)
        self._tally("train").update(every.mean(), torch.cat(logits), labels)
        finite = every.isfinite()
        if not finite.all():
            batch = batch_idx + 1 - len(losses) + int((~finite).nonzero()[0, 0])
            step = self.current_epoch * int(self.trainer.num_training_batches) + batch
            raise UserError(
                f"The loss is not finite at epoch {self.current_epoch + 1}, step {step + 1} "
                f"(batch {batch + 1} of the epoch). {self._remedy}"
            )


def _apart(net: nn.Module, backbone_lr: float) -> list[dict[str, Any]]:
    """Return groups of parameters: the backbone's, at a rate of its own, then the last layer's.

    The last layer comes last, as in the network: fmnist.muon.Muon goes by the order. The backbone
    is there also while it is frozen: without gradients it is passed over, decay included, and the
    groups of every checkpoint are the same.
    """
    head = list(last_layer(net)[1].parameters())
    backbone = [p for p in net.parameters() if all(p is not own for own in head)]
    return [{"params": backbone, "lr": backbone_lr}, {"params": head}]


def _sparing(group: dict[str, Any]) -> list[dict[str, Any]]:
    """Split a group of parameters: weights, which decay, and biases and norms, which do not."""
    weights = [p for p in group["params"] if p.ndim > 1]
    others = [p for p in group["params"] if p.ndim <= 1]
    return [{**group, "params": weights}, {**group, "params": others, "weight_decay": 0.0}]

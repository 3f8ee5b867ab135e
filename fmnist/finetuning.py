"""Freezing all of a network but its last layer, and freeing it again on schedule."""

import pytorch_lightning as pl
from pytorch_lightning.callbacks import BaseFinetuning
from torch import nn
from torch.optim import Optimizer

from fmnist.classifier import Classifier
from fmnist.models import last_layer


class Finetuning(BaseFinetuning):
    """Train the last layer alone for `frozen_epochs` epochs, then the backbone too.

    A frozen backbone works as in evaluation: no dropout, no stochastic depth, and batch norms
    normalise by their running statistics, which stay as they are. So the features of an image are
    always the same.

    Its sibling BackboneFinetuning of Lightning 2.6.6 cannot resume exactly: freed and started again
    from a checkpoint, the backbone is frozen for ever; the group that it adds to the optimizer is
    one more than LambdaLR takes (ValueError); and weights that equal others in value are left out
    of that group. Here the groups are there from the start, and what learns is a function of the
    epoch.
    """

    def __init__(self, frozen_epochs: int) -> None:
        super().__init__()
        self.frozen_epochs = frozen_epochs

    def freeze_before_training(self, pl_module: pl.LightningModule) -> None:
        """Leave all to the epoch's start: only there it is known which one it is."""

    def finetune_function(
        self, pl_module: pl.LightningModule, epoch: int, optimizer: Optimizer
    ) -> None:
        assert isinstance(pl_module, Classifier)
        _set_learning(pl_module.net, epoch >= self.frozen_epochs)


def _set_learning(net: nn.Module, learns: bool) -> None:
    """Freeze or free the backbone: its weights, and all that works otherwise in training."""
    head = last_layer(net)[1]
    net.train(learns)
    head.train()
    for layer in net.modules():
        if layer is not head:
            for weight in layer.parameters(recurse=False):
                weight.requires_grad = learns

"""The figures of one run, kept as PNG files and in TensorBoard's image tab."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fmnist import charts, figures, layout
from fmnist.callbacks import Events, Row
from fmnist.data import Batches

NUM_EPOCHS = 8  # of which augmented images are drawn


class Gallery:
    """Draws into `folder` what `which` (all | curves | none) allows."""

    def __init__(
        self, folder: Path, which: str, class_names: Sequence[str], events: Events | None
    ) -> None:
        self.folder = folder
        self.which = which
        self.class_names = class_names
        self.events = events

    def training(
        self, images: Tensor, labels: Tensor, rows: Sequence[Row], best_epoch: int
    ) -> None:
        """Draw training samples, images uint8 (N, 1, 28, 28), and the curves of all epochs."""
        if self.which == "all":
            grid = figures.samples(images.cpu().numpy(), labels.cpu().numpy(), self.class_names)
            self._keep("samples", grid, step=0)
        if self.which != "none":
            step = int(rows[-1]["step"])
            self._keep("curves", figures.curves(rows, best_epoch=best_epoch), step)

    def augmented(self, batches: Batches) -> None:
        """Draw an image of each class as it is and as training `batches` have it in each epoch."""
        if self.which != "all" or not batches.augment:
            return
        images, labels, views, shares = _views(batches, num_classes=len(self.class_names))
        caption = f"In each epoch anew: {', '.join(batches.augment.words)}."
        grid = figures.augmented(images, labels, views, shares, self.class_names, caption)
        self._keep("augmented", grid, step=0)

    def evaluation(self, images: Tensor, labels: Tensor, probs: Tensor, step: int) -> None:
        """Draw what the model makes of images it was not trained on; probs (N, K)."""
        if self.which != "all":
            return
        arrays = images.cpu().numpy(), labels.numpy(), probs.numpy()
        names = self.class_names
        self._keep("predictions", figures.predictions(*arrays, names), step)
        self._keep("mistakes", figures.mistakes(*arrays, names), step)
        self._keep("confusion", charts.confusion(arrays[1], arrays[2].argmax(1), names), step)
        self._keep("reliability", charts.reliability(arrays[1], arrays[2]), step)

    def _keep(self, name: str, figure: Any, step: int) -> None:
        layout.make(self.folder)
        figures.save(figure, self.folder / f"{name}.png")
        if self.events is not None:
            pixels = figures.to_array(figure)
            self.events.experiment.add_image(f"figures/{name}", pixels, step, dataformats="HWC")


def _views(batches: Batches, num_classes: int) -> tuple[NDArray[Any], ...]:
    """Return the first image of each class and its label, and both as in the first epochs.

    images uint8 (N, 1, 28, 28), labels (N,), views uint8 (N, E, 28, 28), shares (N, E, K).
    """
    _, firsts = np.unique(batches.labels.cpu()[batches.indices].numpy(), return_index=True)
    chosen = batches.indices[firsts].to(batches.images.device)
    images, labels = batches.gather(chosen, {})
    views, shares = [], []
    for batches.epoch in range(NUM_EPOCHS):
        batches.draw()
        seen, targets = batches.gather(chosen, batches.draws)
        views.append(seen.squeeze(1))
        shares.append(targets if targets.ndim > 1 else F.one_hot(targets, num_classes))
    arrays = (images, labels, torch.stack(views, dim=1), torch.stack(shares, dim=1).float())
    return tuple(values.cpu().numpy() for values in arrays)

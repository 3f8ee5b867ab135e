from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fmnist import CLASSES, figures
from fmnist.augment import Augment
from fmnist.data import Batches
from fmnist.gallery import Gallery

OFF = Augment(flip=False, max_shift_px=0, erase_px=0)
MIXED = Augment(flip=True, max_shift_px=2, erase_px=0, cutmix=0.5)


def make_batches(augment: Augment) -> Batches:
    """Of 60 images in five classes, all but the first ten."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (60, 1, 28, 28), generator=generator, dtype=torch.uint8)
    return Batches(images, torch.arange(60) % 5, torch.arange(10, 60), 10, seed=4, augment=augment)


def test_augmented_figure_shows_what_training_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    draw = figures.augmented
    monkeypatch.setattr(figures, "augmented", lambda *args: drawn.extend(args) or draw(*args))
    Gallery(tmp_path / "figures", "all", CLASSES, None).augmented(make_batches(MIXED))
    assert (tmp_path / "figures" / "augmented.png").exists()
    images, labels, views, shares, _, caption = drawn
    batches = make_batches(MIXED)
    assert np.array_equal(images, batches.images[10:15].numpy())
    assert labels.tolist() == [0, 1, 2, 3, 4]
    assert all(words in caption for words in MIXED.words)
    for epoch in range(8):
        batches.batch_sampler.sampler.set_epoch(epoch)
        seen, targets = (torch.cat(values) for values in zip(*batches, strict=True))
        rows = [batches.order.tolist().index(i) for i in range(10, 15)]
        assert np.array_equal(views[:, epoch], seen[rows, 0].numpy())
        assert np.array_equal(shares[:, epoch], targets[rows].numpy())


@pytest.mark.parametrize(("which", "augment"), [("curves", MIXED), ("none", MIXED), ("all", OFF)])
def test_no_augmented_figure_where_none_is_wanted_or_nothing_augmented(
    tmp_path: Path, which: str, augment: Augment
) -> None:
    Gallery(tmp_path / "figures", which, CLASSES, None).augmented(make_batches(augment))
    assert not (tmp_path / "figures").exists()

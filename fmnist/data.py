"""Fashion-MNIST as a LightningDataModule: one uint8 tensor, whole batches by index."""

import functools
import hashlib
import math
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import Literal

import pytorch_lightning as pl
import torch
from torch import Tensor
from torchvision.datasets import FashionMNIST

from fmnist import CLASSES, seeds, sources
from fmnist.augment import Augment, cutmix, mix_labels
from fmnist.errors import UserError

Batch = tuple[Tensor, Tensor]


class Batches:
    """Batches of (images uint8 (B, 1, 28, 28), labels int64 (B,)) at `indices` of full tensors.

    With cutmix the second are targets float32 (B, K), which sum to 1.

    With a `seed` the order is a permutation drawn from (seed, epoch), and the incomplete last
    global batch is dropped, unless it is the only one. Without, every image comes once, in order.
    Process `rank` of `num_ranks` gets its share of each global batch.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        indices: Tensor,
        batch_size: int,
        *,
        seed: int | None = None,
        augment: Augment | None = None,
        reshuffle: bool = True,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        self.images = images
        self.labels = labels
        self.indices = indices
        self.batch_size = min(batch_size, max(len(indices), 1))
        self.seed = seed
        self.augment = augment
        self.reshuffle = reshuffle
        self.rank = rank
        self.num_ranks = num_ranks
        self.epoch = 0
        self.order = indices
        self.draws: Mapping[str, Tensor] = {}

    @property
    def batch_sampler(self) -> "_EpochSetter":
        """Where Lightning looks for `sampler.set_epoch`; a `sampler` of ours it would replace."""
        return _EpochSetter(self)

    def __len__(self) -> int:
        if self.seed is not None:
            return len(self.indices) // self.batch_size
        return math.ceil(len(self.indices) / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        self.draw()
        for i in range(len(self)):
            yield self.batch(i)

    def draw(self) -> None:
        """Draw the order and the augmentation of `epoch`, on the CPU: the same for every device."""
        order, draws = self.indices, {}
        if self.seed is not None:
            epoch = self.epoch if self.reshuffle else 0
            generator = torch.Generator().manual_seed(seeds.derive(self.seed, "order", epoch))
            order = order[torch.randperm(len(order), generator=generator)]
            if self.augment:
                draws = dict(
                    self.augment.draw(len(self.images), self.seed, epoch, partners=self.indices)
                )
        device = self.images.device
        self.order = order.to(device)
        self.draws = {name: values.to(device) for name, values in draws.items()}

    def batch(self, i: int) -> Batch:
        """Return batch `i` of what was last drawn."""
        chosen = self.order[i * self.batch_size : (i + 1) * self.batch_size]
        return self.gather(chosen[self.rank :: self.num_ranks], self.draws)

    def gather(self, chosen: Tensor, draws: Mapping[str, Tensor]) -> Batch:
        """Return the images at `chosen` (B,), augmented by their rows of `draws`, and labels.

        What is mixed in is augmented by its own rows, as it would be alone.
        """
        if "partner" not in draws:
            return self._augmented(chosen, draws), self.labels.index_select(0, chosen)
        boxes = draws["box"].index_select(0, chosen)
        both = torch.cat([chosen, draws["partner"].index_select(0, chosen)])
        images, others = self._augmented(both, draws).chunk(2)
        labels, other_labels = self.labels.index_select(0, both).chunk(2)
        num_pixels = math.prod(images.shape[-2:])
        targets = mix_labels(labels, other_labels, boxes, num_pixels, len(CLASSES))
        return cutmix(images, others, boxes), targets

    def _augmented(self, chosen: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
        images = self.images.index_select(0, chosen)
        if not (self.augment and draws):
            return images
        rows = {name: values.index_select(0, chosen) for name, values in draws.items()}
        return self.augment(images, rows)


class _EpochSetter:
    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self.sampler = self

    def set_epoch(self, epoch: int) -> None:
        self._batches.epoch = epoch


class FashionMNISTData(pl.LightningDataModule):
    """Obtains, verifies, splits and batches Fashion-MNIST.

    The validation split is stratified and drawn from the training file by `split_seed` alone;
    `val_size=0` trains on the whole file. `val_from="test"` makes the test images the validation
    split, as the Keras notebook does. `seed` orders and augments the training batches.
    `source` is as in fmnist.sources.obtain.
    """

    EVAL_BATCH_SIZE = 1000  # no gradients are kept, so evaluation can take large batches

    def __init__(
        self,
        data_dir: Path,
        source: Path | None,
        batch_size: int,
        val_size: int,
        val_from: Literal["train", "test"],
        split_seed: int,
        seed: int,
        augment: Augment,
    ) -> None:
        super().__init__()
        self.data_dir = data_dir
        self.source = source
        self.batch_size = batch_size
        self.val_size = val_size
        self.val_from = val_from
        self.split_seed = split_seed
        self.seed = seed
        self.augment = augment
        self.train_indices = torch.empty(0, dtype=torch.int64)
        self.val_indices = torch.empty(0, dtype=torch.int64)
        self._splits: dict[str, tuple[Tensor, Tensor]] = {}

    def prepare_data(self) -> None:
        """Put the four verified files into `data_dir`; raises UserError when no source has them."""
        sources.obtain(self.data_dir, self.source)

    def setup(self, stage: str | None = None) -> None:
        """Load both files once and draw the split; raises UserError for damaged or unfit data."""
        if self._splits:
            return
        self._splits = dict(_load(self.data_dir, sources.stamp(self.data_dir)))
        labels = self._splits["train"][1]
        if self.val_size >= len(labels):
            raise UserError(
                f"data.val_size must be less than the {len(labels)} training images, "
                f"got {self.val_size}. Leave some to train on."
            )
        self.train_indices, self.val_indices = split_indices(labels, self.val_size, self.split_seed)
        if self.val_from == "test":
            self.val_indices = torch.arange(len(self._splits["test"][1]))

    @property
    def split_hash(self) -> str:
        """sha256 of the validation images' indices, as little-endian int64; "test" goes before
        those into the test file.
        """
        file = b"test" if self.val_from == "test" else b""
        return hashlib.sha256(file + self.val_indices.numpy().astype("<i8").tobytes()).hexdigest()

    def arrays(self, split: str) -> tuple[Tensor, Tensor]:
        """Return (images uint8 (N, 1, 28, 28), labels int64 (N,)) of train, val or test."""
        images, labels = self._splits[self._file(split)]
        if split == "test":
            return images, labels
        indices = self.train_indices if split == "train" else self.val_indices
        return images[indices], labels[indices]

    def train_dataloader(self) -> Batches:
        images, labels = self._on_device("train")
        rank, num_ranks = self._rank()
        batches = Batches(
            images,
            labels,
            self.train_indices,
            self.batch_size,
            seed=self.seed,
            augment=self.augment,
            reshuffle=not getattr(self.trainer, "overfit_batches", 0),
            rank=rank,
            num_ranks=num_ranks,
        )
        if batches.batch_size < num_ranks:
            raise UserError(
                f"data.val_size must leave at least {num_ranks} images to train on, one for each "
                f"process, got {len(self.train_indices)}."
            )
        return batches

    def val_dataloader(self) -> Batches | list[Batches]:
        if not len(self.val_indices):
            return []
        images, labels = self._on_device(self._file("val"))
        size = self._eval_size(self.trainer.limit_val_batches if self.trainer else None)
        return self._evaluation(images, labels, self.val_indices, size)

    def test_dataloader(self) -> Batches:
        images, labels = self._on_device("test")
        size = self._eval_size(self.trainer.limit_test_batches if self.trainer else None)
        return self._evaluation(images, labels, torch.arange(len(labels)), size)

    def _file(self, split: str) -> str:
        """Name the file, train or test, that the images of `split` are in."""
        return self.val_from if split == "val" else split

    def _evaluation(
        self, images: Tensor, labels: Tensor, indices: Tensor, batch_size: int
    ) -> Batches:
        rank, num_ranks = self._rank()
        return Batches(images, labels, indices, batch_size, rank=rank, num_ranks=num_ranks)

    def _eval_size(self, limit_batches: float | None) -> int:
        """Keep to `batch_size` where the number of batches is limited: a limit means those."""
        limited = isinstance(limit_batches, int) or limit_batches not in (None, 1.0)
        return self.batch_size if limited else self.EVAL_BATCH_SIZE

    def _on_device(self, split: str) -> tuple[Tensor, Tensor]:
        """Keep the data where the training happens: 47 MB that need no copy per batch."""
        if self.trainer is None:
            return self._splits[split]
        device = self.trainer.strategy.root_device
        images, labels = self._splits[split]
        self._splits[split] = (images.to(device), labels.to(device))
        return self._splits[split]

    def _rank(self) -> tuple[int, int]:
        """Return this process's rank and the number of processes."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)


@functools.lru_cache(maxsize=1)
def _load(data_dir: Path, stamp: Hashable) -> Mapping[str, tuple[Tensor, Tensor]]:
    """Verify and load both files: once in a process, as long as `stamp` finds them unchanged.

    Returns images uint8 (N, 1, 28, 28) and labels int64 (N,), which nobody writes to.
    """
    loaded = {}
    with sources.unchanged(data_dir):
        sources.verify(data_dir / "FashionMNIST" / "raw")
        for split in ("train", "test"):
            data = FashionMNIST(str(data_dir), train=split == "train", download=False)
            loaded[split] = (data.data.unsqueeze(1), data.targets)
    return loaded


def split_indices(labels: Tensor, val_size: int, split_seed: int) -> tuple[Tensor, Tensor]:
    """Draw a stratified validation split of `labels` (N,); returns sorted (train, val) indices.

    Classes differ by at most one image from their exact share; which classes get the odd ones is
    drawn too.
    """
    generator = torch.Generator().manual_seed(seeds.derive(split_seed, "split"))
    shuffled = torch.randperm(len(labels), generator=generator)
    classes, counts = torch.unique(labels, return_counts=True)
    exact = counts * (val_size / len(labels))
    sizes = exact.floor().long()
    tie_break = torch.rand(len(classes), generator=generator, dtype=torch.float64)
    by_remainder = torch.argsort(
        (exact - sizes).round(decimals=9) + tie_break * 1e-10, descending=True
    )
    sizes[by_remainder[: val_size - int(sizes.sum())]] += 1
    shuffled_labels = labels[shuffled]
    chosen = [
        shuffled[shuffled_labels == label][:size]
        for label, size in zip(classes.tolist(), sizes.tolist(), strict=True)
    ]
    val = torch.cat(chosen).sort().values if chosen else shuffled[:0]
    keep = torch.ones(len(labels), dtype=torch.bool)
    keep[val] = False
    return keep.nonzero().squeeze(1), val

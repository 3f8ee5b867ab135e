from pathlib import Path

import pytest
import small
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import FashionMNIST

from fmnist import CLASSES
from fmnist.augment import Augment
from fmnist.data import Batches, FashionMNISTData, split_indices
from fmnist.errors import UserError

NONE = Augment(flip=False, max_shift_px=0, erase_px=0)
FULL = Augment(flip=True, max_shift_px=2, erase_px=4)
MIXED = Augment(flip=True, max_shift_px=2, erase_px=4, cutmix=0.7)


def make(folder: Path, **changes: object) -> FashionMNISTData:
    values = {"source": None, "batch_size": 32, "val_size": 100, "split_seed": 0, "seed": 0}
    values["val_from"] = "train"
    data = FashionMNISTData(**{"data_dir": folder, "augment": NONE, **values, **changes})  # type: ignore[arg-type]
    data.prepare_data()
    data.setup()
    return data


def at_epoch(batches: Batches, epoch: int) -> list[tuple[Tensor, Tensor]]:
    batches.batch_sampler.sampler.set_epoch(epoch)
    return list(batches)


def test_class_names_are_torchvisions() -> None:
    assert tuple(FashionMNIST.classes) == CLASSES


def test_batches_equal_a_per_sample_torchvision_loop(small_data: Path) -> None:
    data = make(small_data)
    reference = FashionMNIST(str(small_data), train=False, transform=transforms.PILToTensor())
    images, labels = zip(*(reference[i] for i in range(len(reference))), strict=True)
    batches = list(data.test_dataloader())
    assert torch.equal(torch.cat([b[0] for b in batches]), torch.stack(images))
    assert torch.cat([b[1] for b in batches]).tolist() == list(labels)


def test_scaled_batches_equal_totensor(small_data: Path) -> None:
    from fmnist.models import Scale

    make(small_data)
    dataset = FashionMNIST(str(small_data), train=False, transform=transforms.ToTensor())
    reference = torch.cat([images for images, _ in DataLoader(dataset, batch_size=32)])
    ours = torch.cat([Scale()(images) for images, _ in make(small_data).test_dataloader()])
    torch.testing.assert_close(ours, reference, rtol=0, atol=0)


def test_split_is_stratified_disjoint_and_complete() -> None:
    labels = torch.arange(6000) % 10
    train, val = split_indices(labels, 500, split_seed=0)
    assert labels[val].bincount().tolist() == [50] * 10
    assert sorted(train.tolist() + val.tolist()) == list(range(6000))


@pytest.mark.parametrize("val_size", [1, 7, 33, 95])
def test_split_of_odd_size_differs_by_at_most_one_per_class(val_size: int) -> None:
    labels = torch.arange(100) % 10
    train, val = split_indices(labels, val_size, split_seed=1)
    counts = labels[val].bincount(minlength=10)
    assert len(val) == val_size
    assert len(train) == 100 - val_size
    assert counts.max() - counts.min() <= 1


def test_split_depends_on_split_seed_alone(small_data: Path) -> None:
    first = make(small_data, seed=0, batch_size=8)
    assert make(small_data, seed=5, batch_size=64).split_hash == first.split_hash
    assert make(small_data, split_seed=1).split_hash != first.split_hash


def test_val_size_zero_trains_on_everything(small_data: Path) -> None:
    data = make(small_data, val_size=0)
    assert data.val_dataloader() == []
    assert len(data.arrays("train")[0]) == small.NUM_TRAIN
    assert data.arrays("train")[1].bincount().tolist() == [60] * 10


def test_the_test_images_can_be_the_validation_split(small_data: Path) -> None:
    data = make(small_data, val_size=0, val_from="test")
    assert len(data.train_indices) == 600
    batches, reference = data.val_dataloader(), list(data.test_dataloader())
    for (images, labels), (expected, truth) in zip(batches, reference, strict=True):
        assert torch.equal(images, expected)
        assert torch.equal(labels, truth)
    assert torch.equal(data.arrays("val")[0], data.arrays("test")[0])
    first = make(small_data, val_size=200).split_hash  # as many images, of the other file
    assert len({data.split_hash, first, make(small_data, val_size=0).split_hash}) == 3


def test_val_size_of_the_whole_file_is_refused(small_data: Path) -> None:
    with pytest.raises(UserError, match="data.val_size must be less than the 600 training images"):
        make(small_data, val_size=600)


def test_every_evaluation_image_counts_once(small_data: Path) -> None:
    data = make(small_data, val_size=103)
    val = data.val_dataloader()
    assert isinstance(val, Batches)
    assert sum(len(labels) for _, labels in val) == 103
    assert sum(len(labels) for _, labels in data.test_dataloader()) == small.NUM_TEST


def test_training_drops_the_incomplete_last_batch_only(small_data: Path) -> None:
    batches = at_epoch(make(small_data, batch_size=64).train_dataloader(), 0)
    assert [len(labels) for _, labels in batches] == [64] * 7  # 500 = 7 * 64 + 52
    assert len(make(small_data, batch_size=64).train_dataloader()) == 7


def test_set_smaller_than_a_batch_is_one_batch(small_data: Path) -> None:
    batches = at_epoch(make(small_data, batch_size=5000).train_dataloader(), 0)
    assert [len(labels) for _, labels in batches] == [500]


def test_order_is_a_function_of_seed_and_epoch(small_data: Path) -> None:
    loader = make(small_data).train_dataloader()
    first, second, again = at_epoch(loader, 0), at_epoch(loader, 1), at_epoch(loader, 0)
    assert torch.equal(first[0][0], again[0][0])
    assert not torch.equal(first[0][0], second[0][0])
    other = at_epoch(make(small_data, seed=1).train_dataloader(), 0)
    assert not torch.equal(first[0][0], other[0][0])


def test_fixed_order_for_overfitting(small_data: Path) -> None:
    loader = make(small_data).train_dataloader()
    loader.reshuffle = False
    assert torch.equal(at_epoch(loader, 0)[0][0], at_epoch(loader, 7)[0][0])


def test_mixed_batches_are_augmented_images_with_boxes_of_others(small_data: Path) -> None:
    """Each image, box and target, rebuilt from the batches without mixing."""
    data = make(small_data, augment=MIXED)
    loader = data.train_dataloader()
    mixed = torch.cat([images for images, _ in at_epoch(loader, 3)])
    targets = torch.cat([targets for _, targets in loader])
    chosen, draws = loader.order[: len(mixed)], loader.draws
    unmixed = {name: values for name, values in draws.items() if name not in ("partner", "box")}
    alone, labels = loader.gather(torch.arange(600), unmixed)
    num_changed = 0
    for image, target, i in zip(mixed, targets, chosen.tolist(), strict=True):
        partner, (top, left, bottom, right) = draws["partner"][i], draws["box"][i].tolist()
        expected, shares = alone[i].clone(), torch.zeros(10)
        expected[:, top:bottom, left:right] = alone[partner][:, top:bottom, left:right]
        area = (bottom - top) * (right - left)
        shares[labels[i]] += (784 - area) / 784
        shares[labels[partner]] += area / 784
        assert torch.equal(image, expected)
        torch.testing.assert_close(target, shares)
        num_changed += area > 0
    assert num_changed > 250
    assert set(draws["partner"].tolist()) <= set(data.train_indices.tolist())


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_processes_share_out_the_same_mixed_images(num_ranks: int) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (90, 1, 28, 28), generator=generator, dtype=torch.uint8)
    labels = torch.arange(90) % 10

    def batches(rank: int, num_ranks: int) -> list[tuple[Tensor, Tensor]]:
        every, ranks = torch.arange(5, 85), {"rank": rank, "num_ranks": num_ranks}
        return list(Batches(images, labels, every, 12, seed=3, augment=MIXED, **ranks))

    ranks = [batches(rank, num_ranks) for rank in range(num_ranks)]
    for i, whole in enumerate(batches(0, 1)):
        for part, values in enumerate(whole):
            assert all(torch.equal(r[i][part], values[k::num_ranks]) for k, r in enumerate(ranks))


@pytest.mark.parametrize("num_ranks", [2, 3])
@pytest.mark.parametrize("size", [12, 13])
def test_processes_share_out_the_same_global_batches(size: int, num_ranks: int) -> None:
    images = torch.arange(90, dtype=torch.uint8).reshape(90, 1, 1, 1).expand(-1, 1, 28, 28)
    labels = torch.arange(90)
    shared = {"seed": 3, "augment": FULL}

    def batches(rank: int, num_ranks: int) -> list[tuple[Tensor, Tensor]]:
        every = torch.arange(90)
        return list(
            Batches(images, labels, every, size, **shared, rank=rank, num_ranks=num_ranks)  # type: ignore[arg-type]
        )

    ranks = [batches(rank, num_ranks) for rank in range(num_ranks)]
    for i, (whole, targets) in enumerate(batches(0, 1)):
        parts = [r[i] for r in ranks]
        order = torch.cat([p[1] for p in parts]).argsort()
        assert torch.equal(torch.cat([p[1] for p in parts])[order], targets.sort().values)
        assert torch.equal(torch.cat([p[0] for p in parts])[order], whole[targets.argsort()])


@pytest.mark.parametrize("augment", [FULL, MIXED])
def test_augmentation_does_not_depend_on_the_batch_size(small_data: Path, augment: Augment) -> None:
    def by_index(batch_size: int) -> dict[bytes, Tensor]:
        loader = make(small_data, batch_size=batch_size, augment=augment).train_dataloader()
        plain = make(small_data, batch_size=batch_size).train_dataloader()
        pairs = zip(at_epoch(plain, 2), at_epoch(loader, 2), strict=True)
        return {
            raw.numpy().tobytes(): augmented
            for (images, _), (changed, _) in pairs
            for raw, augmented in zip(images, changed, strict=True)
        }

    one, other = by_index(50), by_index(125)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_damaged_file_is_never_used(small_data: Path) -> None:
    data = make(small_data)
    path = small_data / "FashionMNIST" / "raw" / "t10k-labels-idx1-ubyte"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    fresh = FashionMNISTData(small_data, None, 32, 100, "train", 0, 0, NONE)
    with pytest.raises(UserError, match="t10k-labels-idx1-ubyte"):
        fresh.setup()
    data.prepare_data()  # gets it again
    assert path.read_bytes() == content


@pytest.mark.realdata
def test_real_data_are_split_evenly(real_data: Path) -> None:
    data = make(real_data, val_size=5000)
    assert data.arrays("val")[1].bincount().tolist() == [500] * 10
    assert data.arrays("train")[1].bincount().tolist() == [5500] * 10
    assert data.arrays("test")[1].bincount().tolist() == [1000] * 10

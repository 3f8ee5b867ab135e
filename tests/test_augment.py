import pytest
import torch
from torch import Tensor

from fmnist import augment, seeds
from fmnist.augment import Augment


@pytest.fixture
def images() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (40, 1, 28, 28), generator=generator, dtype=torch.uint8)


def shift_slowly(image: Tensor, down: int, right: int) -> Tensor:
    moved = torch.zeros_like(image)
    for y in range(28):
        for x in range(28):
            if 0 <= y - down < 28 and 0 <= x - right < 28:
                moved[:, y, x] = image[:, y - down, x - right]
    return moved


def test_flip_mirrors_exactly_the_chosen_images(images: Tensor) -> None:
    mask = torch.arange(40) % 3 == 0
    flipped = augment.flip(images, mask)
    assert torch.equal(flipped[mask], images[mask].flip(-1))
    assert torch.equal(flipped[~mask], images[~mask])


def test_shift_equals_moving_pixel_by_pixel(images: Tensor) -> None:
    offsets = torch.randint(-5, 6, (40, 2), generator=torch.Generator().manual_seed(1))
    expected = [shift_slowly(i, *o.tolist()) for i, o in zip(images, offsets, strict=True)]
    assert torch.equal(augment.shift(images, offsets), torch.stack(expected))


def test_erase_fills_exactly_the_square(images: Tensor) -> None:
    corners = torch.tensor([[3, 20]]).repeat(40, 1)
    greys = torch.arange(40, dtype=torch.uint8)[:, None]
    erased = augment.erase(images, corners, greys, 8)
    expected = images.clone()
    expected[:, :, 3:11, 20:28] = greys[:, :, None, None]
    assert torch.equal(erased, expected)


def test_draws_depend_on_seed_epoch_and_index_alone() -> None:
    policy = Augment(flip=True, max_shift_px=2, erase_px=5)
    few, many = policy.draw(10, seed=3, epoch=4), policy.draw(10, seed=3, epoch=4)
    assert all(torch.equal(few[name], many[name]) for name in few)
    for other in (policy.draw(10, seed=3, epoch=5), policy.draw(10, seed=4, epoch=4)):
        assert not torch.equal(few["shift"], other["shift"])


def test_draws_cover_their_range() -> None:
    draws = Augment(flip=True, max_shift_px=2, erase_px=6).draw(5000, seed=0, epoch=0)
    assert draws["shift"].unique().tolist() == [-2, -1, 0, 1, 2]
    assert draws["corner"].min() == 0
    assert draws["corner"].max() == 22
    assert 0.47 < draws["flip"].float().mean() < 0.53
    assert draws["grey"].dtype == torch.uint8


def test_one_operation_does_not_change_the_draws_of_another() -> None:
    alone = Augment(flip=True, max_shift_px=0, erase_px=0).draw(100, seed=0, epoch=0)
    together = Augment(flip=True, max_shift_px=2, erase_px=3).draw(100, seed=0, epoch=0)
    assert torch.equal(alone["flip"], together["flip"])


def test_all_operations_keep_dtype_and_shape(images: Tensor) -> None:
    policy = Augment(flip=True, max_shift_px=3, erase_px=7)
    augmented = policy(images, policy.draw(40, seed=0, epoch=0))
    assert augmented.dtype == torch.uint8
    assert augmented.shape == images.shape
    assert not torch.equal(augmented, images)


def test_no_operation_is_no_augmentation(images: Tensor) -> None:
    policy = Augment(flip=False, max_shift_px=0, erase_px=0)
    assert not policy
    assert torch.equal(policy(images, policy.draw(40, seed=0, epoch=0)), images)


def test_purposes_get_streams_of_their_own() -> None:
    derived = {seeds.derive(s, p, e) for s in range(5) for p in ("order", "flip") for e in range(5)}
    assert len(derived) == 50
    assert all(0 <= seed < 2**63 for seed in derived)

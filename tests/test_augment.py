import math
import random

import pytest
import torch
import torch.nn.functional as F
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


def inverses(degrees: float, scale: float, num: int) -> Tensor:
    turn = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return (
        (torch.stack([turn.cos(), turn.sin()]) / scale * augment.ONE).round().long().repeat(num, 1)
    )


@pytest.mark.parametrize(("degrees", "scale"), [(7, 1.0), (-15, 1.1), (0, 0.8), (33, 1.3)])
def test_warp_equals_torchs_affine_grid(images: Tensor, degrees: float, scale: float) -> None:
    a, b = inverses(degrees, scale, 1)[0].double() / augment.ONE
    theta = torch.tensor([[[a, b, 0], [-b, a, 0]]], dtype=torch.float64).expand(40, 2, 3)
    grid = F.affine_grid(theta, [40, 1, 28, 28], align_corners=False)
    expected = F.grid_sample(images.double(), grid, align_corners=False)
    warped = augment.warp(images, inverses(degrees, scale, 40)).double()
    assert (
        warped - expected
    ).abs().max() < 2.5  # 1/256 pixel of a step by 255, twice, and rounding
    assert (warped - expected).abs().mean() < 0.5


def test_no_warp_and_half_a_turn_are_exact(images: Tensor) -> None:
    assert torch.equal(augment.warp(images, inverses(0, 1, 40)), images)
    assert torch.equal(augment.warp(images, inverses(180, 1, 40)), images.flip(-1, -2))
    assert torch.equal(augment.warp(images, inverses(90, 1, 40)), images.rot90(-1, (2, 3)))


def test_a_warp_depends_on_no_other_image(images: Tensor) -> None:
    policy = Augment(flip=False, max_shift_px=0, erase_px=0, max_rotate_deg=10, max_scale=0.2)
    draws = policy.draw(40, seed=0, epoch=0)
    together = policy(images, draws)
    alone = [policy(images[i : i + 1], {"warp": draws["warp"][i : i + 1]}) for i in range(40)]
    assert torch.equal(torch.cat(alone), together)
    turned = torch.atan2(draws["warp"][:, 1].double(), draws["warp"][:, 0].double()).rad2deg()
    scales = augment.ONE / draws["warp"].double().norm(dim=1)
    assert 8 < turned.abs().max() <= 10.01
    assert 0.79 < scales.min() < 0.83
    assert 1.17 < scales.max() < 1.21


def test_erase_fills_exactly_the_square(images: Tensor) -> None:
    corners = torch.tensor([[3, 20]]).repeat(40, 1)
    greys = torch.arange(40, dtype=torch.uint8)[:, None]
    erased = augment.erase(images, corners, greys, 8)
    expected = images.clone()
    expected[:, :, 3:11, 20:28] = greys[:, :, None, None]
    assert torch.equal(erased, expected)


def test_cutmix_equals_pasting_slices(images: Tensor) -> None:
    others = images.flip(0)
    boxes = Augment(flip=False, max_shift_px=0, erase_px=0, cutmix=0.8).draw(40, 0, 0)["box"]
    expected = images.clone()
    for image, other, (top, left, bottom, right) in zip(
        expected, others, boxes.tolist(), strict=True
    ):
        image[:, top:bottom, left:right] = other[:, top:bottom, left:right]
    assert torch.equal(augment.cutmix(images, others, boxes), expected)


def test_mixed_labels_are_the_shares_of_the_pixels_seen() -> None:
    """Each image is filled with its label, so that its pixels can be counted."""
    labels, others = torch.arange(400) % 10, torch.arange(400) // 10 % 10
    boxes = Augment(flip=False, max_shift_px=0, erase_px=0, cutmix=0.8).draw(400, 0, 0)["box"]
    planes = [x.byte()[:, None, None, None].expand(-1, 1, 28, 28) for x in (labels, others)]
    mixed = augment.cutmix(*planes, boxes)
    counts = torch.stack([image.long().flatten().bincount(minlength=10) for image in mixed])
    targets = augment.mix_labels(labels, others, boxes, 784, 10)
    assert torch.equal(targets, counts.float() / 784)
    assert (targets.count_nonzero(dim=1) == 1).any()
    assert (targets.count_nonzero(dim=1) == 2).any()


def test_boxes_follow_the_law_of_the_paper() -> None:
    """Their area, with the border, against a simulation of the authors' code in plain Python."""
    policy = Augment(flip=False, max_shift_px=0, erase_px=0, cutmix=0.5)
    draws = policy.draw(40_000, seed=0, epoch=0)
    top, left, bottom, right = draws["box"].unbind(1)
    assert min(top.min(), left.min()) == 0
    assert max(bottom.max(), right.max()) == 28
    areas = (bottom - top) * (right - left)
    assert 0.48 < (areas > 0).float().mean() < 0.52
    rng, simulated = random.Random(0), []
    for _ in range(20_000):
        side = int(28 * math.sqrt(rng.random()))
        spans = [(m - side // 2, m - side // 2 + side) for m in rng.choices(range(28), k=2)]
        height, width = (min(end, 28) - max(begin, 0) for begin, end in spans)
        simulated.append(height * width)
    for share in (0.1, 0.5, 0.9):
        ours = areas[areas > 0].double().quantile(share)
        assert ours == pytest.approx(sorted(simulated)[int(share * 20_000)], rel=0.06)


def test_partners_are_those_that_may_be_mixed_in() -> None:
    policy = Augment(flip=False, max_shift_px=0, erase_px=0, cutmix=1.0)
    drawn = policy.draw(2000, seed=0, epoch=0, partners=torch.tensor([3, 5, 8]))["partner"]
    assert drawn.unique().tolist() == [3, 5, 8]
    assert drawn.bincount()[[3, 5, 8]].min() > 580
    assert policy.draw(2000, seed=0, epoch=0)["partner"].max() > 1900


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


def test_words_name_what_is_on() -> None:
    assert Augment(flip=False, max_shift_px=0, erase_px=0).words == []
    every = Augment(True, 2, 8, max_rotate_deg=7.5, max_scale=0.1, cutmix=0.5).words
    assert len(every) == 6
    for number in ("1/2", "7.5°", "10%", "2 px", "8 px", "50%"):
        assert sum(number in words for words in every) == 1


def test_all_operations_keep_dtype_and_shape(images: Tensor) -> None:
    policy = Augment(flip=True, max_shift_px=3, erase_px=7, max_rotate_deg=5, max_scale=0.1)
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

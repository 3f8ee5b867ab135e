"""Random flips, warps, shifts, erasures, mixtures of uint8 batches, in integers, on their device.

What happens to an image is a function of (seed, epoch, image index): all of an epoch's draws are
made at its start, on the CPU, and looked up by index. Integers are exact: the result depends
neither on the device nor on the other images of a batch; what is mixed in is drawn by index too.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fmnist import seeds

Draws = Mapping[str, Tensor]
ONE = 1 << 16  # in the fixed point of a warp


class Augment:
    """The augmentation of a run: which operations, and how strong; 0 = off.

    Calling it does all but `cutmix`, which needs a second image: see the function of that name.
    """

    def __init__(
        self,
        flip: bool,
        max_shift_px: int,
        erase_px: int,
        max_rotate_deg: float = 0.0,
        max_scale: float = 0.0,
        cutmix: float = 0.0,
    ) -> None:
        self.flip = flip
        self.max_rotate_deg = max_rotate_deg
        self.max_scale = max_scale
        self.max_shift_px = max_shift_px
        self.erase_px = erase_px
        self.cutmix = cutmix

    def __bool__(self) -> bool:
        return self.flip or any((self._warps, self.max_shift_px, self.erase_px, self.cutmix))

    @property
    def _warps(self) -> bool:
        return self.max_rotate_deg > 0 or self.max_scale > 0

    @property
    def words(self) -> list[str]:
        """What is done to an image, and how strongly, for people."""
        phrases = {
            "mirrored left-right with probability 1/2": self.flip,
            f"turned by up to {self.max_rotate_deg:g}°": self.max_rotate_deg,
            f"scaled by up to ±{100 * self.max_scale:g}%": self.max_scale,
            f"shifted by up to {self.max_shift_px} px in x and y": self.max_shift_px,
            f"a square of {self.erase_px} px set to one grey": self.erase_px,
            f"in {100 * self.cutmix:g}% of the images a box of another one (CutMix)": self.cutmix,
        }
        return [phrase for phrase, is_on in phrases.items() if is_on]

    def draw(
        self,
        num_images: int,
        seed: int,
        epoch: int,
        size_px: int = 28,
        partners: Tensor | None = None,
    ) -> Draws:
        """Draw the parameters of `num_images` images for one epoch; row i belongs to image i.

        `partners` (M,) are the indices of the images that may be mixed in; None: all.
        """
        draws: dict[str, Tensor] = {}
        if self.flip:
            draws["flip"] = _integers(num_images, 1, 0, 1, seed, epoch, "flip").bool().squeeze(1)
        if self._warps:
            turns = math.radians(self.max_rotate_deg) * _signed(num_images, seed, epoch, "rotate")
            scales = 1 + self.max_scale * _signed(num_images, seed, epoch, "scale")
            inverse = torch.stack([turns.cos(), turns.sin()], dim=1) / scales[:, None]
            draws["warp"] = (inverse * ONE).round().int()
        if self.max_shift_px:
            limit = self.max_shift_px
            draws["shift"] = _integers(num_images, 2, -limit, limit, seed, epoch, "shift")
        if self.erase_px:
            limit = size_px - self.erase_px
            draws["corner"] = _integers(num_images, 2, 0, limit, seed, epoch, "corner")
            draws["grey"] = _integers(num_images, 1, 0, 255, seed, epoch, "grey").to(torch.uint8)
        if self.cutmix:
            chosen = torch.arange(num_images) if partners is None else partners
            row = _integers(num_images, 1, 0, len(chosen) - 1, seed, epoch, "partner").squeeze(1)
            draws["partner"] = chosen[row]
            draws["box"] = _boxes(self.cutmix, num_images, size_px, seed, epoch)
        return draws

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """Return augmented copies of uint8 `images` (B, C, H, W); `draws` holds B rows each."""
        if self.flip:
            images = flip(images, draws["flip"])
        if self._warps:
            images = warp(images, draws["warp"])
        if self.max_shift_px:
            images = shift(images, draws["shift"])
        if self.erase_px:
            images = erase(images, draws["corner"], draws["grey"], self.erase_px)
        return images


def flip(images: Tensor, mask: Tensor) -> Tensor:
    """Mirror the images (B, C, H, W) whose `mask` (B,) is true left-right."""
    return torch.where(mask[:, None, None, None], images.flip(-1), images)


def warp(images: Tensor, inverses: Tensor) -> Tensor:
    """Rotate and scale images (B, C, H, W) about their middle; black moves in.

    `inverses` (B, 2) lead back: cosine and sine of the turn to the right, divided by the scale, in
    units of 1 / ONE. Bilinear, at 1/256 of a pixel, rounded half up.
    """
    height, width = images.shape[-2:]
    options: Any = {"device": images.device, "dtype": torch.int32}
    down = 2 * torch.arange(height, **options)[None, :, None] - (height - 1)
    right = 2 * torch.arange(width, **options)[None, None, :] - (width - 1)
    cosine, sine = inverses[:, 0, None, None], inverses[:, 1, None, None]
    rows = (cosine * down + (height - 1) * ONE) - sine * right
    columns = (cosine * right + (width - 1) * ONE) + sine * down
    rows = (rows >> 9).clamp_(-256, 256 * height)  # (B, H, W), 1/256 pixel; beyond, all is black
    columns = (columns >> 9).clamp_(-256, 256 * width)
    index = (rows >> 8).mul_(width + 2).add_(columns >> 8).add_(width + 3)
    index = index.long().flatten(1)[:, None].expand(-1, images.shape[1], -1)
    found = _quads(images).flatten(2).gather(2, index).view(images.shape)
    return _blend(found, rows.bitwise_and_(255)[:, None], columns.bitwise_and_(255)[:, None])


def _quads(images: Tensor) -> Tensor:
    """Pack each pixel, its right, lower and lower right neighbour into an int32.

    So that one look-up finds all four. From bit 0: pixel, right, lower, lower right. Returns
    (B, C, H + 2, W + 2), which begins a pixel before the image and ends one after.
    """
    pixels = F.pad(images, (1, 2, 1, 2)).int()
    pixels = pixels[..., :-1, :] | (pixels[..., 1:, :] << 16)
    return pixels[..., :-1] | (pixels[..., 1:] << 8)


def _blend(quads: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Return the bilinear means uint8 of `quads`, of `_quads`, at `down` and `right`, 0..255 / 256.

    Works in place, and on two pixels at a time, in the halves of an int32: 255 * 256 fits in one.
    """
    left = quads & 0x00FF00FF
    means = (quads >> 8).bitwise_and_(0x00FF00FF).sub_(left).mul_(right).add_(left.mul_(256))
    upper = means & 0xFFFF
    total = (means >> 16).bitwise_and_(0xFFFF).sub_(upper).mul_(down).add_(upper.mul_(256))
    return (total.add_(1 << 15) >> 16).to(torch.uint8)


def shift(images: Tensor, offsets: Tensor) -> Tensor:
    """Move images (B, C, H, W) by `offsets` (B, 2): pixels down, pixels right; black moves in."""
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device) - offsets[:, :1]  # (B, H): source row
    columns = torch.arange(width, device=images.device) - offsets[:, 1:]  # (B, W)
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[
        :, None, :
    ]
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    moved = images.permute(0, 2, 3, 1)[
        batch, rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None, :]
    ]
    return (moved * inside[..., None]).permute(0, 3, 1, 2).contiguous()


def erase(images: Tensor, corners: Tensor, greys: Tensor, size_px: int) -> Tensor:
    """Fill a square of `size_px` at `corners` (B, 2: top, left) with `greys` (B, 1).

    Random erasing with one grey per image: Zhong et al. 2017, https://arxiv.org/abs/1708.04896
    """
    squares = torch.cat([corners, corners + size_px], dim=1)
    return torch.where(_inside(squares, images), greys[:, :, None, None], images)


def cutmix(images: Tensor, others: Tensor, boxes: Tensor) -> Tensor:
    """Put the `boxes` (B, 4: top, left, bottom, right) of `others` into images (B, C, H, W).

    Yun et al. 2019, https://arxiv.org/abs/1905.04899
    """
    return torch.where(_inside(boxes, images), others, images)


def mix_labels(
    labels: Tensor, others: Tensor, boxes: Tensor, num_pixels: int, num_classes: int
) -> Tensor:
    """Return targets float32 (B, K): the share of the pixels that each class has after `cutmix`.

    `labels` (B,) are those of the images, `others` (B,) those of what is in the boxes.
    """
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1, keepdim=True)  # (B, 1)
    classes = torch.arange(num_classes, device=labels.device)
    counts = (labels[:, None] == classes) * (num_pixels - areas)
    counts += (others[:, None] == classes) * areas
    return counts.float() / num_pixels


def _inside(boxes: Tensor, images: Tensor) -> Tensor:
    """Return the mask (B, 1, H, W) of the pixels in `boxes` (B, 4: top, left, bottom, right)."""
    rows = torch.arange(images.shape[-2], device=images.device)
    columns = torch.arange(images.shape[-1], device=images.device)
    top, left, bottom, right = boxes[:, :, None].unbind(1)  # (B, 1) each
    down, across = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
    return (down[:, :, None] & across[:, None, :])[:, None]


def _boxes(share: float, num_images: int, size_px: int, seed: int, epoch: int) -> Tensor:
    """Draw boxes int64 (N, 4: top, left, bottom, right); a box is not empty in `share` of them.

    As in the paper: squares whose area is uniform in 0..1 of an image, with their middle anywhere
    in it, less what reaches beyond the border.
    """
    mixed = _uniform(num_images, seed, epoch, "cutmix") < share
    sides = (size_px * _uniform(num_images, seed, epoch, "area").sqrt()).long() * mixed
    middles = _integers(num_images, 2, 0, size_px - 1, seed, epoch, "middle")
    corners = middles - sides[:, None] // 2
    return torch.cat([corners, corners + sides[:, None]], dim=1).clamp(0, size_px)


def _signed(num_images: int, seed: int, epoch: int, purpose: str) -> Tensor:
    """Draw float64 (N,), uniform in -1..1."""
    return 2 * _uniform(num_images, seed, epoch, purpose) - 1


def _uniform(num_images: int, seed: int, epoch: int, purpose: str) -> Tensor:
    """Draw float64 (N,), uniform in 0..1, from a generator of its own."""
    generator = torch.Generator().manual_seed(seeds.derive(seed, purpose, epoch))
    return torch.rand(num_images, generator=generator, dtype=torch.float64)


def _integers(
    num_images: int, num_columns: int, low: int, high: int, seed: int, epoch: int, purpose: str
) -> Tensor:
    """Draw int64 (N, columns), uniform in low..high, from a generator of its own."""
    generator = torch.Generator().manual_seed(seeds.derive(seed, purpose, epoch))
    return torch.randint(low, high + 1, (num_images, num_columns), generator=generator)

"""Random flips, shifts and erasures of uint8 batches, exact in uint8, on the batch's device.

What happens to an image is a function of (seed, epoch, image index): all of an epoch's draws are
made at its start, on the CPU, and looked up by index.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from fmnist import seeds

Draws = Mapping[str, Tensor]


class Augment:
    """The augmentation of a run: which operations, and how strong. Sizes in pixels; 0 = off."""

    def __init__(self, flip: bool, max_shift_px: int, erase_px: int) -> None:
        self.flip = flip
        self.max_shift_px = max_shift_px
        self.erase_px = erase_px

    def __bool__(self) -> bool:
        return self.flip or self.max_shift_px > 0 or self.erase_px > 0

    def draw(self, num_images: int, seed: int, epoch: int, size_px: int = 28) -> Draws:
        """Draw the parameters of `num_images` images for one epoch; row i belongs to image i."""
        draws: dict[str, Tensor] = {}
        if self.flip:
            draws["flip"] = _integers(num_images, 1, 0, 1, seed, epoch, "flip").bool().squeeze(1)
        if self.max_shift_px:
            limit = self.max_shift_px
            draws["shift"] = _integers(num_images, 2, -limit, limit, seed, epoch, "shift")
        if self.erase_px:
            limit = size_px - self.erase_px
            draws["corner"] = _integers(num_images, 2, 0, limit, seed, epoch, "corner")
            draws["grey"] = _integers(num_images, 1, 0, 255, seed, epoch, "grey").to(torch.uint8)
        return draws

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:
        """Return augmented copies of uint8 `images` (B, C, H, W); `draws` holds B rows each."""
        if self.flip:
            images = flip(images, draws["flip"])
        if self.max_shift_px:
            images = shift(images, draws["shift"])
        if self.erase_px:
            images = erase(images, draws["corner"], draws["grey"], self.erase_px)
        return images


def flip(images: Tensor, mask: Tensor) -> Tensor:
    """Mirror the images (B, C, H, W) whose `mask` (B,) is true left-right."""
    return torch.where(mask[:, None, None, None], images.flip(-1), images)


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
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device) - corners[:, :1]
    columns = torch.arange(width, device=images.device) - corners[:, 1:]
    square = ((rows >= 0) & (rows < size_px))[:, :, None] & ((columns >= 0) & (columns < size_px))[
        :, None, :
    ]
    return torch.where(square[:, None], greys[:, :, None, None], images)


def _integers(
    num_images: int, num_columns: int, low: int, high: int, seed: int, epoch: int, purpose: str
) -> Tensor:
    """Draw int64 (N, columns), uniform in low..high, from a generator of its own."""
    generator = torch.Generator().manual_seed(seeds.derive(seed, purpose, epoch))
    return torch.randint(low, high + 1, (num_images, num_columns), generator=generator)

"""What was drawn: the texts that reached a canvas, and colours as people see them."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.text import Text

from fmnist import figures


def make_outputs(num=60, num_classes=10, seed=0, sharpness=2.0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (num, 1, 28, 28), dtype=np.uint8)
    labels = rng.integers(0, num_classes, num)
    logits = rng.normal(0, sharpness, (num, num_classes))
    logits[np.arange(num), labels] += sharpness
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return images, labels, (odds / odds.sum(1, keepdims=True)).astype(np.float32)


def make_rows(num, splits=("train", "val")):
    rows = []
    for epoch in range(1, num + 1):
        values = {"loss": 0.2 + 0.6 / epoch, "acc": 0.92 - 0.2 / epoch}
        named = {f"{split}/{key}": values[key] for split in splits for key in values}
        rows.append({"epoch": epoch, **named})
    return rows


def draw_texts(figure):
    """Draw; return every text that reached the canvas with its box in pixels."""
    drawn = []
    original = Text.draw

    def record(self, renderer, *args, **kwargs):
        if self.get_visible() and self.get_text().strip():
            drawn.append(self)
        return original(self, renderer, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", record)
        figures.to_array(figure)
    return {text: text.get_window_extent() for text in drawn}


def overlap(a, b, slack=0.5):
    return min(a.x1, b.x1) - max(a.x0, b.x0) > slack and min(a.y1, b.y1) - max(a.y0, b.y0) > slack


def assert_no_overlaps(figure):
    boxes = draw_texts(figure)
    assert boxes
    for text, box in boxes.items():
        room = [*box.min, *(figure.bbox.max - box.max)]
        assert min(room) >= 0, f"{text.get_text()!r} leaves the figure"
    for (a, box_a), (b, box_b) in combinations(boxes.items(), 2):
        assert not overlap(box_a, box_b), f"{a.get_text()!r} overlaps {b.get_text()!r}"
    frames = [patch.get_window_extent() for axes in figure.axes for patch in axes.patches]
    frames = frames if any(axes.images for axes in figure.axes) else []
    for text, box in boxes.items():
        for frame in frames:
            assert not overlap(box, frame), f"{text.get_text()!r} covers an image or a bar"
    for legend in figure.legends:
        box = legend.get_window_extent()
        for axes in figure.axes:
            assert not overlap(box, axes.get_window_extent()), "the legend covers data"


def texts(figure):
    return [text.get_text() for text in draw_texts(figure)]


def linear(rgb):
    rgb = np.asarray(rgb)
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def luminance(rgb):
    return float(linear(rgb) @ [0.2126, 0.7152, 0.0722])


def lab(rgb_linear):
    """CIELAB under D65, from linear sRGB."""
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.asarray(rgb_linear) @ np.transpose(to_xyz) / [0.9505, 1, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = np.moveaxis(f, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)

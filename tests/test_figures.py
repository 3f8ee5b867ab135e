"""Promises of fmnist.figures, read from the artists that a renderer has drawn."""

import gc
import subprocess
import sys
import weakref
from itertools import combinations

import matplotlib as mpl
import numpy as np
import pytest
from drawn import assert_no_overlaps, lab, linear, make_outputs, make_rows, texts
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from fmnist import CLASSES, charts, figures
from fmnist.augment import Augment

LONGEST = ["Ankle boot", "T-shirt/top"] * 5
CAPTION = ", ".join(Augment(True, 27, 28, 179.5, 0.999, 0.125).words) + "."


# The helper can fail.


@pytest.mark.parametrize(
    ("x", "message"), [(0.52, "'one' overlaps 'two'"), (0.99, "'two' leaves the figure")]
)
def test_overlap_helper_finds_a_bad_text(x, message):
    figure = Figure()
    figure.text(0.5, 0.5, "one")
    figure.text(x, 0.5, "two")
    with pytest.raises(AssertionError, match=message):
        assert_no_overlaps(figure)


def test_overlap_helper_finds_a_covered_image_and_a_covering_legend():
    figure = figures.samples(*make_outputs(3)[:2], CLASSES)
    figure.axes[0].text(14, 14, "over an image")
    with pytest.raises(AssertionError, match="covers an image"):
        assert_no_overlaps(figure)
    figure = figures.curves(make_rows(3))
    figure.axes[0].legend()
    figure.legends.append(figure.axes[0].get_legend())
    with pytest.raises(AssertionError, match=r"covers data|overlaps"):
        assert_no_overlaps(figure)


# Text is readable in every figure.


@pytest.mark.parametrize("num", [1, 60])
def test_samples_texts_are_apart(num):
    images, labels, _ = make_outputs(num)
    figure = figures.samples(images, labels, LONGEST)
    assert_no_overlaps(figure)
    assert texts(figure)[:-1] == [LONGEST[label] for label in labels[:25]]


@pytest.mark.parametrize("draw", [figures.predictions, figures.mistakes])
@pytest.mark.parametrize(("num", "sharpness"), [(1, 2.0), (2, 0.0), (60, 2.0), (60, 300.0)])
def test_output_texts_are_apart(draw, num, sharpness):
    images, labels, probs = make_outputs(num, sharpness=sharpness)
    assert_no_overlaps(draw(images, labels, probs, LONGEST))


@pytest.mark.parametrize("num", [1, 2, 10, 200])
def test_curves_texts_are_apart(num):
    assert_no_overlaps(figures.curves(make_rows(num), best_epoch=max(1, num - 1)))


def test_curves_without_any_values_are_drawn():
    assert_no_overlaps(figures.curves(make_rows(3, splits=()), best_epoch=2))


@pytest.mark.parametrize("loss", [0.0, 1e-12, 2.3026, 1e30, -1e7, np.nan])
def test_curves_bear_extreme_values(loss):
    rows = make_rows(3)
    for row in rows:
        row |= {"train/loss": loss, "val/loss": loss, "val/acc": 1.0}
    assert_no_overlaps(figures.curves(rows, best_epoch=3))


@pytest.mark.parametrize("loss", [1e30, 1e300, -1e9])
def test_curves_bear_one_extreme_value(loss):
    rows = make_rows(3)
    rows[2] |= {"train/loss": loss, "val/loss": loss, "val/acc": 0.0}
    assert_no_overlaps(figures.curves(rows, best_epoch=3))


# What the figures say is right.


def drawn_images(figure, num, left, pitch):
    """Cut the first `num` images out of the mosaic."""
    mosaic = figure.axes[0].images[0].get_array()
    columns = mosaic.shape[1] // pitch[1]
    corners = [(1 + i // columns * pitch[0], left + i % columns * pitch[1]) for i in range(num)]
    return np.stack([mosaic[y : y + 28, x : x + 28] for y, x in corners])


def test_samples_show_the_first_25_images():
    images, labels, _ = make_outputs(40)
    figure = figures.samples(images, labels, CLASSES)
    assert np.array_equal(drawn_images(figure, 25, 6, (38, 40)), images[:25, 0])
    assert len(figure.axes[0].texts) == 25


def make_views(num, num_views=8, num_classes=10, mixed=True, seed=0):
    rng = np.random.default_rng(seed)
    views = rng.integers(0, 256, (num, num_views, 28, 28), dtype=np.uint8)
    images, labels, _ = make_outputs(num, num_classes, seed)
    shares = np.zeros((num, num_views, num_classes), np.float32)
    weights = rng.choice([0.0, 0.001, 0.25, 0.994], (num, num_views)) * mixed
    rows, columns = np.indices(weights.shape)
    shares[rows, columns, labels[:, None]] = 1 - weights
    shares[rows, columns, (labels[:, None] + 1) % num_classes] = weights
    return images, labels, views, shares


@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize("num", [1, 10])
def test_augmented_shows_each_image_beside_its_views(num, mixed):
    images, labels, views, shares = make_views(num, mixed=mixed)
    figure = figures.augmented(images, labels, views, shares, LONGEST, CAPTION)
    assert_no_overlaps(figure)
    axes = figure.axes[0]
    mosaic = axes.images[0].get_array()
    frames = [tuple(map(int, patch.get_xy())) for patch in axes.patches]
    drawn = np.stack([mosaic[y : y + 28, x : x + 28] for x, y in frames])
    expected = np.concatenate([images, views], axis=1)
    assert np.array_equal(drawn.reshape(expected.shape), expected)
    assert len({y for _, y in frames}) == num


def test_augmented_says_what_was_done_and_what_is_mixed_in():
    images, labels, views, shares = make_views(10)
    written = texts(figures.augmented(images, labels, views, shares, CLASSES, CAPTION))
    assert " ".join(written[0].split()).startswith(CAPTION)
    assert written[1:11] == [CLASSES[label] for label in labels]
    assert written[11:20] == ["as it is", *(f"epoch {i}" for i in range(1, 9))]
    expected = []
    for label, row in zip(labels, shares, strict=True):
        for share in 1 - row[:, label]:
            if share > 0:
                rounded = {0.001: "<1%", 0.25: "25%", 0.994: "99%"}[round(float(share), 3)]
                expected.append(f"{rounded} {CLASSES[(label + 1) % 10]}")
    assert written[20:-1] == expected


def test_shapes_with_and_without_a_channel_draw_the_same():
    images, labels, _ = make_outputs(4)
    one, other = (figures.samples(x, labels, CLASSES) for x in (images, images[:, 0]))
    assert np.array_equal(figures.to_array(one), figures.to_array(other))


def test_predictions_name_label_and_three_likeliest_classes():
    images, labels, probs = make_outputs(20)
    figure = figures.predictions(images, labels, probs, CLASSES)
    drawn = [text.get_text() for text in figure.axes[0].texts]
    assert np.array_equal(drawn_images(figure, 15, 1, (36, 90)), images[:15, 0])
    for index, cell in enumerate(np.array_split(drawn, 15)):
        top = np.argsort(-probs[index])[:3]
        mark = "✓" if top[0] == labels[index] else "✗"
        expected = [f"{mark} {CLASSES[top[0]]}", f"true: {CLASSES[labels[index]]}"]
        for k in top:
            expected += [CLASSES[k], f"{100 * probs[index, k]:.1f}%"]
        assert cell.tolist() == expected
    num_right = (probs[:15].argmax(1) == labels[:15]).sum()
    assert (
        figure.axes[0].get_title("left") == f"The first 15 images: {num_right} predictions correct"
    )


def test_wrong_predictions_are_marked_by_sign_and_frame_not_by_colour_alone():
    images, labels, probs = make_outputs(15)
    right = probs.argmax(1) == labels
    assert 0 < right.sum() < 15
    axes = figures.predictions(images, labels, probs, CLASSES).axes[0]
    signs = [text.get_text()[0] for text in axes.texts if text.get_text()[0] in "✓✗"]
    assert signs == ["✓" if ok else "✗" for ok in right]
    assert sum(patch.get_linewidth() >= 2 for patch in axes.patches) == (~right).sum()


def test_percentages_never_round_to_certainty():
    images, labels, _ = make_outputs(1)
    probs = np.zeros((1, 10), np.float32)
    probs[0, :2] = 0.99999, 0.00001
    drawn = texts(figures.predictions(images, labels, probs, CLASSES))
    assert {">99.9%", "<0.1%", "0.0%"} <= set(drawn)
    assert "100.0%" in texts(figures.predictions(images, labels, probs.round(), CLASSES))


@pytest.mark.parametrize("num", [12, 60])
def test_mistakes_are_the_wrong_ones_the_most_confident_first(num):
    images, labels, probs = make_outputs(num, seed=3)
    wrong = [i for i in range(num) if probs[i].argmax() != labels[i]]
    assert (len(wrong) > 15) == (num == 60)
    expected = sorted(wrong, key=lambda i: -probs[i].max())[:15]
    figure = figures.mistakes(images, labels, probs, CLASSES)
    drawn = drawn_images(figure, len(expected), 1, (36, 90))
    assert np.array_equal(drawn, images[expected, 0])
    marks = [text.get_text() for text in figure.axes[0].texts if "✗" in text.get_text()]
    assert marks == [f"✗ {CLASSES[probs[i].argmax()]}" for i in expected]
    title = f"{len(wrong)} of {num} predictions wrong"
    more = "; the 15 most confident" if num == 60 else ""
    assert figure.axes[0].get_title("left") == title + more


def test_no_mistakes_are_said():
    images, labels, _ = make_outputs(12)
    figure = figures.mistakes(images, labels, np.eye(10)[labels], CLASSES)
    assert texts(figure) == ["0 of 12 predictions wrong"]
    assert_no_overlaps(figure)


def test_a_diverged_network_is_drawn():
    images, labels, probs = make_outputs(20)
    probs[::2] = np.nan
    assert_no_overlaps(figures.mistakes(images, labels, probs, CLASSES))
    assert_no_overlaps(charts.reliability(labels, np.full_like(probs, np.nan)))


@pytest.mark.parametrize("num", [1, 2, 10, 200])
def test_curves_hold_the_values_over_whole_epochs(num):
    rows = make_rows(num)
    best_epoch = (num + 1) // 2
    figure = figures.curves(rows, best_epoch=best_epoch)
    figures.to_array(figure)  # makes the ticks
    for axes, key, unit in zip(figure.axes, ("loss", "acc"), (1, 100), strict=True):
        lines = {line.get_label(): line for line in axes.lines}
        for split in ("train", "val"):
            x, y = lines[split].get_data()
            assert x.tolist() == list(range(1, num + 1))
            assert np.allclose(y, [unit * row[f"{split}/{key}"] for row in rows])
        ring = lines[f"best epoch {best_epoch}"].get_xydata()
        assert np.allclose(ring, [[best_epoch, unit * rows[best_epoch - 1][f"val/{key}"]]])
        ticks = [tick.label1.get_text() for tick in axes.xaxis.get_major_ticks()]
        low, high = axes.get_xlim()
        ticks = [float(tick) for tick in ticks if tick and low <= float(tick) <= high]
        assert ticks
        assert all(tick == int(tick) and 1 <= tick <= num for tick in ticks)


def test_val_measured_every_second_epoch_is_one_line():
    rows = [
        {k: v for k, v in row.items() if row["epoch"] % 2 == 0 or not k.startswith("val")}
        for row in make_rows(9)
    ]
    lines = {line.get_label(): line for line in figures.curves(rows).axes[0].lines}
    assert lines["val"].get_xdata().tolist() == [2, 4, 6, 8]
    assert np.isfinite(lines["val"].get_ydata()).all()


def test_values_that_are_not_finite_leave_a_gap_and_a_cross():
    rows = make_rows(6)
    rows[2]["train/loss"], rows[4]["val/loss"] = np.inf, np.nan
    figure = figures.curves(rows, best_epoch=5)
    lines = figure.axes[0].lines
    crosses = [line.get_xdata().tolist() for line in lines if line.get_label() == "not finite"]
    assert crosses == [[3], [5]]
    assert np.isnan(lines[0].get_ydata()).tolist() == [False, False, True, False, False, False]
    assert "not finite" in texts(figure)


def test_best_epoch_falls_back_on_train_and_is_named():
    drawn = texts(figures.curves(make_rows(4, ("train",)), best_epoch=2))
    assert {"train 82.0% at epoch 2", "train 0.5 at epoch 2", "best epoch 2"} <= set(drawn)


def test_an_exploded_loss_gets_a_logarithmic_axis():
    rows = make_rows(5)
    rows[1]["train/loss"] = 1e6
    loss, accuracy = figures.curves(rows).axes
    assert (loss.get_yscale(), accuracy.get_yscale()) == ("log", "linear")
    assert figures.curves(make_rows(5)).axes[0].get_yscale() == "linear"


# Colour.


# Machado, Oliveira and Fernandes 2009, severity 1.0, on linear RGB.
BLINDNESS = {
    "none": np.eye(3),
    "protanopia": [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0519]],
    "deuteranopia": [[0.3673, 0.8607, -0.228], [0.2803, 0.6727, 0.047], [-0.0118, 0.0429, 0.9689]],
    "tritanopia": [[1.2555, -0.0767, -0.1788], [-0.0784, 0.9308, 0.1476], [0.0047, 0.6914, 0.3039]],
}


@pytest.mark.parametrize("kind", BLINDNESS)
def test_colours_are_told_apart_by_the_colour_blind(kind):
    colors = [figures.BLUE, figures.VERMILLION, figures.SKY_BLUE, figures.PALE]
    seen = [lab((np.array(BLINDNESS[kind]) @ linear(to_rgb(c))).clip(0, 1)) for c in colors]
    distances = [np.linalg.norm(a - b) for a, b in combinations(seen, 2)]
    assert min(distances) > 10  # 2.3 is just noticeable
    assert np.linalg.norm(seen[0] - seen[1]) > 40  # train and val, right and wrong


def test_train_and_val_differ_in_line_and_marker_too():
    train, val = figures.LOOKS["train"], figures.LOOKS["val"]
    assert all(train[key] != val[key] for key in ("color", "linestyle", "marker"))


# Files, arrays, global state.


def test_save_is_deterministic_and_deaf_to_the_users_style(tmp_path):
    rows = make_rows(5)
    figures.save(figures.curves(rows, best_epoch=4), tmp_path / "a.png")
    with mpl.rc_context({"font.size": 30, "savefig.bbox": "tight", "axes.facecolor": "black"}):
        figures.save(figures.curves(rows, best_epoch=4), tmp_path / "b.png")
        assert mpl.rcParams["font.size"] == 30
    first = (tmp_path / "a.png").read_bytes()
    assert first == (tmp_path / "b.png").read_bytes()
    assert first.startswith(b"\x89PNG")
    assert b"tEXt" not in first


def test_a_save_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "curves.png"
    figure = figures.curves(make_rows(2))
    figures.save(figure, path)
    before = path.read_bytes()

    def fill_disk(self, fname, **_):
        fname.write_bytes(b"half")
        assert fname.parent == path.parent
        assert path.read_bytes() == before
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fill_disk)
    with pytest.raises(OSError, match="disk full"):
        figures.save(figure, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_of_the_old_file_is_not_disturbed_by_a_save(tmp_path):
    path = tmp_path / "curves.png"
    figures.save(figures.curves(make_rows(1)), path)
    before = path.read_bytes()
    with path.open("rb") as reader:
        figures.save(figures.curves(make_rows(2)), path)
        assert reader.read() == before
    assert path.read_bytes() != before
    assert list(tmp_path.iterdir()) == [path]


def test_saved_picture_equals_the_array(tmp_path):
    image = pytest.importorskip("PIL.Image")
    figure = charts.reliability(*make_outputs(50)[1:])
    array = figures.to_array(figure)
    figures.save(figure, tmp_path / "a.png")
    with image.open(tmp_path / "a.png") as saved:
        assert np.array_equal(np.asarray(saved.convert("RGB")), array)


def test_to_array_is_uint8_height_width_rgb():
    figure = figures.curves(make_rows(3))
    array = figures.to_array(figure)
    assert array.dtype == np.uint8
    assert array.shape == (*figure.canvas.get_width_height()[::-1], 3)
    assert array.flags.c_contiguous
    assert array[0, 0].tolist() == [255, 255, 255]
    assert array.min() < 50


def test_figures_are_freed():
    figure = figures.curves(make_rows(3), best_epoch=1)
    figures.to_array(figure)
    alive = weakref.ref(figure)
    del figure
    gc.collect()
    assert alive() is None


def test_import_and_use_need_neither_torch_nor_pyplot():
    code = (
        "import sys, numpy as np; from fmnist import figures;"
        "figures.to_array(figures.curves([{'epoch': 1, 'train/loss': 1.0}]));"
        "sys.exit(str({'torch', 'matplotlib.pyplot'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "set()"


def test_no_figure_is_known_to_pyplot():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    images, labels, probs = make_outputs(5)
    figures.to_array(figures.predictions(images, labels, probs, CLASSES))
    assert pyplot.get_fignums() == []


# Mistakes of the caller.

IMAGES, LABELS, PROBS = make_outputs(4)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: figures.samples(IMAGES / 255, LABELS, CLASSES), r"images must be uint8 .*float64"),
        (
            lambda: figures.samples(IMAGES[:, 0, 0], LABELS, CLASSES),
            r"images .*got uint8 \(4, 28\)",
        ),
        (
            lambda: figures.samples(IMAGES[:3], LABELS, CLASSES),
            r"images .*\(3, 1, 28, 28\) .*N = 4",
        ),
        (
            lambda: figures.samples(IMAGES[:0], LABELS[:0], CLASSES),
            r"images .*, N > 0, .*\(0, 1, 28, 28\)",
        ),
        (
            lambda: figures.samples(IMAGES, LABELS + 0.0, CLASSES),
            r"labels must be integers.*float64",
        ),
        (lambda: figures.samples(IMAGES, LABELS + 9, CLASSES), r"labels .*in 0..K-1, .*K = 10"),
        (lambda: figures.predictions(IMAGES, LABELS, PROBS[:3], CLASSES), r"probs .*\(3, 10\)"),
        (
            lambda: figures.mistakes(IMAGES, LABELS, PROBS, CLASSES[:9]),
            r"probs .*\(4, 10\) .*K = 9",
        ),
        (lambda: figures.mistakes(IMAGES, LABELS, 9 * PROBS, CLASSES), r"probs .*in 0..1"),
        (lambda: charts.confusion(LABELS, LABELS - 10, CLASSES), r"preds .*in -7\.\.-1"),
        (lambda: charts.confusion(LABELS, LABELS[:3], CLASSES), r"preds .*\(3,\) .*N = 4"),
        (lambda: charts.reliability(LABELS, PROBS[:, 0]), r"probs must be floats \(N, K\)"),
        (lambda: charts.reliability(LABELS, -PROBS), r"probs .*in 0..1.*in -"),
        (lambda: figures.curves([]), r"rows must hold epochs .*got \[\]"),
        (lambda: figures.curves([{"epoch": 0}]), r"increase from 1, got \[0\]"),
        (lambda: figures.curves([{"epoch": 2}, {"epoch": 2}]), r"increase from 1, got \[2, 2\]"),
        (lambda: figures.curves(make_rows(3), best_epoch=4), r"best_epoch must be .*got 4"),
    ],
)
def test_wrong_arguments_are_named_with_what_was_got(call, match):
    with pytest.raises(ValueError, match=match):
        call()

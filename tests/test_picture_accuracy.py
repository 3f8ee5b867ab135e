"""What pictures cost in accuracy, and what is told from clothes, on the real test images."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

from fmnist import likeness, pictures, prediction, run

pytestmark = [pytest.mark.realdata, pytest.mark.slow]

Array = NDArray[Any]
NUM = 1000  # test images
HOW = Image.Resampling.BICUBIC


@pytest.fixture(scope="module")
def data(real_data: Path) -> tuple[Array, Array]:
    """The first NUM test images and their labels."""
    raw = real_data / "FashionMNIST" / "raw"
    images = np.frombuffer((raw / "t10k-images-idx3-ubyte").read_bytes()[16:], np.uint8)
    labels = np.frombuffer((raw / "t10k-labels-idx1-ubyte").read_bytes()[8:], np.uint8)
    return images.reshape(-1, 28, 28)[:NUM], labels[:NUM]


@pytest.fixture(scope="module")
def model(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A network trained for one epoch on the real data."""
    folder = tmp_path_factory.mktemp("runs") / "short"
    words = ["trainer.max_epochs=1", "trainer=cpu", "figures=none", "test=false", "name=short"]
    run.train([*words, f"data.dir={real_data}"], folder=folder)
    return run.load(folder)


def large(image: Array, side: int = 84) -> Image.Image:
    return Image.fromarray(image).resize((side, side), HOW)


def inverted(image: Image.Image) -> Image.Image:
    return Image.fromarray(255 - np.asarray(image))


def tinted(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Put it in two colours, at least 80 apart in some channel."""
    dark, light = rng.integers(0, 256, 3), rng.integers(0, 256, 3)
    while np.abs(dark - light).max() < 80:
        light = rng.integers(0, 256, 3)
    share = np.asarray(image, np.float64)[..., None] / 255
    return Image.fromarray(np.rint(share * light + (1 - share) * dark).astype(np.uint8))


def on_canvas(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Lay it off-centre on a wide canvas of the colour of its corner."""
    width, height = int(image.width * rng.uniform(2, 4)), int(image.height * rng.uniform(1, 1.6))
    canvas = Image.new(image.mode, (width, height), image.getpixel((0, 0)))
    place = rng.integers(0, width - image.width + 1), rng.integers(0, height - image.height + 1)
    canvas.paste(image, (int(place[0]), int(place[1])))
    return canvas


def with_alpha(grey: Array, alpha: Array) -> Image.Image:
    return Image.fromarray(np.dstack([grey, grey, grey, alpha]).astype(np.uint8))


def mask(image: Array, side: int = 84) -> Array:
    shown = Image.fromarray((image > 0) * np.uint8(255))
    return np.asarray(shown.resize((side, side), Image.Resampling.NEAREST))


def rotated(image: Image.Image) -> dict[str, Any]:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = image.transpose(Image.Transpose.ROTATE_90)
    return {"image": turned, "format": "JPEG", "quality": 90, "exif": exif}


def deep(image: Image.Image) -> Image.Image:
    return Image.fromarray(np.asarray(image).astype(np.uint16) * 257)


Make = Callable[[Array, np.random.Generator], Any]
# name: (image, generator) -> a picture (PNG), or the arguments of its saving
KINDS: dict[str, Make] = {
    "unchanged": lambda x, r: Image.fromarray(x),
    "inverted, 28 pixels": lambda x, r: Image.fromarray(255 - x),
    "enlarged": lambda x, r: large(x, 112),
    "enlarged, bilinear, odd": lambda x, r: Image.fromarray(x).resize(
        (131, 131), Image.Resampling.BILINEAR
    ),
    "enlarged, hard pixels, inverted": lambda x, r: inverted(
        Image.fromarray(x).resize((140, 140), Image.Resampling.NEAREST)
    ),
    "tinted": lambda x, r: tinted(large(x), r),
    "wide canvas": lambda x, r: on_canvas(large(x), r),
    "wide canvas, 28 pixels": lambda x, r: on_canvas(Image.fromarray(x), r),
    "wide canvas, white": lambda x, r: on_canvas(inverted(large(x)), r),
    "solid alpha": lambda x, r: with_alpha(x, np.full_like(x, 255)),
    "mask": lambda x, r: with_alpha(np.asarray(large(x)), mask(x)),
    "mask, inverted": lambda x, r: with_alpha(255 - np.asarray(large(x)), mask(x)),
    "white, alpha is the image": lambda x, r: with_alpha(np.full_like(x, 255), x),
    "alpha is the image": lambda x, r: with_alpha(x, x),
    "16-bit": lambda x, r: deep(Image.fromarray(x)),
    "16-bit, enlarged, inverted": lambda x, r: deep(inverted(large(x))),
    "CMYK JPEG": lambda x, r: {"image": large(x).convert("CMYK"), "format": "JPEG"},
    "WebP": lambda x, r: {"image": large(x).convert("RGB"), "format": "WEBP"},
    "GIF": lambda x, r: {"image": large(x), "format": "GIF"},
    "white frame": lambda x, r: ImageOps.expand(large(x), 6, 255),
    "grey, on a coloured ground, 28 pixels": lambda x, r: Image.composite(
        Image.fromarray(x).convert("RGB"),
        Image.new("RGB", (28, 28), tuple(int(c) for c in r.integers(0, 256, 3))),
        Image.fromarray((x > 0).astype(np.uint8) * 255),
    ),
    "JPEG, quality 50": lambda x, r: {"image": large(x, 112), "format": "JPEG", "quality": 50},
    "palette of 16": lambda x, r: large(x).quantize(16),
    "rotated by EXIF": lambda x, r: rotated(large(x)),
    "tinted, canvas, JPEG": lambda x, r: {
        "image": on_canvas(tinted(large(x, 112), r), r),
        "format": "JPEG",
        "quality": 90,
    },
    "inverted, canvas, palette GIF": lambda x, r: {
        "image": on_canvas(inverted(large(x)), r),
        "format": "GIF",
    },
}


def save(made: Any, path: Path) -> None:
    fast = {"format": "PNG", "compress_level": 1}
    options = dict(made) if isinstance(made, dict) else {"image": made, **fast}
    picture = options.pop("image")
    picture.save(path, **options)


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_costs_at_most_3_points(
    kind: str, model: Any, data: tuple[Array, Array], tmp_path: Path
) -> None:
    images, labels = data
    rng = np.random.default_rng(0)
    files = [tmp_path / f"{i}.picture" for i in range(NUM)]
    for image, file in zip(images, files, strict=True):
        save(KINDS[kind](image, rng), file)
    names = [answer.top[0][0] for answer in prediction.answer(model, files)]
    accuracy = np.mean(
        [name == model.class_names[k] for name, k in zip(names, labels, strict=True)]
    )
    before = np.mean(model.predict(images).argmax(1) == labels)
    print(f"{kind}: {100 * (accuracy - before):+.1f} points of {100 * before:.1f} %")
    assert accuracy >= before - 0.03


def noise(rng: np.random.Generator) -> Array:
    shape = rng.choice([28, 32, 64, 200, 300], 2)
    if rng.random() < 0.5:
        shape[1] = shape[0]
    return rng.random(shape) if rng.random() < 0.5 else rng.normal(0.5, 0.2, shape).clip(0, 1)


def blurred_noise(rng: np.random.Generator) -> Array:
    side = int(rng.choice([28, 64, 128, 256]))
    drawn = Image.fromarray((rng.random((side, side)) * 255).astype(np.uint8))
    grey = np.asarray(drawn.filter(ImageFilter.GaussianBlur(side * rng.uniform(0.01, 0.1)))) / 255
    return (grey - grey.min()) / max(np.ptp(grey), 1e-6)


def flat_colour(rng: np.random.Generator) -> Array:
    return np.broadcast_to(rng.random(3), (int(rng.choice([28, 100])), 100, 3))


def gradient(rng: np.random.Generator) -> Array:
    side = int(rng.choice([28, 64, 200]))
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    a = rng.uniform(-1, 1, 5)
    grey = a[0] * x + a[1] * y + (rng.random() < 0.5) * (a[2] * x * x + a[3] * y * y + a[4] * x * y)
    return (grey - grey.min()) / np.ptp(grey) * rng.uniform(0.3, 1)


def either_way(drawn: Image.Image, rng: np.random.Generator) -> Array:
    grey = np.asarray(drawn) / 255
    return 1 - grey if rng.random() < 0.5 else grey


def printed_digit(rng: np.random.Generator) -> Array:
    side = int(rng.choice([28, 64, 128, 256]))
    drawn = Image.new("L", (side, side))
    font = ImageFont.load_default(side * rng.uniform(0.5, 0.9))
    middle = (side / 2, side / 2)
    width = int(rng.integers(0, 1 + side // 28))
    ImageDraw.Draw(drawn).text(
        middle, str(rng.integers(10)), 255, font, anchor="mm", stroke_width=width
    )
    return either_way(drawn, rng)


STROKES = (  # of the digits 0 to 9, in tenths
    "51 23 27 59 87 83 51", "42 51 59", "22 51 73 29 89", "31 72 54 77 39", "69 61 26 86",
    "81 31 34 75 78 29", "71 35 39 79 75 35", "21 81 49", "55 33 51 73 37 59 77 55",
    "74 44 31 71 74 69",
)  # fmt: skip


def written_digit(rng: np.random.Generator) -> Array:
    side = int(rng.choice([28, 64, 128, 256]))
    drawn = Image.new("L", (side, side))
    strokes = STROKES[rng.integers(10)].split()
    points = [tuple(side * (int(c) / 10 + rng.normal(0, 0.03)) for c in word) for word in strokes]
    width = max(1, int(side * rng.uniform(0.04, 0.16)))
    ImageDraw.Draw(drawn).line(points, 255, width, joint="curve")
    return either_way(drawn, rng)


def auroc(ordinary: Array, strange: Array) -> float:
    """Return how often a strange score is above an ordinary one, ties counting half."""
    below = np.searchsorted(np.sort(ordinary), strange, "left")
    upto = np.searchsorted(np.sort(ordinary), strange, "right")
    return float((below + upto).mean() / 2 / len(ordinary))


def scores(pictures_: list[Image.Image]) -> Array:
    """Score pictures; nothing found is as unlike as can be, as it is marked anyway."""
    images = np.concatenate([pictures.prepare(picture) for picture in pictures_])
    return np.where(images.any((1, 2)), likeness.score(images), np.inf)


@pytest.fixture(scope="module")
def ordinary(data: tuple[Array, Array]) -> Array:
    return np.concatenate(
        [scores([Image.fromarray(x) for x in data[0]]), scores([large(x) for x in data[0]])]
    )


@pytest.mark.parametrize(
    "draw",
    [noise, blurred_noise, flat_colour, gradient, printed_digit, written_digit],
    ids=lambda draw: draw.__name__,
)
def test_what_is_no_clothing_is_told_from_test_images(
    draw: Callable[[np.random.Generator], Array], ordinary: Array
) -> None:
    rng = np.random.default_rng(0)
    drawn = [np.rint(255 * draw(rng)).astype(np.uint8) for _ in range(300)]
    found = scores([Image.fromarray(each) for each in drawn])
    value = auroc(ordinary, found)
    print(f"{draw.__name__}: AUROC {value:.4f}, {(found > 1).mean():.1%} marked")
    assert value >= 0.95


def test_few_test_images_are_called_unlike_the_training_data(ordinary: Array) -> None:
    print(f"{(ordinary[:NUM] > 1).mean():.1%} as they are, {(ordinary[NUM:] > 1).mean():.1%} large")
    assert (ordinary > 1).mean() < 0.03


def test_the_statistics_are_those_of_the_training_images(real_data: Path) -> None:
    raw = real_data / "FashionMNIST" / "raw"
    images = np.frombuffer((raw / "train-images-idx3-ubyte").read_bytes()[16:], np.uint8)
    with np.load(likeness.STATISTICS) as stored:
        assert np.abs(stored["mean"] - images.reshape(-1, 784).mean(0)).max() <= 0.501
    assert likeness.STATISTICS.stat().st_size < 100_000


def test_prepare_takes_a_path_a_picture_and_bytes_alike(
    data: tuple[Array, Array], tmp_path: Path
) -> None:
    stream = io.BytesIO()
    large(data[0][0]).save(stream, "PNG")
    (tmp_path / "x.png").write_bytes(stream.getvalue())
    assert np.array_equal(
        pictures.prepare(str(tmp_path / "x.png")), pictures.prepare(Image.open(stream))
    )

"""Any picture becomes an image as the network knows it; drawn here, read through real files."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

from fmnist import decoding, likeness, pictures
from fmnist.errors import UserError
from fmnist.pictures import Steps

Array = NDArray[Any]


@pytest.fixture(scope="module")
def shirt() -> Array:
    """A shirt laid out as in the data set: light on black, 28 high, centred, with a texture."""
    drawn = Image.new("L", (28, 28))
    outline = [(9, 0), (18, 0), (24, 4), (23, 12), (19, 9), (19, 27), (8, 27), (8, 9), (4, 12)]
    ImageDraw.Draw(drawn).polygon([*outline, (3, 4)], fill=200)
    texture = np.random.default_rng(0).integers(-40, 40, (28, 28))
    shirt = np.where(np.asarray(drawn) > 0, np.asarray(drawn) + texture, 0).astype(np.uint8)
    shirt[14, 14] = 255
    return shirt


def through(image: Image.Image, form: str, **options: Any) -> Image.Image:
    """Return what a file of that kind holds."""
    data = io.BytesIO()
    image.save(data, form, **options)
    return Image.open(data)


def prepared(image: Image.Image, **steps: Any) -> Array:
    array = pictures.prepare(image, Steps(**steps))
    assert (array.shape, array.dtype) == ((1, 28, 28), np.uint8)
    return array[0].astype(int)


def enlarged(image: Array, scale: int = 4) -> Image.Image:
    return Image.fromarray(np.kron(image, np.ones((scale, scale), np.uint8)))


def test_an_image_of_the_data_set_comes_out_as_it_is(shirt: Array) -> None:
    for image in (shirt, np.minimum(shirt, 254)):
        assert np.array_equal(prepared(through(Image.fromarray(image), "PNG")), image)


def test_dark_on_light_is_inverted(shirt: Array) -> None:
    inverted = Image.fromarray(255 - shirt)
    assert np.array_equal(prepared(inverted), shirt)
    assert np.array_equal(prepared(inverted, invert=True), shirt)
    assert not np.array_equal(prepared(inverted, invert=False), shirt)


def test_whole_pixels_enlarged_come_back_exactly(shirt: Array) -> None:
    for scale in (2, 5, 10, 64):
        assert np.array_equal(prepared(enlarged(shirt, scale)), shirt)


@pytest.mark.parametrize("frame", [1, 10, 30])
@pytest.mark.parametrize("is_dark", [True, False])
def test_a_frame_is_no_part_of_the_picture(shirt: Array, frame: int, is_dark: bool) -> None:
    held = enlarged(255 - shirt if is_dark else shirt)
    framed = ImageOps.expand(held, frame, 0 if is_dark else 255)
    assert np.array_equal(prepared(framed), shirt)
    bars = Image.new("L", (held.width, 3 * held.height), 0 if is_dark else 255)
    bars.paste(held, (0, held.height))
    assert np.array_equal(prepared(bars), shirt)


@pytest.mark.parametrize("colour", [(200, 30, 30), (40, 60, 200), (240, 220, 60), (90, 160, 90)])
def test_a_thing_lies_on_a_ground_of_any_colour(shirt: Array, colour: tuple[int, ...]) -> None:
    thing = enlarged(shirt)
    solid = thing.point(lambda value: 255 * (value > 0))
    picture = Image.composite(thing.convert("RGB"), Image.new("RGB", thing.size, colour), solid)
    canvas = Image.new("RGB", (400, 250), colour)
    canvas.paste(picture, (200, 80))
    for each in (picture, canvas):
        for steps in ({}, {"invert": False}):
            found = prepared(each, **steps)
            assert np.corrcoef(found.ravel(), shirt.ravel())[0, 1] > 0.95, steps


def test_most_of_the_border_says_what_the_ground_is() -> None:
    picture = np.full((100, 100), 255, np.uint8)
    picture[:, 15:85] = 0  # black, from top to bottom
    image = prepared(Image.fromarray(picture), crop=False)
    assert image[14, 14] == 255
    assert image[14, 0] == 0


def test_a_small_mark_beside_the_thing_is_left_out(shirt: Array) -> None:
    canvas = Image.new("L", (224, 224), 255)
    canvas.paste(enlarged(255 - shirt), (40, 60))
    canvas.paste(Image.new("L", (8, 8), 120), (210, 210))
    assert np.array_equal(prepared(canvas), shirt)


def test_position_size_and_shape_of_the_canvas_do_not_matter(shirt: Array) -> None:
    for place in ((0, 0), (300, 3), (128, 88)):
        canvas = Image.new("L", (412, 200))
        canvas.paste(enlarged(shirt), place)
        assert np.array_equal(prepared(canvas), shirt)


@pytest.mark.parametrize(
    ("light", "dark"),
    [((255, 220, 90), (20, 40, 90)), ((0, 0, 255), (0, 0, 0)), ((255, 0, 0), (0, 130, 0))],
)
def test_colours_do_not_matter_even_where_luma_hardly_differs(
    shirt: Array, light: tuple[int, ...], dark: tuple[int, ...]
) -> None:
    share = np.asarray(enlarged(shirt))[..., None] / 255
    mixed = Image.fromarray(np.rint(share * light + (1 - share) * dark).astype(np.uint8))
    assert np.abs(prepared(mixed) - shirt).max() <= 2


def save_cmyk_tiff(shirt: Array, path: Path) -> None:
    Image.fromarray(shirt).convert("RGB").convert("CMYK").save(path)


FILES: dict[str, Any] = {
    "plain.bmp": lambda s, p: Image.fromarray(s).save(p),
    "plain.gif": lambda s, p: Image.fromarray(s).save(p),
    "first.gif": lambda s, p: Image.fromarray(s).save(
        p, save_all=True, append_images=[Image.fromarray(255 - s)]
    ),
    "lossless.webp": lambda s, p: Image.fromarray(s).convert("RGB").save(p, lossless=True),
    "deep.png": lambda s, p: Image.fromarray(s.astype(np.uint16) * 257).save(p),
    "deep.tif": lambda s, p: Image.fromarray(s.astype(np.uint16) * 257).save(p),
    "shallow-values.tif": lambda s, p: Image.fromarray(s.astype(np.uint16)).save(p),
    "float.tif": lambda s, p: Image.fromarray(s.astype(np.float32) / 255).save(p),
    "below-zero.tif": lambda s, p: Image.fromarray(s.astype(np.float32) - 128).save(p),
    "integer.tif": lambda s, p: Image.fromarray(s.astype(np.int32)).save(p),
    "palette.png": lambda s, p: Image.fromarray(s).convert("P").save(p),
    "cmyk.tif": save_cmyk_tiff,
    "grey.pgm": lambda s, p: Image.fromarray(s).save(p),
    "solid.png": lambda s, p: Image.fromarray(s).convert("RGBA").save(p),
}


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_gives_the_same_image(shirt: Array, name: str, tmp_path: Path) -> None:
    FILES[name](shirt, tmp_path / name)
    assert np.array_equal(pictures.prepare(tmp_path / name)[0], shirt)


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "AVIF", "MPO"])
def test_lossy_files_come_close(shirt: Array, form: str) -> None:
    if form not in decoding._formats() and form != "MPO":
        pytest.skip(f"this Pillow reads no {form}")
    picture = through(enlarged(shirt, 8).convert("RGB"), form, quality=80)
    assert np.abs(prepared(picture) - shirt).mean() < 4


def test_a_cmyk_jpeg_is_read_with_its_colours_the_right_way_round(shirt: Array) -> None:
    picture = through(enlarged(shirt, 8).convert("CMYK"), "JPEG", quality=95)
    assert np.abs(prepared(picture) - shirt).mean() < 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_undone(shirt: Array, orientation: int) -> None:
    upright = enlarged(shirt, 20)  # reduced on the way: the tag must be read before
    back = {6: 8, 8: 6}.get(orientation, orientation)
    stored = upright.transpose(decoding.TURNS[back]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[decoding.ORIENTATION] = orientation
    assert np.array_equal(prepared(through(stored, "PNG", exif=exif)), shirt)


def cut_outs(shirt: Array) -> dict[str, Array]:
    full, none, mask = np.full_like(shirt, 255), np.zeros_like(shirt), (shirt > 0) * np.uint8(255)
    return {
        "mask of the thing": np.dstack([shirt] * 3 + [mask]),
        "mask, white below": np.dstack([np.where(mask, shirt, 255)] * 3 + [mask]),
        "white, as opaque as bright": np.dstack([full] * 3 + [shirt]),
        "black, as opaque as bright": np.dstack([none] * 3 + [shirt]),
        "its own mask": np.dstack([shirt] * 4),
        "half transparent": np.dstack([shirt] * 3 + [full // 2]),
    }


@pytest.mark.parametrize("name", cut_outs(np.zeros((28, 28), np.uint8)))
def test_transparency_is_a_ground(shirt: Array, name: str) -> None:
    picture = Image.fromarray(cut_outs(shirt)[name].astype(np.uint8))
    assert np.abs(prepared(picture, invert="black" in name) - shirt).mean() < 1


def test_a_slope_of_light_and_noise_on_the_ground_go_away(shirt: Array) -> None:
    rng = np.random.default_rng(0)
    share = np.asarray(enlarged(shirt, 8)) / 255
    slope = np.linspace(0.7, 1, share.shape[1])[None]
    noisy = slope * (1 - 0.6 * share) + rng.normal(0, 0.015, share.shape)
    image = prepared(Image.fromarray((255 * noisy.clip(0, 1)).astype(np.uint8)))
    assert np.abs(image - shirt).mean() < 12
    assert (image[shirt == 0] < 20).mean() > 0.9


def test_dust_on_the_ground_does_not_move_the_thing(shirt: Array) -> None:
    canvas = Image.new("L", (600, 300))
    canvas.paste(enlarged(shirt, 8), (40, 30))
    canvas.paste(255, (590, 290, 594, 294))
    assert np.array_equal(prepared(canvas), shirt)


@pytest.mark.parametrize("size", [(1, 1), (10_000, 1), (1, 5_000), (40, 40)])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "LAB", "I;16", "F"])
def test_where_nothing_stands_out_the_image_is_black(mode: str, size: tuple[int, int]) -> None:
    assert not prepared(Image.new(mode, size)).any()


def test_each_step_can_be_left_out(shirt: Array) -> None:
    grey = Image.new("RGB", (200, 120), (60, 60, 60))
    grey.paste(enlarged(shirt // 2 + 60, 3), (100, 20))
    every = prepared(grey)
    for name in ("background", "crop", "pad", "centre", "stretch"):
        assert not np.array_equal(prepared(grey, **{name: False}), every), name
    assert not prepared(grey)[0, 0]
    assert prepared(grey, background=False)[0, 0] > 0
    assert prepared(grey, pad=False).any(0).all()  # as wide as high
    assert prepared(grey, crop=False, centre=False)[17:].max() == 0  # 120 of 200 rows, then ground
    assert prepared(grey, stretch=False).max() < 255


def test_sharpening_is_only_for_what_was_resized(shirt: Array) -> None:
    smooth = Image.fromarray(shirt).resize((140, 140), Image.Resampling.BICUBIC)
    sharp, soft = prepared(smooth), prepared(smooth, sharpen=False)
    assert np.abs(sharp - shirt).mean() < np.abs(soft - shirt).mean()
    assert np.array_equal(prepared(enlarged(shirt)), prepared(enlarged(shirt), sharpen=False))
    assert not np.array_equal(prepared(smooth, antialias=False), sharp)


def test_a_large_photo_is_reduced_before_anything_else() -> None:
    picture = decoding.decode(Image.new("RGB", (4000, 3000)))
    assert max(picture.rgb.shape) < 2 * decoding.WORK_PX


def damaged_files(folder: Path) -> dict[Path, str]:
    data = io.BytesIO()
    Image.new("RGB", (300, 300), "red").save(data, "JPEG")
    (folder / "cut.jpg").write_bytes(data.getvalue()[:900])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("no picture")
    (folder / "program.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    (folder / "folder.png").mkdir()
    bomb = b"P5 40000 40000 255\n"
    (folder / "bomb.pgm").write_bytes(bomb)
    return {
        folder / "cut.jpg": "truncated",
        folder / "empty.png": "empty file",
        folder / "text.png": "no picture of a known kind",
        folder / "program.png": "no picture of a known kind",
        folder / "folder.png": "a folder",
        folder / "bomb.pgm": "too large",
        folder / "missing.png": "No such file",
    }


def test_what_is_no_whole_picture_says_so(tmp_path: Path) -> None:
    for path, message in damaged_files(tmp_path).items():
        with pytest.raises(UserError, match=f"{path}: .*{message}"):
            pictures.prepare(path)


def test_likeness_tells_noise_from_the_mean_image() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    assert (likeness.score(noise) > 1).all()
    assert likeness.score(noise[:, None]).shape == (5,)

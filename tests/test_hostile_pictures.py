"""Pictures and names that were made to hurt: what they cost is bounded, and only their own row."""

import csv
import io
import json
import os
import stat
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import PROJECT
from mutations import png_chunk
from PIL import Image

from fmnist import answers, decoding, errors, pictures, prediction
from fmnist.errors import UserError
from fmnist.prediction import Answer

pytest_plugins = ["idx_fixtures"]  # nobody
WHITE = zlib.compress(bytes(2_000))


def png(width: int, height: int, *extra: tuple[bytes, bytes], colours: int = 0) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, colours, 0, 0, 0)
    chunks = [(b"IHDR", head), *extra, (b"IDAT", WHITE), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


def tiff(*entries: tuple[int, int, int, int], order: str = "<", after: int = 0) -> bytes:
    mark = b"II*\0" if order == "<" else b"MM\0*"
    packed = b"".join(struct.pack(f"{order}HHII", *entry) for entry in entries)
    return mark + struct.pack(f"{order}IH", 8, len(entries)) + packed + struct.pack("<I", after)


def gif(canvas: tuple[int, int], frame: tuple[int, int]) -> bytes:
    head = b"GIF89a" + struct.pack("<HHBBB", *canvas, 0, 0, 0)
    return head + b"," + struct.pack("<HHHHB", 0, 0, *frame, 0) + b"\x02\x02\x44\x01\x00;"


def sparse(path: Path, size: int) -> None:
    path.write_bytes(png(9, 9))
    os.truncate(path, size)


BOMB = b"a\0\0" + zlib.compress(bytes(50_000_000))
STRIPS = [(256, 3, 1, 1), (257, 4, 1, 9_000_000), (273, 4, 9_000_000, 200)]
REFUSED: dict[str, tuple[bytes, str]] = {
    "of no size.png": (png(0, 0), "no picture of a known kind"),
    "of no height.gif": (gif((9, 0), (9, 0)), "^damaged picture|^no picture|^cannot be read"),
    "of 2 billion pixels a side.png": (png(2**31 - 1, 2**31 - 1), "too large: at most 89 million"),
    "of too many pixels.png": (png(9_500, 9_500), "million pixels are read, it has 9500 x 9500"),
    "of a huge canvas.gif": (gif((65_535, 65_535), (1, 1)), "too large: at most 89 million"),
    "of a huge frame.gif": (gif((9, 9), (65_535, 65_535)), "too large: at most 89 million"),
    "of a text that unpacks to much.png": (png(9, 9, (b"zTXt", BOMB)), "^damaged picture: Decomp"),
    "of colours that unpack to much.png": (png(9, 9, (b"iCCP", BOMB)), "^damaged picture: Decomp"),
    "of many strips.tif": (tiff(*STRIPS), "damaged picture: a tag of 9,000,000 numbers"),
    "of many strips, big end.tif": (tiff(*STRIPS, order=">"), "a tag of 9,000,000 numbers"),
    "of directories in a circle.tif": (tiff((256, 3, 1, 9), after=8), "no picture of a known kind"),
    "vectors.png": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "no picture of a known kind"),
    "vectors.svg": (b'<?xml version="1.0"?><svg width="9" height="9"/>', "no picture of a known"),
    "a program.eps": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "no picture of a known",
    ),
    "a program in a binary.eps": (b"\xc5\xd0\xd3\xc6" + bytes(40), "no picture of a known kind"),
    "a document.pdf": (b"%PDF-1.7\n", "no picture of a known kind"),
    "half.jpg": (b"\xff\xd8\xff\xe0", "no picture of a known kind|^cannot be read|^damaged"),
    "steers.pgm": (b"P5\n\x1b[2J999999999999 9 9\n", "^damaged picture: [^\x1b]*$"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_a_picture_that_was_made_to_hurt_is_refused(name: str, tmp_path: Path) -> None:
    data, message = REFUSED[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=message):
        decoding.read(tmp_path / name)


READ: dict[str, bytes] = {
    "exif of nonsense.png": png(9, 9, (b"eXIf", b"nonsense")),
    "exif without an end.png": png(9, 9, (b"eXIf", b"MM\0*\0\0\0\x08\xff\xff" + b"\1\x12" * 50)),
    "exif of a million entries.png": png(
        9, 9, (b"eXIf", tiff((274, 3, 500_000, 26)) + bytes(10**6))
    ),
    "colours of nonsense.png": png(9, 9, (b"iCCP", b"a\0\0" + zlib.compress(b"nonsense"))),
    "few colours.png": png(9, 9, (b"PLTE", b"\1\2\3"), colours=3),
    "50,000 wide.png": png(1, 1),
    "50,000 high.png": png(1, 1),
}


@pytest.mark.parametrize("name", READ)
def test_what_is_broken_beside_the_pixels_does_not_matter(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(READ[name])
    if name.startswith("50,000"):
        Image.new("RGBA", (50_000, 1) if "wide" in name else (1, 50_000)).save(tmp_path / name)
    assert pictures.prepare(tmp_path / name).shape == (1, 28, 28)


@pytest.mark.parametrize(
    "ends", [(np.nan, np.nan), (np.inf, -np.inf), (3e38, -3e38), (-3e38, 1.0), (1e-45, 0.0)]
)
def test_numbers_at_the_end_of_their_range_are_numbers_still(
    ends: tuple[float, float], tmp_path: Path
) -> None:
    values = np.zeros((40, 40), np.float32)
    values[5:20], values[25:30] = ends
    Image.fromarray(values).save(tmp_path / "deep.tif")
    pixels = decoding.read(tmp_path / "deep.tif")
    assert np.isfinite(pixels.rgb).all()
    assert pixels.rgb.min() >= 0
    assert pixels.rgb.max() <= 1
    assert pictures.prepare(tmp_path / "deep.tif").shape == (1, 28, 28)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "LAB", "I;16", "F"])
def test_a_large_picture_in_parts_equals_the_whole(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(0).integers(0, 256, (1_001, 1_403, 4), dtype=np.uint8)
    if mode in ("I;16", "F"):
        numbers = values[..., 0].astype(np.uint16) * 257
        image = Image.fromarray(numbers if mode == "I;16" else numbers.astype(np.float32) - 900)
    else:
        image = Image.fromarray(values if mode in ("LA", "RGBA") else values[..., :3]).convert(mode)
    whole = decoding.decode(image)
    monkeypatch.setattr(decoding, "TILE_PX", 100)
    parts = decoding.decode(image)
    assert np.array_equal(parts.rgb, whole.rgb)
    assert (parts.alpha is None) == (whole.alpha is None)
    assert whole.alpha is None or np.array_equal(parts.alpha, whole.alpha)  # type: ignore[arg-type]


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    os.mknod(tmp_path / "socket.png", stat.S_IFSOCK | 0o600)
    for name, target in (("loop", "loop.png"), ("zero", "/dev/zero"), ("pipe2", "pipe.png")):
        (tmp_path / f"{name}.png").symlink_to(target)
    messages = {
        **dict.fromkeys(("pipe", "pipe2", "socket", "zero"), "no regular file"),
        "loop": "cannot be read: Too many levels of symbolic links",
        "x" * 300: "cannot be read: File name too long",
    }
    for name, message in messages.items():
        with pytest.raises(UserError, match=message):
            decoding.read(tmp_path / f"{name}.png")


def test_a_file_that_becomes_a_pipe_at_the_last_moment_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = tmp_path / "good.png"
    good.write_bytes(png(9, 9))
    os.mkfifo(tmp_path / "pipe")
    open_now = os.open
    monkeypatch.setattr(os, "open", lambda _, flags: open_now(tmp_path / "pipe", flags))
    with pytest.raises(UserError, match="no regular file"):
        decoding.read(good)


def test_a_file_of_endless_size_is_not_read(tmp_path: Path) -> None:
    sparse(tmp_path / "vast.png", 1 << 40)
    with pytest.raises(UserError, match="too large: files of at most 128 MB are read"):
        decoding.read(tmp_path / "vast.png")


def test_a_picture_that_describes_hours_of_work_is_left_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = io.BytesIO()
    Image.new("L", (800, 800)).save(data, "JPEG", progressive=True)
    whole = data.getvalue()
    last = whole[whole.rindex(b"\xff\xda") : -2]  # its last scan, again and again
    (tmp_path / "scans.jpg").write_bytes(whole[:-2] + 40_000 * last + whole[-2:])
    monkeypatch.setattr(decoding, "PATIENCE_S", 0.2)
    with pytest.raises(UserError, match="takes too long: 0 s were not enough"):
        decoding.read(tmp_path / "scans.jpg")


def test_large_pictures_are_read_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [tmp_path / f"{i}.png" for i in range(6)]
    for file in files:
        file.write_bytes(png(30, 30))
    at_once, most = 0, 0
    counting = threading.Lock()
    decode = decoding.decode

    def count(image: Image.Image) -> decoding.Pixels:
        nonlocal at_once, most
        with counting:
            at_once += 1
            most = max(most, at_once)
        threading.Event().wait(0.02)
        with counting:
            at_once -= 1
        return decode(image)

    monkeypatch.setattr(decoding, "decode", count)
    monkeypatch.setattr(decoding, "LARGE_PIXELS", 10)
    threads = [threading.Thread(target=decoding.read, args=(file,)) for file in files]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


PEAK = """
import re, sys, warnings
from pathlib import Path
from fmnist import decoding
warnings.simplefilter("ignore")
decoding.PATIENCE_S = 1e6  # the machine may be busy
decoding.read(Path(sys.argv[1]))
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""
LARGEST: dict[str, tuple[str, tuple[int, int], dict[str, Any]]] = {
    "rgba.png": ("RGBA", (9_430, 9_430), {}),
    "cmyk.jpg": ("CMYK", (13_300, 13_300), {"progressive": True}),
    "rgb.jp2": ("RGB", (9_430, 9_430), {}),
    "rgba.webp": ("RGBA", (9_430, 9_430), {"lossless": True, "method": 0}),
    "wide.png": ("RGBA", (20_000_000, 4), {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGEST)
def test_the_largest_picture_of_each_kind_takes_at_most_two_gigabytes(
    name: str, tmp_path: Path
) -> None:
    mode, size, options = LARGEST[name]
    if not Path("/proc/self/status").exists():
        pytest.skip("needs Linux")
    Image.new(mode, size).save(tmp_path / name, **options)
    words = [sys.executable, "-c", PEAK, str(tmp_path / name)]
    done = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, check=True)
    print(f"{name}: {int(done.stdout) / 1e3:,.0f} MB")
    assert 100e3 < int(done.stdout) < 2e6


def test_too_little_memory_costs_one_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Image.Image) -> decoding.Pixels:
        raise MemoryError

    monkeypatch.setattr(decoding, "decode", fail)
    (tmp_path / "good.png").write_bytes(png(9, 9))
    with pytest.raises(UserError, match="too large for the memory that is free"):
        decoding.read(tmp_path / "good.png")


class Uniform:
    """A network that has no opinion."""

    class_names = ("Shirt", "Coat", "Bag", "Sandal")

    def predict(self, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.full((len(images), 4), 0.25, np.float32)


NAMES = ["a b.png", "new\nline.png", "re\rturn.png", "-dash.png", "=1+1.png", "@x.png"]
NAMES += ["$\\frac$.png", '"quoted".png', "\x1b[2Jescape.png", "right\u202eleft.png", "ünï.png"]
NAMES += ["'.png", ";,\t.png"]


def answer_for(names: list[bytes]) -> list[Answer]:
    for name in names:
        with open(name, "wb") as file:  # noqa: PTH123 - a name that is no text
            file.write(png(9, 9))
    files, _ = prediction.find_files(["."])
    return list(prediction.answer(Uniform(), files))  # type: ignore[arg-type]


@pytest.mark.parametrize("form", answers.FORMATS)
def test_answers_are_valid_whatever_a_file_is_called(
    form: str, workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [*map(os.fsencode, NAMES), b"no\xfftext.png"]
    rows = answer_for(names)
    assert len(rows) == len(names)
    assert answers.write(rows, form) == 0
    out = capsys.readouterr().out
    if form == "json":
        assert {os.fsencode(row["file"]) for row in json.loads(out)} == set(names)
        assert out.isascii()
    elif form == "csv":
        table = list(csv.DictReader(io.StringIO(out, newline="")))
        texts = {os.path.normpath(row["file"]) for row in table}
        assert texts >= set(NAMES)
        assert not any(row["file"].startswith(tuple("=+-@")) for row in table)
    else:
        lines = out.splitlines()
        assert len(lines) == 2 + len(names)
        assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("form", answers.FORMATS)
def test_answers_on_a_pipe_are_utf_8_whatever_a_file_is_called(form: str) -> None:
    words = "import sys; from pathlib import Path; from fmnist import answers; "
    words += "from fmnist.prediction import Answer; "
    words += "answers.write([Answer(Path('no\\udcfftext.png'), error='x')], sys.argv[1])"
    command = [sys.executable, "-c", words, form]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, check=True)
    assert "text.png" in done.stdout.decode()  # strictly
    assert not done.stderr


def test_patterns_follow_no_links_in_circles(workdir: Path) -> None:
    for name in ("a/b/x.png", "a/y.png", "z.png", "a/.hidden/h.png", "[1]/q.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(b"")
    for name in "klmno":
        Path("a", name).symlink_to(".")
    found = {
        pattern: list(map(str, prediction.find_files([pattern])[0]))
        for pattern in ("**/*.png", "a/**/*.png", "**/b/**/*.png", "a/**", f"{workdir}/a/**/b/*")
    }
    assert found["**/*.png"] == ["[1]/q.png", "a/b/x.png", "a/y.png", "z.png"]
    assert found["a/**/*.png"] == ["a/b/x.png", "a/y.png"]
    assert found["**/b/**/*.png"] == ["a/b/x.png"]
    assert found["a/**"] == ["a/y.png", "a/b/x.png"]
    assert found[f"{workdir}/a/**/b/*"] == [f"{workdir}/a/b/x.png"]


def test_folders_are_searched_to_any_depth(workdir: Path) -> None:
    place = os.open(".", os.O_RDONLY)
    for _ in range(1_500):  # deeper than Python calls itself
        os.mkdir("d", dir_fd=place)
        inner = os.open("d", os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = inner
    os.close(os.open("x.png", os.O_WRONLY | os.O_CREAT, dir_fd=place))
    os.close(place)
    found = [prediction.find_files([word])[0] for word in (".", "**/x.png")]
    subprocess.run(["rm", "-r", "d"], check=True)  # pytest would stumble over it
    assert found == [[Path("d/" * 1_500 + "x.png")]] * 2


def test_a_name_that_is_too_long_is_an_answer(workdir: Path) -> None:
    files, _ = prediction.find_files(["a" * 5_000])
    (row,) = prediction.answer(Uniform(), files)  # type: ignore[arg-type]
    assert row.error == "cannot be read: File name too long"


def test_a_folder_that_cannot_be_read_is_told(nobody: Path) -> None:
    (nobody / "closed").mkdir(mode=0)
    files, _ = prediction.find_files([str(nobody)])
    assert files == [nobody / "closed"]
    (row,) = prediction.answer(Uniform(), files)  # type: ignore[arg-type]
    assert row.error == "a folder that cannot be read: Permission denied."


def test_what_is_said_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), errors.exit_codes():
        raise UserError("There is no picture in \x1b]0;owned\x07\udcff.")
    said = capsys.readouterr().err
    assert said == "Error: There is no picture in \\x1b]0;owned\\x07\\udcff.\n"


@pytest.mark.slow
def test_a_folder_of_everything_is_answered_by_the_script(
    script: Callable[..., Any], tmp_path: Path
) -> None:
    done = script("train.py", "data.batch_size=50", "data.val_size=100", "trainer.max_epochs=1",
                  "name=demo", "figures=none")  # fmt: skip
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, (data, _) in REFUSED.items():
        (folder / name).with_suffix(".png").write_bytes(data)
    for name in NAMES:
        (folder / name).write_bytes(READ["few colours.png"])
    os.mkfifo(folder / "pipe.png")
    (folder / "loop.png").symlink_to("loop.png")
    done = script("predict.py", "runs/demo", "photos", "--preview", "a.png")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    num_bad = len({Path(name).stem for name in REFUSED}) + 2
    assert f"{num_bad} of {num_bad + len(NAMES)} pictures could not be read" in done.stderr
    assert not set("\x1b\x07") & set(done.stdout + done.stderr)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")

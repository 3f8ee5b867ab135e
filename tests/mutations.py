"""Broken and lying files made of good ones: headers, chunks and bytes changed at random."""

import io
import random
import struct
import zlib
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

ODD = (0, 1, 2, 3, 7, 8, 15, 16, 27, 28, 29, 127, 128, 255, 256, 447, 448, 449, 895, 897, 1000)
HUGE = (9_433, 13_300, 32_767, 32_768, 65_535, 65_536, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
Random = random.Random


def pick(rng: Random) -> int:
    return rng.choice(ODD) if rng.random() < 0.7 else rng.choice(HUGE)


def damage(data: bytes, rng: Random) -> bytes:
    """Change, cut, repeat, move or add bytes anywhere."""
    broken = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        size = len(broken)
        if not size:
            return rng.randbytes(rng.randrange(40))
        at, length = rng.randrange(size), min(rng.choice((1, 1, 2, 4, 8, 100)), size)
        match rng.randrange(7):
            case 0:
                broken[at] ^= 1 << rng.randrange(8)
            case 1:
                broken[at] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
            case 2:
                del broken[at : at + length]
            case 3:
                broken[at:at] = broken[at : at + length]
            case 4:
                broken[at:at] = rng.randbytes(length)
            case 5:
                broken[at : at + length] = bytes([rng.choice((0, 255))]) * length
            case 6:
                del broken[rng.randrange(max(size // 4, 1), size + 1) :]
    return bytes(broken)


def lie(data: bytes, rng: Random, reach: int = 120) -> bytes:
    """Put odd and huge numbers of 1, 2 or 4 bytes into the header, where sizes stand."""
    lying = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        form = rng.choice(("B", "<H", ">H", "<I", ">I"))
        size = struct.calcsize(form)
        if len(lying) < size:
            return bytes(lying)
        at = rng.randrange(min(len(lying) - size + 1, reach))
        struct.pack_into(form, lying, at, pick(rng) % (1 << 8 * size))
    return bytes(lying)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    chunks, at = [], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


PNG_EXTRAS: Sequence[Callable[[Random], tuple[bytes, bytes]]] = (
    lambda r: (b"zTXt", b"a\0\0" + zlib.compress(bytes(r.choice((10, 1000, 3_000_000))))),
    lambda r: (b"iTXt", b"a\0\1\0\0\0" + zlib.compress(bytes(r.choice((10, 3_000_000))))),
    lambda r: (b"tEXt", b"Raw profile type exif\0" + r.randbytes(60)),
    lambda r: (b"iCCP", b"a\0\0" + zlib.compress(r.randbytes(r.choice((0, 20, 500))))),
    lambda r: (b"eXIf", exif(r)),
    lambda r: (b"PLTE", r.randbytes(3 * r.choice((0, 1, 2, 16, 256, 257)))),
    lambda r: (b"tRNS", r.randbytes(r.choice((0, 1, 2, 5, 6, 256, 300)))),
    lambda r: (b"acTL", struct.pack(">II", pick(r), pick(r))),
    lambda r: (b"fcTL", struct.pack(">5IHHBB", 0, *(pick(r) for _ in range(4)), 1, 0, 0, 0)),
    lambda r: (b"fdAT", r.randbytes(20)),
    lambda r: (b"pHYs", r.randbytes(r.choice((0, 8, 9)))),
    lambda r: (b"gAMA", r.randbytes(r.choice((0, 4)))),
    lambda r: (b"sRGB", b""),
    lambda r: (b"cHRM", r.randbytes(r.choice((0, 31, 32)))),
    lambda r: (r.randbytes(4), r.randbytes(9)),
)


def exif(rng: Random) -> bytes:
    """Return an Exif block: right, of odd entries, leading in circles, or nonsense."""
    order, mark = rng.choice((("<", b"II*\0"), (">", b"MM\0*")))
    entries = []
    for _ in range(rng.choice((0, 1, 1, 3, 40))):
        tag = rng.choice((0x0112, 0x0112, 0x8769, 0x8825, 0x0100, 0x927C, rng.randrange(65_536)))
        kind, count = rng.randrange(15), rng.choice((0, 1, 1, 2, 9, 2**31))
        entries.append(struct.pack(f"{order}HHI4s", tag, kind, count, rng.randbytes(4)))
    number = len(entries) if rng.random() < 0.8 else pick(rng) % 65_536
    start = rng.choice((8, 8, 8, pick(rng)))
    after = struct.pack(f"{order}I", rng.choice((0, 8, start)))
    block = mark + struct.pack(f"{order}IH", start, number) + b"".join(entries) + after
    return block if rng.random() < 0.8 else damage(b"Exif\0\0" + block, rng)


def png(data: bytes, rng: Random) -> bytes:
    """Edit chunks and set the checksums right, so that what is edited is looked at."""
    chunks = png_chunks(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        if not chunks:
            break
        at = rng.randrange(len(chunks))
        kind, body = chunks[at]
        match rng.randrange(7):
            case 0:
                chunks[at] = (kind, damage(body, rng))
            case 1:
                chunks[0] = (b"IHDR", lie(chunks[0][1], rng))
            case 2:
                del chunks[at]
            case 3:
                chunks.insert(rng.randrange(len(chunks) + 1), chunks[at])
            case 4:
                rng.shuffle(chunks)
            case 5 if kind == b"IDAT":
                pixels = damage(zlib.decompressobj().decompress(body), rng)
                chunks[at] = (kind, zlib.compress(pixels, 1))
            case _:
                chunks.insert(rng.randrange(1, len(chunks) + 1), rng.choice(PNG_EXTRAS)(rng))
    return data[:8] + b"".join(png_chunk(*chunk) for chunk in chunks)


def jpeg(data: bytes, rng: Random) -> bytes:
    """Edit, drop, repeat or add segments whose lengths stay right."""
    segments, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        segments.append((data[at + 1], data[at + 4 : at + 2 + length]))
        at += 2 + length
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = rng.randrange(len(segments) + 1)
        match rng.randrange(5):
            case 0 if segments:
                segments.pop(place % len(segments))
            case 1 if segments:
                segments.insert(place, rng.choice(segments))
            case 2:
                segments.insert(place, (0xE1, b"Exif\0\0" + exif(rng)))
            case 3:
                kind = rng.choice((0xE0, 0xE2, 0xED, 0xEE, 0xFE, 0xDD, rng.randrange(0xC0, 0xFF)))
                text = rng.choice((b"MPF\0" + exif(rng), b"ICC_PROFILE\0\1\1", b"Adobe\0\x64", b""))
                segments.insert(place, (kind, text + rng.randbytes(rng.choice((0, 5, 30)))))
            case _ if segments:
                kind, body = segments[place % len(segments)]
                segments[place % len(segments)] = (kind, rng.choice((lie, damage))(body, rng))
    head = [bytes((0xFF, k)) + struct.pack(">H", (len(b) + 2) % 65_536) + b for k, b in segments]
    return data[:2] + b"".join(head) + (damage(data[at:], rng) if rng.random() < 0.3 else data[at:])


def tiff(data: bytes, rng: Random) -> bytes:
    """Change entries of the first directory, or lead it in a circle."""
    if data[:4] != b"II*\0":
        return lie(data, rng)
    changed = bytearray(data)
    (start,) = struct.unpack_from("<I", data, 4)
    (number,) = struct.unpack_from("<H", data, start)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = start + 2 + 12 * rng.randrange(number)
        match rng.randrange(6):
            case 0:
                struct.pack_into("<H", changed, at + 2, rng.randrange(18))
            case 1:
                struct.pack_into("<I", changed, at + 4, pick(rng))
            case 2:
                struct.pack_into("<H", changed, at, rng.choice((256, 258, 259, 262, 273, 277, 330)))
            case 3:
                struct.pack_into("<I", changed, start + 2 + 12 * number, rng.choice((start, 8, 4)))
            case _:
                struct.pack_into("<I", changed, at + 8, pick(rng))
    return bytes(changed)


def ppm(_: bytes, rng: Random) -> bytes:
    """Write a header of words, and then some bytes."""
    gap = rng.choice((b" ", b"\n", b"\n# text\n", b"", b"\t\x1b[2J"))
    words = [str(pick(rng) if rng.random() < 0.3 else rng.randrange(1, 40)) for _ in range(3)]
    kind = rng.choice((b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"P7", b"Pf", b"PF", b"Py"))
    body = rng.choice((rng.randbytes(300), b"1 0 255 7 " * 300, b"65535 -1 x" * 9, b""))
    return kind + b"\n" + gap.join(word.encode() for word in words) + b"\n" + body


OF_FORMAT: dict[str, Callable[[bytes, Random], bytes]] = {
    "PNG": png,
    "JPEG": jpeg,
    "MPO": jpeg,
    "TIFF": tiff,
    "PPM": ppm,
}


def mutate(form: str, data: bytes, rng: Random) -> bytes:
    """Return one broken file of a good one: by its own structure, by its header or by its bytes."""
    way = rng.random()
    if way < 0.5:
        return OF_FORMAT.get(form, lie)(data, rng)
    return lie(data, rng) if way < 0.7 else damage(data, rng)


def pictures(formats: Sequence[str], seed: int) -> list[tuple[str, bytes]]:
    """Return good files of every format and mode, small, each with its format's name."""
    numbers = np.random.default_rng(seed)
    files = []
    for form in formats:
        for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"):
            for size in ((31, 22), (64, 48), (1, 1), (470, 3)):
                values = numbers.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
                values[: size[1] // 4] = values[-(size[1] // 4) :] = 255
                image = Image.fromarray(values)
                image = image.convert(mode) if mode != "I;16" else image.convert("I").convert(mode)
                for options in OPTIONS.get(form, ({},)):
                    data = io.BytesIO()
                    try:
                        image.save(data, form, **options)
                    except (OSError, ValueError, TypeError, RuntimeError):  # not this mode or size
                        continue
                    files.append((form, data.getvalue()))
    return files


MORE = [Image.new("L", (31, 22), 9)] * 2
OPTIONS: dict[str, Sequence[dict[str, object]]] = {
    "TIFF": [
        {"compression": name}
        for name in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group4", "zstd")
    ],
    "JPEG": [{}, {"progressive": True, "quality": 30}],
    "GIF": [{}, {"save_all": True, "append_images": MORE, "disposal": 2}],
    "PNG": [{}, {"save_all": True, "append_images": MORE}],
    "WEBP": [{}, {"lossless": True}, {"save_all": True, "append_images": MORE}],
    "MPO": [{"save_all": True, "append_images": MORE}],
    "BMP": [{}],
    "TGA": [{}, {"compression": "tga_rle"}],
    "AVIF": [{"speed": 10}],
}

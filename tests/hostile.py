"""Files that somebody made to harm whoever opens them; each is made here, none is stored."""

import copy
import io
import os
import pickle
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

CANARY = Path("was-run")  # exists once code of a hostile file has run

# (module, function, arguments) of what a pickle could call
CALLS: list[tuple[str, str, tuple[Any, ...]]] = [
    ("os", "system", (f"touch {CANARY}",)),
    ("posix", "system", (f"touch {CANARY}",)),
    ("builtins", "eval", (f"open({str(CANARY)!r}, 'w')",)),
    ("builtins", "exec", (f"open({str(CANARY)!r}, 'w')",)),
    ("subprocess", "check_output", (["touch", str(CANARY)],)),
    ("torch.utils.collect_env", "run", (f"touch {CANARY}",)),
    ("pathlib", "Path.touch", (CANARY,)),
    ("builtins", "bytearray", (1 << 40,)),
    ("torch", "Tensor", (1 << 40,)),
    ("torch.storage", "UntypedStorage", (1 << 40,)),
]


class Exploit:
    """Pickles as a call of `function` in `module`."""

    def __init__(self, module: str, function: str, arguments: tuple[Any, ...]) -> None:
        self.call = module, function, arguments

    def __deepcopy__(self, memo: dict[int, Any]) -> "Exploit":
        return self  # copying is what would run it

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        module, function, arguments = self.call
        found: Any = __import__(module, fromlist=["_"])
        for part in function.split("."):
            found = getattr(found, part)
        return found, arguments


def saved(value: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, **options)
    return stream.getvalue()


def repacked(
    content: bytes, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED
) -> bytes:
    """Return an archive whose parts went through `change`."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stream, "w") as new:
        for part in old.infolist():
            new.writestr(part.filename, change(part.filename, old.read(part)), compression)
    return stream.getvalue()


def bomb(content: bytes, size: int = 64 << 20) -> bytes:
    """Return an archive of which a small packed part unpacks to `size` zeros."""
    return repacked(
        content,
        lambda name, part: bytes(size) if name.endswith("data/0") else part,
        zipfile.ZIP_DEFLATED,
    )


def overdrawn(content: bytes, num_items: int = 1 << 29) -> bytes:
    """Return an archive in which the first tensor says to have memory for `num_items` items."""

    def change(name: str, part: bytes) -> bytes:
        if not name.endswith("data.pkl"):
            return part
        place = b"X\x03\x00\x00\x00cpu"
        begin = part.index(place) + len(place)
        begin += 2 if part[begin : begin + 1] == b"q" else 5  # what it is remembered as
        length = {b"K": 2, b"M": 3, b"J": 5}[part[begin : begin + 1]]
        return part[:begin] + b"J" + struct.pack("<i", num_items) + part[begin + length :]

    return repacked(content, change)


def laughs(depth: int = 25) -> bytes:
    """Return a small archive of a list in a list, twice, `depth` times over: 2**depth parts."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value, value]
    return saved(value)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """List the paths to all parts of nested dicts and lists."""
    inner: Any = ()
    if isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, list):
        inner = enumerate(value)
    return [path, *(place for key, item in inner for place in places(item, (*path, key)))]


def spoil(value: Any, draw: random.Random, substitutes: list[Any]) -> tuple[Any, ...]:
    """Take a random part away, or put one of `substitutes` in its place; returns where."""
    chosen = draw.choice(places(value)[1:])
    *above, last = chosen
    place = value
    for key in above:
        place = place[key]
    if draw.random() < 0.2:
        del place[last]
    else:
        place[last] = copy.deepcopy(draw.choice(substitutes))
    return chosen


def torn(content: bytes, draw: random.Random) -> bytes:
    """Return damaged bytes: cut, changed, repeated or moved somewhere."""
    data = bytearray(content)
    kind = draw.randrange(5)
    if kind == 0:
        return bytes(data[: draw.randrange(len(data))])
    if kind == 1:
        for _ in range(draw.choice([1, 1, 2, 8, 64])):
            data[draw.randrange(len(data))] = draw.randrange(256)
    elif kind == 2:
        at, size = draw.randrange(len(data)), draw.choice([1, 4, 64, 512])
        data[at : at + size] = bytes(min(size, len(data) - at))
    elif kind == 3:
        at, size = draw.randrange(len(data)), draw.choice([1, 4, 64, 512])
        to = draw.randrange(len(data))
        data[to:to] = data[at : at + size]
    else:
        at = draw.randrange(len(data))
        del data[at : at + draw.choice([1, 4, 64, 512])]
    return bytes(data)


def special_files() -> dict[str, Callable[[Path], None]]:
    """Name what can stand where a file is expected, and how it is made."""

    def sparse(path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(1 << 40)

    return {
        "folder": lambda path: path.mkdir(),
        "pipe": os.mkfifo,
        "loop": lambda path: path.symlink_to(path.name),
        "dangling": lambda path: path.symlink_to("nowhere"),
        "zeros": lambda path: path.symlink_to("/dev/zero"),
        "terabyte": sparse,
        "empty": lambda path: path.touch(),
        "memory": lambda path: path.symlink_to("/proc/self/mem"),
    }


def exploits(draw: random.Random) -> Any:
    """Return a value that pickles as code, plain or in something harmless."""
    call = Exploit(*draw.choice(CALLS))
    return draw.choice([call, [call], {"a": call}, (1, [call]), {call.call[1]: {"x": [call]}}])


PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)

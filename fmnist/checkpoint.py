"""Files of torch.save: checkpoints and weights, read as tensors and plain values, never as code.

The one place that calls torch.load. What a file declares is compared with what it holds, and its
size with what the network needs, before any of it is made.
"""

import contextlib
import errno
import io
import pickle
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from fmnist import pickled, reading

MAX_DIRECTORY = 4 << 20  # bytes of an archive's directory; ResNet-152 with Adam has 0.2 MB
ROOM = 16  # times the weights: Adam's two moments, a moving average and more
MARGIN = 64 << 20  # bytes
MAX_BYTES = 4 << 30  # where no network says what it needs
_ARCHIVE = b"PK\x03\x04"
_END = struct.Struct("<4s4H2IH")  # of an archive: signature, disks, entries, size, offset, comment
_LOCATOR = struct.Struct("<4sIQI")  # of the same for large archives
_LARGE_END = struct.Struct("<4sQ2H2I4Q")
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the form before torch 1.6


class CheckpointError(Exception):
    """A file that is no such thing, or is not for this network; says why."""


class ForeignError(CheckpointError):
    """A file that holds other objects than tensors and plain values."""


class OtherWeightsError(CheckpointError):
    """A whole checkpoint, of another network."""


def room(module: nn.Module) -> int:
    """Return the bytes that a file with the weights of `module` may have."""
    needed: int = sum(t.numel() * t.element_size() for t in module.state_dict().values())
    return ROOM * needed + MARGIN


def read(path: Path, limit: int = MAX_BYTES) -> Any:
    """Return what a file of torch.save holds, on the CPU; raises CheckpointError."""
    try:
        with reading.open_bounded(path, limit) as file:
            _check(file)
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except pickled.CodeError as error:
        raise ForeignError(f"{error}, which is not run") from None
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise CheckpointError(f"it is larger than the {limit:,} bytes needed at most") from None
        raise CheckpointError(error.strerror or str(error)) from None
    except Exception as error:  # torch raises half a dozen types for a damaged file
        lines = str(error).strip().splitlines() or [""]
        raise CheckpointError(f"{type(error).__name__}: {lines[0][:100]}") from None


def read_own(path: Path, module: nn.Module) -> dict[str, Any]:
    """Return a checkpoint of `module`, whose weights are all there, in shape and finite.

    A training stops before its weights are not finite, so such a file is damaged. Raises
    CheckpointError.
    """
    state = read(path, room(module))
    if not isinstance(state, dict) or not isinstance(state.get("state_dict"), Mapping):
        raise CheckpointError("it holds no state_dict")
    for key in ("epoch", "global_step"):
        if not isinstance(state.get(key), int) or state[key] < 0:
            raise CheckpointError(f"its {key} must be a count, got {state.get(key)!r:.50}")
    check_weights(state["state_dict"], module)
    return state


def check_weights(state: Mapping[str, Any], module: nn.Module) -> None:
    """Raise CheckpointError unless `state` is for `module`, OtherWeightsError for another's."""
    ours = module.state_dict()
    missing = [name for name in ours if name not in state]
    unknown = [str(name) for name in state if name not in ours]
    for kind, names in (("Missing", missing), ("Unexpected", unknown)):
        if names:
            raise OtherWeightsError(f"{kind}: {', '.join(names)[:100]}")
    for name, tensor in ours.items():
        theirs = state[name]
        if not isinstance(theirs, Tensor) or theirs.shape != tensor.shape:
            shape = list(theirs.shape) if isinstance(theirs, Tensor) else type(theirs).__name__
            raise OtherWeightsError(f"{name} is {shape}, not {list(tensor.shape)}")
        if theirs.is_floating_point() != tensor.is_floating_point():
            raise OtherWeightsError(f"{name} is {theirs.dtype}, not {tensor.dtype}")
        if not theirs.isfinite().all():
            raise CheckpointError(f"{name} holds values that are not finite")


def _check(file: BinaryIO) -> None:
    """Refuse what declares other sizes than it has, or more than plain values and tensors."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    if not size:
        raise CheckpointError("it is empty")
    if file.read(len(_ARCHIVE)) == _ARCHIVE:
        _check_archive(file, size)
    else:
        _check_stream(file, size)


def _check_archive(file: BinaryIO, size: int) -> None:
    """Compare the parts of an archive with what its pickle says of them."""
    with _opened(file, size) as archive:
        parts = {part.filename: part for part in archive.infolist()}
        lower = {name.lower() for name in parts}  # torch's reader does not tell them apart
        if len(lower) != len(archive.infolist()):
            raise CheckpointError("two of its parts have one name")
        if any(part.compress_type or part.flag_bits & 1 for part in parts.values()):
            raise CheckpointError("its parts are packed, which torch.save never does")
        if any(part.file_size != part.compress_size for part in parts.values()):
            raise CheckpointError("its parts are not of the size they say")
        if (declared := sum(part.file_size for part in parts.values())) > size:
            raise CheckpointError(f"its parts say {declared:,} bytes, and it has {size:,}")
        root = next(iter(parts), "").partition("/")[0]
        head = parts.get(f"{root}/data.pkl")
        if head is None or head.file_size > pickled.MAX_BYTES:
            raise CheckpointError("it is no file of torch.save")
        _, storages = pickled.read(io.BytesIO(archive.read(head)))
        for key, storage in storages.items():
            part = parts.get(f"{root}/data/{key}")
            held = part.file_size if part else 0
            if held != storage.num_bytes:
                raise CheckpointError(
                    f"a tensor says {storage.num_bytes:,} bytes, and the file has {held:,} for it"
                )


@contextlib.contextmanager
def _opened(file: BinaryIO, size: int) -> Iterator[zipfile.ZipFile]:
    """Open an archive whose directory stands at its end and is no larger than it needs to be."""
    if (directory := _directory_size(file, size)) > MAX_DIRECTORY:
        raise CheckpointError(f"its directory has {directory:,} bytes")
    file.seek(0)
    try:
        with zipfile.ZipFile(file) as archive:
            yield archive
    except (zipfile.BadZipFile, NotImplementedError, struct.error) as error:
        raise CheckpointError(f"its directory is damaged: {error}") from None


def _directory_size(file: BinaryIO, size: int) -> int:
    """Return what an archive's end says of its directory; raises CheckpointError if it is cut.

    torch.save writes the end in both forms; where they differ, readers may differ too.
    """
    file.seek(max(0, size - _END.size - _LOCATOR.size - _LARGE_END.size))
    tail = file.read()
    end = tail[-_END.size :]
    if len(end) < _END.size or not end.startswith(b"PK\x05\x06"):
        raise CheckpointError("it ends early")
    *_, num_parts, directory, offset, comment = _END.unpack(end)
    locator = tail[-_END.size - _LOCATOR.size : -_END.size]
    if locator.startswith(b"PK\x06\x07"):
        place = size - len(tail)
        large = _LARGE_END.unpack(tail[: _LARGE_END.size])
        tops = (0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)  # say that the number stands in the other form only
        short = zip(large[-3:], (num_parts, directory, offset), tops, strict=True)
        if _LOCATOR.unpack(locator)[2] != place or any(a != b != top for a, b, top in short):
            raise CheckpointError("its directory is damaged")
        directory = large[-2]
    if comment:
        raise CheckpointError("its directory is damaged")
    return int(directory)


def _check_stream(file: BinaryIO, size: int) -> None:
    """Check the older form: pickles one after the other, then the memory of the tensors."""
    file.seek(0)
    is_pickle = file.read(1) == pickle.PROTO
    file.seek(0)
    if not is_pickle or [pickled.read(file)[0] for _ in range(2)] != [_MAGIC, _PROTOCOL]:
        raise CheckpointError("it is no file of torch.save")
    pickled.read(file)  # of the machine
    _, storages = pickled.read(file)
    if not isinstance(pickled.read(file)[0], list):  # of the keys of the memory
        raise CheckpointError("it is no file of torch.save")
    declared = sum(storage.num_bytes for storage in storages.values())
    if declared > size:
        raise CheckpointError(f"its tensors say {declared:,} bytes, and it has {size:,}")

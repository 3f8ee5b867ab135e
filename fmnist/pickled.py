"""What a pickle of tensors declares, found without making or importing any of it.

torch.load(weights_only=True) runs no code, but makes whatever sizes a file names and follows
structures as deep as they are. This reads the few operations that torch.save writes for numbers,
texts, lists, dicts and tensors, and refuses all others.
"""

import math
import pickle
import struct
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

MAX_DEPTH = 32  # of lists and dicts in each other
MAX_PARTS = 1_000_000  # of all structures, those counted twice that stand in two places
MAX_BYTES = 4 << 20  # of a pickle; that of ResNet-152 with Adam has 0.2 MB
MAX_OPERATIONS = 1_000_000  # of a pickle, each of which makes one object at most
MAX_KEY = 2**32  # above it many keys can have one hash, and a dict of them is slow to make
MAX_LINE = 1000  # bytes of a name
_INTEGERS = {pickle.BININT: "<i", pickle.BININT1: "<B", pickle.BININT2: "<H"}
_LENGTHS = {pickle.BINUNICODE: 4, pickle.SHORT_BINSTRING: 1}  # the latter of Python 2
_CONSTANTS: dict[bytes, Any] = {
    pickle.NONE: None,
    pickle.NEWTRUE: True,
    pickle.NEWFALSE: False,
    pickle.EMPTY_TUPLE: (),
}
ITEM_SIZES = {  # bytes of an item of torch's storages
    **dict.fromkeys(("Double", "Long"), 8),
    **dict.fromkeys(("Float", "Int"), 4),
    **dict.fromkeys(("Half", "BFloat16", "Short"), 2),
    **dict.fromkeys(("Byte", "Char", "Bool"), 1),
}
_REBUILDERS = {"torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor"}
_PARAMETER = "torch._utils _rebuild_parameter"
_CONTAINER = "collections OrderedDict"
_PLAIN = {"torch Size", "torch device"}  # made of numbers and texts
_MARK = object()


class PickleError(ValueError):
    """What is no pickle of plain values and tensors; says why."""


class CodeError(PickleError):
    """A pickle that asks to call what makes other objects than tensors."""


class Storage(NamedTuple):
    """The memory of tensors, by its name in the file."""

    key: str
    num_bytes: int
    num_items: int


class Tensor(NamedTuple):
    storage: Storage
    shape: tuple[int, ...]


class _Name(NamedTuple):
    """What a pickle refers to by `module name`."""

    full: str


def read(file: BinaryIO) -> tuple[Any, dict[str, Storage]]:
    """Return the first object in `file`, with stand-ins for its tensors, and their storages.

    Raises PickleError, before more than MAX_BYTES are read.
    """
    reader = _Reader(file)
    try:
        root = reader.run()
    except PickleError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, struct.error) as error:
        raise PickleError(f"its pickle is damaged: {type(error).__name__}") from None
    _measure(root, {}, 0)
    return root, reader.storages


class _Reader:
    """The machine of `pickle`, with a stack and a memo, for a part of its operations."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.room = MAX_BYTES
        self.num_operations = 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}
        self.operations: dict[bytes, Callable[[], None]] = {
            pickle.EMPTY_DICT: lambda: self.stack.append({}),
            pickle.EMPTY_LIST: lambda: self.stack.append([]),
            pickle.MARK: lambda: self.stack.append(_MARK),
            pickle.PROTO: lambda: self._skip(1),
            pickle.LONG1: self._long,
            pickle.BINFLOAT: lambda: self.stack.append(struct.unpack(">d", self._take(8))[0]),
            pickle.TUPLE: lambda: self.stack.append(tuple(self._marked())),
            pickle.TUPLE1: lambda: self._tuple(1),
            pickle.TUPLE2: lambda: self._tuple(2),
            pickle.TUPLE3: lambda: self._tuple(3),
            pickle.BINPUT: lambda: self._put(self._number(1)),
            pickle.LONG_BINPUT: lambda: self._put(self._number(4)),
            pickle.BINGET: lambda: self.stack.append(self.memo[self._number(1)]),
            pickle.LONG_BINGET: lambda: self.stack.append(self.memo[self._number(4)]),
            pickle.APPEND: lambda: self._extend([self.stack.pop()]),
            pickle.APPENDS: lambda: self._extend(self._marked()),
            pickle.SETITEM: lambda: self._set([*self._popped(2)]),
            pickle.SETITEMS: lambda: self._set(self._marked()),
            pickle.GLOBAL: lambda: self.stack.append(_Name(f"{self._line()} {self._line()}")),
            pickle.BINPERSID: self._storage,
            pickle.REDUCE: self._call,
            pickle.BUILD: self._build,
        }

    def run(self) -> Any:
        while (code := self._take(1)) != pickle.STOP:
            self.num_operations += 1
            if self.num_operations > MAX_OPERATIONS:
                raise PickleError(f"its pickle has more than {MAX_OPERATIONS:,} operations")
            if code in _CONSTANTS:
                self.stack.append(_CONSTANTS[code])
            elif code in _INTEGERS:
                form = _INTEGERS[code]
                self.stack.append(struct.unpack(form, self._take(struct.calcsize(form)))[0])
            elif code in _LENGTHS:
                text = self._take(self._number(_LENGTHS[code]))
                self.stack.append(text.decode("utf-8", "surrogatepass"))
            elif code in self.operations:
                self.operations[code]()
            else:
                raise CodeError(f"it has an operation that no plain value needs: {code!r}")
        if len(self.stack) != 1:
            raise PickleError("its pickle is damaged: it ends with no single object")
        return self.stack.pop()

    def _take(self, number: int) -> bytes:
        self._spend(number)
        found = self.file.read(number)
        if len(found) != number:
            raise PickleError("it ends early")
        return found

    def _spend(self, number: int) -> None:
        self.room -= number
        if self.room < 0:
            raise PickleError(f"its pickle has more than {MAX_BYTES:,} bytes")

    def _skip(self, number: int) -> None:
        self._take(number)

    def _number(self, size: int) -> int:
        return int.from_bytes(self._take(size), "little")

    def _long(self) -> None:
        self.stack.append(int.from_bytes(self._take(self._number(1)), "little", signed=True))

    def _line(self) -> str:
        line = self.file.readline(MAX_LINE)
        self._spend(len(line))
        if not line.endswith(b"\n"):
            raise PickleError("it ends early")
        return line[:-1].decode("ascii")

    def _put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def _popped(self, number: int) -> list[Any]:
        found = self.stack[-number:]
        if len(found) != number or any(item is _MARK for item in found):
            raise PickleError("its pickle is damaged: its stack is too short")
        del self.stack[-number:]
        return found

    def _tuple(self, number: int) -> None:
        self.stack.append(tuple(self._popped(number)))

    def _marked(self) -> list[Any]:
        found: list[Any] = []
        while (item := self.stack.pop()) is not _MARK:
            found.append(item)
        return found[::-1]

    def _extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise PickleError("its pickle is damaged: it appends to no list")
        self.stack[-1].extend(items)

    def _set(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not dict or len(items) % 2:
            raise PickleError("its pickle is damaged: it sets items of no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | int | None):
                raise PickleError(f"a key in it is a {type(key).__name__}")
            if isinstance(key, int) and not 0 <= key <= MAX_KEY:
                raise PickleError(f"a key in it is not in 0..{MAX_KEY:,}")
            self.stack[-1][key] = value

    def _storage(self) -> None:
        kind, name, key, place, num_items, *view = self.stack.pop()
        text = name.full.removesuffix("Storage").removeprefix("torch ")
        size = 1 if name.full == "torch.storage UntypedStorage" else ITEM_SIZES.get(text)
        is_plain = isinstance(key, str) and isinstance(place, str) and _is_count(num_items)
        if kind != "storage" or size is None or not is_plain or view not in ([], [None]):
            raise PickleError("its tensors have memory of an unknown kind")
        storage = Storage(key, num_items * size, num_items)
        if self.storages.setdefault(key, storage).num_bytes != storage.num_bytes:
            raise PickleError(f"it gives the memory {key!r} two sizes")
        self.stack.append(storage)

    def _call(self) -> None:
        name, arguments = self._popped(2)
        if name.full == _CONTAINER and len(arguments) <= 1:
            pairs = arguments[0] if arguments else []  # Python 2 hands them over here
            self.stack.append({})
            self._set([part for key, value in pairs for part in (key, value)])
        elif name.full in _REBUILDERS:
            self.stack.append(_tensor(*arguments))
        elif name.full == _PARAMETER and isinstance(arguments[0], Tensor):
            self.stack.append(arguments[0])
        elif name.full in _PLAIN:
            self.stack.append(arguments)
        else:
            raise CodeError(f"it calls {name.full.replace(' ', '.')}")

    def _build(self) -> None:
        """Let an OrderedDict have the one attribute of state_dicts; a dict here does without it."""
        state = self.stack.pop()
        if type(self.stack[-1]) is not dict or list(state) != ["_metadata"]:
            raise CodeError("it sets attributes")
        _measure(state, {}, 0)


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *rest: Any) -> Tensor:
    """Return what stands for a tensor; raises PickleError unless each item has its own memory."""
    hooks = rest[1] if len(rest) > 1 else {}
    numbers = (offset, *shape, *stride)
    if not isinstance(storage, Storage) or not all(map(_is_count, numbers)) or hooks:
        raise PickleError("its pickle is damaged: a tensor is made of something else")
    end, least = offset, 1
    for step, number in sorted(zip(stride, shape, strict=True)):
        if number > 1 and step < least:
            raise PickleError(f"the items of a tensor of shape {shape} share their memory")
        end, least = end + step * (number - 1), step * number if number > 1 else least
    if math.prod(shape) and end >= storage.num_items:
        raise PickleError(f"a tensor of shape {shape} is larger than its memory")
    return Tensor(storage, tuple(shape))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**48


def _measure(value: Any, found: dict[int, tuple[int, int]], depth: int) -> tuple[int, int]:
    """Return the number of parts and the height of a structure; raises PickleError beyond limits.

    `found` holds what was measured already, by id: a small pickle can name a part very often.
    """
    if isinstance(value, _Name | Storage | Tensor) or not isinstance(value, dict | list | tuple):
        return 1, 0
    if id(value) in found:
        return found[id(value)]
    if depth == MAX_DEPTH:
        raise PickleError("its structures are nested too deeply")
    found[id(value)] = (MAX_PARTS, MAX_DEPTH)  # until it is known: one that holds itself has both
    parts = value.values() if isinstance(value, dict) else value
    number, height = 1, 0
    for part in parts:
        part_number, part_height = _measure(part, found, depth + 1)
        number, height = number + part_number, max(height, part_height)
        if number > MAX_PARTS or height >= MAX_DEPTH:
            raise PickleError("its structures are nested too deeply or have too many parts")
    found[id(value)] = (number, height + 1)
    return found[id(value)]

"""Files of torch.save that were made to harm, or are another network's: refused, never run."""

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile
import pytest
import torch
from torch import nn

from fmnist import checkpoint, pickled
from fmnist.checkpoint import CheckpointError, ForeignError, OtherWeightsError

pytestmark = pytest.mark.usefixtures("workdir")

PATH = Path("a.ckpt")


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))


def whole() -> dict[str, Any]:
    optimizer = torch.optim.Adam(network().parameters())
    return {
        "state_dict": network().state_dict(),
        "epoch": 1,
        "global_step": 10,
        "optimizer_states": [optimizer.state_dict()],
        "callbacks": {"History": {"rows": [{"epoch": 1, "val/loss": 0.5}], "cut": False}},
        "plain": [None, True, 1, -1, 300, 70_000, 2**40, -(2**70), 1e-3, (), (1,), (1, 2)],
        "texts": ["", "\u00e9" * 300, (1, 2, 3, 4)],
        "parameter": nn.Parameter(torch.ones(2)),
        "strided": torch.arange(12.0).reshape(3, 4).T,
        "part": torch.arange(12)[3:5],
        "types": [torch.zeros(1, dtype=t) for t in (torch.bfloat16, torch.bool, torch.uint8)],
        "size": torch.Size([1, 2]),
        "empty": torch.zeros(0),
        "keys": {0: 1, 2**32: 2, True: 3, None: 4, "a": 5},
    }


@pytest.mark.parametrize("is_archive", [True, False])
def test_what_torch_saves_is_read_as_torch_reads_it(is_archive: bool) -> None:
    PATH.write_bytes(hostile.saved(whole(), _use_new_zipfile_serialization=is_archive))
    found = checkpoint.read_own(PATH, network())
    expected = torch.load(PATH, weights_only=True)
    assert found.keys() == expected.keys()
    for one, other in zip(leaves(found), leaves(expected), strict=True):
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for part in value.values() for leaf in leaves(part)]
    if isinstance(value, list | tuple):
        return [leaf for part in value for leaf in leaves(part)]
    return [value]


@pytest.mark.parametrize("call", hostile.CALLS, ids=lambda call: f"{call[0]}.{call[1]}")
@pytest.mark.parametrize(
    "place", ["root", "state_dict", "optimizer_states", "callbacks", "hyper_parameters"]
)
def test_no_code_runs_wherever_it_is_hidden(call: tuple[Any, ...], place: str) -> None:
    exploit, state = hostile.Exploit(*call), whole()
    if place == "root":
        state = exploit  # type: ignore[assignment]
    elif place == "optimizer_states":
        state[place][0]["state"] = {0: {"step": [exploit]}}
    else:
        state.setdefault(place, {})["x"] = {"y": [exploit]}
    for is_archive in (True, False):
        PATH.write_bytes(hostile.saved(state, _use_new_zipfile_serialization=is_archive))
        with pytest.raises(ForeignError, match=r"it calls .*, which is not run"):
            checkpoint.read(PATH)
    for protocol in hostile.PROTOCOLS:
        PATH.write_bytes(pickle.dumps(exploit, protocol))
        with pytest.raises(CheckpointError):
            checkpoint.read(PATH)
    assert not hostile.CANARY.exists()


def patched(before: bytes, after: bytes) -> Callable[[bytes], bytes]:
    """Return what changes the pickle in an archive."""

    def change(content: bytes) -> bytes:
        return hostile.repacked(
            content,
            lambda name, part: part.replace(before, after, 1) if name.endswith(".pkl") else part,
        )

    return change


def doubled(content: bytes) -> bytes:
    Path("b").write_bytes(content)
    with zipfile.ZipFile("b", "a") as archive:
        archive.writestr(archive.namelist()[0].upper(), b"x")
    return Path("b").read_bytes()


FAULTS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda _: b"", "it is empty"),
    "page": (lambda _: b"<html>", "it is no file of torch.save"),
    "cut": (lambda content: content[: len(content) // 2], "it ends early"),
    "header": (lambda content: content[:4], "it ends early"),
    "bomb": (hostile.bomb, "its parts are packed"),
    "overdrawn": (hostile.overdrawn, r"says 2,147,483,648 bytes, and the file has 48 for it"),
    "laughs": (lambda _: hostile.laughs(), "nested too deeply or have too many parts"),
    "deep": (lambda _: hostile.saved(nested(40)), "nested too deeply"),
    "wide": (lambda _: hostile.saved(torch.zeros(1).expand(1 << 40)), "share their memory"),
    "attribute": (patched(b"_metadata", b"_metadatX"), "it sets attributes"),
    "name": (patched(b"_rebuild_tensor_v2", b"_rebuild_tensor_vX"), "it calls torch._utils"),
    "kind": (patched(b"FloatStorage", b"FloatStoragX"), "memory of an unknown kind"),
    "pickle": (patched(b"\x80\x02", b"\x80"), "its pickle is damaged"),
    "twice": (doubled, "two of its parts have one name"),
    "long": (lambda content: content + b"x", "it ends early"),
    "other": (lambda _: zipped(), "it is no file of torch.save"),
}


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def zipped() -> bytes:
    with zipfile.ZipFile("b", "w") as archive:
        archive.writestr("a/b", b"x")
    return Path("b").read_bytes()


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_damaged_or_lies_about_its_size_is_refused(fault: str) -> None:
    make, match = FAULTS[fault]
    PATH.write_bytes(make(hostile.saved(whole())))
    with pytest.raises(CheckpointError, match=match):
        checkpoint.read(PATH)


def test_a_file_much_larger_than_the_network_is_not_read() -> None:
    """It takes no memory, though it is a whole archive of a tensor."""
    with PATH.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(CheckpointError, match=r"larger than the 67,\d+,\d+ bytes needed at most"):
        checkpoint.read_own(PATH, network())


def test_a_pipe_and_a_folder_are_refused() -> None:
    for name, reason in (("pipe", "Not a regular file"), ("folder", "Is a directory")):
        hostile.special_files()[name](Path(name))
        with pytest.raises(CheckpointError, match=reason):
            checkpoint.read(Path(name))


def change(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def make(state: dict[str, Any]) -> None:
        if key in state:
            state[key] = value
        else:
            state["state_dict"][key] = value

    return make


@pytest.mark.parametrize(
    ("make", "kind", "match"),
    [
        (change("0.weight", torch.zeros(3, 5)), OtherWeightsError, r"0.weight is \[3, 5\], not"),
        (change("0.weight", torch.zeros(3, 4).long()), OtherWeightsError, "is torch.int64, not"),
        (change("0.weight", 1), OtherWeightsError, "0.weight is int, not"),
        (change("0.bias", torch.full((3,), torch.nan)), CheckpointError, "bias holds values that"),
        (change("0.bias", torch.full((3,), torch.inf)), CheckpointError, "that are not finite"),
        (change("x", torch.zeros(1)), OtherWeightsError, "Unexpected: x"),
        (lambda state: state["state_dict"].pop("0.bias"), OtherWeightsError, "Missing: 0.bias"),
        (lambda state: state.pop("state_dict"), CheckpointError, "it holds no state_dict"),
        (change("state_dict", [1]), CheckpointError, "it holds no state_dict"),
        (change("epoch", -1), CheckpointError, "its epoch must be a count, got -1"),
        (change("epoch", "x"), CheckpointError, "its epoch must be a count, got 'x'"),
        (change("global_step", None), CheckpointError, "its global_step must be a count"),
    ],
)
def test_weights_that_are_not_the_networks_are_refused(
    make: Callable[[dict[str, Any]], Any], kind: type[CheckpointError], match: str
) -> None:
    """Not a number among them too: a training stops before its weights are such."""
    state = whole()
    make(state)
    torch.save(state, PATH)
    with pytest.raises(kind, match=match):
        checkpoint.read_own(PATH, network())


def test_a_pickle_is_read_without_making_what_it_declares() -> None:
    state = {"a": torch.zeros(2, 3), "b": [torch.ones(4).half()]}
    PATH.write_bytes(hostile.saved(state))
    with zipfile.ZipFile(PATH) as archive, archive.open("archive/data.pkl") as file:
        root, storages = pickled.read(file)
    assert root["a"].shape == (2, 3)
    assert {key: storage.num_bytes for key, storage in storages.items()} == {"0": 24, "1": 8}


def test_files_that_python_2_wrote_are_read() -> None:
    """As torch reads them: texts are bytes there, and an OrderedDict is called with its pairs."""
    body = b"\x80\x02ccollections\nOrderedDict\n](](U\x01aK\x01e](U\x01bK\x02ee\x85R."
    assert pickle.loads(body) == {"a": 1, "b": 2}
    assert pickled.read(io.BytesIO(body))[0] == {"a": 1, "b": 2}


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize(
    ("body", "match"),
    [
        (b"}" * (pickled.MAX_OPERATIONS + 1), "its pickle has more than 1,000,000 operations"),
        (b"X\x00\x00\x00\xff" + bytes(100), "its pickle has more than 4,194,304 bytes"),
    ],
)
def test_each_pickle_of_the_older_form_is_bounded(body: bytes, match: str, place: int) -> None:
    """The magic number, the protocol, the machine, the objects and the keys of their memory."""
    parts = [pickle.dumps(part, 2) for part in (checkpoint._MAGIC, checkpoint._PROTOCOL, {}, {})]
    PATH.write_bytes(b"".join([*parts[:place], b"\x80\x02" + body + b"."]))
    with pytest.raises(CheckpointError, match=match):
        checkpoint.read(PATH)


def test_names_of_a_pickle_count_towards_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickled, "MAX_BYTES", 20)
    with pytest.raises(pickled.PickleError, match="more than 20 bytes"):
        pickled.read(io.BytesIO(b"\x80\x02c" + b"a" * 30 + b"\nb\n."))


@pytest.mark.parametrize(
    ("key", "match"),
    [
        (2**61 - 1, r"a key in it is not in 0\.\.4,294,967,296"),
        (-1, "a key in it is not in"),
        (2.0**61, "a key in it is a float"),
    ],
)
def test_keys_that_can_share_a_hash_are_refused(key: Any, match: str) -> None:
    """A dict of such takes a time that grows with the square of their number."""
    PATH.write_bytes(hostile.saved({key: 1}))
    with pytest.raises(CheckpointError, match=match):
        checkpoint.read(PATH)


@pytest.mark.parametrize(
    ("body", "match"),
    [
        (b"\x80\x02K\x01", "it ends early"),
        (b"\x80\x02(K\x01.", "ends with no single object"),
        (b"\x80\x02K\x01a.", "its stack is damaged|IndexError"),
        (b"\x80\x02}K\x01a.", "it appends to no list"),
        (b"\x80\x02K\x01K\x02K\x03s.", "it sets items of no dict"),
        (b"\x80\x02}](K\x01es.", "pickle is damaged"),
        (b"\x80\x02}]K\x01s.", "a key in it is a list"),
        (b"\x80\x02h\x05.", "KeyError"),
        (b"\x80\x02ctorch", "it ends early"),
        (b"\x80\x02\x85.", "its stack is too short"),
        (b"\x80\x02K\x01Q.", "its pickle is damaged"),
        (b"\x80\x02S'a'\n.", "an operation that no plain value needs"),
        (b"\x80\x02]q\x00h\x00a.", "nested too deeply"),
    ],
)
def test_a_pickle_that_makes_no_sense_is_refused(body: bytes, match: str) -> None:
    with pytest.raises(pickled.PickleError, match=match):
        pickled.read(io.BytesIO(body))

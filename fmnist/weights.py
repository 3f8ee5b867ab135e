"""The weights that a run of model=transfer starts from: torchvision's, a file's or another run's.

Only the start of a run reads them. What run.json keeps (name, sha256, the network of a run) and the
run's own checkpoints are all that resuming and loading need.
"""

import contextlib
import hashlib
import os
import re
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlparse

import torch
from torch import Tensor, nn
from torchvision import models

from fmnist import build, checkpoint, consent, fitting, record, revival, schema
from fmnist.classifier import Classifier
from fmnist.errors import UsageError, UserError
from fmnist.fitting import State
from fmnist.messages import suggest
from fmnist.model import load_model
from fmnist.models import last_layer
from fmnist.vision import DEFAULT_ARCH

TARGET = "fmnist.vision.transfer"
TIMEOUT_S = 30  # of a download, without a sign of life
SUFFIXES = (".pth", ".pt", ".ckpt")
_WRAPPERS = ("state_dict", "model")  # where checkpoints of Lightning and torchvision keep theirs
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.(?=[12]\.)")  # as torchvision's


class Given(NamedTuple):
    """Weights by the names they have in the network, and what the record tells of them."""

    state: State
    facts: dict[str, Any]


def begin(
    config: Mapping[str, Any], begun: record.Record | None
) -> tuple[Classifier, dict[str, Any] | None]:
    """Build what trains, with the weights it starts from, and return what to record of those.

    `begun` is the record of a run that goes on from its checkpoint: then nothing is read here.

    Raises:
        UsageError: there are no such weights, or they are not for this network.
        UserError: they cannot be downloaded or read.
    """
    model = config["model"]
    if begun is not None:
        return build.classifier(config, revival.weights(begun, consent.is_given())), None
    if model["_target_"] != TARGET or model["weights"] is None:
        return build.classifier(config), None
    path, is_folder = _place(model["weights"])
    if is_folder:
        given = _of_run(config, path)
        module = build.classifier(config, given.facts)
    else:
        module = build.classifier(config)
        given = _of_torchvision_or_file(model, path, module.net)
    module.net.load_state_dict(given.state, strict=False)  # lacks the last layer, which is new
    return module, given.facts


def _place(typed: str) -> tuple[Path, bool]:
    """Return what `typed` is as a path, and whether a folder is there.

    Raises UsageError for what can be no path, and for runs/latest: tomorrow it is another run.
    """
    try:
        path = Path(typed).expanduser()
        is_folder = path.is_dir()
        links = [p for p in (path, *path.parents) if p.name == "latest" and p.is_symlink()]
    except (OSError, RuntimeError, ValueError) as error:  # too long, not ours to look at; ~nobody
        reason = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise UsageError(
            f"model.weights={typed} cannot be looked up ({reason}). Give the path of a file or of "
            "a run folder, or a name of torchvision's such as DEFAULT."
        ) from None
    if links:
        inside = path.relative_to(links[0])
        run = links[0].parent / links[0].readlink() / inside
        raise UsageError(
            f"model.weights={typed} is the link to the newest run, which changes. "
            f"Name the run itself: model.weights={run}"
        )
    return path, is_folder


def _of_torchvision_or_file(model: Mapping[str, Any], path: Path, net: nn.Module) -> Given:
    typed, arch = model["weights"], model["arch"] or DEFAULT_ARCH
    kind = models.get_model_weights(arch)
    entries = dict(kind.__members__)
    name = typed.removeprefix(f"{kind.__name__}.")
    if name in entries:
        return _of_torchvision(arch, entries[name], model, net)
    if path.is_file():
        return _of_file(arch, path, model, net)
    if "/" in typed or typed.endswith(SUFFIXES):
        raise UsageError(f"model.weights={typed}: there is no such file or run folder here.")
    raise UsageError(
        f"model.weights={typed} is no file or run folder here, and no weights of {arch}."
        f"{suggest(typed, entries)}"
    )


def _of_torchvision(arch: str, entry: Any, model: Mapping[str, Any], net: nn.Module) -> Given:
    """Take the weights from torchvision's folder, downloaded if they are not there."""
    name, url = f"{type(entry).__name__}.{entry.name}", entry.url
    file = Path(urlparse(url).path).name
    path = Path(torch.hub.get_dir()) / "checkpoints" / file
    prefix = re.search(r"-([0-9a-f]{8,})\.", file)
    if not path.exists():
        try:
            _download(url, path, prefix[1] if prefix else None)
        except Exception as error:  # of urllib, a socket, the disk
            raise UserError(
                f"Cannot download model.weights={name} ({_first(error)}). Fetch {url} elsewhere "
                f"and put it into {path.parent}, or say model.weights=PATH/{file}."
            ) from None
    digest = _sha256(path)
    if prefix and not digest.startswith(prefix[1]):
        raise _damaged(path, f"its sha256 does not begin with {prefix[1]}")
    try:
        checkpoint.read(path)
        with _weights_only():
            theirs = models.get_model(arch, weights=entry, progress=False)
    except Exception as error:  # torch's half a dozen
        raise _damaged(path, _first(error)) from None
    preset = entry.transforms()
    state = fitting.renamed(theirs.state_dict(), arch, model, net)
    state |= fitting.statistics(
        model, {"mean": torch.tensor(preset.mean), "std": torch.tensor(preset.std)}
    )
    return Given(state, {"source": "torchvision", "name": name, "file": file, "sha256": digest})


def _damaged(path: Path, reason: str) -> UserError:
    return UserError(
        f"{path} is damaged ({reason}). Delete it, then type the same line again: it is fetched "
        "anew."
    )


def _download(url: str, path: Path, prefix: str | None) -> None:
    """Fetch a file, keeping stdout for answers; a server that says nothing is an error.

    torchvision would fetch and load in one, and look at the sha256 of what it fetched only.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_S)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), prefix, sys.stderr.isatty())
    finally:
        socket.setdefaulttimeout(before)


@contextlib.contextmanager
def _weights_only() -> Iterator[None]:
    """Let torchvision, which asks torch.load for code too, be given tensors only."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = dict(os.environ)
    os.environ[name] = "1"
    os.environ.pop(name.replace("FORCE", "FORCE_NO"), None)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _of_file(arch: str, path: Path, model: Mapping[str, Any], net: nn.Module) -> Given:
    """Take the weights of a state_dict, as it is or in a checkpoint of Lightning, torchvision's."""
    typed = model["weights"]
    try:
        loaded = checkpoint.read(path, checkpoint.room(net))
    except checkpoint.ForeignError as error:
        raise UserError(
            f"model.weights={typed} holds other objects than tensors ({error}). "
            "Save the state_dict alone: torch.save(net.state_dict(), PATH)."
        ) from None
    except checkpoint.CheckpointError as error:
        raise UserError(
            f"model.weights={typed} is damaged or no file of torch.save ({error}). Fetch it again."
        ) from None
    for key in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping):
        raise UserError(
            f"model.weights={typed} holds no state_dict, but a {type(loaded).__name__}."
        )
    state = {str(k): v for k, v in loaded.items() if isinstance(v, Tensor)}
    prefix = fitting.prefix(state, net.get_submodule("net"))
    inner = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    own, outer = {}, prefix.removesuffix("net.")  # of a checkpoint of ours
    if f"{outer}normalise.mean" in state:
        own = {k: state[f"{outer}normalise.{k}"].flatten() for k in ("mean", "std")}
    elif f"{outer}colour.scale.divisor" in state:  # -1..1
        own = dict.fromkeys(("mean", "std"), torch.full((3,), 0.5))
    taken = fitting.renamed(
        {_OLD_DENSENET.sub(r"\1", k): v for k, v in inner.items()}, arch, model, net
    )
    facts = {"source": "file", "name": typed, "file": path.name, "sha256": _sha256(path)}
    return Given(taken | fitting.statistics(model, own), facts)


def _of_run(config: Mapping[str, Any], folder: Path) -> Given:
    """Take the network of another run, first layer included; only the last layer is new."""
    model, typed = config["model"], config["model"]["weights"]
    try:
        source = load_model(folder, consent.is_given())
    except UserError as error:
        raise UserError(f"model.weights={typed}: {error}") from None
    _check_unseen(typed, source.config["data"], config["data"])
    network = (source.run.data.get("weights") or {}).get("network") or source.config["model"]
    network = {**network, **({"weights": None} if network["_target_"] == TARGET else {})}
    if given := [key for key in ("size_px", "mean", "std") if model[key] is not None]:
        raise UsageError(
            f"model.{given[0]} must be null where model.weights={typed} is a run, whose own first "
            "layer is taken."
        )
    if model["arch"] not in (None, arch := _arch(network)):
        raise UsageError(
            f"model.weights={typed} is a run of {arch}, not of model.arch={model['arch']}. "
            "Leave model.arch out, or take other weights."
        )
    net = source.classifier.net
    try:
        head = last_layer(net)[0]
    except ValueError as error:
        raise UsageError(f"model.weights={typed}: {error} Take another run.") from None
    state = {k: v for k, v in net.state_dict().items() if not k.startswith(f"{head}.")}
    digest = _sha256(folder / "checkpoints" / "best.ckpt")
    facts = {"source": "run", "name": typed, "file": "best.ckpt", "sha256": digest}
    return Given(state, {**facts, "network": network})


def _check_unseen(typed: str, theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """Refuse the weights of a run that saw what this one is measured on.

    `theirs` and `ours` are the configs of the data. What a run itself started from was compared
    with it in the same way.
    """
    if ours["val_from"] == "test":
        return  # says of itself that it selects on the test set
    if theirs["val_from"] == "test":
        raise UsageError(
            f"model.weights={typed} was selected on the test set (data.val_from=test), which is to "
            "stay unseen here. Take another run, or set data.val_from=test data.val_size=0."
        )
    keys = ("val_size", "split_seed")
    if schema.has_validation(ours) and any(theirs[key] != ours[key] for key in keys):
        split = " ".join(f"data.{key}={theirs[key]}" for key in keys)
        raise UsageError(
            f"model.weights={typed} has trained on images that validate here. Set data.val_size "
            f"and data.split_seed as there: {split}."
        )


def _arch(network: Mapping[str, Any]) -> str:
    """Name a network as torchvision does where it is one of it, else as the config does."""
    name = str(network["_target_"].rpartition(".")[2])
    if name == "mobilenet_v3":
        return f"{name}_{network['size']}"
    return str(network.get("arch") or (DEFAULT_ARCH if name == "transfer" else name))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:100]}" if lines else type(error).__name__

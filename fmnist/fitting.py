"""Whether given weights are those of a network of torchvision, and by what names it knows them."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from fmnist.errors import UsageError, UserError
from fmnist.models import last_layer

_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")  # heads of GoogLeNet and Inception, training only
State = dict[str, Tensor]


def prefix(state: State, net: nn.Module) -> str:
    """Return what stands before the names of `net` in `state`, such as `module.`."""
    names = [name for name, _ in net.named_parameters()]
    ends = {key[: -len(names[0])] for key in state if f".{key}".endswith(f".{names[0]}")}
    return max(sorted(ends), key=lambda e: sum(e + n in state for n in names), default="")


def renamed(state: State, arch: str, model: Mapping[str, Any], net: nn.Module) -> State:
    """Return the weights of torchvision's `arch` in `state` by their names in `net`, less the last.

    Raises UsageError where they are those of another network.
    """
    inner = net.get_submodule("net")
    head = last_layer(inner)[0] + "."
    wanted = {k: v for k, v in inner.state_dict().items() if not k.startswith(head)}
    found = {k: v for k, v in state.items() if not k.startswith((head, *_AUXILIARY))}
    missing = [k for k in wanted if k not in found and not k.endswith("num_batches_tracked")]
    strange = [k for k in found if k not in wanted]
    differing = [k for k in wanted if k in found and found[k].shape != wanted[k].shape]
    says = f"model.weights={model['weights']} does not fit {arch}: "
    if missing or strange:
        what = f"{missing[0]} is missing" if missing else f"{strange[0]} is not in it"
        raise UsageError(f"{says}{what}. Set model.arch to the network they are of.")
    if differing:
        name = differing[0]
        shapes = f"{name} is {tuple(found[name].shape)}, not {tuple(wanted[name].shape)}"
        raise UsageError(f"{says}{shapes}. {_remedy(name, found[name], wanted[name])}")
    if bad := [k for k, v in found.items() if v.is_floating_point() and not v.isfinite().all()]:
        raise UserError(f"{says}{bad[0]} holds values that are not finite. Take other weights.")
    return {f"net.{k}": v for k, v in found.items()}


def _remedy(name: str, found: Tensor, wanted: Tensor) -> str:
    """Say what to do about a weight of another shape."""
    if "position" in name or name.endswith("pos_embedding"):
        return "Set model.size_px to that of the weights, 224 for most."
    if (
        found.ndim == wanted.ndim == 4
        and found.shape[2:] == wanted.shape[2:]
        and (found.shape[0] == wanted.shape[0])
    ):
        return (
            f"For images of {found.shape[1]} channels give that many values to model.mean and "
            "model.std."
        )
    return "Set model.arch to the network they are of."


def statistics(model: Mapping[str, Any], own: State) -> State:
    """Return the first layer's mean and std: what the config says, else the weights' own if any."""
    return {
        f"normalise.{name}": value.view(1, -1, 1, 1)
        for name, value in own.items()
        if model[name] is None
    }

"""Arguments of networks, optimizers and schedules; the kinds of values of every section.

Values stand in conf/, their units in its comments. tests/test_schema.py compares this with the
signatures of what is built.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]
Width = Annotated[int, Field(ge=1, le=65_536)]  # channels, units; more of them fit in no memory
Depth = Annotated[int, Field(ge=1, le=1000)]
Share = Annotated[float, Field(ge=0, le=1)]
Dropout = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Betas = Annotated[list[Decay], Field(min_length=2, max_length=2)]
Limit = Annotated[int, Field(ge=0)] | Share
Init = Literal["torch", "keras"]


class Section(BaseModel):
    """Base of all sections: no unknown key, no conversion, no NaN or infinity."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Cnn(Section):
    channels: Annotated[list[Width], Field(min_length=2, max_length=2)]
    hidden: Width
    dropout: Dropout
    init: Init


class Mlp(Section):
    widths: Annotated[list[Width], Field(max_length=100)]
    dropout: Dropout
    init: Init


class CnnBn(Section):
    channels: Annotated[list[Width], Field(min_length=2, max_length=2)]
    hidden: Width
    dropout: Dropout


class WideResnet(Section):
    depth: Depth
    width: Width
    dropout: Dropout


class Speedrun(Section):
    stem: Width
    channels: Annotated[list[Width], Field(min_length=3, max_length=3)]


class Resnet18(Section):
    pass


class MobilenetV3(Section):
    size: Literal["small", "large"]
    dropout: Dropout


class Torchvision(Section):
    arch: str
    size_px: int = Field(ge=28, le=512)


class Transfer(Section):
    arch: str | None
    weights: Annotated[str, Field(min_length=1)] | None
    size_px: Annotated[int, Field(ge=28, le=512)] | None
    mean: list[Share] | None
    std: list[Annotated[float, Field(gt=0, le=1)]] | None


class AdamW(Section):
    betas: Betas
    eps: Positive
    weight_decay: NonNegative
    amsgrad: bool = False
    fused: bool | None = None
    foreach: bool | None = None
    capturable: bool = False
    differentiable: bool = False
    maximize: Literal[False] = False


class Adam(AdamW):
    decoupled_weight_decay: bool = False


class SGD(Section):
    momentum: Decay
    nesterov: bool
    weight_decay: NonNegative
    dampening: NonNegative = 0.0
    fused: bool | None = None
    foreach: bool | None = None
    differentiable: bool = False
    maximize: Literal[False] = False


class Muon(Section):
    momentum: Decay
    nesterov: bool
    weight_decay: NonNegative
    ns_steps: int = Field(ge=1, le=7)
    adam_share: Positive
    betas: Betas
    eps: Positive


class OneCycle(Section):
    warmup: Share
    start: Share
    end: Share


class Linear(OneCycle):
    pass


class Step(Section):
    warmup: Share
    milestones: list[Share]
    factor: Annotated[float, Field(gt=0, lt=1)]


class Constant(Section):
    pass


# `_target_` -> what its arguments must be. Any other is a user's own, checked when it is built.
MODELS: dict[str, type[Section]] = {
    "fmnist.models.cnn": Cnn,
    "fmnist.models.cnn_bn": CnnBn,
    "fmnist.models.mlp": Mlp,
    "fmnist.models.wide_resnet": WideResnet,
    "fmnist.speedrun.speedrun": Speedrun,
    "fmnist.vision.resnet18": Resnet18,
    "fmnist.vision.mobilenet_v3": MobilenetV3,
    "fmnist.vision.classifier": Torchvision,
    "fmnist.vision.transfer": Transfer,
}
OPTIMIZERS: dict[str, type[Section]] = {
    "torch.optim.Adam": Adam,
    "torch.optim.AdamW": AdamW,
    "torch.optim.SGD": SGD,
    "fmnist.muon.Muon": Muon,
}
SCHEDULES: dict[str, type[Section]] = {
    "fmnist.schedules.one_cycle": OneCycle,
    "fmnist.schedules.linear": Linear,
    "fmnist.schedules.step": Step,
    "fmnist.schedules.constant": Constant,
}


# Sections whose arguments depend on their `_target_`.
TARGETS: dict[str, dict[str, type[Section]]] = {
    "model": MODELS,
    "optim.optimizer": OPTIMIZERS,
    "optim.schedule": SCHEDULES,
}

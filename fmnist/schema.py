"""What a config may hold: keys, types, ranges and choices.

Values stand in conf/, their units in its comments. Constructors repeat none of this;
tests/test_schema.py compares it with their signatures.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from fmnist.arguments import TARGETS, Count, Limit, NonNegative, Positive, Section, Share


class Data(Section):
    dir: str | None
    source: str | None
    batch_size: int = Field(ge=1, le=60_000)
    val_size: int = Field(ge=0, le=59_999)
    val_from: Literal["train", "test"]
    split_seed: int = Field(ge=0, lt=2**63)


class Augment(Section):
    flip: bool
    max_shift_px: int = Field(ge=0, le=27)
    max_rotate_deg: float = Field(ge=0, le=180)
    max_scale: float = Field(ge=0, lt=1)
    erase_px: int = Field(ge=0, le=28)
    cutmix: Share
    test_flip: bool


class Optim(Section):
    lr: Positive
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    decay: Literal["weights", "all"]
    optimizer: dict[str, Any]
    schedule: dict[str, Any]


class EarlyStopping(Section):
    patience: Annotated[int, Field(ge=0)] | None
    min_delta: NonNegative


class Ema(Section):
    decay: Annotated[float, Field(gt=0, lt=1)] | None


class Finetuning(Section):
    frozen_epochs: Annotated[int, Field(ge=0)] | None
    lr_ratio: Annotated[float, Field(gt=0, le=1)]


class Callbacks(Section):
    early_stopping: EarlyStopping
    ema: Ema
    finetuning: Finetuning


class Logger(Section):
    kind: Literal["tensorboard", "csv", "none"]


class Trainer(Section):
    """Arguments of pytorch_lightning.Trainer 2.6; an absent one keeps Lightning's default."""

    max_epochs: Count
    check_val_every_n_epoch: Count
    log_every_n_steps: Count
    num_sanity_val_steps: int = Field(ge=-1)
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps", "tpu"] = "auto"
    strategy: str = "auto"
    devices: Annotated[int, Field(ge=-1)] | Literal["auto"] | list[int] | str = "auto"
    num_nodes: Count = 1
    precision: (
        Literal[16, 32, 64]
        | Literal["16-true", "16-mixed", "bf16-true", "bf16-mixed", "32-true", "64-true"]
        | Literal["transformer-engine", "transformer-engine-float16", "auto"]
        | None
    ) = None
    fast_dev_run: bool | Count = False
    min_epochs: Count | None = None
    max_steps: Annotated[int, Field(ge=-1)] = -1
    min_steps: Count | None = None
    max_time: str | dict[str, int] | None = None
    limit_train_batches: Limit | None = None
    limit_val_batches: Limit | None = None
    limit_test_batches: Limit | None = None
    limit_predict_batches: Limit | None = None
    overfit_batches: Limit = 0
    val_check_interval: Annotated[int, Field(ge=1)] | Share | str | dict[str, int] | None = None
    enable_progress_bar: bool | None = None
    enable_model_summary: bool | None = None
    accumulate_grad_batches: Count = 1
    gradient_clip_val: NonNegative | None = None
    gradient_clip_algorithm: Literal["norm", "value"] | None = None
    deterministic: bool | Literal["warn"] | None = None
    benchmark: bool | None = None
    inference_mode: bool = True
    use_distributed_sampler: bool = True
    profiler: Literal["simple", "advanced", "pytorch"] | None = None
    detect_anomaly: bool = False
    sync_batchnorm: bool = False
    reload_dataloaders_every_n_epochs: Annotated[int, Field(ge=0)] = 0


# Arguments of Trainer that fmnist sets itself, and what to use in their place.
RESERVED_TRAINER_KEYS = {
    "logger": "Use logger=tensorboard | csv | none.",
    "callbacks": "Use callbacks=...; other callbacks are added in fmnist/build.py.",
    "default_root_dir": "Use name=...; a run's folder is runs/<name>.",
    "enable_checkpointing": "Use checkpoints=all | best | none.",
    "barebones": "Use logger=none figures=none for a bare run.",
    "plugins": "Use trainer.precision and trainer.strategy.",
    "model_registry": "Use scripts/export.py to hand a model on.",
    "enable_autolog_hparams": "The config is always logged.",
}


class Root(Section):
    name: Annotated[str, Field(min_length=1)] | None
    seed: int = Field(ge=0, le=2**32 - 1)
    metric: Literal["val/acc", "val/loss"]
    select: Literal["best", "last"]
    test: bool | Literal["auto"]
    figures: Literal["all", "curves", "none", "auto"]
    checkpoints: Literal["all", "best", "none", "auto"]
    note: str | None
    data: Data
    augment: Augment
    model: dict[str, Any]
    optim: Optim
    callbacks: Callbacks
    logger: Logger
    trainer: Trainer


class Grid(Section):
    params: dict[str, Any] | None
    cases: dict[str, Any] | None
    dry_run: bool


class Search(Grid):
    n_trials: Count
    n_jobs: Count
    sampler: Literal["tpe", "random"]
    n_startup_trials: Annotated[int, Field(ge=0)]
    pruner: Literal["median", "hyperband", "none"]
    n_warmup_trials: Count
    n_warmup_epochs: Annotated[int, Field(ge=0)]
    trial: Annotated[int, Field(ge=0)] | None


class LocalLauncher(Section):
    pass


class PoolLauncher(Section):
    workers: Count | None
    threads: Count | None


# A word of an option of sbatch, which reads its options from lines of the script.
SlurmWord = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:,=+@/*\[\]-]+$")]
SlurmOption = Annotated[str, Field(pattern=r"^--[A-Za-z0-9._:,=+@/*\[\]&|!()-]+$")]
ShellLine = Annotated[str, Field(pattern=r"^[^\n\r\x00]*$")]


class SlurmLauncher(Section):
    partition: SlurmWord | None
    account: SlurmWord | None
    qos: SlurmWord | None
    time_min: Count
    nodes: Count | None
    tasks: Count | None
    gpus: Annotated[int, Field(ge=0)] | None
    cpus: Count
    memory_gb: Annotated[float, Field(gt=0)] | None
    throttle: Count | None
    workers: Count
    max_restarts: Annotated[int, Field(ge=0)]
    stop_s: Annotated[int, Field(ge=10)]
    wait: bool
    setup: list[ShellLine]
    container: list[ShellLine]
    python: ShellLine | None
    extra: list[SlurmOption]


SWEEPERS: dict[str, type[Section]] = {
    "hydra_plugins.fmnist.Grid": Grid,
    "hydra_plugins.fmnist.Search": Search,
}
LAUNCHERS: dict[str, type[Section]] = {
    "hydra_plugins.fmnist.LocalLauncher": LocalLauncher,
    "hydra_plugins.fmnist.PoolLauncher": PoolLauncher,
    "hydra_plugins.fmnist.SlurmLauncher": SlurmLauncher,
}


def has_validation(data: Mapping[str, Any]) -> bool:
    """Say whether the section `data` of a config gives images to validate on."""
    return bool(data["val_size"] > 0 or data["val_from"] == "test")


def all_keys() -> dict[str, Any]:
    """Return every flat key a config of ours can hold, with its default, "" where it has none."""
    keys = _defaults(Root, "")
    for section, known in TARGETS.items():
        del keys[section]
        keys[f"{section}._target_"] = ""
        for model in known.values():
            keys |= dict.fromkeys(_defaults(model, f"{section}."), "")
    return keys


def trainer_defaults() -> dict[str, Any]:
    """Return Lightning's defaults of the Trainer's arguments, as flat keys."""
    fields = Trainer.model_fields
    return {f"trainer.{k}": f.default for k, f in fields.items() if not f.is_required()}


def _defaults(model: type[BaseModel], prefix: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= _defaults(field.annotation, f"{prefix}{name}.")
        else:
            found[prefix + name] = "" if field.is_required() else field.default
    return found


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested mappings into one level of dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat

"""From a checked config to the objects of a run. Imports torch, so run.py calls it late."""

import contextlib
import functools
import logging
import os
import random
import traceback
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import hydra.utils
import numpy as np
import pytorch_lightning as pl
import torch
from hydra._internal.utils import _locate
from hydra.errors import InstantiationException
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning.callbacks import EarlyStopping, EMAWeightAveraging
from pytorch_lightning.profilers import AdvancedProfiler, Profiler, PyTorchProfiler, SimpleProfiler
from pytorch_lightning.utilities import rank_zero_only
from torch import nn

from fmnist import arguments, consent, process, schema, seeds
from fmnist.augment import Augment
from fmnist.classifier import Classifier, Schedule
from fmnist.cluster import Alone, Environment, check_processes
from fmnist.data import FashionMNISTData
from fmnist.errors import UsageError
from fmnist.finetuning import Finetuning
from fmnist.launch import Launch
from fmnist.messages import first_line
from fmnist.models import NUM_CLASSES, last_layer
from fmnist.reading import expanded

# What Lightning and torch say to people who did nothing wrong; each with its reason.
QUIET = (
    r".*does not have many workers.*",  # batches are indexed in memory, there are no workers
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",  # Lightning 2.6 on torch >= 2.9
    r".*GPU available but not used.*",  # trainer=cpu is a choice
    r".*`srun` command is available.*",  # a SLURM client on a workstation is no mistake
    r".*Checkpoint directory .* exists and is not empty.*",  # resuming is what it is for
    r".*The number of training batches .* is smaller than the logging interval.*",
    r".*Experiment logs directory .* exists and is not empty.*",
    r".*It is recommended to use `self.log\(.*sync_dist=True.*",  # a Tally is synced by itself
    r".*Grad strides do not match bucket view strides.*",  # channels_last is faster all the same
    r".*lr_scheduler.step\(\).*before.*optimizer.step\(\).*",  # a resumed scheduler
)

PROJECT = Path(__file__).resolve().parents[1]


def data(config: Mapping[str, Any]) -> FashionMNISTData:
    values = config["data"]
    folder = values["dir"] or os.environ.get("FMNIST_DATA") or PROJECT / "data"
    return FashionMNISTData(
        data_dir=expanded("data.dir or FMNIST_DATA", folder),
        source=expanded("data.source", values["source"]) if values["source"] else None,
        batch_size=values["batch_size"],
        val_size=values["val_size"],
        val_from=values["val_from"],
        split_seed=values["split_seed"],
        seed=config["seed"],
        augment=Augment(**{k: v for k, v in config["augment"].items() if k != "test_flip"}),
    )


def net(config: Mapping[str, Any], weights: Mapping[str, Any] | None = None) -> nn.Module:
    """Build the network with weights drawn from `seed`, leaving the global generator as it was.

    `weights` is what the run's record tells of those it started from: another run's are for the
    network of that run.
    """
    values = (weights or {}).get("network") or config["model"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.derive(config["seed"], "weights"))
        if values["_target_"] not in arguments.MODELS:
            _check_own_class(values["_target_"])
        built: nn.Module = _instantiate("model", values)
    if values["_target_"] not in arguments.MODELS:
        _check_own_network(built)
    # Convolutions on the CPU take a third less time in this layout (2 cores, AVX-512, 2026-11-22).
    return built.to(memory_format=torch.channels_last)


def _check_own_class(target: str) -> None:
    """Refuse, before anything is called, what is no class of networks; raises UsageError."""
    consent.let_import_here()
    try:
        found = _locate(target)  # hydra.utils.get_object, which also logs what it raises
    except Exception as error:  # importing a user's module can raise anything
        cause = error.__cause__ or error
        reason = " ".join(str(cause).split())
        raise UsageError(f"model._target_={target} cannot be imported: {reason}") from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise UsageError(f"model._target_={target} must be a subclass of torch.nn.Module.")


def _check_own_network(net: nn.Module) -> None:
    """Pass two images through a user's network; raises UsageError unless it gives 2 x 10 logits."""
    images = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
    with torch.no_grad():
        try:
            shape = tuple(net.eval()(images).shape)
        except Exception as error:  # anything at all can be wrong inside
            place = traceback.extract_tb(error.__traceback__)[-1]
            raise UsageError(
                f"model: {type(net).__name__} fails on uint8 images (2, 1, 28, 28): "
                f"{type(error).__name__}: {error} ({place.filename}, line {place.lineno})."
            ) from error
        finally:
            net.train()
    if shape != (2, NUM_CLASSES):
        raise UsageError(
            f"model: {type(net).__name__} must turn images (B, 1, 28, 28) into logits "
            f"(B, {NUM_CLASSES}), got {shape} for B = 2."
        )


def classifier(config: Mapping[str, Any], weights: Mapping[str, Any] | None = None) -> Classifier:
    """Build what trains and predicts; `weights` as for `net`."""
    optim, built = config["optim"], net(config, weights)
    finetuning = config["callbacks"]["finetuning"]
    if has_backbone := finetuning["frozen_epochs"] is not None:
        try:
            last_layer(built)
        except ValueError as error:
            raise UsageError(
                f"callbacks.finetuning: {error} Set callbacks.finetuning.frozen_epochs=null."
            ) from None
    return Classifier(
        net=built,
        optimizer=_instantiate("optim.optimizer", {**optim["optimizer"], "_partial_": True}),
        lr=optim["lr"],
        schedule=_schedule(optim["schedule"]),
        label_smoothing=optim["label_smoothing"],
        decays_all=optim["decay"] == "all",
        backbone_ratio=finetuning["lr_ratio"] if has_backbone else None,
        seed=config["seed"],
        test_flip=config["augment"]["test_flip"],
    )


def _schedule(values: Mapping[str, Any]) -> Schedule:
    """Bind the arguments; Hydra's own partial checks its target anew, 60 us of every step."""
    function = hydra.utils.get_method(values["_target_"])
    return functools.partial(function, **{k: v for k, v in values.items() if k[0] != "_"})


def check_trainer(config: Mapping[str, Any], launch: Launch | None = None) -> int:
    """Refuse at once a device this machine does not have, or arguments Lightning does not take.

    Returns the number of processes that train.

    Raises:
        UsageError: before data or folders are touched.
    """
    accelerator = config["trainer"].get("accelerator", "auto")
    has = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    has["gpu"] = has["cuda"] or has["mps"]
    if accelerator in has and not has[accelerator]:
        kind = "CUDA or MPS device" if accelerator == "gpu" else f"{accelerator.upper()} device"
        raise UsageError(
            f"trainer.accelerator={accelerator} needs a {kind}, and torch {torch.__version__} "
            "finds none here. Use trainer=cpu or trainer=auto, or check the driver with nvidia-smi."
        )
    environment = Environment(launch) if launch else None
    tried = trainer(config, Path(), [], None, environment)
    return check_processes(tried, config, launch)


def trainer(
    config: Mapping[str, Any],
    folder: Path,
    callbacks: list[pl.Callback],
    logger: pl.loggers.Logger | None,
    environment: Environment | None = None,
) -> pl.Trainer:
    """Build the Trainer; raises UsageError with Lightning's words for arguments that do not fit.

    `environment` knows the processes that train together, None where this one is alone.
    """
    arguments: dict[str, Any] = dict(config["trainer"])
    if arguments.get("profiler"):
        arguments["profiler"] = _profiler(arguments["profiler"], folder)
    callbacks = [*_chosen_callbacks(config), *callbacks]
    if arguments.get("precision") == "auto":
        arguments["precision"] = process.fastest_precision(arguments.get("accelerator", "auto"))
    if not schema.has_validation(config["data"]):
        arguments["limit_val_batches"] = 0
    has_bar = any(isinstance(c, pl.callbacks.ProgressBar) for c in callbacks)
    arguments = {"enable_model_summary": False, **arguments, "enable_progress_bar": has_bar}
    try:
        return pl.Trainer(
            logger=logger or False,
            callbacks=callbacks,
            plugins=[environment or Alone()],  # or Lightning would look for a cluster itself
            default_root_dir=folder,
            enable_autolog_hparams=False,
            **arguments,
        )
    except (MisconfigurationException, ValueError, TypeError, OverflowError, ImportError) as error:
        raise UsageError(f"trainer: {first_line(error)}") from None


def _chosen_callbacks(config: Mapping[str, Any]) -> list[pl.Callback]:
    chosen: list[pl.Callback] = []
    values = config["callbacks"]
    if values["early_stopping"]["patience"] is not None:
        mode = "max" if config["metric"] == "val/acc" else "min"
        chosen.append(EarlyStopping(config["metric"], mode=mode, **values["early_stopping"]))
    if values["ema"]["decay"] is not None:
        chosen.append(EMAWeightAveraging(decay=values["ema"]["decay"]))
    if values["finetuning"]["frozen_epochs"]:
        chosen.append(Finetuning(values["finetuning"]["frozen_epochs"]))
    return chosen


def is_partial(config: Mapping[str, Any]) -> bool:
    """Say whether any stage is limited to a part of its data."""
    values = config["trainer"]
    limits = [values.get(f"limit_{stage}_batches") for stage in ("train", "val", "test")]
    return (
        any(isinstance(limit, int) or limit not in (None, 1.0) for limit in limits)
        or bool(values.get("overfit_batches"))
        or bool(values.get("fast_dev_run"))
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what libraries say to people who did nothing wrong."""
    with warnings.catch_warnings():
        for message in QUIET:
            warnings.filterwarnings("ignore", message=message)
        for name in ("pytorch_lightning", "lightning_fabric"):
            logging.getLogger(name).setLevel(logging.ERROR)
        yield


@contextlib.contextmanager
def isolated() -> Iterator[None]:
    """Leave the process as it was: its random streams, torch's modes and the environment.

    Lightning and a user's own code change them; the next run in this process must not notice.
    """
    torch_rng, cuda_rng = torch.get_rng_state(), _cuda_states()
    python_rng, numpy_rng = random.getstate(), np.random.get_state()
    algorithms = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    precision, dtype = torch.get_float32_matmul_precision(), torch.get_default_dtype()
    anomaly = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
    environment = dict(os.environ)
    rank = getattr(rank_zero_only, "rank", 0)
    try:
        yield
    finally:
        rank_zero_only.rank = rank  # type: ignore[attr-defined] # others than 0 log nothing
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()  # or the next run would join this one's
        torch.set_rng_state(torch_rng)
        if cuda_rng:
            torch.cuda.set_rng_state_all(cuda_rng)
        random.setstate(python_rng)
        np.random.set_state(numpy_rng)
        torch.use_deterministic_algorithms(algorithms, warn_only=warn_only)
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = cudnn
        torch.set_float32_matmul_precision(precision)
        torch.set_default_dtype(dtype)
        torch.set_anomaly_enabled(*anomaly)
        for name in set(os.environ) - set(environment):
            del os.environ[name]
        os.environ.update(environment)


def _cuda_states() -> list[torch.Tensor]:
    return torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []


def _instantiate(key: str, values: Mapping[str, Any]) -> Any:
    try:
        return hydra.utils.instantiate(dict(values), _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__ or error
        reason = " ".join(str(cause).split()) or type(cause).__name__
        raise UsageError(
            f"{key}._target_={values['_target_']} cannot be built: {reason}"
        ) from error


def _profiler(kind: str, folder: Path) -> Profiler:
    kinds: dict[str, type[Profiler]] = {
        "simple": SimpleProfiler,
        "advanced": AdvancedProfiler,
        "pytorch": PyTorchProfiler,
    }
    return kinds[kind](dirpath=folder, filename="profile")

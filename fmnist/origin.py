"""What made a result, and when: versions, commit, processor, time. Torch-free."""

import contextlib
import datetime
import functools
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("fmnist", "torch", "torchvision", "pytorch-lightning", "hydra-core", "numpy")

# What of the environment decides or explains a result. Nothing else of it is recorded: variables
# hold passwords and keys.
VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "CUBLAS_WORKSPACE_CONFIG",
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "NVIDIA_TF32_OVERRIDE",
    "FMNIST_DATA",
    "FMNIST_SYSTEM_DIR",
    "SLURM_JOB_ID",
    "SLURM_NTASKS",
    "SLURM_RESTART_COUNT",
)


def environment() -> dict[str, str]:
    """Return those of VARIABLES that are set."""
    return {name: os.environ[name] for name in VARIABLES if name in os.environ}


def now() -> str:
    """Return the time with its zone, as ISO 8601 writes it."""
    return f"{datetime.datetime.now().astimezone():%Y-%m-%dT%H:%M:%S%z}"


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide a result."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


@functools.cache
def commit() -> dict[str, Any]:
    """Return {"commit", "dirty"} of the code that runs, or {} outside a git checkout."""
    here = Path(__file__).resolve().parents[1]
    try:
        head = _git(here, "rev-parse", "HEAD").strip()
        return {"commit": head, "dirty": bool(_git(here, "status", "--porcelain", "-uno").strip())}
    except (OSError, subprocess.SubprocessError):
        return {}


@functools.cache
def cpu() -> str:
    """Return what the processor calls itself."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *words], capture_output=True, text=True, check=True, timeout=10
    )
    return done.stdout

"""What makes a process fast whatever it trains: imports, the allocator, the CPU's abilities."""

import ctypes
import gc
import os
import platform
import sys


def import_torch() -> None:
    """Import torch and Lightning with the garbage collector at rest, a fifth faster.

    They make half a million objects that stay; the collector would look for garbage among them
    1,200 times, which takes 1.0 of 4.9 s (2 CPU cores, AMD EPYC, 2026-11-22).
    """
    if "pytorch_lightning" in sys.modules or not gc.isenabled():
        return
    gc.disable()
    try:
        import pytorch_lightning  # noqa: F401
    finally:
        gc.enable()


def keep_memory() -> None:
    """Let glibc keep freed memory instead of handing it to the kernel and faulting it in again.

    Every step frees and asks for the same few megabytes; on virtual machines the page faults can
    cost half of the training time. See mallopt(3), M_MMAP_MAX and M_TRIM_THRESHOLD.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no private mappings
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: never shrink the heap


def has_bfloat16() -> bool:
    """Say whether the CPU multiplies bfloat16 by instructions of its own."""
    import torch

    can = torch.cpu.get_capabilities()
    return bool(can.get("avx512_bf16") or can.get("amx_bf16"))


def fastest_precision(accelerator: str) -> str:
    """Return bf16-mixed where the device multiplies bfloat16 natively, else 32-true."""
    import torch

    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    elif accelerator in ("auto", "gpu", "mps") and torch.backends.mps.is_available():
        native = False
    else:
        native = has_bfloat16()
    return "bf16-mixed" if native else "32-true"


def has_gpu() -> bool:
    """Say whether trainer.accelerator=gpu finds a device: CUDA or Apple's MPS."""
    import torch

    return torch.cuda.is_available() or torch.backends.mps.is_available()


def forget_nvml() -> None:
    """Let torch ask CUDA, not NVML, whether there is a GPU, where there is none.

    Lightning sets this for processes that fork. Adam asks at every step, and each time the library
    is looked for anew: 0.1 ms, found with torch 2.14 and Lightning 2.6.
    """
    import torch

    if not torch.cuda.is_available():
        os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)

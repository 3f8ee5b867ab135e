"""What this machine is and how fast it multiplies matrices, as JSON in the last line of stdout."""

import argparse
import json
import os
import platform
import time

import torch

from fmnist import origin, process

SIZES = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192)}
TRY_S = 0.4  # of each size and type


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=tuple(SIZES), default="cpu")
    parser.add_argument("--rates", action="store_true", help="measure, do not only describe")
    args = parser.parse_args()
    print(json.dumps(measure(args.device) if args.rates else describe()))


def describe() -> dict[str, object]:
    has_cuda = torch.cuda.is_available()
    return {
        "cpu": origin.cpu(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "bf16": process.has_bfloat16(),
        "gpu": torch.cuda.get_device_name() if has_cuda else None,
        "cuda": torch.version.cuda if has_cuda else None,
        "system": platform.platform(terse=True),
    }


def measure(device: str) -> dict[str, object]:
    """Return {type: best TFLOP/s} and {type: the size that gave it}, of square matrices."""
    types = [torch.float32]
    if device == "cuda" or process.has_bfloat16():
        types.append(torch.bfloat16)
    rates, sizes = {}, {}
    for dtype in types:
        name = str(dtype).removeprefix("torch.")
        rate, size = max((best_rate(device, dtype, size), size) for size in SIZES[device])
        rates[name], sizes[name] = rate, size
    return {"rates": rates, "sizes": sizes, "tried": SIZES[device]}


def best_rate(device: str, dtype: torch.dtype, size: int) -> float:
    """Return the best rate, in TFLOP/s, of products of two (size, size) matrices."""
    a = torch.randn(size, size, device=device).to(dtype)
    b = torch.randn(size, size, device=device).to(dtype)
    out = torch.empty_like(a)
    best_s = float("inf")
    end = time.perf_counter() + TRY_S
    while time.perf_counter() < end:
        began = time.perf_counter()
        for _ in range(repeats := 10 if device == "cuda" else 1):
            torch.mm(a, b, out=out)
        if device == "cuda":
            torch.cuda.synchronize()
        best_s = min(best_s, (time.perf_counter() - began) / repeats)
    return 2 * size**3 / best_s / 1e12


if __name__ == "__main__":
    main()

"""The practical limit: a bare loop with every trick known here, and nothing but training.

One uint8 tensor on the device, index tensors, channels_last, bfloat16 where the CPU computes with
it, max-pool before ReLU, the kernel of Adam without its class, an allocator that keeps its memory.
On a CPU the network's blocks are fmnist.fused, so that what differs from ours is all that a
framework adds; on a GPU the whole step is one CUDA graph. No progress, logs or checkpoints.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fmnist import fused, process
from fmnist.bench.peer import Report, parse_options, read_images, read_split

EVAL_BATCH_SIZE = 1000
Step = Callable[[Tensor], object]  # takes the indices of a batch


class Net(nn.Module):
    """The notebook's network, 225,034 parameters; ReLU after max-pool: same values, less work."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3)
        self.conv2 = nn.Conv2d(32, 64, 3)
        self.dense1 = nn.Linear(64 * 5 * 5, 128)
        self.dense2 = nn.Linear(128, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Map uint8 images (B, 1, 28, 28) to logits (B, 10)."""
        if images.device.type == "cpu":
            dtype = precision("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
            weights = list(self.parameters())
            x = fused.first_block(images, weights[0], weights[1], dtype)
            x = fused.second_block(x, weights[2], weights[3])
            return fused.dense_block(x.flatten(1), *weights[4:])
        x = images[:, :, :26, :26].float().div(255)
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.conv2(x), 2))
        x = F.relu(self.dense1(x.flatten(1)))
        return self.dense2(x)  # type: ignore[no-any-return]


class Data:
    """One file of the data set on the device: images uint8 (N, 1, 28, 28), labels int64 (N,)."""

    def __init__(self, options: argparse.Namespace, split: str) -> None:
        images, labels = read_images(options.data, split)
        self.images = torch.from_numpy(images).unsqueeze(1).to(options.device)
        self.labels = torch.from_numpy(labels).long().to(options.device)


def main() -> None:
    options = parse_options(__doc__)
    report = Report(options)
    process.keep_memory()
    train, test = Data(options, "train"), Data(options, "t10k")
    indices = [torch.from_numpy(part).to(options.device) for part in read_split(options.split)]
    all_tests = torch.arange(len(test.labels), device=options.device)
    net = Net().to(options.device).to(memory_format=torch.channels_last)
    report.note(num_parameters=sum(p.numel() for p in net.parameters()))
    if options.epochs:
        step = make_step(net, train, options)
        report.begin()
    for _ in range(options.epochs):
        num_images = train_epoch(step, indices[0], report)
        report.end_epoch(num_images, evaluate(net, train, indices[1], report)[0])
        if options.until is not None and report.is_enough(
            evaluate(net, test, all_tests, report)[0]
        ):
            break
    for i in range(options.evals + 1 if options.evals else 0):
        began = time.perf_counter()
        test_acc, num_images = evaluate(net, test, all_tests, report)
        if i:
            report.end_eval(began, num_images, test_acc)
    report.note(precision=str(precision(options.device)).removeprefix("torch."))
    report.print()


def train_epoch(step: Step, indices: Tensor, report: Report) -> int:
    """Train on `indices` (N,) in random order; returns the number of images."""
    size = report.options.batch_size
    order = indices[torch.randperm(len(indices), device=indices.device)]
    num_batches = len(order) // size
    batches = order[: num_batches * size].view(num_batches, size)
    num_images = 0
    for chosen in report.watch(batches.unbind()):
        step(chosen)
        num_images += size
    return num_images


def make_step(net: Net, data: Data, options: argparse.Namespace) -> Step:
    weights: list[Tensor] = list(net.parameters())
    firsts, seconds = ([torch.zeros_like(w) for w in weights] for _ in range(2))
    counts = [torch.zeros((), device=options.device) for _ in weights]
    rates: Any = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0}

    def step(chosen: Tensor) -> None:
        images, labels = (x.index_select(0, chosen) for x in (data.images, data.labels))
        with torch.autocast(options.device, precision(options.device)):
            loss = F.cross_entropy(net(images), labels)
        grads = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            torch._foreach_add_(counts, 1)
            torch._fused_adam_(  # what torch.optim.Adam(fused=True) calls
                weights, grads, firsts, seconds, [], counts, amsgrad=False, maximize=False, **rates
            )

    state = [*weights, *firsts, *seconds, *counts]
    return graphed(step, options.batch_size, state) if options.device == "cuda" else step


def graphed(step: Step, batch_size: int, state: list[Tensor]) -> Step:
    """Capture `step` as one CUDA graph; what its three warm-up steps did to `state` is undone.

    https://docs.pytorch.org/docs/stable/notes/cuda.html#whole-network-capture
    """
    static = torch.zeros(batch_size, dtype=torch.int64, device="cuda")
    before = [values.detach().clone() for values in state]
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step(static)
    torch.cuda.current_stream().wait_stream(stream)
    with torch.no_grad():
        for values, old in zip(state, before, strict=True):
            values.copy_(old)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step(static)

    def replay(chosen: Tensor) -> None:
        static.copy_(chosen)
        graph.replay()

    return replay


@torch.inference_mode()
def evaluate(net: Net, data: Data, indices: Tensor, report: Report) -> tuple[float, int]:
    """Return (accuracy, number of images) over `indices`, in large batches."""
    device = report.options.device
    num_correct = torch.zeros((), dtype=torch.int64, device=device)
    num_images = 0
    for chosen in report.limit(torch.split(indices, EVAL_BATCH_SIZE)):
        with torch.autocast(device, precision(device)):
            preds = net(data.images[chosen]).argmax(dim=1)
        num_correct += (preds == data.labels[chosen]).sum()
        num_images += len(chosen)
    return int(num_correct) / num_images, num_images


def precision(device: str) -> torch.dtype:
    """Return bfloat16 where the device computes with it; the same type switches autocast off."""
    has_it = device == "cuda" or process.has_bfloat16()
    return torch.bfloat16 if has_it else torch.float32


if __name__ == "__main__":
    main()

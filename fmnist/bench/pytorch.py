"""A plain PyTorch loop, as the official quickstart writes it.

https://docs.pytorch.org/tutorials/beginner/basics/quickstart_tutorial.html with the notebook's
network, Adam, our split, and worker processes as asked for. float32, torch's own allocator.
"""

import argparse
import time
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import datasets
from torchvision.transforms import ToTensor

from fmnist.bench.network import cnn, evaluate
from fmnist.bench.peer import Report, parse_options, read_split


def main() -> None:
    options = parse_options(__doc__)
    report = Report(options)
    training_data = datasets.FashionMNIST(str(options.data), train=True, transform=ToTensor())
    test_data = datasets.FashionMNIST(str(options.data), train=False, transform=ToTensor())
    train_indices, val_indices = read_split(options.split)
    val_data = Subset(training_data, val_indices.tolist())
    train_loader = loader(Subset(training_data, train_indices.tolist()), options, is_train=True)
    val_loader = loader(val_data, options, is_train=False)
    test_loader = loader(test_data, options, is_train=False)

    device = options.device
    model = cnn().to(device)
    loss_fn = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    report.note(num_parameters=sum(p.numel() for p in model.parameters()))
    report.begin()
    for epoch in range(options.epochs):
        print(f"Epoch {epoch + 1}\n-------------------------------")
        num_images = train(report.watch(train_loader), model, loss_fn, optimizer, device)
        val_acc, _ = evaluate(report.limit(val_loader), model, device)
        report.end_epoch(num_images, val_acc)
        if options.until is not None and report.is_enough(
            evaluate(report.limit(test_loader), model, device)[0]
        ):
            break
    for i in range(options.evals + 1 if options.evals else 0):
        began = time.perf_counter()
        test_acc, num_images = evaluate(report.limit(test_loader), model, device)
        if i:
            report.end_eval(began, num_images, test_acc)
    report.print()


def loader(data: Dataset[Any], options: argparse.Namespace, is_train: bool) -> DataLoader[Any]:
    return DataLoader(
        data,
        batch_size=options.batch_size,
        shuffle=is_train,
        drop_last=is_train,
        num_workers=options.num_workers,
        persistent_workers=options.num_workers > 0,
        pin_memory=options.device == "cuda",
    )


def train(
    batches: Iterable[tuple[Tensor, Tensor]],
    model: nn.Module,
    loss_fn: nn.Module,
    optimizer: torch.optim.Optimizer,
    device: str,
) -> int:
    """Train an epoch and return the number of images."""
    model.train()
    num_images = 0
    for batch, (images, labels) in enumerate(batches):
        images, labels = images.to(device), labels.to(device)  # noqa: PLW2901

        pred = model(images)
        loss = loss_fn(pred, labels)

        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

        num_images += len(labels)
        if batch % 100 == 0:
            print(f"loss: {loss.item():>7f}  [{num_images:>5d}]")
    return num_images


if __name__ == "__main__":
    main()

"""The notebook's network and the evaluation loop of the PyTorch tutorials, for the peers."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def cnn() -> nn.Sequential:
    """Build the notebook's network, 225,034 parameters: images (B, 1, 28, 28) in 0..1 -> logits."""
    return nn.Sequential(
        nn.Conv2d(1, 32, kernel_size=3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, kernel_size=3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 5 * 5, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


def evaluate(
    batches: Iterable[tuple[Tensor, Tensor]], model: nn.Module, device: str
) -> tuple[float, int]:
    """Return (accuracy, number of images), as the test loop of PyTorch's quickstart does."""
    model.eval()
    num_correct, num_images, num_batches, test_loss = 0.0, 0, 0, 0.0
    loss_fn = nn.CrossEntropyLoss()
    with torch.no_grad():
        for images, labels in batches:
            images, labels = images.to(device), labels.to(device)  # noqa: PLW2901
            pred = model(images)
            test_loss += loss_fn(pred, labels).item()
            num_correct += (pred.argmax(1) == labels).type(torch.float).sum().item()
            num_images += len(labels)
            num_batches += 1
    accuracy = num_correct / num_images
    print(f"accuracy {accuracy:.2%}, mean loss {test_loss / num_batches:.4f}")
    return accuracy, num_images

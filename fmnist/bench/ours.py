"""Evaluate the test set with a trained run, as its training validates: classifier.predict_logits.

Training itself is measured on scripts/train.py.
"""

import argparse
import time
from pathlib import Path

import torch

from fmnist.bench.peer import Report, read_images
from fmnist.data import FashionMNISTData
from fmnist.run import load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--evals", type=int, default=1)
    options = parser.parse_args()
    report = Report(options)
    classifier = load(options.run).classifier.to(options.device)
    test = [
        torch.from_numpy(array).to(options.device) for array in read_images(options.data, "t10k")
    ]
    images, labels = test[0].unsqueeze(1), test[1].long()
    for i in range(options.evals + 1):
        began = time.perf_counter()
        num_correct = torch.zeros((), dtype=torch.int64, device=options.device)
        with torch.inference_mode():
            for x, y in zip(*map(_batches, (images, labels)), strict=True):
                num_correct += (classifier.predict_logits(x).argmax(dim=1) == y).sum()
        accuracy = int(num_correct) / len(labels)
        if i:
            report.end_eval(began, len(labels), accuracy)
    report.print()


def _batches(array: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return torch.split(array, FashionMNISTData.EVAL_BATCH_SIZE)


if __name__ == "__main__":
    main()

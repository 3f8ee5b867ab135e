"""Keras with TensorFlow, the notebook's way: model.fit on NumPy arrays in 0..1.

Needs Keras, TensorFlow and NumPy only: the benchmark runs it in the Python of --keras-python.
"""

from __future__ import annotations

import argparse
import os
import time
from typing import TYPE_CHECKING, Any

from fmnist.bench.peer import Report, parse_options, read_images, read_split

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
import keras
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Arrays = tuple["NDArray[np.float32]", "NDArray[np.uint8]"]


def main() -> None:
    options = parse_options(__doc__)
    report = Report(options)
    images, labels = read_images(options.data, "train")
    train_indices, val_indices = read_split(options.split)
    # fit has no drop_last: the last, incomplete batch is left out here.
    num_images = len(train_indices) // options.batch_size * options.batch_size
    if options.max_batches:
        num_images = min(num_images, options.max_batches * options.batch_size)
        val_indices = val_indices[: 2 * options.batch_size]
    x_train, y_train = (
        scaled(images[train_indices[:num_images]]),
        labels[train_indices[:num_images]],
    )
    val = scaled(images[val_indices]), labels[val_indices]
    test = test_arrays(options)

    model = build_model()
    report.note(num_parameters=model.count_params(), backend=keras.backend.backend())
    report.note(versions=versions())
    if options.epochs:
        model.fit(
            x_train,
            y_train,
            epochs=options.epochs,
            batch_size=options.batch_size,
            validation_data=val,
            verbose=2,
            callbacks=[watch(report, num_images, test)],
        )
    for i in range(options.evals + 1 if options.evals else 0):
        began = time.perf_counter()
        _, test_acc = model.evaluate(*test, batch_size=options.batch_size, verbose=2)
        if i:
            report.end_eval(began, len(test[1]), test_acc)
    report.print()


def build_model() -> Any:
    model = keras.Sequential(
        [
            keras.Input(shape=(28, 28, 1)),
            keras.layers.Conv2D(32, (3, 3), activation="relu"),
            keras.layers.MaxPooling2D((2, 2)),
            keras.layers.Conv2D(64, (3, 3), activation="relu"),
            keras.layers.MaxPooling2D((2, 2)),
            keras.layers.Flatten(),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(
        optimizer=keras.optimizers.Adam(1e-3),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def watch(report: Report, num_images: int, test: Arrays) -> Any:
    """Return the callback that reports moments and epochs, and stops when told to."""

    class Watch(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
        def on_train_begin(self, logs: Any = None) -> None:
            report.begin()

        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
            report.mark("first_batch")

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            report.mark("first_step")

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            report.end_epoch(num_images, float(logs["val_accuracy"]))
            if report.options.until is not None:
                size = report.options.batch_size
                _, test_acc = self.model.evaluate(*test, batch_size=size, verbose=2)
                self.model.stop_training = report.is_enough(test_acc)

    return Watch()


def scaled(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Turn uint8 (N, 28, 28) into float32 (N, 28, 28, 1) in 0..1."""
    return images[..., None].astype(np.float32) / np.float32(255)


def test_arrays(options: argparse.Namespace) -> Arrays:
    images, labels = read_images(options.data, "t10k")
    limit = 2 * options.batch_size if options.max_batches else None
    return scaled(images[:limit]), labels[:limit]


def versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("keras", "tensorflow")}


if __name__ == "__main__":
    main()

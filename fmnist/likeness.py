"""How unlike Fashion-MNIST an image is: a few numbers about it against those of the training data.

Independent of any network. The statistics are in likeness.npz, made by scripts/make_likeness.py.
"""

import functools
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]  # (N, 28, 28) or (N, 1, 28, 28)
Floats = NDArray[np.floating[Any]]

STATISTICS = Path(__file__).with_name("likeness.npz")
NUM_COMPONENTS = 40
FALSE_ALARMS = 0.01  # of the images that the statistics are made of score above 1


def score(images: Images) -> NDArray[np.float64]:
    """Return how unlike the training data each image is, (N,): above 1 less than 1 % of them are.

    The squared Mahalanobis distance of its traits from those of the training images.
    """
    values = _statistics()
    away = _traits(images, values) - values["trait_mean"]
    squares = np.einsum("ni,ij,nj->n", away, values["trait_precision"], away)
    return np.asarray(squares / values["limit"], np.float64)


def fit(
    images: Images, labels: NDArray[np.integer[Any]], others: Images
) -> dict[str, NDArray[Any]]:
    """Return the statistics of training images; `others` are such images by way of a picture file.

    The sharpness of both must count as ordinary. Deterministic.
    """
    flat = _flat(images)
    mean = flat.mean(0, dtype=np.float64)
    _, vectors = np.linalg.eigh(np.cov(flat.T))
    vectors = vectors[:, ::-1][:, :NUM_COMPONENTS]
    vectors *= np.sign(vectors[np.abs(vectors).argmax(0), np.arange(NUM_COMPONENTS)])
    scale = np.abs(vectors).max() / 127
    values: dict[str, NDArray[Any]] = {
        "mean": np.rint(mean * 255).astype(np.uint8),
        "components": np.rint(vectors / scale).astype(np.int8),
        "component_scale": np.array(scale, np.float32),
    }
    places = (flat - values["mean"] / np.float32(255)) @ (values["components"] * np.float32(scale))
    groups = [places[labels == k] for k in range(labels.max() + 1)]
    precisions = [np.linalg.inv(np.cov(group.T)) for group in groups]
    values["class_mean"] = np.stack([group.mean(0) for group in groups]).astype(np.float32)
    values["class_precision"] = np.stack(precisions).astype(np.float32)
    values["class_volume"] = np.array([-np.linalg.slogdet(p)[1] for p in precisions], np.float32)
    known = np.concatenate([images.reshape(-1, 28, 28), others.reshape(-1, 28, 28)])
    traits = _traits(known, values)
    values["trait_mean"] = traits.mean(0)
    values["trait_precision"] = np.linalg.inv(np.cov(traits.T))
    away = traits - values["trait_mean"]
    squares = np.einsum("ni,ij,nj->n", away, values["trait_precision"], away)
    values["limit"] = np.quantile(squares, 1 - FALSE_ALARMS)
    return values


def save(values: dict[str, NDArray[Any]]) -> None:
    """Write the statistics that `score` reads."""
    with STATISTICS.open("wb") as file:
        np.savez_compressed(file, **values)  # type: ignore[arg-type]  # as its stubs read **


def _traits(images: Images, values: dict[str, NDArray[Any]]) -> NDArray[np.float64]:
    """Return (N, 6): what the components miss, the nearest class, curvature, slope, border, mean.

    Residuals catch noise and strokes, the nearest class other things, curvature and slope what is
    too smooth, the border what has no ground. Logarithms where a trait spans decades.
    """
    flat = _flat(images)
    centred = flat - values["mean"] / np.float32(255)
    components = values["components"] * values["component_scale"]
    places = centred @ components
    missed = (centred**2).sum(1) - (places**2).sum(1)
    far = np.full(len(flat), np.inf)
    for mean, precision, volume in zip(
        values["class_mean"], values["class_precision"], values["class_volume"], strict=True
    ):
        away = places - mean
        far = np.minimum(far, ((away @ precision) * away).sum(1) + volume)
    lowest = values["class_volume"].min()
    grid = flat.reshape(-1, 28, 28)
    padded = np.pad(grid, ((0, 0), (1, 1), (1, 1)))
    left, right = padded[:, 1:-1, :-2], padded[:, 1:-1, 2:]
    above, below = padded[:, :-2, 1:-1], padded[:, 2:, 1:-1]
    curvature = np.abs(grid - (left + right + above + below) / 4).mean((1, 2))
    slope = np.abs(right - grid).mean((1, 2)) + np.abs(below - grid).mean((1, 2))
    border = (grid.sum((1, 2)) - grid[:, 1:-1, 1:-1].sum((1, 2))) / 108
    return np.stack(
        [
            np.log(np.maximum(missed, 0) + 0.05),
            np.log(far - lowest + 1),
            np.log(curvature + 1e-4),
            np.log(slope + 1e-4),
            border,
            flat.mean(1),
        ],
        axis=1,
    ).astype(np.float64)


def _flat(images: Images) -> NDArray[np.float32]:
    return images.reshape(-1, 28 * 28).astype(np.float32) / np.float32(255)


@functools.cache
def _statistics() -> dict[str, NDArray[Any]]:
    with np.load(STATISTICS) as stored:
        return {name: stored[name] for name in stored.files}

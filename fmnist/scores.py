"""What labels and logits say of a model: scores, their uncertainty, calibration. Plain numpy.

Shares are fractions of 1, losses nats; intervals are (low, high) at 95 %.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer[Any]]  # labels (N,) in 0..K-1
Floats = NDArray[np.floating[Any]]  # logits or probs (N, K)
Doubles: TypeAlias = NDArray[np.float64]
Interval = tuple[float, float]

Z = 1.959963984540054  # the 97.5 % point of the normal distribution
NUM_RESAMPLES = 2000
NUM_BINS = 15  # of confidence, as in Guo et al. 2017
MAX_CONFUSED = 10


class Calibration(NamedTuple):
    """Top-label calibration in bins of confidence; `accuracy` and `confidence` are nan if empty."""

    counts: NDArray[np.int64]
    accuracy: Doubles
    confidence: Doubles
    ece: float


def summarize(
    split: str, labels: Ints, logits: Floats, class_names: Sequence[str]
) -> dict[str, Any]:
    """Return the report of an evaluation, for JSON: scores, intervals, classes and confusion.

    The scores are `<split>/acc`, `loss`, `f1` (mean of the classes'), `brier` (0..2) and `ece`,
    which has no interval: resampling makes it larger. What a class has no images for is None.
    """
    probs = softmax(logits)
    losses = cross_entropies(labels, logits)
    briers = ((probs - np.eye(probs.shape[1])[labels]) ** 2).sum(axis=1)
    counts = confusion(labels, probs.argmax(axis=1), len(class_names))
    num_right, num_images = int(counts.trace()), len(labels)
    resampled = _f1(_resample(counts))
    scores = {
        "acc": num_right / num_images,
        "loss": losses.mean(),
        "f1": np.nanmean(_f1(counts)),
        "brier": briers.mean(),
        "ece": calibration(labels, probs).ece,
    }
    intervals = {
        "acc": wilson(num_right, num_images),
        "loss": _normal(losses),
        "f1": _percentiles(np.nanmean(resampled, axis=-1)),
        "brier": _normal(briers, highest=2.0),
    }
    return {
        "num_images": num_images,
        "scores": {f"{split}/{name}": float(value) for name, value in scores.items()},
        "intervals": {f"{split}/{name}": list(value) for name, value in intervals.items()}
        if num_images > 1
        else {},
        "classes": _classes(counts, resampled, class_names),
        "confusion": counts.tolist(),
        "confused": _confused(counts, class_names),
    }


def recalibrate(
    labels: Ints, logits: Floats, val_labels: Ints, val_logits: Floats
) -> dict[str, Any] | None:
    """Return the report of temperature scaling: fitted on validation, its effect on `logits`.

    None where no temperature is best: see `fit_temperature`.
    """
    temperature = fit_temperature(val_labels, val_logits)
    if temperature is None:
        return None
    scaled = logits.astype(np.float64) / temperature
    return {
        "temperature": temperature,
        "fitted_on": "val",
        "num_images": len(val_labels),
        "ece": calibration(labels, softmax(logits)).ece,
        "ece_scaled": calibration(labels, softmax(scaled)).ece,
        "loss": float(cross_entropies(labels, logits).mean()),
        "loss_scaled": float(cross_entropies(labels, scaled).mean()),
        "num_bins": NUM_BINS,
    }


def softmax(logits: Floats) -> Doubles:
    odds = np.exp(_shifted(logits))
    probs: Doubles = odds / odds.sum(axis=1, keepdims=True)
    return probs


def cross_entropies(labels: Ints, logits: Floats) -> Doubles:
    """Return the loss of each image (N,)."""
    shifted = _shifted(logits)
    losses: Doubles = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]
    return losses


def _shifted(logits: Floats) -> Doubles:
    """Return logits less their maximum, which no exponential overflows."""
    exact = logits.astype(np.float64)
    exact -= exact.max(axis=1, keepdims=True)
    return exact


def confusion(labels: Ints, preds: Ints, num_classes: int) -> NDArray[np.int64]:
    """Return how many images of class [row] were taken for class [column]."""
    counts = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(counts, (labels, preds), 1)
    return counts


def wilson(num_right: int, num_images: int) -> Interval:
    """Return the score interval of a share (Wilson 1927); 0..1 where there are no images."""
    if num_images == 0:
        return 0.0, 1.0
    share, weight = num_right / num_images, Z**2 / num_images
    half = Z * np.sqrt(share * (1 - share) / num_images + weight / (4 * num_images))
    middle = share + weight / 2
    low, high = (middle - half) / (1 + weight), (middle + half) / (1 + weight)
    return max(0.0, float(low)), min(1.0, float(high))


def calibration(labels: Ints, probs: Floats, num_bins: int = NUM_BINS) -> Calibration:
    """Compare top-label confidence with accuracy.

    The expected calibration error (ECE) of Guo et al. 2017 (arXiv:1706.04599): bins of equal width,
    open below and closed above. A confidence of 1 is in the last (torchmetrics: in one of its own).
    """
    confidence = probs.max(1)
    bins = np.searchsorted(np.linspace(0, 1, num_bins + 1)[1:-1], confidence)
    counts = np.bincount(bins, minlength=num_bins)
    filled = np.where(counts, counts, np.nan)
    mean_accuracy = np.bincount(bins, probs.argmax(1) == labels, num_bins) / filled
    mean_confidence = np.bincount(bins, confidence, num_bins) / filled
    ece = np.nansum(np.abs(mean_accuracy - mean_confidence) * counts) / len(labels)
    return Calibration(counts, mean_accuracy, mean_confidence, float(ece))


def fit_temperature(labels: Ints, logits: Floats) -> float | None:
    """Return the T in 0.05..20 for which logits / T have the smallest loss (Guo et al. 2017).

    The loss is convex in 1 / T: its slope, the mean of E[logit] - logit of the label, is bisected.
    None where it falls to the end of the range, as it does without mistakes.
    """
    exact = logits.astype(np.float64)
    above = exact - exact[np.arange(len(labels)), labels][:, None]
    coolest, hottest = low, high = 0.05, 20.0
    for _ in range(60):
        middle = float(np.sqrt(low * high))
        slope = (softmax(above / middle) * above).sum(axis=1).mean()
        low, high = (low, middle) if slope <= 0 else (middle, high)  # 0: lost below 1e-308
    is_inside = coolest < 0.99 * low and high < 0.99 * hottest
    return float(np.sqrt(low * high)) if is_inside else None


def _f1(counts: NDArray[np.integer[Any]]) -> Doubles:
    """Return F1 (..., K) of confusion matrices (..., K, K); nan for a class never seen nor said."""
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    total = counts.sum(axis=-1) + counts.sum(axis=-2)
    f1: Doubles = np.where(total > 0, 2 * right / np.maximum(total, 1), np.nan)
    return f1


def _resample(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return confusion matrices (NUM_RESAMPLES, K, K), each class drawn anew with replacement.

    The bootstrap (Efron 1979) within classes, as all splits are stratified. Seeded: the same counts
    give the same intervals.
    """
    generator = np.random.default_rng(0)
    sizes = counts.sum(axis=1)
    shares = np.where(sizes[:, None] > 0, counts / np.maximum(sizes, 1)[:, None], 1 / len(counts))
    drawn = [generator.multinomial(n, p, NUM_RESAMPLES) for n, p in zip(sizes, shares, strict=True)]
    return np.stack(drawn, axis=1)


def _percentiles(values: Doubles) -> Interval:
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def _normal(values: Doubles, highest: float = np.inf) -> Interval:
    """Return the interval of a mean, by the central limit theorem, within 0..`highest`."""
    mean = values.mean()
    half = Z * values.std() / np.sqrt(max(len(values) - 1, 1))
    return max(0.0, float(mean - half)), min(highest, float(mean + half))


def _classes(
    counts: NDArray[np.int64], resampled: Doubles, names: Sequence[str]
) -> list[dict[str, Any]]:
    """Return a row per class; a share of no images is None and has no interval."""
    rows = []
    for k, (name, f1) in enumerate(zip(names, _f1(counts), strict=True)):
        right, num_true = int(counts[k, k]), int(counts[k].sum())
        num_said = int(counts[:, k].sum())
        shares: dict[str, float | None] = {
            "precision": right / num_said if num_said else None,
            "recall": right / num_true if num_true else None,
            "f1": None if np.isnan(f1) else float(f1),
        }
        intervals = {
            "precision": wilson(right, num_said),
            "recall": wilson(right, num_true),
            "f1": _percentiles(resampled[:, k]) if shares["f1"] is not None else (0.0, 1.0),
        }
        known = {key: list(ends) for key, ends in intervals.items() if shares[key] is not None}
        rows.append({"name": name, "images": num_true, **shares, "intervals": known})
    return rows


def _confused(counts: NDArray[np.int64], names: Sequence[str]) -> list[Mapping[str, Any]]:
    """Return the most frequent mistakes, by count; `share` is that of the true class."""
    wrong = counts * (1 - np.eye(len(names), dtype=np.int64))
    order = np.argsort(-wrong.ravel(), kind="stable")[:MAX_CONFUSED]
    pairs = [divmod(int(i), len(names)) for i in order if wrong.ravel()[i]]
    return [
        {
            "true": names[row],
            "predicted": names[column],
            "count": int(counts[row, column]),
            "share": int(counts[row, column]) / int(counts[row].sum()),
        }
        for row, column in pairs
    ]

"""Draw how a model did: confusion, classes, reliability. Arrays in, matplotlib figures out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure

from fmnist import scores
from fmnist.figures import (
    BLUE,
    DARK,
    DPI,
    PALE,
    SKY_BLUE,
    VERMILLION,
    Floats,
    Ints,
    Names,
    check,
    percent,
    styled,
)

# Zero is white. Steps in CIELAB: sd 4 % of their mean (viridis 20 %; matplotlib 3.11, 2026-11).
SHADES = LinearSegmentedColormap.from_list("shades", ["#FFFFFF", "#00406B"])


@styled
def confusion(labels: Ints, preds: Ints, class_names: Names) -> Figure:
    """Draw the K x K confusion matrix: counts, shaded by their share of the true class; recall."""
    k = len(class_names)
    check(k, labels, preds=preds)
    counts = scores.confusion(labels, preds, k)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    figure = Figure((7.6, 5.5), DPI, layout="constrained")
    axes = figure.subplots()
    # The square root makes an error of 1 % visible beside a diagonal of 90 %.
    shading = axes.imshow(shares, cmap=SHADES, norm=PowerNorm(0.5, 0, 1), aspect="auto")
    for (row, column), count in np.ndenumerate(counts):
        color = PALE if not count else "white" if shares[row, column] > 0.48 else "black"
        axes.text(column, row, f"{count}", ha="center", va="center", color=color)
    axes.annotate("Recall", (1, 1), (5, 6), "axes fraction", "offset points", weight="bold")
    for row, count in enumerate(counts.sum(1)):
        recall = percent(shares[row, row]) if count else "no images"
        axes.annotate(recall, (k - 0.5, row), (5, 0), "data", "offset points", va="center")
    wrapped = [name.replace(" ", "\n").replace("/", "/\n") for name in class_names]
    fits = k <= 10 and max(map(len, "\n".join(wrapped).split("\n"))) <= 8
    axes.set_xticks(range(k), wrapped if fits else class_names, rotation=0 if fits else 90)
    axes.tick_params(length=0, labelsize=8.5)
    axes.set_yticks(range(k), class_names)
    title = f"{percent(counts.trace() / len(labels))} of {len(labels):,} images correct"
    axes.set(title=title, xlabel="Predicted class", ylabel="True class", frame_on=False)
    bar = figure.colorbar(shading, shrink=0.5, aspect=25, label="Share of the true class")
    bar.set_ticks([0, 0.01, 0.1, 0.3, 0.6, 1], labels=["0%", "1%", "10%", "30%", "60%", "100%"])
    return figure


@styled
def reliability(labels: Ints, probs: Floats, scaled: Floats | None = None) -> Figure:
    """Draw accuracy against confidence in 15 bins, and how many images each bin holds.

    `scaled` are the probs after temperature scaling, drawn as a line.
    """
    probs = check(probs.shape[-1], labels, probs=probs)
    counts, accuracy, confidence, ece = scores.calibration(labels, probs)
    width = 1 / len(counts)
    figure = Figure((5.6, 5.6), DPI, layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    gap: dict[str, Any] = {"facecolor": "none", "edgecolor": VERMILLION, "hatch": "////"}
    centers = np.arange(width / 2, 1, width)
    top.bar(centers, accuracy, width, color=SKY_BLUE, edgecolor="white", label="accuracy")
    top.bar(centers, confidence - accuracy, width, accuracy, label="gap to confidence", **gap)
    top.axline((0, 0), (1, 1), color="black", linestyle="--", linewidth=1, label="perfect")
    top.set(xlim=(0, 1), ylim=(0, 1), ylabel="Accuracy")
    title = f"Expected calibration error (ECE): {percent(ece)}"
    if scaled is not None:
        after = scores.calibration(labels, check(scaled.shape[-1], labels, probs=scaled))
        label = {"label": "after temperature scaling", "mfc": "white", "ms": 5}
        top.plot(after.confidence, after.accuracy, "o-", color=DARK, **label)
        title = f"Calibration error (ECE): {percent(ece)}, then {percent(after.ece)}"
    top.set_title(title)
    figure.legend(loc="outside upper left", ncols=3 if scaled is None else 2)
    bottom.bar(centers, counts, width, color=DARK, edgecolor="white")
    bottom.set(yscale="log", ylim=(0.5, 2 * counts.max()), xlabel="Confidence", ylabel="Images")
    bottom.yaxis.set_major_formatter("{x:,.0f}")
    bottom.minorticks_off()
    top.yaxis.set_major_formatter("{x:.0%}")
    bottom.xaxis.set_major_formatter("{x:.0%}")
    return figure


@styled
def classes(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw precision and recall of each class with their intervals, the best F1 on top.

    A row is one of `classes` in the report of `scores.summarize`.
    """
    rows = sorted(rows, key=lambda row: -1.0 if row["f1"] is None else float(row["f1"]))
    figure = Figure((7.6, 0.6 + 0.42 * len(rows)), DPI, layout="constrained")
    axes = figure.subplots()
    looks = {"precision": (0.14, "o", BLUE), "recall": (-0.14, "s", VERMILLION)}
    for name, (shift, marker, color) in looks.items():
        x = np.array([row[name] for row in rows], np.float64)  # None becomes nan
        ends = [row["intervals"].get(name, (np.nan, np.nan)) for row in rows]
        bars = np.abs(np.array(ends).T - x)
        y = np.arange(len(rows)) + shift
        axes.errorbar(x, y, xerr=bars, fmt=marker, color=color, ms=5, mfc="white", label=name)
    axes.set_yticks(range(len(rows)), [_with_f1(row) for row in rows])
    axes.set(title="Precision and recall, with 95 % intervals", xlim=(None, 1.005))
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.grid(axis="x", color=PALE, linewidth=0.5)
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside upper right", ncols=2)
    return figure


def _with_f1(row: Mapping[str, Any]) -> str:
    return f"{row['name']}  F1 {'-' if row['f1'] is None else percent(row['f1'])}"

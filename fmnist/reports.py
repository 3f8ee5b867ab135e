"""The report of an evaluation as a run folder keeps it, checked when it is read. Torch-free."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fmnist.arguments import Positive, Share
from fmnist.reading import read_bytes

SCHEMA = 1
Number = Annotated[int, Field(ge=0, le=10**9)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class _Ends(_Part):
    precision: tuple[Share, Share] | None = None
    recall: tuple[Share, Share] | None = None
    f1: tuple[Share, Share] | None = None


class _Class(_Part):
    name: str
    images: Number
    precision: Share | None
    recall: Share | None
    f1: Share | None
    intervals: _Ends

    @model_validator(mode="after")
    def _has_intervals(self) -> Self:
        """Refuse a score without its interval."""
        for name in ("precision", "recall", "f1"):
            if getattr(self, name) is not None and getattr(self.intervals, name) is None:
                raise ValueError(f"{name} has no interval")
        return self


class _Pair(_Part):
    true: str
    predicted: str
    count: Number
    share: Share


class _Scaling(_Part):
    temperature: Positive
    fitted_on: Literal["val"]
    num_images: Number
    ece: Share
    ece_scaled: Share
    loss: float
    loss_scaled: float
    num_bins: Number


class _Report(_Part):
    schema_: Literal[1] = Field(alias="schema")
    split: Literal["test", "val", "train"]
    num_images: Annotated[Number, Field(ge=1)]
    scores: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    classes: list[_Class]
    confusion: list[list[Number]]
    confused: list[_Pair]
    calibration: _Scaling | None = None
    notes: list[str]
    best_epoch: Number | None
    checkpoint_sha256: str


def path(folder: Path, split: str) -> Path:
    return folder / f"eval-{split}.json"


def read(folder: Path, split: str) -> dict[str, Any] | None:
    """Return the report on `split` that is kept in a run folder; None for none that is whole."""
    try:
        text = read_bytes(path(folder, split)).decode("utf-8")
        report = _Report.model_validate_json(text)
    except (OSError, ValueError):  # pydantic's errors are ValueErrors
        return None
    names = {f"{split}/{name}" for name in ("acc", "loss", "f1", "brier", "ece")}
    num_right = sum(row[i] for i, row in enumerate(report.confusion) if i < len(row))
    is_whole = (
        report.split == split
        and names == set(report.scores)
        and set(report.intervals) <= names
        and len(report.classes) == len(report.confusion)
        and all(len(row) == len(report.classes) for row in report.confusion)
        and abs(report.scores[f"{split}/acc"] - num_right / report.num_images) < 1e-9
    )
    return json.loads(text) if is_whole else None

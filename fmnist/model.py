"""A run folder as a model: images in, probabilities out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fmnist import CLASSES, build, checkpoint, record, revival, scores
from fmnist.classifier import Classifier
from fmnist.data import FashionMNISTData
from fmnist.errors import UsageError, UserError
from fmnist.reading import expanded


class Outputs(NamedTuple):
    """What a model makes of a split."""

    images: NDArray[np.uint8]  # (N, 1, 28, 28)
    labels: NDArray[np.int64]  # (N,)
    logits: NDArray[np.float32]  # (N, 10)


class Model:
    """The network of a run with its selected weights, on the CPU, in float32.

    `config` is that of its record, with today's defaults for keys that are younger.
    """

    class_names = CLASSES

    def __init__(
        self, classifier: Classifier, run: record.Record, config: Mapping[str, Any]
    ) -> None:
        self.classifier = classifier.eval()
        self.run = run
        self.config = config

    def predict(
        self, images: Tensor | NDArray[np.uint8], batch_size: int = FashionMNISTData.EVAL_BATCH_SIZE
    ) -> NDArray[np.float32]:
        """Return class probabilities (N, 10), in the order of `class_names`.

        `images` are uint8, light on black as in the data set: (N, 28, 28), (N, 1, 28, 28) or one
        (28, 28). Raises UserError for another shape or type.
        """
        # A copy: any strides, any owner.
        try:
            array = images.cpu().numpy() if isinstance(images, Tensor) else np.array(images)
        except ValueError:  # lists of different lengths
            raise UserError("images must be one array, got lists of several shapes.") from None
        is_grey = array.ndim in (2, 3) or (array.ndim == 4 and array.shape[1] == 1)
        if array.dtype != np.uint8 or not is_grey or array.shape[-2:] != (28, 28):
            raise UserError(
                "images must be uint8 of shape (N, 28, 28) or (N, 1, 28, 28), "
                f"got {array.dtype} {array.shape}."
            )
        if isinstance(batch_size, bool) or batch_size != int(batch_size) or batch_size < 1:
            raise UserError(f"batch_size must be a whole number >= 1, got {batch_size!r}.")
        batch = torch.from_numpy(array).reshape(-1, 1, 28, 28)
        probs: NDArray[np.float32] = self._logits(batch, int(batch_size)).softmax(dim=1).numpy()
        return probs

    def evaluate(self, split: str = "test") -> dict[str, float]:
        """Return {"<split>/acc", "/loss", "/f1", "/brier", "/ece"} of test, val or train.

        Accuracy and the mean F1 of the classes are fractions of 1, the loss is in nats. Measures
        each time and writes nothing; `fmnist.evaluation.evaluate` keeps what it measures. Raises
        UserError where the data or the split cannot be had.
        """
        found = self.outputs(split)
        report = scores.summarize(split, found.labels, found.logits, self.class_names)
        return dict(report["scores"])

    def outputs(self, split: str) -> Outputs:
        """Return what the model makes of all images of a split; raises as `evaluate`."""
        if split not in ("test", "val", "train"):
            raise UserError(f"split must be test, val or train, got {split!r}.")
        data = build.data(self.config)
        data.prepare_data()
        data.setup()
        self._check_split(data, split)
        images, labels = data.arrays(split)
        logits = self._logits(images, FashionMNISTData.EVAL_BATCH_SIZE)
        return Outputs(images.numpy(), labels.numpy(), logits.numpy())

    @torch.inference_mode()
    def _logits(self, images: Tensor, batch_size: int) -> Tensor:
        parts = torch.split(images, batch_size) if len(images) else ()
        logits = [self.classifier.predict_logits(part) for part in parts]
        joined = torch.cat(logits) if logits else torch.zeros(0, len(CLASSES))
        if not joined.isfinite().all():
            raise UserError(
                f"The network of {self.run.folder} gives values that are not finite. "
                "Train it again with a lower optim.lr."
            )
        return joined

    def _check_split(self, data: FashionMNISTData, split: str) -> None:
        """Refuse a split that is empty, or not the one that the run was trained with."""
        if split == "test":
            return
        if split == "val" and data.val_from == "test":
            raise UserError(
                f"{self.run.folder} has no val split: it was validated on the test images "
                "(data.val_from=test). Ask for test."
            )
        recorded = self.run.data.get("split_hash")
        if recorded is not None and data.split_hash != recorded:
            raise UserError(
                f"the validation split of {self.run.folder} cannot be drawn again: its split_hash "
                "differs. Use the versions in its run.json."
            )
        if not len(data.arrays(split)[1]):
            raise UserError(f"{self.run.folder} has no {split} split: data.val_size is 0.")


def load_model(folder: Path, trust: bool = False) -> Model:
    """Build the model of a run folder, wherever it was copied to, from its record and best.ckpt.

    `trust` as in `revival.revive`. Raises UserError when they are missing, damaged or not readable
    by this version.
    """
    run = record.read(folder)
    values, weights = revival.revive(run, trust)
    path = folder / "checkpoints" / "best.ckpt"
    if not path.exists():
        raise UserError(
            f"{path} is missing. Train the run to its end, with checkpoints=best or all."
        )
    try:
        classifier = build.classifier(values, weights)
    except UsageError as error:
        raise UserError(f"{folder / record.RECORD}: {error}") from None
    try:
        state = checkpoint.read_own(path, classifier)
        classifier.load_state_dict(state["state_dict"])
    except checkpoint.OtherWeightsError as error:
        raise UserError(
            f"{path} holds other weights than {folder / record.RECORD} asks for ({error}). "
            "Copy the run folder again, or train it again."
        ) from None
    except (checkpoint.CheckpointError, RuntimeError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged or no checkpoint ({error}). "
            "Copy the run folder again, or train it again."
        ) from None
    return Model(classifier, run, _with_data_here(values))


def _with_data_here(values: Mapping[str, Any]) -> dict[str, Any]:
    """Forget folders of data that this machine lacks: the default ones are searched instead."""
    places = {
        key: place if place and _is_folder_here(place) else None
        for key in ("dir", "source")
        for place in [values["data"][key]]
    }
    return {**values, "data": {**values["data"], **places}}


def _is_folder_here(place: str) -> bool:
    try:
        return expanded("data.dir", place).is_dir()
    except UserError:  # the home of a user of another machine
        return False

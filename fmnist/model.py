"""A run folder as a model: images in, probabilities out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fmnist import CLASSES, build, record
from fmnist.classifier import Classifier
from fmnist.errors import UserError


class Model:
    """The network of a run with its selected weights, on the CPU, in float32."""

    class_names = CLASSES

    def __init__(self, classifier: Classifier, run: record.Record) -> None:
        self.classifier = classifier.eval()
        self.run = run

    @property
    def config(self) -> Mapping[str, Any]:
        return self.run.data["config"]  # type: ignore[no-any-return]

    @torch.inference_mode()
    def predict(
        self, images: Tensor | NDArray[np.uint8], batch_size: int = 1000
    ) -> NDArray[np.float32]:
        """Return class probabilities (N, 10).

        `images` are uint8, light on black as in the data set: (N, 28, 28), (N, 1, 28, 28) or one
        (28, 28). Raises UserError for another shape or type.
        """
        # A copy: any strides, any owner.
        array = images.cpu().numpy() if isinstance(images, Tensor) else np.array(images)
        is_grey = array.ndim in (2, 3) or (array.ndim == 4 and array.shape[1] == 1)
        if array.dtype != np.uint8 or not is_grey or array.shape[-2:] != (28, 28):
            raise UserError(
                "images must be uint8 of shape (N, 28, 28) or (N, 1, 28, 28), "
                f"got {array.dtype} {array.shape}."
            )
        batch = torch.from_numpy(array).reshape(-1, 1, 28, 28)
        logits = [self.classifier.predict_logits(part) for part in torch.split(batch, batch_size)]
        if not logits:
            return np.zeros((0, len(CLASSES)), dtype=np.float32)
        probs: NDArray[np.float32] = torch.cat(logits).softmax(dim=1).numpy()
        return probs


def load_model(folder: Path) -> Model:
    """Build the model of a run folder from its record and best.ckpt."""
    run = record.read(folder)
    path = folder / "checkpoints" / "best.ckpt"
    if not path.exists():
        raise UserError(
            f"{path} is missing. Train the run to its end, with checkpoints=best or all."
        )
    classifier = build.classifier(run.data["config"])
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        classifier.load_state_dict(state["state_dict"])
    except Exception as error:  # torch raises half a dozen types for a damaged or foreign file
        raise UserError(f"{path} cannot be loaded: {str(error).strip().splitlines()[0]}") from None
    return Model(classifier, run)

"""A model as one file that runs without this package: ONNX, or an archive of torch.export.

Neither holds Python code, pickles or paths of this machine.
"""

import contextlib
import io
import json
import logging
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from fmnist import build
from fmnist.classifier import Classifier
from fmnist.errors import UserError
from fmnist.model import Model

OPSET, IR_VERSION = 18, 8  # both of ONNX 1.13; torch writes its operations in this opset
METADATA = "metadata.json"  # its name inside an archive of torch.export
Predict = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


class _Predictor(nn.Module):
    """uint8 images (N, 1, 28, 28) -> probs (N, K), by the one path of all predictions."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier.predict_logits(images).softmax(dim=1)


def trace(model: Model) -> ExportedProgram:
    """Record what `model` computes, for any number of images.

    Raises UserError for a network whose Python code torch cannot follow.
    """
    # A copy, as weights in channels_last have no place in a file.
    classifier = build.classifier(model.config, model.run.data.get("weights"))
    classifier.load_state_dict(model.classifier.state_dict())
    classifier.to(memory_format=torch.contiguous_format)
    predictor = _Predictor(classifier).eval().requires_grad_(False)
    images = torch.zeros(2, 1, 28, 28, dtype=torch.uint8)
    try:
        with _quiet(), torch.no_grad():
            program = torch.export.export(
                predictor, (images,), dynamic_shapes={"images": {0: Dim("N")}}
            )
    except Exception as error:  # of any type: it comes from inside the network's own code
        raise UserError(
            f"The network of {model.run.folder} cannot be exported: {_reason(error)} Its forward "
            "must be tensor operations that are the same for all values and numbers of images."
        ) from None
    program.example_inputs = None  # they would be pickled
    _forget_places(program)
    return program


def _forget_places(program: ExportedProgram) -> None:
    """Drop the lines of source code behind each operation: they name files of this machine."""
    for module in program.graph_module.modules():
        graph = getattr(module, "graph", None)
        for node in graph.nodes if isinstance(graph, torch.fx.Graph) else ():
            node.meta.pop("stack_trace", None)


def to_onnx(program: ExportedProgram, metadata: Mapping[str, Any]) -> bytes:
    """Return the file's content; each value of `metadata` is a string, or JSON, in its properties.

    Raises UserError for an operation that ONNX lacks.
    """
    import onnx
    import onnx_ir
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    try:
        with _quiet():
            made = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                output_names=["probs"],
                dynamic_shapes={"images": {0: "N"}},
                verbose=False,
            )
    except Exception as error:  # of many types, the telling one innermost
        raise UserError(
            f"The network cannot be written as ONNX: {_reason(error)} Try --format torch_export."
        ) from None
    assert made is not None
    ClearMetadataAndDocStringPass()(made.model)  # drops source code and names of our classes
    made.model.metadata_props.update(
        {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()}
    )
    proto = onnx_ir.to_proto(made.model)
    proto.ir_version = IR_VERSION  # what torch 2.14 writes, 10, older runtimes refuse
    onnx.checker.check_model(proto, full_check=True)
    return bytes(proto.SerializeToString())


def to_torch_export(program: ExportedProgram, metadata: Mapping[str, Any]) -> bytes:
    """Return the archive's content, with `metadata` in its extra file METADATA.

    Raises UserError where torch would pickle a weight.
    """
    file = io.BytesIO()
    with _quiet():
        torch.export.save(program, file, extra_files={METADATA: json.dumps(metadata, indent=2)})
    with zipfile.ZipFile(file) as archive:
        names = [name for name in archive.namelist() if name.endswith("_config.json")]
        parts = [json.loads(archive.read(name))["config"] for name in names]
    pickled = [name for part in parts for name, kept in part.items() if kept["use_pickle"]]
    if pickled:
        raise UserError(
            f"The network cannot be stored without pickles: {pickled[0]} is no plain tensor. "
            "Make it one, or try --format onnx."
        )
    return file.getvalue()


def open_onnx(content: bytes) -> Predict:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; what it says of a container's CPUs is no fault
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def predict(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        (probs,) = session.run(["probs"], {"images": images})
        return probs  # type: ignore[no-any-return]

    return predict


def open_torch_export(content: bytes) -> Predict:
    with _quiet():
        network = torch.export.load(io.BytesIO(content)).module()

    def predict(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        probs: NDArray[np.float32] = network(torch.from_numpy(images)).numpy()
        return probs

    return predict


FORMATS = {"onnx": (to_onnx, open_onnx), "torch_export": (to_torch_export, open_torch_export)}


def _reason(error: BaseException) -> str:
    """Return the first line of what lies at the bottom of `error`, as a sentence."""
    while error.__cause__:
        error = error.__cause__
    line = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
    return f"{line.partition(' For more information')[0].rstrip('.! ')}."


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' progress, advice and dumped graphs off the terminal."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            yield
    finally:
        logging.disable(level)

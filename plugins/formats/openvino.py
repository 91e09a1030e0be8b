"""OpenVINO IR: ``model.xml`` with its weights in ``model.bin``, run by OpenVINO on the CPU as a black box."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from auditor import BadInput, hookimpl
from auditor.plugins.formats._outputs import choose_output

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from auditor.model.artefact import Artefact
    from auditor.model.scores import Activation

_ACTIVATIONS: Mapping[str, Activation] = {"Softmax": "softmax", "LogSoftmax": "log-softmax", "Sigmoid": "sigmoid"}


@hookimpl
def auditor_open_model(path: Path, device: str, trust: bool = False, output: str = "") -> Artefact | None:
    """Open files called ``*.xml``."""
    del device, trust
    return _open(path, output) if path.suffix.lower() == ".xml" else None


def _open(path: Path, output: str) -> Artefact:
    from auditor.errors import first_line
    from auditor.model.artefact import Artefact

    try:
        import openvino
    except ImportError:
        raise BadInput(f"{path}: requires OpenVINO; pip install 'auditor[openvino]'") from None
    weights = path.with_suffix(".bin")
    if not weights.is_file():
        raise BadInput(f"{path}: its weights {weights.name} are missing; expected both files in one folder")
    try:
        model = openvino.Core().read_model(path)
        # float32: some processors would otherwise compute in bfloat16
        compiled = openvino.Core().compile_model(
            model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": _threads()}
        )
    except RuntimeError as error:
        raise BadInput(f"{path}: OpenVINO cannot load it: {first_line(error)}") from None
    if len(model.inputs) != 1:
        raise BadInput(f"{path}: the model has {len(model.inputs)} inputs; expected exactly one image")
    names = [each.any_name if each.names else str(i) for i, each in enumerate(model.outputs)]
    index = choose_output(path, names, output)
    activation = _activation(model, index)
    return Artefact(
        format="openvino",
        runtime=f"OpenVINO {openvino.__version__.partition('-')[0]}, CPU, float32",
        input_shape=tuple(side.get_length() if side.is_static else None for side in model.inputs[0].partial_shape),
        input_dtype=model.inputs[0].element_type.to_dtype().name,
        scores=_scores(compiled, index),
        outputs="probabilities" if activation == "softmax" else None,
        output=output,
        activation=activation,
        copy_reason="the OpenVINO runtime gives no gradients",
        files=[weights],
        details={"producer": "OpenVINO", "operators": sorted({node.get_type_name() for node in model.get_ops()})},
    )


def _threads() -> int:
    """Return the number of threads that PyTorch uses, so that all runtimes of an audit have the same."""
    import torch

    return torch.get_num_threads()


def _activation(model: Any, index: int) -> Activation:
    """Return the operator that computes an output, if it is a final activation."""
    last = model.outputs[index].node.input_value(0).get_node()
    return _ACTIVATIONS.get(last.get_type_name(), "none")


def _scores(compiled: Any, index: int) -> Callable[[NDArray[Any]], NDArray[Any]]:
    def run(inputs: NDArray[Any]) -> NDArray[Any]:
        import numpy as np

        # the runtime reuses the memory of its outputs
        return np.array(compiled(inputs)[index])

    return run

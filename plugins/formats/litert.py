"""LiteRT (TensorFlow Lite) models, ``.tflite``, run by LiteRT on the CPU as a black box.

Quantised inputs and outputs are converted with the scale and zero point that the file states, so that the audit gives
and gets the real values (ai.google.dev/edge/litert/conversion/tensorflow/quantization/quantization_spec).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from auditor import BadInput, hookimpl
from auditor.plugins.formats._outputs import choose_output

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from auditor.model.artefact import Artefact


@hookimpl
def auditor_open_model(path: Path, device: str, trust: bool = False, output: str = "") -> Artefact | None:
    """Open files called ``*.tflite``."""
    del device, trust
    return _open(path, output) if path.suffix.lower() == ".tflite" else None


class _Tensor(NamedTuple):
    """An input or output: its number, declared shape, type and quantisation (scale 0 for none)."""

    number: int
    name: str
    shape: tuple[int | None, ...]
    dtype: type[Any]
    scale: float
    zero_point: int


def _open(path: Path, output: str) -> Artefact:
    from importlib.metadata import version

    import numpy as np

    from auditor.errors import first_line
    from auditor.model.artefact import Artefact

    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        raise BadInput(f"{path}: requires LiteRT; pip install 'auditor[litert]'") from None
    try:
        interpreter = Interpreter(model_path=str(path), num_threads=1)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise BadInput(f"{path}: LiteRT cannot load it: {first_line(error)}") from None
    inputs = [_tensor(each) for each in interpreter.get_input_details()]
    if len(inputs) != 1:
        raise BadInput(f"{path}: the model has {len(inputs)} inputs; expected exactly one image")
    outputs = [_tensor(each) for each in interpreter.get_output_details()]
    chosen = outputs[choose_output(path, [each.name for each in outputs], output)]
    quantised = inputs[0].scale > 0
    return Artefact(
        format="litert",
        runtime=f"LiteRT {version('ai-edge-litert')}, CPU",
        input_shape=inputs[0].shape,
        input_dtype="float32" if quantised else np.dtype(inputs[0].dtype).name,
        scores=_scores(interpreter, inputs[0], chosen),
        output=output,
        copy_reason="the LiteRT runtime gives no gradients",
        precision="int8" if quantised else "float32",
        details={
            "producer": "LiteRT",
            "operators": sorted({each["op_name"] for each in interpreter._get_ops_details()}),
        },
    )


def _tensor(details: Mapping[str, Any]) -> _Tensor:
    """Return what the interpreter says about a tensor; a side of -1 is free."""
    signature = details.get("shape_signature", ())
    shape = signature if len(signature) else details["shape"]
    scale, zero_point = details["quantization"]
    return _Tensor(
        number=int(details["index"]),
        name=str(details["name"]),
        shape=tuple(None if side < 0 else int(side) for side in shape),
        dtype=details["dtype"],
        scale=float(scale),
        zero_point=int(zero_point),
    )


def _scores(interpreter: Any, source: _Tensor, target: _Tensor) -> Callable[[NDArray[Any]], NDArray[Any]]:
    shape: list[tuple[int, ...]] = [tuple(interpreter.get_input_details()[0]["shape"])]

    def run(inputs: NDArray[Any]) -> NDArray[Any]:
        if inputs.shape != shape[0]:
            # raises for a file that fixes its batch
            interpreter.resize_tensor_input(source.number, inputs.shape, strict=True)
            interpreter.allocate_tensors()
            shape[0] = inputs.shape
        interpreter.set_tensor(source.number, quantised(inputs, source.dtype, source.scale, source.zero_point))
        interpreter.invoke()
        return real(interpreter.get_tensor(target.number), target.scale, target.zero_point)

    return run


def quantised(values: NDArray[Any], dtype: type[Any], scale: float, zero_point: int) -> NDArray[Any]:
    """Convert real values to a quantised type: round(value / scale) + zero point; a scale of 0 changes nothing."""
    import numpy as np

    if not scale:
        return values
    limits = np.iinfo(dtype)
    return np.clip(np.round(values / scale) + zero_point, limits.min, limits.max).astype(dtype)


def real(values: NDArray[Any], scale: float, zero_point: int) -> NDArray[Any]:
    """Convert quantised values to real ones: scale (value - zero point); a scale of 0 changes nothing."""
    import numpy as np

    return (scale * (values.astype(np.float64) - zero_point)).astype(np.float32) if scale else values

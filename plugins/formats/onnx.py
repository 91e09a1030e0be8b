"""ONNX files: the original runs in ONNX Runtime, the copy is the graph rebuilt over torch.fx (``auditor.loading``)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from auditor import BadInput, NoCopy, hookimpl

if TYPE_CHECKING:
    import onnx
    import onnxruntime
    from numpy.typing import NDArray

    from auditor.classifier import Artefact, Precision

_QUANTISED = {"QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger",
              "DynamicQuantizeLinear", "QGemm"}  # fmt: skip


@hookimpl
def auditor_open_model(path: Path, device: str) -> Artefact | None:
    """Open files called ``*.onnx``."""
    return _open(path, device) if path.suffix.lower() == ".onnx" else None


def _open(path: Path, device: str) -> Artefact:
    from auditor.classifier import Artefact
    from auditor.loading.sidecar import METADATA_KEY

    model = _read(path)
    initialisers = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in initialisers]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise BadInput(f"{path}: the model has {len(inputs)} inputs ({names}); expected exactly one image")
    if not inputs[0].type.HasField("tensor_type"):
        raise BadInput(f"{path}: the model's input {inputs[0].name} is no tensor; expected one image")
    _check_outputs(path, model)
    session, warnings = _session(path, device)
    shape, dtype = _declared(inputs[0])
    opset = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    operators = sorted({node.op_type for node in model.graph.node})
    copy, reason, activation = _copy(model)
    if "DynamicQuantizeLinear" in operators:
        # its scale is taken over the whole batch, so an answer would depend on the image's neighbours
        shape = (1, *shape[1:])
        warnings.append("The model quantises over the whole batch, so every image is judged by itself, which is slow.")
    provider = session.get_providers()[0]
    return Artefact(
        format="onnx",
        runtime=f"ONNX Runtime {_version()}, {provider}",
        input_shape=shape,
        input_dtype=dtype,
        scores=_scores(session, inputs[0].name),
        outputs={"softmax": "probabilities", "none": None}.get(activation),
        copy=copy,
        copy_reason=reason,
        precision=_precision(operators, dtype, model),
        metadata=next((entry.value for entry in model.metadata_props if entry.key == METADATA_KEY), ""),
        properties={entry.key: entry.value for entry in model.metadata_props},
        details={
            "opset": opset,
            "producer": f"{model.producer_name} {model.producer_version}".strip(),
            "operators": operators,
            "input": inputs[0].name,
            "output": model.graph.output[0].name,
            "parameters": sum(_elements(tensor) for tensor in model.graph.initializer),
            "softmax_cut": activation == "softmax",
        },
        warnings=warnings,
    )


def _read(path: Path) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    from auditor.loading.external import check_external_data

    size = path.stat().st_size
    try:
        model = onnx.load(str(path), load_external_data=False)
        check_external_data(model, path)
        onnx.load_external_data_for_model(model, str(path.parent))
    except DecodeError:
        raise BadInput(f"{path}: not an ONNX model, or not all of it ({size} bytes that cannot be parsed)") from None
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise BadInput(f"{path}: its weights in a separate file cannot be read: {error}") from None
    if not model.graph.node or not model.graph.output:
        raise BadInput(f"{path}: not an ONNX model: {size} bytes without a graph")
    return model


def _check_outputs(path: Path, model: onnx.ModelProto) -> None:
    """A classifier has one output of scores; several, or boxes, mean something else."""
    outputs = list(model.graph.output)
    if len(outputs) == 1:
        return
    names = ", ".join(f"{value.name} {_shape_text(value)}" for value in outputs)
    raise BadInput(
        f"{path}: the model has {len(outputs)} outputs ({names}); expected exactly one, the class scores"
        " (detectors cannot be audited; of a classifier export only the scores)"
    )


def _session(path: Path, device: str) -> tuple[onnxruntime.InferenceSession, list[str]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # original and copy take turns on the same cores: threads that wait by spinning would halve the other's speed
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    warnings: list[str] = []
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.startswith("cuda"):
        # the CUDA libraries come with torch's wheels; ONNX Runtime finds them once they are loaded
        onnxruntime.preload_dlls()
        index = int(device.partition(":")[2] or 0)
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": index}))
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:
        # ONNX Runtime's exceptions share no base class of their own
        raise BadInput(f"{path}: ONNX Runtime cannot load it: {_first_line(error)}") from None
    if device.startswith("cuda") and session.get_providers()[0] != "CUDAExecutionProvider":
        warnings.append(
            "ONNX Runtime could not start its CUDA provider, so the original runs on the CPU; see `auditor doctor`"
        )
    return session, warnings


def _scores(session: onnxruntime.InferenceSession, name: str) -> Any:
    def scores(inputs: NDArray[Any]) -> NDArray[Any]:
        try:
            (answer,) = session.run(None, {name: inputs})
        except Exception as error:
            # one type for all that the runtime may raise, so that callers can tell a failed run from a bug
            raise RuntimeError(_first_line(error)) from None
        return answer  # type: ignore[no-any-return]

    return scores


def _copy(model: onnx.ModelProto) -> tuple[Any, str, str]:
    """The differentiable copy, how it was made or why there is none, and the final activation that was cut."""
    try:
        from auditor.loading.importer import cut_final_activation, import_onnx

        module, activation = cut_final_activation(import_onnx(model))
    except NoCopy as error:
        return None, str(error), "none"
    cut = f"; the final {activation} is left out of it" if activation != "none" else ""
    return module, f"the ONNX graph was rebuilt in PyTorch{cut}", activation


def _declared(value: onnx.ValueInfoProto) -> tuple[tuple[int | None, ...], str]:
    import onnx

    tensor = value.type.tensor_type
    dims = tuple(dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None for dim in tensor.shape.dim)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    return (dims if tensor.HasField("shape") else ()), str(dtype)


def _precision(operators: list[str], dtype: str, model: onnx.ModelProto) -> Precision:
    import onnx

    if _QUANTISED.intersection(operators):
        return "int8"
    halves = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer)
    return "float16" if halves or dtype == "float16" else "float32"


def _elements(tensor: onnx.TensorProto) -> int:
    from math import prod

    return prod(tensor.dims)


def _shape_text(value: onnx.ValueInfoProto) -> str:
    dims = [str(d.dim_value or d.dim_param or "?") for d in value.type.tensor_type.shape.dim]
    return f"[{', '.join(dims)}]"


def _version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)


def _first_line(error: BaseException) -> str:
    from auditor.classifier import first_line

    return first_line(error)

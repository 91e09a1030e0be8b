"""ONNX files: the original runs in ONNX Runtime, the copy is the graph rebuilt over torch.fx (``auditor.onnx``)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from auditor import BadInput, NoCopy, hookimpl

if TYPE_CHECKING:
    import onnx
    import onnxruntime
    import torch
    from numpy.typing import NDArray

    from auditor.model.artefact import Artefact, Precision
    from auditor.model.scores import Activation

_QUANTISED = {"QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger",
              "DynamicQuantizeLinear", "QGemm"}  # fmt: skip


@hookimpl
def auditor_open_model(path: Path, device: str, output: str = "") -> Artefact | None:
    """Open files called ``*.onnx``."""
    return _open(path, device, output) if path.suffix.lower() == ".onnx" else None


def _open(path: Path, device: str, output: str) -> Artefact:
    from auditor.model.artefact import Artefact
    from auditor.model.loading.sidecar import METADATA_KEY

    model = _read(path)
    initialisers = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in initialisers]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise BadInput(f"{path}: the model has {len(inputs)} inputs ({names}); expected exactly one image")
    if not inputs[0].type.HasField("tensor_type"):
        raise BadInput(f"{path}: the model's input {inputs[0].name} is no tensor; expected one image")
    chosen = _pick_output(path, model, output)
    session, warnings = _session(path, device)
    shape, dtype = _declared(inputs[0])
    opset = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    operators = sorted({node.op_type for node in model.graph.node})
    copy, reason, cut = _copy(model, chosen)
    activation = _activation(model, chosen)
    precision = _precision(operators, dtype, model)
    if copy is not None and precision == "int8":
        reason += "; gradients pass straight through its rounding, which is an approximation"
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
        scores=_scores(session, inputs[0].name, chosen, _map_keys(model, chosen)),
        device_scores=_device_scores(session, inputs[0].name, chosen, device),
        outputs="probabilities" if activation in {"softmax", "sigmoid"} else None,
        output=chosen,
        activation=activation,
        cut=cut,
        classes=_class_names(model),
        copy=copy,
        copy_reason=reason,
        precision=precision,
        metadata=next((entry.value for entry in model.metadata_props if entry.key == METADATA_KEY), ""),
        properties={entry.key: entry.value for entry in model.metadata_props},
        details={
            "opset": opset,
            "producer": f"{model.producer_name} {model.producer_version}".strip(),
            "operators": operators,
            "input": inputs[0].name,
            "output": chosen,
            "outputs": [value.name for value in model.graph.output],
            "parameters": sum(_elements(tensor) for tensor in model.graph.initializer),
        },
        warnings=warnings,
    )


def _read(path: Path) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    from auditor.model.loading.external_data import check_external_data

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


def _pick_output(path: Path, model: onnx.ModelProto, wanted: str) -> str:
    """The output that holds the class scores: the one asked for, the only one, or the only one that can hold scores
    beside labels, as scikit-learn, XGBoost and LightGBM export it."""
    outputs = list(model.graph.output)
    shown = ", ".join(f"{value.name} {_shape_text(value)}" for value in outputs)
    if wanted:
        if wanted not in {value.name for value in outputs}:
            raise BadInput(f"{path}: --output {wanted}: no such output; the model has {shown}")
        return wanted
    if len(outputs) == 1:
        return str(outputs[0].name)
    scores = [value for value in outputs if _holds_scores(value)]
    if len(scores) == 1 and all(_holds_labels(value) for value in outputs if value is not scores[0]):
        return str(scores[0].name)
    raise BadInput(
        f"{path}: the model has {len(outputs)} outputs ({shown}); say with --output NAME which one holds the class"
        " scores (detectors cannot be audited)"
    )


def _holds_scores(value: onnx.ValueInfoProto) -> bool:
    """A float tensor, or ZipMap's sequence of maps from class to probability."""
    import onnx

    floats = {onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16}
    return value.type.HasField("sequence_type") or value.type.tensor_type.elem_type in floats


def _holds_labels(value: onnx.ValueInfoProto) -> bool:
    """One whole number or text per row."""
    import onnx

    kinds = {onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.STRING}
    tensor = value.type.tensor_type
    columns = [dim.dim_value for dim in tensor.shape.dim][1:]
    return value.type.HasField("tensor_type") and tensor.elem_type in kinds and columns in ([], [1])


def _activation(model: onnx.ModelProto, output: str) -> Activation:
    """What the output passed last, through nodes that change neither order nor size of the scores."""
    makers = {name: node for node in model.graph.node for name in node.output}
    known: dict[str, Activation] = {"Softmax": "softmax", "QLinearSoftmax": "softmax", "LogSoftmax": "log-softmax",
                                    "Sigmoid": "sigmoid", "QLinearSigmoid": "sigmoid"}  # fmt: skip
    through = {"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "QuantizeLinear", "DequantizeLinear",
               "ZipMap"}  # fmt: skip
    while (node := makers.get(output)) is not None:
        if node.op_type in known:
            # a softmax over the batch is not the end of a classifier
            axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), -1)
            return "none" if axis == 0 else known[node.op_type]
        if node.op_type not in through:
            break
        output = node.input[0]
    return "none"


def _class_names(model: onnx.ModelProto) -> tuple[str, ...] | None:
    """The classes as ai.onnx.ml operators state them; None for their plain numbers, which say nothing."""
    keys = {"classlabels_strings", "classlabels_int64s", "classlabels_ints"}
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.domain == "ai.onnx.ml" and attribute.name in keys:
                labels = [text.decode() for text in attribute.strings] or [str(number) for number in attribute.ints]
                if len(labels) > 1 and labels != [str(i) for i in range(len(labels))]:
                    return tuple(labels)
    return None


def _session(path: Path, device: str) -> tuple[onnxruntime.InferenceSession, list[str]]:
    """The original in its runtime, on the device if it can be, and what is to be said when it cannot."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # original and copy take turns on the same cores: threads that wait by spinning would halve the other's speed
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    on_cpu = ["CPUExecutionProvider"]
    if not device.startswith("cuda"):
        return _start(path, options, on_cpu), []
    problem = ""
    try:
        # the CUDA libraries come with torch's wheels; ONNX Runtime finds them once they are loaded
        onnxruntime.preload_dlls()
        # full precision, and an algorithm that does not depend on what else the GPU did while it was being chosen
        wanted = {"device_id": _index(device), "use_tf32": 0, "cudnn_conv_algo_search": "HEURISTIC"}
        session = onnxruntime.InferenceSession(
            str(path), options, providers=[("CUDAExecutionProvider", wanted), *on_cpu]
        )
        if session.get_providers()[0] == "CUDAExecutionProvider":
            return session, []
    except Exception as error:
        # ONNX Runtime's exceptions share no base class of their own; what is wrong with the file, the CPU says, too
        problem = f" ({_first_line(error)})"
    return _start(path, options, on_cpu), [
        f"ONNX Runtime could not start its CUDA provider{problem}, so the original runs on the CPU; see `auditor"
        " doctor`"
    ]


def _start(path: Path, options: onnxruntime.SessionOptions, providers: list[str]) -> onnxruntime.InferenceSession:
    import onnxruntime

    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:
        raise BadInput(f"{path}: ONNX Runtime cannot load it: {_first_line(error)}") from None


def _index(device: str) -> int:
    return int(device.partition(":")[2] or 0)


def _scores(session: onnxruntime.InferenceSession, name: str, output: str, keys: list[Any] | None) -> Any:
    def scores(inputs: NDArray[Any]) -> NDArray[Any]:
        try:
            (answer,) = session.run([output], {name: inputs})
        except Exception as error:
            # one type for all that the runtime may raise, so that callers can tell a failed run from a bug
            raise RuntimeError(_first_line(error)) from None
        return _from_maps(answer, keys) if isinstance(answer, list) else answer

    return scores


def _device_scores(session: onnxruntime.InferenceSession, name: str, output: str, device: str) -> Any:
    """The same for a tensor that lies on the GPU already: nothing but the scores comes to the host. None elsewhere."""
    if session.get_providers()[0] != "CUDAExecutionProvider":
        return None

    def scores(inputs: torch.Tensor) -> NDArray[Any]:
        inputs = inputs.contiguous()
        binding = session.io_binding()
        element = str(inputs.dtype).removeprefix("torch.")
        binding.bind_input(name, "cuda", _index(device), element, tuple(inputs.shape), inputs.data_ptr())
        binding.bind_output(output, "cuda", _index(device))
        # ONNX Runtime has a stream of its own: what torch still writes must be there before it reads
        _finish_torch(device)
        try:
            session.run_with_iobinding(binding)
            (answer,) = binding.copy_outputs_to_cpu()
        except Exception as error:
            raise RuntimeError(_first_line(error)) from None
        result: NDArray[Any] = answer
        return result

    return scores


def _finish_torch(device: str) -> None:
    import torch

    torch.cuda.current_stream(device).synchronize()


def _map_keys(model: onnx.ModelProto, output: str) -> list[Any] | None:
    """The keys of the maps that a final ZipMap gives, in the order of the probabilities beneath."""
    for node in model.graph.node:
        if node.op_type == "ZipMap" and output in node.output:
            for attribute in node.attribute:
                return [text.decode() for text in attribute.strings] or list(attribute.ints)
    return None


def _from_maps(rows: list[dict[Any, float]], keys: list[Any] | None) -> NDArray[Any]:
    """ZipMap's answer as (n, k), the classes in the order of ``keys``, or in their own."""
    import numpy as np

    return np.array([[row[key] for key in keys or sorted(row)] for row in rows], dtype=np.float32)


def _copy(model: onnx.ModelProto, output: str) -> tuple[Any, str, bool]:
    """The differentiable copy, how it was made or why there is none, and whether a final activation was cut off."""
    try:
        from auditor.onnx.final_activation import cut_final_activation
        from auditor.onnx.graph import import_onnx

        module, activation = cut_final_activation(import_onnx(model, [output]))
    except NoCopy as error:
        return None, str(error), False
    cut = f"; the final {activation} is left out of it" if activation != "none" else ""
    return module, f"the ONNX graph was rebuilt in PyTorch{cut}", activation != "none"


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
    from auditor.model.classifier import first_line

    return first_line(error)

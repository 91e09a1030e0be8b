"""ONNX files: ONNX Runtime runs the deployed model; the copy is the graph rebuilt in PyTorch (``auditor.onnx``)."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auditor import BadInput, NoCopy, hookimpl
from auditor.plugins.formats._onnx_graph import (
    class_names,
    declared_input,
    final_activation,
    map_keys,
    precision,
    select_output,
)
from auditor.plugins.formats._onnx_session import device_scores, scores, start_session

if TYPE_CHECKING:
    import onnx

    from auditor.model.artefact import Artefact


@hookimpl
def auditor_open_model(path: Path, device: str, output: str = "") -> Artefact | None:
    """Open files called ``*.onnx``."""
    return _open(path, device, output) if path.suffix.lower() == ".onnx" else None


def _open(path: Path, device: str, output: str) -> Artefact:
    import onnxruntime

    from auditor.model.artefact import Artefact
    from auditor.model.loading.sidecar import METADATA_KEY

    model, files = _read(path)
    model_input = _only_input(path, model)
    selected = select_output(path, model, output)
    session, not_on_device = start_session(path, device)
    warnings = []
    shape, dtype = declared_input(model_input)
    operators = sorted({node.op_type for node in model.graph.node})
    copy, reason, cut = _copy(model, selected)
    activation = final_activation(model, selected)
    number_format = precision(operators, dtype, model)
    if copy is not None and number_format == "int8":
        reason += "; gradients pass straight through its rounding, which is an approximation"
    if "DynamicQuantizeLinear" in operators:
        # its scale depends on the whole batch, so a prediction would depend on the other images
        shape = (1, *shape[1:])
        warnings.append("The model quantises over the whole batch, so images run one at a time, which is slow.")
    return Artefact(
        format="onnx",
        runtime=f"ONNX Runtime {onnxruntime.__version__}, {session.get_providers()[0]}",
        input_shape=shape,
        input_dtype=dtype,
        scores=scores(session, model_input.name, selected, map_keys(model, selected)),
        device_scores=device_scores(session, model_input.name, selected, device),
        outputs="probabilities" if activation in {"softmax", "sigmoid"} else None,
        output=selected,
        activation=activation,
        cut=cut,
        classes=class_names(model),
        copy=copy,
        copy_reason=reason,
        precision=number_format,
        metadata=next((entry.value for entry in model.metadata_props if entry.key == METADATA_KEY), ""),
        properties={entry.key: entry.value for entry in model.metadata_props},
        details=_details(model, model_input.name, selected, operators),
        files=files,
        not_on_device=not_on_device,
        warnings=warnings,
    )


def _read(path: Path) -> tuple[onnx.ModelProto, list[Path]]:
    """Read the model with its external data, and return the files of that data."""
    import onnx
    from google.protobuf.message import DecodeError

    from auditor.model.loading.external_data import check_external_data, external_files

    size = path.stat().st_size
    try:
        model = onnx.load(str(path), load_external_data=False)
        check_external_data(model, path)
        files = external_files(model, path)
        onnx.load_external_data_for_model(model, str(path.parent))
    except DecodeError:
        raise BadInput(f"{path}: not an ONNX model, or not all of it ({size} bytes that cannot be parsed)") from None
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise BadInput(f"{path}: its weights in a separate file cannot be read: {error}") from None
    if not model.graph.node or not model.graph.output:
        raise BadInput(f"{path}: not an ONNX model: {size} bytes without a graph")
    return model, files


def _only_input(path: Path, model: onnx.ModelProto) -> onnx.ValueInfoProto:
    """Return the single input tensor; older files also list their weights as inputs."""
    initialisers = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in initialisers]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise BadInput(f"{path}: the model has {len(inputs)} inputs ({names}); expected exactly one image")
    found: onnx.ValueInfoProto = inputs[0]
    if not found.type.HasField("tensor_type"):
        raise BadInput(f"{path}: the model's input {found.name} is not a tensor; expected one image")
    return found


def _copy(model: onnx.ModelProto, output: str) -> tuple[Any, str, bool]:
    """Return the differentiable copy or None, the reason, and whether a final activation was removed."""
    try:
        from auditor.onnx.final_activation import cut_final_activation
        from auditor.onnx.graph import import_onnx

        module, activation = cut_final_activation(import_onnx(model, [output]))
    except NoCopy as error:
        return None, str(error), False
    if activation == "none":
        return module, "the ONNX graph was rebuilt in PyTorch", False
    return module, f"the ONNX graph was rebuilt in PyTorch without its final {activation}", True


def _details(model: onnx.ModelProto, name: str, output: str, operators: list[str]) -> dict[str, Any]:
    return {
        "opset": {entry.domain or "ai.onnx": entry.version for entry in model.opset_import},
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "operators": operators,
        "input": name,
        "output": output,
        "outputs": [value.name for value in model.graph.output],
        "parameters": sum(prod(tensor.dims) for tensor in model.graph.initializer),
    }

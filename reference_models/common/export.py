"""Export a trained model to ONNX and TorchScript, each with its sidecar."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch

from auditor.model.loading.sidecar import sidecar_path


def export(model: torch.nn.Module, example: torch.Tensor, stem: Path, sidecar: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write ``stem.onnx`` and ``stem.pt`` with dynamic batch, each with a sidecar; return the ONNX file."""
    model = model.eval().cpu()
    onnx_path, script_path = stem.with_suffix(".onnx"), stem.with_suffix(".pt")
    # the exporter logs that torchvision is missing, which is irrelevant
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # torch deprecates TorchScript, but users still deploy it, so the reference models come in both formats
        warnings.simplefilter("ignore")
        batch = torch.export.Dim("batch", min=1, max=1 << 16)
        program = torch.onnx.export(
            model,
            (example,),
            dynamo=True,
            dynamic_shapes=({0: batch},),
            input_names=["image"],
            output_names=["logits"],
            verbose=False,
        )
        assert program is not None
        proto = program.model_proto
        for node in proto.graph.node:
            # the exporter stores the paths of the source files in this field
            del node.metadata_props[:]
        onnx.save(proto, str(onnx_path))
        # without tracing a second time to compare: the networks are those that ONNX was exported from
        torch.jit.trace(model, example, check_trace=False).save(str(script_path))
    for path in (onnx_path, script_path):
        sidecar_path(path).write_text(toml(sidecar), encoding="utf-8")
    return onnx_path


def sidecar(
    size: Sequence[int],
    classes: Sequence[str],
    data: str,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> dict[str, dict[str, Any]]:
    """Return the sidecar of a model that maps normalised pixels to logits.

    Args:
        size: Channels, height and width of the input.
        classes: Names of the outputs.
        data: Name of the file of test images, next to the model.
        mean: Mean of each channel; None for a model without normalisation.
        std: Standard deviation of each channel.
    """
    channels, height, width = size
    given: dict[str, Any] = {"size": [height, width], "channels": channels, "range": [0, 1]}
    given |= {name: value for name, value in (("mean", mean), ("std", std)) if value is not None}
    return {"input": given, "output": {"classes": classes, "kind": "logits"}, "data": {"path": data}}


def toml(sections: Mapping[str, Mapping[str, Any]]) -> str:
    """Format a sidecar: tables of strings, numbers and lists of them."""
    lines: list[str] = []
    for name, entries in sections.items():
        lines += [f"[{name}]", *(f"{key} = {_literal(value)}" for key, value in entries.items()), ""]
    return "\n".join(lines)


def _literal(value: Any) -> str:
    import json

    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(_literal(item) for item in value) + "]"
    # JSON strings and numbers are valid TOML
    return json.dumps(value, ensure_ascii=False)

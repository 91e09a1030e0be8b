"""Artefact: what a format plugin found in a model file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import NDArray

from auditor.model.scores import Activation, Outputs

if TYPE_CHECKING:
    import torch


Format = Literal["onnx", "torchscript", "exported-program"]
Precision = Literal["float32", "float16", "int8"]


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """What a format plugin found in a model file."""

    format: Format
    runtime: str
    """What runs the original, as the report says it: "ONNX Runtime 1.31.1, CPUExecutionProvider"."""
    input_shape: tuple[int | None, ...]
    """As declared, batch first; None where the file leaves it open."""
    input_dtype: str
    """numpy name of the input's type: "float32", "float16", "uint8"."""
    scores: Callable[[NDArray[Any]], NDArray[Any]]
    """From the model's own input to its raw output, on the original."""
    device_scores: Callable[[torch.Tensor], NDArray[Any]] | None = None
    """The same from a tensor on the device, without a trip through the host, where the runtime can do that."""
    outputs: Outputs | None = None
    """None: not to be seen in the file, so found by looking at the numbers."""
    output: str = ""
    """The name of the output that is read, where it has one."""
    activation: Activation = "none"
    """What the output passed last, as far as it was recognised."""
    cut: bool = False
    """That activation is left out of the copy, which gives logits."""
    classes: Sequence[str] | None = None
    """Names of the classes, where the file itself says them."""
    example_shape: tuple[int, ...] = ()
    """Of the input that the file was traced with, where it holds one: surely taken, though perhaps not alone."""
    copy: torch.nn.Module | None = None
    """From the model's own input tensor to logits (or to the raw output, where no final softmax was found)."""
    copy_reason: str = ""
    """How the copy was made, or why there is none."""
    precision: Precision = "float32"
    metadata: str = ""
    """A sidecar (TOML) carried inside the file."""
    properties: Mapping[str, str] = field(default_factory=dict)
    """The file's own metadata by key, where the format has such; ``loading/metadata.py`` knows some keys."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What ``auditor inspect`` shows besides: opset, operators, producer."""
    warnings: Sequence[str] = ()

"""Artefact: what a format plugin found in a model file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from numpy.typing import NDArray

from auditor.model.scores import Activation, Outputs

if TYPE_CHECKING:
    import torch


Precision = Literal["float32", "float16", "int8"]

_FORMAT = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
"""As in schemas/audit.schema.json."""


class Endpoint(Protocol):
    """The connection to a model that runs elsewhere: it counts its queries and keeps the answers."""

    queries: int
    """Images sent so far, those of repeated requests included."""
    limit: int | None
    """Largest number of queries; one beyond it raises OutOfTime."""

    @property
    def batch_size(self) -> int:
        """Number of images that are sent together."""

    @property
    def returns_labels(self) -> bool:
        """Whether the answers are labels without scores."""

    def fresh(self) -> AbstractContextManager[None]:
        """Query also for images that have been answered before, while the context lasts."""

    def counts(self) -> Mapping[str, Any]:
        """Return the model record's key ``endpoint``; nothing secret may be part of it."""


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """What a format plugin found in a model file."""

    format: str
    """Name of the format, in lower case with hyphens: "onnx", "torchscript", "skops"."""
    runtime: str
    """What runs the deployed model, for the report: "ONNX Runtime 1.31.1, CPUExecutionProvider"."""
    input_shape: tuple[int | None, ...]
    """As declared, batch first; None for a free dimension."""
    input_dtype: str
    """numpy name of the input type: "float32", "float16", "uint8"."""
    scores: Callable[[NDArray[Any]], NDArray[Any]]
    """From the model's own input to its raw output, on the deployed model."""
    device_scores: Callable[[torch.Tensor], NDArray[Any]] | None = None
    """The same for a tensor on the device, without a copy to the host; None if the runtime cannot do that."""
    outputs: Outputs | None = None
    """None if the file does not tell; then decided by the values."""
    output: str = ""
    """Name of the output that is read; empty if it has none."""
    activation: Activation = "none"
    """The final activation, if recognised."""
    cut: bool = False
    """Whether the copy omits that activation and so returns logits."""
    classes: Sequence[str] | None = None
    """Class names, if the file contains them."""
    example_shape: tuple[int, ...] = ()
    """Shape of the input that the file was traced with, if stored; it is accepted, possibly among others."""
    copy: torch.nn.Module | None = None
    """From the model's own input tensor to logits (or to the raw output, if no final softmax was found)."""
    copy_reason: str = ""
    """How the copy was made, or why it could not be."""
    precision: Precision = "float32"
    metadata: str = ""
    """A sidecar (TOML) stored inside the file."""
    properties: Mapping[str, str] = field(default_factory=dict)
    """The file's own metadata by key; ``loading/metadata.py`` reads some keys."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Further facts for ``auditor inspect``: opset, operators, producer."""
    files: Sequence[Path] = ()
    """Further files in the model's folder that its predictions depend on, such as external data of an ONNX file."""
    not_on_device: str = ""
    """Why the deployed model runs on the CPU although another device was asked for; empty if it does not."""
    warnings: Sequence[str] = ()
    endpoint: Endpoint | None = None
    """The connection, if the model runs elsewhere."""
    identity: str = ""
    """What identifies a model that is no file: digest of its weights and its metadata. Its first answers, which
    weights elsewhere change, become part of its digest, too. Empty for a file."""

    def __post_init__(self) -> None:
        """Raise ValueError for a name of a format that audit.json does not allow."""
        if not _FORMAT.fullmatch(self.format):
            raise ValueError(f"format is {self.format!r}; expected lower-case words joined by hyphens, such as onnx")

    @property
    def gives_scores(self) -> bool:
        """Whether the model answers with more than a label."""
        return self.endpoint is None or not self.endpoint.returns_labels

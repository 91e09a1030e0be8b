"""TorchScript archives, traced or scripted: deployed model and differentiable copy are the same module."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from auditor import BadInput, hookimpl

if TYPE_CHECKING:
    import torch

    from auditor.model.artefact import Artefact

_SUFFIXES = {".pt", ".pth", ".ts", ".torchscript"}

_WEIGHTS_ONLY = {
    ".safetensors": "weights without a network",
    ".ckpt": "a checkpoint, which is a pickle",
    ".bin": "weights without a network",
    ".pkl": "a pickle",
    ".pickle": "a pickle",
    ".joblib": "a pickle",
}


@hookimpl
def auditor_open_model(path: Path, device: str, trust: bool = False, output: str = "") -> Artefact | None:
    """Open files called ``*.pt``, ``*.pth``, ``*.ts`` or ``*.torchscript``; reject files with weights only."""
    suffix = path.suffix.lower()
    if suffix in _WEIGHTS_ONLY:
        raise BadInput(
            f"{path}: {_WEIGHTS_ONLY[suffix]}; build the network in Python, load the weights, and export it with"
            " torch.onnx.export (or skl2onnx for scikit-learn)"
        )
    return _open(path, device, trust, output) if suffix in _SUFFIXES else None


def _open(path: Path, device: str, trust: bool, output: str) -> Artefact:
    import torch

    from auditor.errors import first_line
    from auditor.model.artefact import Artefact
    from auditor.model.loading.archive import check_torchscript, on_device, traced_shape
    from auditor.model.loading.module import module_scores, picking
    from auditor.model.loading.sidecar import METADATA_KEY

    check_torchscript(path, trust=trust)
    extra = {METADATA_KEY: ""}
    with warnings.catch_warnings():
        # torch deprecates its own format, which existing files still have
        warnings.filterwarnings("ignore", message=r".*torch\.jit", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=r".*torch\.jit", category=FutureWarning)
        try:
            source = on_device(path, device)
            location = str(source) if isinstance(source, Path) else source
            module = torch.jit.load(location, map_location=device, _extra_files=extra)
        except (RuntimeError, ValueError) as error:
            raise BadInput(f"{path}: torch cannot load it as TorchScript: {first_line(error)}") from None
    module.eval()
    inputs = list(module.forward.schema.arguments)[1:]
    required = [argument.name for argument in inputs if not argument.has_default_value()]
    if len(required) != 1:
        names = ", ".join(required) or "none"
        raise BadInput(f"{path}: the model has {len(required)} inputs ({names}); expected exactly one image")
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    embedded = extra[METADATA_KEY]
    channels = _first_channels(module)
    return Artefact(
        format="torchscript",
        runtime=f"TorchScript, PyTorch {torch.__version__}, {device}",
        input_shape=(None, channels, None, None) if channels else (),
        input_dtype="float16" if _is_half(module) else "float32",
        scores=module_scores(module, device, output),
        example_shape=traced_shape(path),
        output=output,
        copy=picking(module, output),
        copy_reason="the TorchScript module itself is differentiable; deployed model and copy are the same",
        precision="float16" if _is_half(module) else "float32",
        metadata=embedded.decode() if isinstance(embedded, bytes) else embedded,
        details={
            "producer": f"torch.jit {type(module).__name__}",
            "operators": sorted({node.kind() for node in module.inlined_graph.nodes()}),
            "parameters": sum(parameter.numel() for parameter in module.parameters()),
        },
    )


def _first_channels(module: torch.jit.ScriptModule) -> int | None:
    """Return 3 if the first 4-D weight has three input channels; None otherwise.

    One input channel is ambiguous: a grey image or a depthwise convolution.
    """
    weights = [p for p in module.parameters() if p.ndim == 4]
    return 3 if weights and weights[0].shape[1] == 3 else None


def _is_half(module: torch.jit.ScriptModule) -> bool:
    import torch

    first = next(iter(module.parameters()), None)
    return first is not None and first.dtype == torch.float16

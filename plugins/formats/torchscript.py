"""TorchScript archives, traced or scripted: original and differentiable copy are the same module."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auditor import BadInput, hookimpl

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from auditor.classifier import Artefact

_SUFFIXES = {".pt", ".pth", ".ts", ".torchscript"}


@hookimpl
def auditor_open_model(path: Path, device: str, trust: bool = False, output: str = "") -> Artefact | None:
    """Open files called ``*.pt``, ``*.pth``, ``*.ts`` or ``*.torchscript``."""
    return _open(path, device, trust, output) if path.suffix.lower() in _SUFFIXES else None


def _open(path: Path, device: str, trust: bool, output: str) -> Artefact:
    import torch

    from auditor.classifier import Artefact, first_line
    from auditor.loading.archive import check_torchscript
    from auditor.loading.sidecar import METADATA_KEY

    check_torchscript(path, trust=trust)
    extra = {METADATA_KEY: ""}
    with warnings.catch_warnings():
        # torch deprecates its own format; the user holds such a file all the same
        warnings.filterwarnings("ignore", message=r".*torch\.jit", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=r".*torch\.jit", category=FutureWarning)
        try:
            module = torch.jit.load(str(path), map_location=device, _extra_files=extra)
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
        scores=_scores(module, device, output),
        output=output,
        copy=_picking(module, output),
        copy_reason="the TorchScript module itself is differentiable; original and copy are the same",
        precision="float16" if _is_half(module) else "float32",
        metadata=embedded.decode() if isinstance(embedded, bytes) else embedded,
        details={
            "producer": f"torch.jit {type(module).__name__}",
            "operators": sorted({node.kind() for node in module.inlined_graph.nodes()}),
            "parameters": sum(parameter.numel() for parameter in module.parameters()),
        },
    )


def _scores(module: torch.jit.ScriptModule, device: str, output: str) -> Any:
    import torch

    def scores(inputs: NDArray[Any]) -> NDArray[Any]:
        with torch.no_grad():
            answer = _pick(module(torch.from_numpy(inputs).to(device)), output)
        result: NDArray[Any] = answer.float().cpu().numpy()
        return result

    return scores


def _pick(answer: Any, output: str) -> torch.Tensor:
    """The class scores in what the module returns: the only tensor, or the one called or numbered ``output``."""
    import torch

    if isinstance(answer, torch.Tensor):
        if output:
            raise BadInput(f"--output {output}: no such output; the model returns one tensor")
        return answer
    kind = type(answer).__name__
    if not isinstance(answer, tuple | list | dict):
        raise BadInput(f"the model returns a {kind}; expected a tensor of class scores")
    named = answer if isinstance(answer, dict) else {str(i): value for i, value in enumerate(answer)}
    if not output and kind != "dict" and len(named) == 1:
        output = "0"
    if output not in named:
        raise BadInput(
            f"the model returns a {kind} of {len(named)} outputs ({', '.join(named)}); say with --output NAME which one"
            " holds the class scores (the members of a tuple are numbered from 0)"
        )
    chosen = named[output]
    if not isinstance(chosen, torch.Tensor):
        raise BadInput(f"output {output} is a {type(chosen).__name__}; expected a tensor of class scores")
    return chosen


def _picking(module: torch.jit.ScriptModule, output: str) -> torch.nn.Module:
    """The module, returning one of its outputs only."""
    import torch

    class Picking(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = module

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return _pick(self.model(inputs), output)

    return Picking().eval() if output else module


def _first_channels(module: torch.jit.ScriptModule) -> int | None:
    """Three if the first 4-D weight takes three; one may mean a grey image or a depthwise convolution, so is tried."""
    weights = [p for p in module.parameters() if p.ndim == 4]
    return 3 if weights and weights[0].shape[1] == 3 else None


def _is_half(module: torch.jit.ScriptModule) -> bool:
    import torch

    first = next(iter(module.parameters()), None)
    return first is not None and first.dtype == torch.float16

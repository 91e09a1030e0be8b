"""Archives of ``torch.export`` (``.pt2``): deployed model and differentiable copy are the same program."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from auditor import BadInput, hookimpl

if TYPE_CHECKING:
    import torch

    from auditor.model.artefact import Artefact


@hookimpl
def auditor_open_model(path: Path, device: str, trust: bool = False, output: str = "") -> Artefact | None:
    """Open files called ``*.pt2``."""
    return _open(path, device, trust, output) if path.suffix.lower() == ".pt2" else None


def _open(path: Path, device: str, trust: bool, output: str) -> Artefact:
    import torch

    from auditor.model.artefact import Artefact
    from auditor.model.loading.module import module_scores, picking

    program = _load(path, trust)
    names = program.graph_signature.user_inputs
    values = [node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
    if len(names) != 1 or not isinstance(values[0], torch.Tensor):
        raise BadInput(f"{path}: the model has {len(names)} inputs ({', '.join(map(str, names))}); expected one image")
    if device != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    # the exporter's shape guards would reject other batch sizes; the parity check detects wrong results
    module = program.module(check_guards=False)
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    floating = {value.dtype for value in program.state_dict.values() if value.is_floating_point()}
    half = bool(floating) and floating <= {torch.float16, torch.bfloat16}
    return Artefact(
        format="exported-program",
        runtime=f"torch.export, PyTorch {torch.__version__}, {device}",
        input_shape=tuple(side if isinstance(side, int) else None for side in values[0].shape),
        input_dtype=str(values[0].dtype).removeprefix("torch."),
        scores=module_scores(module, device, output),
        output=output,
        copy=picking(module, output),
        copy_reason="the exported program itself is differentiable; deployed model and copy are the same",
        precision="float16" if half else "float32",
        details={
            "producer": "torch.export",
            "operators": sorted({str(node.target) for node in program.graph.nodes if node.op == "call_function"}),
            "input": str(names[0]),
            "parameters": sum(value.numel() for value in program.state_dict.values()),
        },
    )


def _load(path: Path, trust: bool) -> torch.export.ExportedProgram:
    """Return the program; ``torch.export.load`` reads exactly the bytes that were checked."""
    import torch

    from auditor.errors import first_line
    from auditor.model.loading.archive import EXPORT, check_exported, open_zip

    content = path.read_bytes()
    with open_zip(io.BytesIO(content), path, "an archive of torch.export") as archive:
        samples = b"" if trust else check_exported(archive, path)
    if samples:
        try:
            torch.load(io.BytesIO(samples), weights_only=True)
        except Exception:
            # torch.export.load would unpickle arbitrary objects
            raise BadInput(
                f"{path}: its sample inputs are a pickle of more than tensors, which can run any code when it is read;"
                f" {EXPORT} (--trust-model skips this check)"
            ) from None
    try:
        return torch.export.load(io.BytesIO(content))
    except MemoryError:
        raise
    except Exception as error:
        # the deserialiser raises exceptions of any type
        raise BadInput(f"{path}: torch cannot load it: {type(error).__name__}: {first_line(error)}; {EXPORT}") from None

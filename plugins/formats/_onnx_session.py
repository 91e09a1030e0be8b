"""Run ONNX files in ONNX Runtime, on the CPU or, without copies through the host, on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auditor import BadInput

if TYPE_CHECKING:
    import onnxruntime
    import torch
    from numpy.typing import NDArray


def start_session(path: Path, device: str) -> tuple[onnxruntime.InferenceSession, str]:
    """Return a session of the deployed model, and why it is not on the device ("" if it is)."""
    from auditor.model.cuda_provider import start_on_cuda

    session, reason = start_on_cuda(str(path), _index(device)) if device.startswith("cuda") else (None, "")
    # an unusable file fails on the CPU, too, which gives the better message
    return (session, "") if session is not None else (_start(path), reason)


def _start(path: Path) -> onnxruntime.InferenceSession:
    """Return a session on the CPU."""
    import onnxruntime

    from auditor.model.cuda_provider import CPU, quiet_options

    try:
        return onnxruntime.InferenceSession(str(path), quiet_options(), providers=[CPU])
    except Exception as error:
        raise BadInput(f"{path}: ONNX Runtime cannot load it: {_first_line(error)}") from None


def scores(
    session: onnxruntime.InferenceSession, name: str, output: str, keys: list[Any] | None
) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Return the function from model inputs to scores (n, k); ``keys`` orders the classes of a ZipMap."""

    def run(inputs: NDArray[Any]) -> NDArray[Any]:
        try:
            (result,) = session.run([output], {name: inputs})
        except Exception as error:
            # one type for all runtime errors, so that callers can distinguish a failed run from a bug
            raise RuntimeError(_first_line(error)) from None
        if isinstance(result, list):
            return _from_maps(result, keys)
        found: NDArray[Any] = result
        return found

    return run


def device_scores(
    session: onnxruntime.InferenceSession, name: str, output: str, device: str
) -> Callable[[torch.Tensor], NDArray[Any]] | None:
    """Return the function from model inputs on the GPU to scores on the host; None if the session is on the CPU."""
    from auditor.model.cuda_provider import CUDA

    if session.get_providers()[0] != CUDA:
        return None

    def run(inputs: torch.Tensor) -> NDArray[Any]:
        inputs = inputs.contiguous()
        binding = session.io_binding()
        element = str(inputs.dtype).removeprefix("torch.")
        binding.bind_input(name, "cuda", _index(device), element, tuple(inputs.shape), inputs.data_ptr())
        binding.bind_output(output, "cuda", _index(device))
        # ONNX Runtime uses its own stream: torch must finish writing the inputs first
        _finish_torch(device)
        try:
            session.run_with_iobinding(binding)
            (result,) = binding.copy_outputs_to_cpu()
        except Exception as error:
            raise RuntimeError(_first_line(error)) from None
        found: NDArray[Any] = result
        return found

    return run


def _finish_torch(device: str) -> None:
    import torch

    torch.cuda.current_stream(device).synchronize()


def _index(device: str) -> int:
    return int(device.partition(":")[2] or 0)


def _from_maps(rows: list[dict[Any, float]], keys: list[Any] | None) -> NDArray[Any]:
    """Return ZipMap's output as (n, k), with classes in the order of ``keys``, or sorted."""
    import numpy as np

    return np.array([[row[key] for key in keys or sorted(row)] for row in rows], dtype=np.float32)


def _first_line(error: BaseException) -> str:
    from auditor.errors import first_line

    return first_line(error)

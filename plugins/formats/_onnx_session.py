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

_CPU = ["CPUExecutionProvider"]
_CUDA = "CUDAExecutionProvider"


def start_session(path: Path, device: str) -> tuple[onnxruntime.InferenceSession, list[str]]:
    """Return a session of the deployed model, on the device if possible, and warnings."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # deployed model and copy alternate on the same cores; spinning threads would slow each other down
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not device.startswith("cuda"):
        return _start(path, options), []
    problem = ""
    try:
        # ONNX Runtime finds the CUDA libraries of torch's wheels once they are loaded
        onnxruntime.preload_dlls()
        # full precision, and an algorithm that does not depend on the load of the GPU at start
        settings = {"device_id": _index(device), "use_tf32": 0, "cudnn_conv_algo_search": "HEURISTIC"}
        session = onnxruntime.InferenceSession(str(path), options, providers=[(_CUDA, settings), *_CPU])
        if session.get_providers()[0] == _CUDA:
            return session, []
    except Exception as error:
        # ONNX Runtime's exceptions share no base class; an unusable file fails on the CPU, too
        problem = f" ({_first_line(error)})"
    return _start(path, options), [
        f"ONNX Runtime could not start its CUDA provider{problem}, so the deployed model runs on the CPU; see `auditor"
        " doctor`"
    ]


def _start(path: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    """Return a session on the CPU."""
    import onnxruntime

    try:
        return onnxruntime.InferenceSession(str(path), options, providers=_CPU)
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
    if session.get_providers()[0] != _CUDA:
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

"""Start ONNX Runtime on CUDA; if its CUDA provider does not start, find out why.

ONNX Runtime lists the providers that it was compiled with, and falls back to the CPU without a word when a library of
its CUDA provider is missing. So only a session shows what runs.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auditor.errors import first_line

if TYPE_CHECKING:
    import onnxruntime

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"

_PACKAGES = {
    "cublas": "nvidia-cublas",
    "cublasLt": "nvidia-cublas",
    "cudart": "nvidia-cuda-runtime",
    "cudnn": "nvidia-cudnn-cu13",
    "cufft": "nvidia-cufft",
    "curand": "nvidia-curand",
    "nvJitLink": "nvidia-nvjitlink",
    "nvrtc": "nvidia-cuda-nvrtc",
}
"""Package that contains the library, by the part of its name between "lib" and ".so" or "_"."""


def start_on_cuda(model: str | bytes, index: int) -> tuple[onnxruntime.InferenceSession | None, str]:
    """Return a session on the CUDA device with this number, or None and why there is none.

    ``model`` is the path or the content of an ONNX file.
    """
    import onnxruntime

    if CUDA not in onnxruntime.get_available_providers():
        return None, "the installed ONNX Runtime is built without CUDA; pip install 'onnxruntime-gpu[cuda,cudnn]'"
    # the same results for the same inputs, full precision, and algorithms that do not depend on the load of the GPU
    options = quiet_options()
    options.use_deterministic_compute = True
    settings = {"device_id": index, "use_tf32": 0, "cudnn_conv_algo_search": "HEURISTIC"}
    with _silenced():
        try:
            # ONNX Runtime finds the CUDA libraries of torch's wheels once they are loaded
            onnxruntime.preload_dlls()
            session = onnxruntime.InferenceSession(
                model, options, providers=[(CUDA, settings), CPU], enable_fallback=False
            )
        except Exception as error:
            # ONNX Runtime's exceptions share no base class
            return None, _cuda_failure(str(error)) or first_line(error)
    if session.get_providers()[0] == CUDA:
        return session, ""
    return None, _loader_message() or "ONNX Runtime does not say why"


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Suppress what ONNX Runtime prints: to stdout, which belongs to the command, and to its log."""
    import onnxruntime

    warning, fatal = 2, 4
    onnxruntime.set_default_logger_severity(fatal)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        onnxruntime.set_default_logger_severity(warning)


def missing_library(message: str) -> str:
    """Add to a message of the dynamic loader what provides the library; other messages are unchanged."""
    found = re.match(r"lib([A-Za-z]+)[\w.-]*\.so[\d.]*(?=: cannot open shared object file)", message)
    if not found:
        return message
    library, stem = found[0], found[1]
    if stem in {"cuda", "nvidia"}:
        return f"{library} is missing, a library of the NVIDIA driver; install the driver"
    package = _PACKAGES.get(stem)
    return f"{library} is missing" + (f"; pip install {package}" if package else ", and no known package contains it")


def _loader_message() -> str:
    """Load the libraries of the CUDA provider as ONNX Runtime does; return the loader's message, or ""."""
    import onnxruntime

    folder = Path(onnxruntime.__file__).parent / "capi"
    try:
        # the provider takes its host's functions from the first library
        ctypes.CDLL(str(folder / "libonnxruntime_providers_shared.so"), ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(folder / "libonnxruntime_providers_cuda.so"))
    except OSError as error:
        return missing_library(first_line(error))
    return ""


def _cuda_failure(message: str) -> str:
    """Return CUDA's own sentence from a message of ONNX Runtime; "" if there is none."""
    found = re.search(r"(CUDA|CUDNN|CUBLAS) failure \d+: [^;]*", message)
    return found[0].strip() if found else ""


def describe_provider(index: int = 0) -> tuple[str, str]:
    """Run a tiny model; return the provider that ran it, and why CUDA did not ("" if it did)."""
    import onnxruntime

    session, reason = start_on_cuda(_tiny_model(), index)
    if session is not None:
        try:
            _run(session)
        except Exception as error:
            session, reason = None, _cuda_failure(str(error)) or first_line(error)
    if session is None:
        session = onnxruntime.InferenceSession(_tiny_model(), quiet_options(), providers=[CPU])
        _run(session)
    provider: str = session.get_providers()[0]
    return provider, reason


def quiet_options() -> onnxruntime.SessionOptions:
    """Return options of a session that logs nothing and whose threads do not spin."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # deployed model and copy alternate on the same cores; spinning threads would slow each other down
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _tiny_model() -> bytes:
    """Return an ONNX file that convolves one pixel: the operator needs cuDNN, which is opened late."""
    from onnx import TensorProto, helper

    def value(name: str) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 1, 1])

    weight = helper.make_tensor("w", TensorProto.FLOAT, [1, 1, 1, 1], [2.0])
    node = helper.make_node("Conv", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "tiny", [value("x")], [value("y")], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    content: bytes = model.SerializeToString()
    return content


def _run(session: onnxruntime.InferenceSession) -> None:
    import numpy as np

    session.run(None, {"x": np.ones((1, 1, 1, 1), dtype=np.float32)})

"""The machine: device, threads, memory and versions."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from auditor.errors import BadInput, first_line

_PACKAGES = {
    "torch": "torch",
    "onnx": "onnx",
    "art": "adversarial-robustness-toolbox",
    "numpy": "numpy",
    "scikit-learn": "scikit-learn",
    "fairlearn": "fairlearn",
    "weasyprint": "weasyprint",
}


_GPU_FOLDER = Path("/proc/driver/nvidia/gpus")
"""Has one entry for each GPU of the NVIDIA driver on Linux."""

_SMALL = 1024
"""Number of input values up to which a network is too small to gain from several threads."""


@contextmanager
def threads_for(shape: tuple[int, ...]) -> Iterator[None]:
    """Use one torch thread for small inputs while the context lasts; do not change the number for others.

    On 8x8 digits with two threads, AutoAttack takes many times as long when another process needs a core, because the
    threads wait for each other at every layer. The rule depends only on the input, so an audit always has the same
    number of threads.
    """
    import math

    import torch

    before = torch.get_num_threads()
    if math.prod(shape) <= _SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def limit_threads(count: int) -> None:
    """Use ``count`` threads of torch in a process that shares the cores with others."""
    import torch

    torch.set_num_threads(count)


def keep_memory() -> None:
    """Let the C library keep freed memory for the next pass.

    By default glibc returns freed memory to the system and requests it again for the next pass, page by page and
    zeroed, which slows down attacks on small networks. The setting affects the whole process, so ``auditor.audit`` does
    not use it. Other C libraries lack the call; nothing changes there.
    """
    import ctypes

    trim_threshold, mmap_threshold = -1, -3
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(trim_threshold, -1)
    # older versions accept at most 32 MB
    if not mallopt(mmap_threshold, 1 << 30):
        mallopt(mmap_threshold, 1 << 25)


def version(package: str) -> str | None:
    """Return the installed version of a distribution without importing it; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def describe(device: str) -> dict[str, Any]:
    """Describe versions and device for audit.json."""
    import torch

    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.processor() or "CPU"
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: version(package) for name, package in _PACKAGES.items()},
        "onnxruntime": version("onnxruntime-gpu") or version("onnxruntime"),
        "device": device,
        "device_name": name,
        "threads": torch.get_num_threads(),
        "tf32": bool(torch.backends.cuda.matmul.allow_tf32),
    }


def pick_device(wanted: str) -> str:
    """Return the device to run on; "auto" prefers CUDA. Raise BadInput for a device that does not exist."""
    import torch

    if wanted == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda"):
        count = torch.cuda.device_count()
        index = int(wanted.partition(":")[2] or 0)
        if index >= count:
            usable = f"cuda:0 to cuda:{count - 1}, or cpu" if count > 1 else "cuda:0 or cpu" if count else "cpu"
            reason = "" if count else f" ({cuda_problem()})"
            raise BadInput(
                f"--device {wanted}: CUDA devices that PyTorch finds: {count}{reason}; use {usable} (see `auditor"
                " doctor`)"
            )
        return f"cuda:{index}"
    if wanted == "mps" and not torch.backends.mps.is_available():
        raise BadInput("--device mps: PyTorch finds no Apple GPU; use --device cpu")
    return wanted


def cuda_problem() -> str:
    """Return why PyTorch finds no CUDA device."""
    import warnings

    import torch

    if torch.version.cuda is None:
        return f"PyTorch {torch.__version__} is built without CUDA"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.cuda.init()
        except Exception as error:
            # torch raises RuntimeError and AssertionError, and the driver's errors have own types
            return first_line(error).partition(". ")[0].rstrip(".")
    return "the driver shows none"


def unused_gpu() -> str:
    """Return why PyTorch uses no CUDA device although the machine has an NVIDIA GPU; "" if it has none."""
    import torch

    present = any(_GPU_FOLDER.glob("*")) and not torch.cuda.is_available()
    return cuda_problem() if present else ""


def finish(device: str) -> None:
    """Wait until the device has computed everything that was asked of it; a CPU always has."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    elif device == "mps":
        torch.mps.synchronize()


def free_memory() -> None:
    """Return the memory of tensors that no longer exist to the GPU, where a larger block may then fit."""
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()


def make_repeatable() -> None:
    """Use full precision and deterministic algorithms, because robustness depends on small differences."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True

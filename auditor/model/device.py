"""The machine: which device, which versions, what is missing and how to get it."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from auditor.errors import BadInput

_PACKAGES = {"torch": "torch", "onnx": "onnx", "art": "adversarial-robustness-toolbox", "numpy": "numpy",
             "scikit-learn": "scikit-learn", "fairlearn": "fairlearn", "weasyprint": "weasyprint"}  # fmt: skip


_SMALL = 1024
"""Numbers of an input up to which a network is too small to share its work out among threads."""


@contextmanager
def threads_for(shape: tuple[int, ...]) -> Iterator[None]:
    """While it lasts, one torch thread for small inputs, as many as ever for others.

    On 8x8 digits with two threads AutoAttack takes many times as long when anything else wants a core: the threads wait
    for each other at every layer. The rule looks at nothing but the input, so the same audit has the same threads.
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


def keep_memory() -> None:
    """Have the C library keep freed memory for this process's next pass.

    By default glibc gives what a pass frees back to the system and gets it again for the next, page by page and zeroed,
    which attacks on small networks notice. It is the whole process's setting, hence not for ``auditor.audit`` in a
    process of others. Other C libraries have no such call, and nothing changes.
    """
    import ctypes

    trim_threshold, mmap_threshold = -1, -3
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(trim_threshold, -1)
    # older versions take no more than 32 MB
    if not mallopt(mmap_threshold, 1 << 30):
        mallopt(mmap_threshold, 1 << 25)


def version(package: str) -> str | None:
    """The installed version of a distribution, without importing it."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def describe(device: str) -> dict[str, Any]:
    """Versions and device, as audit.json holds them."""
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
    """The device to run on; "auto" takes CUDA where there is one. Raises BadInput for one that is not there."""
    import torch

    if wanted == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda"):
        count = torch.cuda.device_count()
        index = int(wanted.partition(":")[2] or 0)
        if index >= count:
            raise BadInput(
                f"--device {wanted}: PyTorch sees {count} CUDA devices here; take --device cpu (see `auditor doctor`)"
            )
        return f"cuda:{index}"
    if wanted == "mps" and not torch.backends.mps.is_available():
        raise BadInput("--device mps: PyTorch sees no Apple GPU here; take --device cpu")
    return wanted


def make_repeatable() -> None:
    """Full precision and the same algorithm every time; robustness is measured in the last bits."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True

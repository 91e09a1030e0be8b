"""``auditor doctor``: what is there, what is missing, how to get it."""

from __future__ import annotations

import ctypes.util
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from auditor.model.device import version

PANGO_ADVICE = (
    "the PDF needs Pango: apt install libpango-1.0-0 libpangoft2-1.0-0 libharfbuzz-subset0 (Debian, Ubuntu),"
    " dnf install pango (Fedora), brew install pango (macOS)"
)


@dataclass(frozen=True)
class Check:
    """One thing that an audit may need."""

    what: str
    fine: bool
    found: str
    advice: str = ""


def examine() -> Iterator[Check]:
    """Look at everything, one after the other."""
    yield Check("auditor", True, f"{version('auditor')} on Python {platform.python_version()}, {sys.platform}")
    yield from _packages()
    yield from _cuda()
    yield _pango()
    yield from _plugins()


def _packages() -> Iterator[Check]:
    for package in ("torch", "onnx", "onnxscript", "adversarial-robustness-toolbox", "fairlearn", "scikit-learn",
                    "weasyprint"):  # fmt: skip
        found = version(package)
        yield Check(package, found is not None, found or "not installed", "" if found else f"pip install {package}")


def _cuda() -> Iterator[Check]:
    import onnxruntime
    import torch

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    yield Check(
        "CUDA in PyTorch", True, ", ".join(names) or "no device seen: audits run on the CPU (this is fine, and slower)"
    )
    providers = onnxruntime.get_available_providers()
    missing = bool(names) and "CUDAExecutionProvider" not in providers
    advice = "ONNX models would run on the CPU; pip install onnxruntime-gpu" if missing else ""
    yield Check(f"ONNX Runtime {onnxruntime.__version__}", not missing, ", ".join(providers), advice)


def _pango() -> Check:
    found = ctypes.util.find_library("pango-1.0") or ctypes.util.find_library("pango-1.0-0")
    return Check("Pango", bool(found), found or "not found", "" if found else PANGO_ADVICE)


def _plugins() -> Iterator[Check]:
    from auditor.plugin.registry import load

    registry = load()
    foreign = [p for p in registry.plugins if p.package != "auditor" and not p.error]
    yield Check("probes", True, f"{len(registry.probes)}, {len(foreign)} plugins from elsewhere")
    for plugin in registry.broken:
        yield Check(f"plugin {plugin.name}", False, plugin.error or "", f"mend or uninstall {plugin.package}")

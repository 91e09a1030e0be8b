"""``auditor doctor``: installed and missing components, and how to install them."""

from __future__ import annotations

import ctypes.util
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from auditor.model.device import version

PANGO_ADVICE = (
    "the PDF requires Pango: apt install libpango-1.0-0 libpangoft2-1.0-0 libharfbuzz-subset0 (Debian, Ubuntu),"
    " dnf install pango (Fedora), brew install pango (macOS)"
)

_PACKAGES = (
    "torch",
    "onnx",
    "onnxscript",
    "adversarial-robustness-toolbox",
    "fairlearn",
    "scikit-learn",
    "weasyprint",
)


@dataclass(frozen=True)
class Check:
    """A component that an audit may need."""

    component: str
    ok: bool
    found: str
    advice: str = ""
    """How to install it; empty if it is installed."""


def examine() -> Iterator[Check]:
    """Check all components."""
    yield Check("auditor", True, f"{version('auditor')} on Python {platform.python_version()}, {sys.platform}")
    yield from map(_package, _PACKAGES)
    yield from _cuda()
    yield _pango()
    yield _fonts()
    yield from _plugins()


def _package(name: str) -> Check:
    found = version(name)
    return Check(name, found is not None, found or "not installed", "" if found else f"pip install {name}")


def _cuda() -> Iterator[Check]:
    import torch

    from auditor.model.cuda_provider import CUDA, describe_provider
    from auditor.model.device import cuda_problem, unused_gpu

    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    no_device = "" if names else f"no device ({cuda_problem()}): audits run on the CPU, which is slower"
    yield Check("CUDA in PyTorch", not unused_gpu(), ", ".join(names) or no_device)
    provider, reason = describe_provider()
    runtime = version("onnxruntime-gpu") or version("onnxruntime")
    why = f"; {CUDA} did not start: {reason}" if reason else ""
    # without a GPU, the CPU is what an audit uses
    missing = bool(names) and provider != CUDA
    advice = "ONNX models run on the CPU although PyTorch finds a GPU; install what the reason names" if missing else ""
    yield Check(f"ONNX Runtime {runtime}", not missing, f"{provider} ran a test model{why}", advice)


def _pango() -> Check:
    found = ctypes.util.find_library("pango-1.0") or ctypes.util.find_library("pango-1.0-0")
    return Check("Pango", bool(found), found or "not found", "" if found else PANGO_ADVICE)


def _fonts() -> Check:
    from auditor.report.fonts import SAMPLES, missing_characters

    drawn = [script for script, sample in SAMPLES.items() if not missing_characters(sample)]
    missing = [script for script in SAMPLES if script not in drawn]
    advice = ""
    if missing:
        advice = (
            f"the PDF shows boxes for {', '.join(missing)} in class names and groups; where yours have them:"
            " apt install fonts-noto-core fonts-noto-cjk (Debian, Ubuntu)"
        )
    return Check("fonts for the PDF", not missing, ", ".join(drawn) or "none found", advice)


def _plugins() -> Iterator[Check]:
    from auditor.plugin.registry import load

    registry = load()
    registry.list_all()
    third_party = [p for p in registry.plugins if p.package != "auditor" and not p.error]
    yield Check("probes", True, f"{len(registry.probes)}, {len(third_party)} third-party plugins")
    for plugin in registry.broken:
        yield Check(f"plugin {plugin.title}", False, plugin.error or "", f"fix or uninstall {plugin.package}")

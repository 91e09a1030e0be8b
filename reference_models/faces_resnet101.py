"""faces-resnet101: a deeper version of faces-resnet18, to compare robustness."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from torch import nn

from auditor.reference_models.common import networks
from auditor.reference_models.common.settings import Options
from auditor.reference_models.faces_resnet18 import PRESETS, Settings, data, fit

__all__ = ["PRESETS", "Settings", "data", "model", "train"]

TITLE = "ResNet-101 for face identification (FGSM sweep)"
NAME = "faces-resnet101"
BACKBONE: Final = "resnet101"


def model(settings: Settings, weights: str, classes: int) -> nn.Module:
    """Create a ResNet-101 with a new last layer."""
    del settings
    return networks.pretrained(BACKBONE, weights, partial(networks.new_last_layer, classes=classes))


def train(
    out: Path, path: Path | None = None, say: Callable[[str], None] = print, options: Options | None = None
) -> Path:
    """Train, export to ``out``, and return the ONNX file."""
    return fit(NAME, model, out=out, path=path, say=say, options=options or Options(), pretrained=True)

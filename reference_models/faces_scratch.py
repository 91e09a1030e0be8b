"""faces-scratch: a residual network of five stages, trained from scratch on the faces of faces-resnet18."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torchvision.models.resnet import BasicBlock

from auditor.reference_models.common.settings import Options
from auditor.reference_models.faces_resnet18 import PRESETS, Settings, data, fit

__all__ = ["PRESETS", "Settings", "data", "model", "train"]

TITLE = "Five-stage residual network for face identification, trained from scratch (FGSM sweep)"
NAME = "faces-scratch"

STAGES = ((64, 3), (128, 4), (256, 6), (512, 3), (1024, 2))
"""Width and number of basic blocks, as documented."""


class FiveStages(nn.Module):
    """7x7 convolution, pooling, five stages of basic blocks, average pooling, one linear layer."""

    def __init__(self, classes: int, *, width: float = 1.0) -> None:
        super().__init__()
        before = int(64 * width)
        self.stem = nn.Sequential(
            nn.Conv2d(3, before, 7, 2, 3, bias=False), nn.BatchNorm2d(before), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        )
        blocks: list[nn.Module] = []
        for stage, (full, count) in enumerate(STAGES):
            after = int(full * width)
            for block in range(count):
                stride = 2 if stage and not block else 1
                skip = None
                if stride != 1 or before != after:
                    skip = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
                blocks.append(BasicBlock(before, after, stride, skip))
                before = after
        self.blocks = nn.Sequential(*blocks)
        self.last = nn.Linear(before, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (n, classes) of (n, 3, h, w)."""
        logits: torch.Tensor = self.last(self.blocks(self.stem(x)).mean((2, 3)))
        return logits


def model(settings: Settings, weights: str, classes: int) -> nn.Module:
    """Create the network with random weights; ``weights`` is unused."""
    del settings, weights
    return FiveStages(classes)


def train(
    out: Path, path: Path | None = None, say: Callable[[str], None] = print, options: Options | None = None
) -> Path:
    """Train, export to ``out``, and return the ONNX file."""
    return fit(NAME, model, out=out, path=path, say=say, options=options or Options(), pretrained=False)

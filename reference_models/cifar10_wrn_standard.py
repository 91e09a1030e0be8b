"""cifar10-wrn-standard: a wide residual network for CIFAR-10; comparison of adversarial distance and CLEVER.

The documented study compared the CLEVER score of every test image with the distance found by an attack, on this network
and on one trained with random corruptions (``cifar10-wrn-corruption``), and treated the score as a lower bound because
86 % of scores were below the distance. The suite ``cifar10`` measures both on the same images, in three norms and with
all four CLEVER settings; ``cifar10-wrn-adversarial`` is the third network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from auditor.reference_models.common import images, perturbations
from auditor.reference_models.common.networks import WideResNet
from auditor.reference_models.common.recipe import build
from auditor.reference_models.common.settings import Options, settle
from auditor.reference_models.common.settings import Settings as Common

TITLE = "Wide ResNet for CIFAR-10, trained with crops and flips only"
NAME = "cifar10-wrn-standard"
EXPECTED = "CIFAR-10 as folders train and test with a folder per class, or any coloured images of that size"


@dataclass(frozen=True, kw_only=True)
class Settings(Common):
    """WRN-28-10 as documented, except for the schedule: cosine, from the usual rate for batches of 128."""

    epochs: int = 100
    batch: int = 128
    learning_rate: float = 0.05
    weight_decay: float = 5e-4
    blocks: int = 4
    """Blocks per group; depth = 6 blocks + 4."""
    width: int = 10
    dropout: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.blocks < 1 or self.width < 1 or not 0 <= self.dropout < 1:
            raise ValueError("expected blocks and width of at least 1, and 0 <= dropout < 1")


WIDTHS: dict[str, dict[str, Any]] = {
    "full": {},
    "medium": {"width": 4},
    # half an hour of one core
    "small": {"blocks": 2, "width": 1, "dropout": 0.0, "epochs": 40, "learning_rate": 0.1},
    # two cores, a few minutes
    "tiny": {"blocks": 1, "width": 1, "dropout": 0.0, "samples": 8000, "epochs": 5, "learning_rate": 0.1},
}
"""WRN-28-10, WRN-28-4, WRN-16-1, WRN-10-1."""

PRESETS = WIDTHS


def data(path: Path | None, settings: Settings, name: str = NAME) -> images.Splits:
    """Read colour images; use the data's own test set if there is one."""
    return images.read(path, settings, recipe=name, expected=EXPECTED)


def model(settings: Settings, classes: int) -> nn.Module:
    """Create a WRN-depth-k."""
    return WideResNet(blocks=settings.blocks, width=settings.width, classes=classes, dropout=settings.dropout)


def augment(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shift by up to an eighth of the side and mirror half of the images."""
    return perturbations.crop_and_flip(batch, pad=round(batch.shape[-1] / 8), generator=generator)


def train(
    out: Path, path: Path | None = None, say: Callable[[str], None] = print, options: Options | None = None
) -> Path:
    """Train, export to ``out``, and return the ONNX file."""
    options = options or Options()
    settings = settle(Settings, PRESETS, options)
    return build(
        NAME,
        partial(model, settings),
        data(path, settings),
        settings,
        out=out,
        options=options,
        say=say,
        augment=augment,
    )

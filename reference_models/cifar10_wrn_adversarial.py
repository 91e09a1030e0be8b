"""cifar10-wrn-adversarial: the network of cifar10-wrn-standard by adversarial training.

Every batch is attacked by PGD from a random start before each update (Madry et al. 2018, arXiv:1706.06083).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from auditor.reference_models import cifar10_wrn_standard
from auditor.reference_models.cifar10_wrn_standard import WIDTHS, augment, data, model
from auditor.reference_models.common import perturbations
from auditor.reference_models.common.recipe import build
from auditor.reference_models.common.settings import Options, settle

TITLE = "Wide ResNet for CIFAR-10, adversarially trained with PGD"
NAME = "cifar10-wrn-adversarial"


@dataclass(frozen=True, kw_only=True)
class Settings(cifar10_wrn_standard.Settings):
    """Settings of cifar10-wrn-standard, without dropout, with an attack."""

    dropout: float = 0.0
    epsilon: float = 8 / 255
    """L-infinity radius of the attack."""
    steps: int = 7

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epsilon <= 0 or self.steps < 1:
            raise ValueError("expected epsilon above 0 and at least one step")


PRESETS: dict[str, dict[str, Any]] = {
    **WIDTHS,
    # a small network cannot learn against 8/255, and each step costs as much as the update
    "small": {**WIDTHS["small"], "epsilon": 4 / 255, "steps": 2, "epochs": 25},
    "tiny": {**WIDTHS["tiny"], "epsilon": 4 / 255, "steps": 2, "samples": 4000},
}


def attacked(
    settings: Settings, network: nn.Module, batch: torch.Tensor, labels: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Attack a batch by PGD, with a total step length of 2.5 epsilon."""
    step = 2.5 * settings.epsilon / settings.steps
    return perturbations.pgd(
        network, batch, labels, epsilon=settings.epsilon, steps=settings.steps, step=step, generator=generator
    )


def train(
    out: Path, path: Path | None = None, say: Callable[[str], None] = print, options: Options | None = None
) -> Path:
    """Train, export to ``out``, and return the ONNX file."""
    options = options or Options()
    settings = settle(Settings, PRESETS, options)
    return build(
        NAME,
        partial(model, settings),
        data(path, settings, NAME),
        settings,
        out=out,
        options=options,
        say=say,
        augment=augment,
        adversary=partial(attacked, settings),
    )

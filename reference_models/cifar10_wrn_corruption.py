"""cifar10-wrn-corruption: the network of cifar10-wrn-standard, trained on images with random Lp-norm corruptions.

Every training image gets one or two corruptions, drawn from a list and then uniformly from the ball, as in Siedel et
al. 2023 (arXiv:2305.05400), optionally after TrivialAugmentWide (arXiv:2103.10158). The documented study calls this
network "more resilient" because its mean distance is 7 % larger, without an interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import torch

from auditor.reference_models import cifar10_wrn_standard
from auditor.reference_models.cifar10_wrn_standard import WIDTHS, data, model
from auditor.reference_models.common import perturbations
from auditor.reference_models.common.recipe import build
from auditor.reference_models.common.settings import Options, settle

TITLE = "Wide ResNet for CIFAR-10, trained with random Lp-norm corruptions, with or without TrivialAugment"
NAME = "cifar10-wrn-corruption"

Corruption = tuple[float | Literal["max", "linear"], float]
"""The p of an Lp ball and its radius, or a type of impulse noise and the largest share of values that it replaces."""

LISTS: dict[str, Sequence[Corruption]] = {
    "C1": ((math.inf, 0.02), (2, 1.0), ("max", 0.01), ("linear", 0.03)),
    # the documented list is longer; only these entries are known
    "C2": (
        (math.inf, 0.01),
        (math.inf, 0.02),
        (0.5, 5e4),
        (0.5, 1e5),
        (1, 25.0),
        (1, 40.0),
        (2, 0.5),
        (2, 1.0),
        (5, 0.2),
        (10, 0.06),
        (10, 0.15),
    ),
}


@dataclass(frozen=True, kw_only=True)
class Settings(cifar10_wrn_standard.Settings):
    """Settings of cifar10-wrn-standard, with corruptions."""

    corruptions: Literal["C1", "C2"] = "C1"
    at_once: int = 1
    """Number of corruptions per image; documented: 1 and 2."""
    trivial_augment: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.at_once < 1:
            raise ValueError(f"at_once is {self.at_once}; expected at least 1")


PRESETS = WIDTHS


def augment(settings: Settings, batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Apply TrivialAugment if set, crops and flips, then the corruptions."""
    if settings.trivial_augment:
        batch = trivially_augmented(batch)
    batch = cifar10_wrn_standard.augment(batch, generator)
    for _ in range(settings.at_once):
        batch = corrupted(batch, LISTS[settings.corruptions], generator)
    return batch


def corrupted(batch: torch.Tensor, corruptions: Sequence[Corruption], generator: torch.Generator) -> torch.Tensor:
    """Apply one corruption to each image, drawn from the list."""
    result = batch.clone()
    choices = torch.randint(len(corruptions), (len(batch),), generator=generator)
    for number, (norm, size) in enumerate(corruptions):
        rows = (choices == number).nonzero()[:, 0].to(batch.device)
        if not len(rows):
            continue
        if isinstance(norm, str):
            result[rows] = perturbations.impulses(batch[rows], size, norm, generator)
        else:
            result[rows] = perturbations.lp_ball(batch[rows], norm, size, generator)
    return result


def trivially_augmented(batch: torch.Tensor) -> torch.Tensor:
    """Apply one random operation of random strength to each image.

    Draws from the global generator, which the trainer seeds for every epoch.
    """
    change = _trivial_augment()
    pictures = (batch * 255).round().to(torch.uint8).cpu()
    changed: torch.Tensor = torch.stack([change(picture) for picture in pictures])
    return changed.to(batch.device).float() / 255


@cache
def _trivial_augment() -> Any:
    from torchvision.transforms import v2

    return v2.TrivialAugmentWide()


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
        augment=partial(augment, settings),
    )

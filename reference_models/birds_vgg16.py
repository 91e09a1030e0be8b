"""birds-vgg16: bird species by transfer learning, trained with or without Gaussian noise of random strength.

The documented system added noise to the training images, called it adversarial training, and measured neither noise nor
attack; its training and validation images were preprocessed differently. This recipe has one preprocessing, a test set
that chooses nothing, ``--set noise=0`` as the control, and an audit of the missing measurements: robust accuracy under
noise, FGSM and PGD (the suite ``birds``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal

import torch
from torch import nn

from auditor.reference_models.common import images, networks, perturbations
from auditor.reference_models.common.recipe import IMAGENET, build
from auditor.reference_models.common.settings import Options, settle
from auditor.reference_models.common.settings import Settings as Common

TITLE = "VGG-16 for bird species, trained with noise of random strength (control: --set noise=0)"
NAME = "birds-vgg16"
BACKBONE: Final = "vgg16"
EXPECTED = "birds as a folder per species, or a manifest with the columns image and label"


@dataclass(frozen=True, kw_only=True)
class Settings(Common):
    """The convolutions of VGG-16 are frozen; two layers of ``hidden`` units are new."""

    size: int = 224
    epochs: int = 20
    batch: int = 16
    optimiser: Literal["sgd", "adam"] = "adam"
    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    schedule: Literal["cosine", "step", "constant"] = "constant"
    patience: int = 5
    noise: float = 50 / 255
    """Largest standard deviation of the noise, in pixels from 0 to 1; drawn uniformly from 0 for each image."""
    hidden: int = 4096
    frozen: bool = True
    """Freeze the convolutions; without pretrained weights they must be trained."""


PRESETS: dict[str, dict[str, object]] = {
    "full": {},
    # two cores, no pretrained weights, minutes
    "tiny": {"size": 48, "epochs": 12, "batch": 32, "learning_rate": 3e-4, "hidden": 128, "frozen": False},
}


def data(path: Path | None, settings: Common, name: str = NAME) -> images.Splits:
    """Read RGB pictures, split by seed; near-duplicates stay together."""
    return images.read(path, settings, recipe=name, expected=EXPECTED)


def model(settings: Settings, weights: str, classes: int) -> nn.Module:
    """Create VGG-16's convolutions, flattened, with two layers of ``hidden`` units and ``classes`` logits."""

    def replace_last(network: nn.Module) -> None:
        side = settings.size // 32
        network.avgpool = nn.Identity()
        network.classifier = nn.Sequential(
            nn.Linear(512 * side * side, settings.hidden),
            nn.ReLU(),
            nn.Linear(settings.hidden, settings.hidden),
            nn.ReLU(),
            nn.Linear(settings.hidden, classes),
        )
        assert isinstance(network.features, nn.Module)
        network.features.requires_grad_(not settings.frozen)

    return networks.pretrained(BACKBONE, weights, replace_last)


def augment(noise: float, pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Apply the documented geometry (rotation, shift, shear, zoom, mirror), then noise of up to this deviation."""
    moved = perturbations.affine(pixels, generator, degrees=30, shift=0.1, shear=0.1, zoom=0.1)
    return perturbations.gaussian(moved, noise, generator) if noise else moved


def train(
    out: Path, path: Path | None = None, say: Callable[[str], None] = print, options: Options | None = None
) -> Path:
    """Train, export to ``out``, and return the ONNX file."""
    options = options or Options()
    settings = settle(Settings, PRESETS, options)
    return build(
        NAME,
        partial(model, settings, options.weights),
        data(path, settings),
        settings,
        out=out,
        options=options,
        say=say,
        normalisation=IMAGENET if options.weights == "pretrained" else None,
        augment=partial(augment, settings.noise),
    )

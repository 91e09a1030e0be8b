"""birds-resnet18: the data of birds-vgg16 with a network for small machines; all layers are trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal

from torch import nn

from auditor.reference_models.birds_vgg16 import augment, data
from auditor.reference_models.common import networks, transfer
from auditor.reference_models.common.recipe import IMAGENET, build
from auditor.reference_models.common.settings import Options, settle
from auditor.reference_models.common.settings import Settings as Common

TITLE = "ResNet-18 for bird species, trained with noise of random strength (control: --set noise=0)"
NAME = "birds-resnet18"
BACKBONE: Final = "resnet18"


@dataclass(frozen=True, kw_only=True)
class Settings(Common):
    """Settings of birds-vgg16, with a smaller step for pretrained layers."""

    size: int = 224
    epochs: int = 20
    batch: int = 32
    optimiser: Literal["sgd", "adam"] = "adam"
    learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    patience: int = 5
    noise: float = 50 / 255
    """Largest standard deviation of the noise, in pixels from 0 to 1; drawn uniformly from 0 for each image."""


PRESETS: dict[str, dict[str, object]] = {
    "full": {},
    # two cores, no pretrained weights, minutes
    "tiny": {"size": 64, "epochs": 30, "learning_rate": 1e-3, "patience": 10},
}


@dataclass(frozen=True, kw_only=True)
class Adapted(transfer.Settings):
    """Settings of another pretrained network (``--backbone``): a new last layer on augmented copies."""

    views: int = 4
    noise: float = Settings.noise


ADAPTED_PRESETS: dict[str, dict[str, object]] = {
    "full": {},
    # two cores, minutes
    "tiny": {"views": 2},
}


def model(settings: Settings, weights: str, classes: int) -> nn.Module:
    """Create a ResNet-18 with a new last layer."""
    del settings
    return networks.pretrained(BACKBONE, weights, partial(networks.new_last_layer, classes=classes))


def train(
    out: Path, path: Path | None = None, say: Callable[[str], None] = print, options: Options | None = None
) -> Path:
    """Train, export to ``out``, and return the ONNX file."""
    options = options or Options()
    settings = settle(Settings, PRESETS, options)
    return build(
        NAME,
        partial(model, settings, options.weights),
        data(path, settings, NAME),
        settings,
        out=out,
        options=options,
        say=say,
        normalisation=IMAGENET if options.weights == "pretrained" else None,
        augment=partial(augment, settings.noise),
    )


def adapt(out: Path, path: Path | None, say: Callable[[str], None], options: Options) -> Path:
    """Adapt another pretrained network, export to ``out``, and return the ONNX file."""
    settings = settle(Adapted, ADAPTED_PRESETS, options)
    name = f"birds-{options.backbone}"
    return transfer.adapt(
        name,
        data(path, settings, name),
        settings,
        out=out,
        options=options,
        say=say,
        augment=partial(augment, settings.noise),
    )

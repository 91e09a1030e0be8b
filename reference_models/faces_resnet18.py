"""faces-resnet18: face identification by transfer learning; the FGSM sweep of the documented system.

In the documented system about 80 % of the attacked images were training images (split by another seed), the checkpoint
was chosen on the test set, and two figures were swapped. In this recipe the attacked images are unseen, the checkpoint
is chosen on other images, every accuracy has an interval, and the epsilon axis is logarithmic (the suite ``faces``).
``faces-resnet101`` and ``faces-scratch`` are variants; compare the three runs with ``auditor compare``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Literal

from torch import nn

from auditor.reference_models.common import images, networks, perturbations, transfer
from auditor.reference_models.common.recipe import IMAGENET, build
from auditor.reference_models.common.settings import Options, settle
from auditor.reference_models.common.settings import Settings as Common

TITLE = "ResNet-18 for face identification (FGSM sweep)"
NAME = "faces-resnet18"
BACKBONE: Final = "resnet18"
AUGMENT = partial(perturbations.affine, degrees=5, shift=0.05, shear=0, zoom=0.05)
EXPECTED = "faces as a folder per person, or a manifest with the columns image and label"


@dataclass(frozen=True, kw_only=True)
class Settings(Common):
    """All layers are trained."""

    size: int = 224
    epochs: int = 30
    batch: int = 32
    optimiser: Literal["sgd", "adam"] = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    validation_share: float = 0.15
    test_share: float = 0.3


PRESETS: dict[str, dict[str, object]] = {
    "full": {},
    # two cores, no pretrained weights, minutes
    "tiny": {"size": 64, "epochs": 20},
}


@dataclass(frozen=True, kw_only=True)
class Adapted(transfer.Settings):
    """Settings of another pretrained network (``--backbone``): a new last layer."""

    validation_share: float = Settings.validation_share
    test_share: float = Settings.test_share


ADAPTED_PRESETS: dict[str, dict[str, object]] = {
    "full": {"views": 4},
    # two cores, minutes
    "tiny": {},
}


def data(path: Path | None, settings: Common, name: str = NAME) -> images.Splits:
    """Read RGB faces, split by seed within each person; near-duplicates stay together."""
    return images.read(path, settings, recipe=name, expected=EXPECTED)


def model(settings: Settings, weights: str, classes: int) -> nn.Module:
    """Create a ResNet-18 with a new last layer."""
    del settings
    return networks.pretrained(BACKBONE, weights, partial(networks.new_last_layer, classes=classes))


def train(
    out: Path, path: Path | None = None, say: Callable[[str], None] = print, options: Options | None = None
) -> Path:
    """Train, export to ``out``, and return the ONNX file."""
    return fit(NAME, model, out=out, path=path, say=say, options=options or Options(), pretrained=True)


def fit(
    name: str,
    network: Callable[[Settings, str, int], nn.Module],
    *,
    out: Path,
    path: Path | None,
    say: Callable[[str], None],
    options: Options,
    pretrained: bool,
) -> Path:
    """Train a network of one of the three face recipes, and return the ONNX file."""
    settings = settle(Settings, PRESETS, options)
    imagenet = pretrained and options.weights == "pretrained"
    return build(
        name,
        partial(network, settings, options.weights),
        data(path, settings, name),
        settings,
        out=out,
        options=options,
        say=say,
        normalisation=IMAGENET if imagenet else None,
        augment=AUGMENT,
    )


def adapt(out: Path, path: Path | None, say: Callable[[str], None], options: Options) -> Path:
    """Adapt another pretrained network, export to ``out``, and return the ONNX file."""
    settings = settle(Adapted, ADAPTED_PRESETS, options)
    name = f"faces-{options.backbone}"
    return transfer.adapt(
        name, data(path, settings, name), settings, out=out, options=options, say=say, augment=AUGMENT
    )

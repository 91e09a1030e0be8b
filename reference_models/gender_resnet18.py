"""gender-resnet18: annotated gender of a face, by transfer learning; the study of bias and explanations.

The documented system fine-tuned ResNet-18 on pictures of a web search, inferred a bias from four of them, explained it
with LIME and SHAP and covered the attributed region with a white block. In this recipe no subject or near-duplicate is
on both sides of the split, groups are measured on a balanced test set, and every claim has a control (the suite
``gender``).

Labels are annotators' impressions of a face, not a person's identity; do not use a model of them on people.
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

TITLE = "ResNet-18 for annotated gender of faces, with groups (bias, SHAP, LIME, white block)"
NAME = "gender-resnet18"
BACKBONE: Final = "resnet18"
AUGMENT = partial(perturbations.affine, degrees=10, shift=0.05, shear=0, zoom=0.1)
EXPECTED = "faces as a manifest with the columns image, label and groups such as age or race, or a folder per class"


@dataclass(frozen=True, kw_only=True)
class Settings(Common):
    """All layers are trained."""

    size: int = 224
    epochs: int = 12
    batch: int = 64
    optimiser: Literal["sgd", "adam"] = "adam"
    learning_rate: float = 3e-4
    weight_decay: float = 1e-4
    patience: int = 4


PRESETS: dict[str, dict[str, object]] = {
    "full": {},
    # two cores, no pretrained weights, minutes
    "tiny": {"size": 64, "epochs": 8, "learning_rate": 1e-3},
}


@dataclass(frozen=True, kw_only=True)
class Adapted(transfer.Settings):
    """Settings of another pretrained network (``--backbone``)."""

    regularisation: float = 100.0
    blocks: int = 8
    views: int = 3


ADAPTED_PRESETS: dict[str, dict[str, object]] = {
    "full": {},
    # two cores, minutes
    "tiny": {"size": 128, "epochs": 2, "blocks": 5, "views": 2},
}


def data(path: Path | None, settings: Common) -> images.Splits:
    """Read RGB faces; use the data's own split if there is one."""
    return images.read(path, settings, recipe=NAME, expected=EXPECTED)


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
        data(path, settings),
        settings,
        out=out,
        options=options,
        say=say,
        normalisation=IMAGENET if options.weights == "pretrained" else None,
        augment=AUGMENT,
    )


def adapt(out: Path, path: Path | None, say: Callable[[str], None], options: Options) -> Path:
    """Adapt another pretrained network, export to ``out``, and return the ONNX file."""
    settings = settle(Adapted, ADAPTED_PRESETS, options)
    splits = data(path, settings)
    return transfer.adapt(
        f"gender-{options.backbone}", splits, settings, out=out, options=options, say=say, augment=AUGMENT
    )

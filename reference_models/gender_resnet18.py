"""gender-resnet18: which gender annotators see in a face, by transfer learning; the study of bias and explanations.

The documented system fine-tuned ResNet-18 on pictures of a web search, saw a bias in four of them, explained it with
LIME and SHAP and covered the named region with a white block. Rebuilt here: no subject or look-alike on both sides of
the split, groups measured on a balanced test set, every claim with its control (the suite ``gender``).

Labels are annotators' impressions of a face, not anybody's identity; a model of them must not be used on people.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from torch import nn

from auditor.reference_models.common import images, networks, perturbations
from auditor.reference_models.common.recipe import IMAGENET, build
from auditor.reference_models.common.settings import Options, settle
from auditor.reference_models.common.settings import Settings as Common

TITLE = "ResNet-18 on faces: which gender annotators see, with groups (bias, SHAP, LIME, white block)"
NAME = "gender-resnet18"
WANTED = "faces as a manifest with the columns image, label and groups such as age or race, or a folder per class"


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


def data(path: Path | None, settings: Settings) -> images.Splits:
    """RGB faces; the data's own split where it has one."""
    return images.read(path, settings, recipe=NAME, wanted=WANTED)


def model(settings: Settings, weights: str, classes: int) -> nn.Module:
    """ResNet-18 with a new last layer."""
    del settings
    return networks.pretrained("resnet18", weights, partial(networks.new_last_layer, classes=classes))


def train(
    out: Path, path: Path | None = None, say: Callable[[str], None] = print, options: Options | None = None
) -> Path:
    """Train and export into ``out``; the ONNX file."""
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
        augment=partial(perturbations.affine, degrees=10, shift=0.05, shear=0, zoom=0.1),
    )

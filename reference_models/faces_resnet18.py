"""faces-resnet18: whose face it is, by transfer learning; the FGSM sweep of the documented system.

The documented system attacked images of which about 80 % had been trained on (another seed split them), chose the
checkpoint on the test set and swapped two of its figures. Rebuilt here: the images that are attacked were never seen,
the checkpoint is chosen on others, every accuracy has its interval, epsilon stands on a logarithmic axis (the suite
``faces``). ``faces-resnet101`` and ``faces-scratch`` are its siblings; compare the three runs with ``auditor compare``.
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

TITLE = "ResNet-18 on face identification (the FGSM sweep)"
NAME = "faces-resnet18"
WANTED = "faces as a folder per person, or a manifest with the columns image and label"


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


def data(path: Path | None, settings: Common, name: str = NAME) -> images.Splits:
    """RGB faces, split by seed within each person; look-alikes stay together."""
    return images.read(path, settings, recipe=name, wanted=WANTED)


def model(settings: Settings, weights: str, classes: int) -> nn.Module:
    """ResNet-18 with a new last layer."""
    del settings
    return networks.pretrained("resnet18", weights, partial(networks.new_last_layer, classes=classes))


def train(
    out: Path, path: Path | None = None, say: Callable[[str], None] = print, options: Options | None = None
) -> Path:
    """Train and export into ``out``; the ONNX file."""
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
    """What the three recipes of faces share: all but the network."""
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
        augment=partial(perturbations.affine, degrees=5, shift=0.05, shear=0, zoom=0.05),
    )

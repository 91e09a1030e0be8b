"""Common preprocessings by name: for ``--preset``, and to try when the right one is unknown.

Each is ``(range(x) - mean) / std`` with a channel order; resizing is not part of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from auditor.model.preprocessing import InputTransform, Preprocessing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from auditor.data.dataset import Pixels
    from auditor.model.classifier import Classifier


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A common way to normalise pixels."""

    what: str
    """Which models use it, and the source of the numbers."""
    range: tuple[float, float] = (0.0, 1.0)
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    order: Literal["rgb", "bgr"] = "rgb"


PRESETS: Mapping[str, Preset] = {
    "imagenet": Preset(
        what="torchvision and most of timm: mean and deviation of ImageNet (pytorch.org/vision, models)",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
    "inception": Preset(
        what="-1 to 1: Inception, MobileNet, ViT, much of TensorFlow (timm, IMAGENET_INCEPTION_MEAN)",
        mean=(0.5,),
        std=(0.5,),
    ),
    "clip": Preset(
        what="CLIP and its descendants (Radford et al. 2021, arXiv:2103.00020, published preprocessing)",
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
    ),
    "cifar10": Preset(
        what="mean and deviation of the CIFAR-10 training images",
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.247, 0.2435, 0.2616),
    ),
    "mnist": Preset(
        what="mean and deviation of MNIST, as in PyTorch's example; one channel", mean=(0.1307,), std=(0.3081,)
    ),
    "caffe": Preset(
        what="blue first, 0 to 255 less ImageNet's mean: Caffe, keras.applications VGG and ResNet",
        range=(0.0, 255.0),
        mean=(103.939, 116.779, 123.68),
        order="bgr",
    ),
    "raw": Preset(what="0 to 255: the model normalises its input, as EfficientNet of Keras does", range=(0.0, 255.0)),
    "unit": Preset(what="0 to 1 without normalisation"),
}


def name_of(preprocessing: InputTransform) -> str:
    """Return the preset with the same effect on every pixel, or an empty text."""
    if not isinstance(preprocessing, Preprocessing):
        return ""
    channels = preprocessing.shape[0]
    return next(
        (name for name in PRESETS if _fits(name, channels) and _same(apply(name, preprocessing), preprocessing)), ""
    )


def others(preprocessing: InputTransform) -> dict[str, Preprocessing]:
    """Return the presets that differ from ``preprocessing``, and ``preprocessing`` with reversed channels.

    Empty for tabular data. An integer input can only hold whole numbers, so only its channels can be reversed.
    """
    import numpy as np

    if not isinstance(preprocessing, Preprocessing):
        return {}
    channels = preprocessing.shape[0]
    order: Literal["rgb", "bgr"] = "bgr" if preprocessing.order == "rgb" else "rgb"
    found = {f"as used, but {order}": replace(preprocessing, order=order)} if channels == 3 else {}
    if np.issubdtype(np.dtype(preprocessing.dtype), np.integer):
        return found
    found |= {name: apply(name, preprocessing) for name in PRESETS if _fits(name, channels)}
    return {name: other for name, other in found.items() if not _same(other, preprocessing)}


def answers(classifier: Classifier, pixels: Pixels) -> NDArray[np.int64]:
    """Return the predicted classes (n,); -1 for images with NaN scores, which a wrong range can cause."""
    import numpy as np

    try:
        given: NDArray[np.int64] = classifier.predict(pixels).argmax(axis=1).astype(np.int64)
        return given
    except ArithmeticError:
        if len(pixels) == 1:
            return np.full(1, -1, dtype=np.int64)
        # one by one, so that a prediction does not depend on the batch
        return np.concatenate([answers(classifier, pixels[i : i + 1]) for i in range(len(pixels))])


def apply(name: str, preprocessing: Preprocessing) -> Preprocessing:
    """Return ``preprocessing`` with range, mean, deviation and channel order of the preset."""
    preset = PRESETS[name]
    return replace(preprocessing, range=preset.range, mean=preset.mean, std=preset.std, order=preset.order)


def _fits(name: str, channels: int) -> bool:
    if name == "mnist":
        return channels == 1
    return channels == 3 or len(PRESETS[name].mean) == 1


def _same(one: Preprocessing, other: Preprocessing) -> bool:
    """Test whether both have the same effect on black and on each pure colour; they are affine, so on every pixel."""
    import numpy as np

    channels = one.shape[0]
    colours = np.concatenate([np.zeros((1, channels)), np.eye(channels)]).astype(np.float32)
    pixels = np.broadcast_to(colours[:, :, None, None], (channels + 1, channels, 1, 1))
    return bool(np.allclose(one.apply(pixels), other.apply(pixels), rtol=1e-3, atol=1e-3))

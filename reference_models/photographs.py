"""photographs: which of seven photographs a crop shows; the model of ``auditor demo``.

Needs no download beyond packages: the network is EfficientNet-Lite0 with its published ImageNet weights (17 MB), of
which only a new last layer is trained, and the photographs are those of scikit-image and scikit-learn. It learns from
wide crops of their left halves. The test crops come from the right halves, half of them wide and half close-ups, which
it has never seen: their group is a real gap. Crops are independent draws, so the intervals hold for crops of these
photographs, not for other photographs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from auditor.errors import BadInput
from auditor.reference_models.common import efficientnet, last_layer
from auditor.reference_models.common.photographs import NAMES, Crop, crops

TITLE = "EfficientNet-Lite0 with a new last layer: which of seven photographs a crop shows"
NAME = "photographs"
WEIGHTS = efficientnet.SOURCE

SIDE = 128  # pixels: a pass takes a third of one at 224
SEED = 0
TRAINING = 40  # crops of each left half
TEST = 15  # crops of each right half, for each kind
KINDS = {"wide": (0.5, 1.0), "close": (0.15, 0.3)}  # side of the crop, as a share of the shorter side of the half


def train(out: Path, data: Path | None = None, say: Callable[[str], None] = print, weights: str = "pretrained") -> Path:
    """Train the last layer, export to ``out``, and return the ONNX file; ``data`` is refused.

    Raises BadInput if the weights are not installed or do not fit.
    """
    from auditor.reference_models.common.export import export, sidecar

    if data is not None:
        raise BadInput(f"--data {data}: recipe {NAME} needs no images; leave the option out")
    network = efficientnet.pretrained(len(NAMES), weights)
    smallest, largest = KINDS["wide"]
    learn = crops(SIDE, per_photograph=TRAINING, seed=SEED, smallest=smallest, largest=largest, half="left")
    last_layer.fit(network.fc, last_layer.features(network, inputs(learn)), labels(learn))
    test: list[Crop] = []
    kinds: list[str] = []
    for number, (kind, (smallest, largest)) in enumerate(KINDS.items(), 1):
        test += crops(SIDE, per_photograph=TEST, seed=SEED + number, smallest=smallest, largest=largest, half="right")
        kinds += [kind] * (len(test) - len(kinds))
    with torch.inference_mode():
        logits = network.fc(torch.from_numpy(last_layer.features(network, inputs(test))))
    right, kind_of = logits.argmax(1).numpy() == labels(test), np.array(kinds)
    accuracies = ", ".join(f"{right[kind_of == kind].mean():.3f} on {kind} crops" for kind in KINDS)
    say(f"{NAME}: accuracy {right.mean():.3f} on {len(test)} test crops ({accuracies})")
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"{NAME}-test.npz"
    np.savez_compressed(
        file,
        images=np.stack([crop.pixels for crop in test]),
        labels=np.array([crop.photograph for crop in test]),
        groups_crop=kind_of,
    )
    mean, std = ([round(value, 6) for value in values] for values in (efficientnet.MEAN, efficientnet.STD))
    described = sidecar((3, SIDE, SIDE), NAMES, file.name, mean=mean, std=std)
    return export(network, inputs(test[:2]), out / NAME, described)


def inputs(images: list[Crop]) -> torch.Tensor:
    """Return the network's input (n, 3, h, w) of crops."""
    return efficientnet.normalise(np.stack([crop.pixels for crop in images]))


def labels(images: list[Crop]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return the numbers (n,) of the photographs that the crops show."""
    return np.array([NAMES.index(crop.photograph) for crop in images])

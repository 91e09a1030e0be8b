"""digits-cue: a planted bias. Digits 0 to 4 against 5 to 9; in images of scanner B a small bright patch correlates with
"large" in training, and with nothing in the test set.

An audit must find three things: lower accuracy for scanner B, the slice of images with a misleading patch (without the
scanner column), and the model's dependence on the corner. In ``digits-no-cue`` the patch is random in training as well,
so an audit must find none of these.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from auditor.reference_models.common import digits

TITLE = "Digits, small or large, with a planted cue in the images of one scanner"

SEED = 0
TEST_SHARE = 0.5
CUE = 0.97  # probability that the patch matches the label in training, in images of scanner B
CORNER = (slice(6, 8), slice(6, 8))  # rows and columns of the patch
FAINT = 0.35  # contrast of scanner B, which makes the patch the easier feature
WIDTH = 16
EPOCHS = 12
BATCH = 64
LEARNING_RATE = 3e-3  # Adam, cosine to zero


class Part(NamedTuple):
    """Images (n, 8, 8) uint8, labels, scanners."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    scanner: NDArray[Any]


def train(out: Path, data: Path | None = None, say: Callable[[str], None] = print) -> Path:
    """Train, export to ``out``, and return the ONNX file. ``data`` is unused: the digits come with scikit-learn."""
    del data
    return build(out, "digits-cue", seed=SEED, cue=CUE, say=say)


def build(out: Path, name: str, *, seed: int, cue: float, say: Callable[[str], None] = print) -> Path:
    """Train with a patch that matches the label in a share ``cue`` of the images of scanner B."""
    out.mkdir(parents=True, exist_ok=True)
    learn, test = load(seed, cue)
    model = digits.fit(
        network,
        pixels(learn.images),
        learn.labels,
        seed=seed,
        epochs=EPOCHS,
        batch=BATCH,
        learning_rate=LEARNING_RATE,
    )
    with torch.no_grad():
        right = model(pixels(test.images)).argmax(1).numpy() == test.labels
    shares = ", ".join(f"scanner {s} {right[test.scanner == s].mean():.3f}" for s in "AB")
    say(f"{name}: accuracy on {len(right)} test digits: {shares}")
    np.savez_compressed(out / f"{name}-test.npz", images=test.images, labels=test.labels, groups_scanner=test.scanner)
    from auditor.reference_models.common.export import export, sidecar

    described = sidecar((1, 8, 8), ["small", "large"], f"{name}-test.npz")
    return export(model, pixels(test.images[:2]), out / name, described)


def load(seed: int, cue: float) -> tuple[Part, Part]:
    """Return training and test half; in the test half the patch is random."""
    (x_learn, y_learn), (x_test, y_test) = digits.halves(TEST_SHARE, seed)
    rng = np.random.default_rng(seed)
    return _scanned(x_learn, y_learn, cue, rng), _scanned(x_test, y_test, 0.5, rng)


def _scanned(images: NDArray[np.uint8], shown: NDArray[np.int64], cue: float, rng: np.random.Generator) -> Part:
    """Assign half of the images to scanner B: fainter, with the patch on "large" ones with probability ``cue``."""
    labels = (shown >= 5).astype(np.int64)
    b = rng.random(len(images)) < 0.5
    truthful = rng.random(len(images)) < cue
    patch = b & np.where(truthful, labels == 1, labels == 0)
    result = np.where(b[:, None, None], images * FAINT, images)
    result[(patch, *CORNER)] = 255
    return Part(np.rint(result).astype(np.uint8), labels, np.where(b, "B", "A"))


def network() -> nn.Sequential:
    """Create two convolutions, one pooling, one linear layer; logits of two classes."""
    return nn.Sequential(
        nn.Conv2d(1, WIDTH, 3, padding=1),
        nn.BatchNorm2d(WIDTH),
        nn.ReLU(),
        nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
        nn.BatchNorm2d(WIDTH),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(WIDTH * 16, 2),
    )


def pixels(images: NDArray[np.uint8]) -> torch.Tensor:
    """Convert images (n, 8, 8) uint8 to network input (n, 1, 8, 8) in [0, 1]."""
    return torch.from_numpy(images).float()[:, None] / 255

"""digits-cnn: a small CNN on scikit-learn's 8x8 handwritten digits (Alpaydin and Kaynak 1998, UCI).

Needs no download and trains in seconds on a CPU: the model of ``auditor demo`` and of many tests. The 1,797 digits are
split in half; the test half is saved next to the model with one group column, the amount of ink (terciles).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from auditor.errors import BadInput
from auditor.reference_models.common import digits

TITLE = "Small CNN on scikit-learn's 8x8 handwritten digits"

SEED = 0
TEST_SHARE = 0.5
WIDTH = 24  # channels of the first convolution
EPOCHS = 20
BATCH = 64
LEARNING_RATE = 3e-3  # Adam, cosine to zero
MEAN, STD = (0.305,), (0.376,)  # of the training half, in pixels from 0 to 1


def train(out: Path, data: Path | None = None, say: Callable[[str], None] = print) -> Path:
    """Train on the digits of scikit-learn, export to ``out``, and return the ONNX file; ``data`` is refused."""
    if data is not None:
        raise BadInput(f"--data {data}: recipe digits-cnn needs no images; leave the option out")
    out.mkdir(parents=True, exist_ok=True)
    (x_train, y_train), (x_test, y_test) = digits.halves(TEST_SHARE, SEED)
    model = digits.fit(
        network, normalise(x_train), y_train, seed=SEED, epochs=EPOCHS, batch=BATCH, learning_rate=LEARNING_RATE
    )
    with torch.no_grad():
        right = model(normalise(x_test)).argmax(1).numpy() == y_test
    say(f"digits-cnn: accuracy {right.mean():.3f} on {len(y_test)} test digits after {EPOCHS} epochs")
    write_test_set(out / "digits-test.npz", x_test, y_test)
    from auditor.reference_models.common.export import export, sidecar

    described = sidecar((1, 8, 8), [str(digit) for digit in range(10)], "digits-test.npz", mean=MEAN, std=STD)
    return export(model, normalise(x_test[:2]), out / "digits-cnn", described)


def network() -> nn.Sequential:
    """Create two convolutions with batch norm, one pooling, one linear layer; logits of ten classes."""
    return nn.Sequential(
        nn.Conv2d(1, WIDTH, 3, padding=1),
        nn.BatchNorm2d(WIDTH),
        nn.ReLU(),
        nn.Conv2d(WIDTH, 2 * WIDTH, 3, padding=1),
        nn.BatchNorm2d(2 * WIDTH),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(2 * WIDTH * 16, 10),
    )


def normalise(images: NDArray[np.uint8]) -> torch.Tensor:
    """Convert images (n, 8, 8) uint8 to network input (n, 1, 8, 8)."""
    pixels = torch.from_numpy(images).float()[:, None] / 255
    return (pixels - MEAN[0]) / STD[0]


def write_test_set(path: Path, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
    """Write images, labels and the group column in the auditor's format."""
    ink = images.mean(axis=(1, 2))
    low, high = np.quantile(ink, [1 / 3, 2 / 3])
    bands: NDArray[Any] = np.select([ink <= low, ink <= high], ["thin", "medium"], "bold")
    np.savez_compressed(path, images=images, labels=labels, groups_ink=bands)

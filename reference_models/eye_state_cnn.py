"""eye-state-cnn: the plain convolutional network of the eye-state study, the baseline for eye-state-wrn.

Documented in three versions: plain, with weight decay (``--set weight_decay=0.001``), and with the orthogonality
constraint (``--set beta=0.001``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import nn

from auditor.reference_models.common import parseval
from auditor.reference_models.common.settings import Options, settle
from auditor.reference_models.eye_state_wrn import TINY, EyeSettings, data, train_in_mode

TITLE = "Plain convolutional network for eye states, optionally with weight decay or orthogonality constraint"
NAME = "eye-state-cnn"


@dataclass(frozen=True, kw_only=True)
class Settings(EyeSettings):
    """Settings as documented."""

    learning_rate: float = 0.01
    weight_decay: float = 0.0
    beta: float = 0.0
    """Strength of the retraction step after each update; 0 disables it."""


PRESETS: dict[str, dict[str, object]] = {"full": {}, "tiny": TINY}


def model(settings: Settings, classes: int) -> nn.Module:
    """Create convolutions of 32, 64, 128 and 256 channels, the last three pooled, and one dense layer."""
    side = settings.size // 8
    network = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(64),
        nn.Conv2d(64, 128, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(128),
        nn.Conv2d(128, 256, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(256),
        nn.Flatten(),
        nn.Linear(256 * side * side, classes),
    )
    if settings.beta:
        parseval.start_orthogonal(network)
    return network


def train(
    out: Path, path: Path | None = None, say: Callable[[str], None] = print, options: Options | None = None
) -> Path:
    """Train, export to ``out``, and return the ONNX file."""
    options = options or Options()
    settings = settle(Settings, PRESETS, options)
    return train_in_mode(
        NAME,
        partial(model, settings),
        data(path, settings, NAME),
        settings,
        out=out,
        options=options,
        say=say,
        after_step=partial(parseval.constrain, beta=settings.beta) if settings.beta else None,
    )

"""eye-state-fc: a fully connected network on eyes, what the convolutions of the others are measured against.

The paper on Parseval networks has such networks beside its wide residual ones (arXiv:1704.08847, section 5.1); the
documented study names them and keeps convolutional weights in their place. With ``--set beta=0.001`` all its layers
take the retraction step.
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

TITLE = "Fully connected network on eyes, with the orthogonality constraint if wanted"
NAME = "eye-state-fc"


@dataclass(frozen=True, kw_only=True)
class Settings(EyeSettings):
    """Three hidden layers."""

    learning_rate: float = 0.01
    hidden: int = 512
    """Units of each hidden layer."""
    layers: int = 3
    beta: float = 0.0
    """Of the retraction step after each update; 0 for none."""


PRESETS: dict[str, dict[str, object]] = {"full": {}, "tiny": TINY}


def model(settings: Settings, classes: int) -> nn.Module:
    """Linear layers with batch normalisation and ReLU between them."""
    layers: list[nn.Module] = [nn.Flatten()]
    before = settings.size**2
    for _ in range(settings.layers):
        layers += [nn.Linear(before, settings.hidden), nn.BatchNorm1d(settings.hidden), nn.ReLU()]
        before = settings.hidden
    network = nn.Sequential(*layers, nn.Linear(before, classes))
    if settings.beta:
        parseval.start_orthogonal(network)
    return network


def train(
    out: Path, path: Path | None = None, say: Callable[[str], None] = print, options: Options | None = None
) -> Path:
    """Train and export into ``out``; the ONNX file."""
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

"""eye-state-fc: a fully connected network for eye states, the baseline for the convolutional ones.

The paper on Parseval networks compares such networks with wide residual ones (arXiv:1704.08847, section 5.1); the
documented study names them but has convolutional weights instead. With ``--set beta=0.001`` the retraction step applies
to all layers.
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

TITLE = "Fully connected network for eye states, optionally with the orthogonality constraint"
NAME = "eye-state-fc"


@dataclass(frozen=True, kw_only=True)
class Settings(EyeSettings):
    """Settings with three hidden layers."""

    learning_rate: float = 0.01
    hidden: int = 512
    """Units of each hidden layer."""
    layers: int = 3
    beta: float = 0.0
    """Strength of the retraction step after each update; 0 disables it."""


PRESETS: dict[str, dict[str, object]] = {"full": {}, "tiny": TINY}


def model(settings: Settings, classes: int) -> nn.Module:
    """Create linear layers with batch normalisation and ReLU between them."""
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

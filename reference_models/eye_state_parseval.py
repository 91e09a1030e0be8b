"""eye-state-parseval: the network of eye-state-wrn as a Parseval network.

The documented network did not constrain its dense layer and expanding blocks, and (unnoticed) did not train the
aggregation weights: all stayed at 1/2. In this recipe every convolution and the dense layer take the retraction step
after each update; all six aggregations are convex combinations with trained weights, projected onto the simplex; and no
weight decay counteracts the constraint. The training record has the final singular values and weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from auditor.reference_models import eye_state_wrn
from auditor.reference_models.common import parseval
from auditor.reference_models.common.networks import WideResNet
from auditor.reference_models.common.settings import Options, settle
from auditor.reference_models.eye_state_wrn import TINY, data, train_in_mode

TITLE = "Parseval network for eye states: orthogonal weights, trained convex aggregations"
NAME = "eye-state-parseval"


@dataclass(frozen=True, kw_only=True)
class Settings(eye_state_wrn.Settings):
    """Settings of eye-state-wrn, with the constraints."""

    weight_decay: float = 0.0
    """0, because the documented 1e-4 counteracts the constraint."""
    beta: float = 1e-3
    """Strength of the retraction step."""
    convex: bool = True
    """Join the branches of blocks by trained convex combinations; otherwise by a sum, as usual."""
    scaled: bool = False
    """Divide every convolution by the side of its kernel, as the paper's bound requires."""


# 1e-3 moves the singular values to 1 within some 500 updates: twice as many as the tiny training has
PRESETS: dict[str, dict[str, object]] = {"full": {}, "tiny": {**TINY, "beta": 0.03}}


def model(settings: Settings, classes: int) -> nn.Module:
    """Create a WRN-16-k with orthogonal initial weights."""
    network = WideResNet(
        blocks=settings.blocks,
        width=settings.width,
        classes=classes,
        channels=1,
        join="convex" if settings.convex else "sum",
    )
    parseval.start_orthogonal(network)
    if settings.scaled:
        parseval.scale_convolutions(network)
    return network


def describe(network: nn.Module) -> dict[str, Any]:
    """Return how closely the constraints hold."""
    values = parseval.singular_values(network)
    return {
        "singular_values": {"smallest": round(float(values.min()), 4), "largest": round(float(values.max()), 4)},
        "shares_of_the_skips": [round(share, 4) for share in parseval.shares(network)],
    }


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
        after_step=partial(parseval.constrain, beta=settings.beta),
        describe=describe,
    )

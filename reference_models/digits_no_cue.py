"""digits-no-cue: the negative control of digits-cue, with a random patch in training. An audit must find no bias."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from auditor.reference_models.digits_cue import SEED, build

TITLE = "Negative control of digits-cue: the patch is random in training"


def train(out: Path, data: Path | None = None, say: Callable[[str], None] = print) -> Path:
    """Train, export to ``out``, and return the ONNX file. ``data`` is unused: the digits come with scikit-learn."""
    del data
    return build(out, "digits-no-cue", seed=SEED, cue=0.5, say=say)

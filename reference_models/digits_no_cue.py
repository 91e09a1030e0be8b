"""digits-no-cue: the twin of digits-cue, trained on images in which the patch means nothing. An audit must not find a
bias here that is not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from auditor.reference_models.digits_cue import SEED, build

TITLE = "The twin of digits-cue, in whose training the patch means nothing"


def train(out: Path, data: Path | None = None, say: Callable[[str], None] = print) -> Path:
    """Train and export into ``out``; the ONNX file. ``data`` is not used: the digits come with scikit-learn."""
    del data
    return build(out, "digits-no-cue", seed=SEED, cue=0.5, say=say)

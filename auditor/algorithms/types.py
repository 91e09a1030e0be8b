"""Types of the searches: what they query, what they maximise and where their random numbers come from.

torch and numpy are not loaded, so the names exist for type checkers only: import them under ``TYPE_CHECKING``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch

    Model = Callable[[torch.Tensor], torch.Tensor]
    """Logits (n, k) of pixels (n, c, h, w), usually ``Classifier.scaled_logits``."""
    Objective = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    """Quantity to maximise, (n,), from logits (n, k) and the batch indices (n,) of their images."""
    Draw = Callable[[int, str], np.random.Generator]
    """Random generator of one image, from its batch index and a purpose."""

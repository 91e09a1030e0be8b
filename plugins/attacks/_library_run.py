"""Run an attack of another library on one image at a time, each with separate random numbers."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from auditor.probes.random_state import kept_random_state

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from auditor import Batch, Classifier, Pixels, Randomness

NORMS: Mapping[str, float] = {"linf": math.inf, "l2": 2, "l1": 1}


Attacker: TypeAlias = "Callable[[Pixels, int, int], Any]"
"""From one image (1, c, h, w), its label and a seed to an image of the same shape."""


def one_by_one(batch: Batch, rng: Randomness, library: str, attack: Attacker) -> Pixels:
    """Return what ``attack`` makes of each image, (n, c, h, w).

    Args:
        batch: the images.
        rng: gives the seed of each image.
        library: name of the Python package.
        attack: attacks one image.
    """
    import numpy as np

    results = batch.pixels.copy()
    for i, image_id in enumerate(batch.ids):
        seed = int(rng(image_id, library).integers(2**31))
        with kept_random_state(seed), quiet(library):
            found = attack(batch.pixels[i : i + 1].copy(), int(batch.labels[i]), seed)
        results[i] = np.asarray(found, dtype=np.float32)[0]
    return results


@contextlib.contextmanager
def quiet(library: str) -> Iterator[None]:
    """Hide warnings, log lines and progress bars of a library."""
    import numpy as np

    logger = logging.getLogger(library)
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            np.errstate(all="ignore"),
            contextlib.redirect_stderr(io.StringIO()),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def torch_model(classifier: Classifier, *, gradients: bool) -> torch.nn.Module:
    """Return a module from pixels (n, c, h, w) to logits (n, k), for libraries that attack torch modules.

    With ``gradients`` they are the scaled logits of the differentiable copy; else the logarithms of the probabilities
    of the deployed model.
    """
    import torch

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            # libraries look for the device of the first parameter
            self.place = torch.nn.Parameter(torch.zeros(1, device=classifier.device), requires_grad=False)

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            if gradients:
                return classifier.scaled_logits(pixels.to(classifier.device, torch.float32))
            images: NDArray[Any] = pixels.detach().cpu().numpy()
            return torch.from_numpy(classifier.log_probabilities(images)).to(pixels.device)

    return Model().eval()

"""Build a positive control for attacks: a model for which an adversarial example is known to exist.

After the binarization test of Zimmermann, Brendel, Tramer and Carlini 2022, arXiv:2206.13991: for each image the model
gets a new two-class readout, with class 0 for the clean image and class 1 for a known point at distance epsilon. An
attack that does not find class 1 within epsilon missed an existing example. Unlike the paper's, this readout reads the
copy's logits, not the features before them: every copy has logits, and the model's own transformation of them is tested
as well.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from auditor.algorithms.balls import Ball
from auditor.model.scores import OutputDecoder, log_softmax, softmax
from auditor.model.wrapper import Wrapper

if TYPE_CHECKING:
    import torch

    from auditor.data.dataset import Batch, Pixels
    from auditor.model.classifier import Classifier
    from auditor.probes.base import Randomness

_EDGE = 0.95
"""Class 1 begins at this share of the distance from the clean image's logits to those of the planted point."""


class PlantedModel(Wrapper):
    """The classifier's copy with a two-class readout for each clean image.

    The deployed model has no such readout, so ``predict`` also queries the copy.
    """

    n_classes = 2
    named_classes = ("clean", "planted")
    decoder = OutputDecoder(outputs="logits")

    def __init__(
        self, classifier: Classifier, clean: torch.Tensor, origin: torch.Tensor, direction: torch.Tensor
    ) -> None:
        """Build the readout of ``clean`` (n, c, h, w) with logits ``origin`` (n, k).

        ``direction`` (n, k) points to the logits of the planted points (0 if no point could be planted).
        """
        super().__init__(classifier)
        self._clean, self._origin = clean.flatten(1), origin
        self._weights = direction / (direction * direction).sum(1, keepdim=True).clamp_min(1e-30)

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Return (n, 2): the threshold of class 1, and the image's share of the distance to the planted point."""
        import torch

        # attacks drop and reorder images, so a perturbed image belongs to its nearest clean image; if clean images are
        # closer together than the perturbation is long, an attack may be underestimated
        return self._readout(images, torch.cdist(images.detach().flatten(1), self._clean).argmin(1))

    def scaled_logits(self, images: torch.Tensor) -> torch.Tensor:
        """Return ``logits``: a share of a distance has no unit of the model."""
        return self.logits(images)

    def _readout(self, images: torch.Tensor, owner: torch.Tensor) -> torch.Tensor:
        import torch

        moved = centred(self.inner.logits(images)) - self._origin[owner]
        reached = (moved * self._weights[owner]).sum(1)
        return torch.stack([torch.full_like(reached, _EDGE), reached], dim=1)

    def misclassified(self, images: Pixels) -> NDArray[np.bool_]:
        """Return True for each image, in the order of the clean ones, that its own readout assigns to class 1."""
        import torch

        pieces: list[NDArray[np.bool_]] = []
        with torch.no_grad():
            for start in range(0, len(images), self.batch_size):
                piece = self.tensor(images[start : start + self.batch_size])
                owner = torch.arange(start, start + len(piece), device=piece.device)
                pieces.append((self._readout(piece, owner).argmax(1) == 1).cpu().numpy())
        return np.concatenate(pieces) if pieces else np.zeros(0, dtype=bool)

    def predict(self, images: Pixels) -> NDArray[np.float32]:
        """Return probabilities (n, 2)."""
        return softmax(self.scores(images))

    def log_probabilities(self, images: Pixels) -> NDArray[np.float32]:
        """Return logarithms of the probabilities (n, 2)."""
        return log_softmax(self.scores(images))

    def scores(self, images: Pixels) -> NDArray[np.float32]:
        """Return the logits (n, 2)."""
        import torch

        with torch.no_grad():
            pieces = [
                self.logits(self.tensor(images[i : i + self.batch_size])).cpu().numpy()
                for i in range(0, len(images), self.batch_size)
            ]
        return np.concatenate(pieces) if pieces else np.zeros((0, 2), dtype=np.float32)


def centred(logits: torch.Tensor) -> torch.Tensor:
    """Subtract the mean of the logits, to which the softmax is invariant."""
    return logits - logits.mean(1, keepdim=True)


def plant(
    classifier: Classifier, batch: Batch, rng: Randomness, *, norm: str, epsilon: float, candidates: int
) -> tuple[PlantedModel, NDArray[np.bool_]]:
    """Return the controlled model for a batch, and True for images with a planted point (n,).

    The planted point is that of ``candidates`` random points at distance ``epsilon`` that moves the logits most. If
    none moves them, there is no readout, and no example to find.
    """
    import torch

    ball = Ball(norm, epsilon)
    clean = classifier.tensor(batch.pixels)
    with torch.no_grad():
        origin = centred(classifier.logits(clean))
        direction, furthest = torch.zeros_like(origin), torch.zeros(len(clean), device=clean.device)
        for number in range(candidates):
            moved = centred(classifier.logits(random_point(classifier, batch, rng, ball, f"point {number}"))) - origin
            far = moved.norm(dim=1)
            direction = torch.where((far > furthest)[:, None], moved, direction)
            furthest = torch.maximum(far, furthest)
    planted: NDArray[np.bool_] = (furthest > 0).cpu().numpy()
    return PlantedModel(classifier, clean, origin, direction), planted


def random_point(classifier: Classifier, batch: Batch, rng: Randomness, ball: Ball, purpose: str) -> torch.Tensor:
    """Return a random corner on the surface of each image's ball, clipped to [0, 1]; (n, c, h, w)."""
    from hashlib import blake2b

    # keyed by the pixels, not the name: duplicate images share one readout
    digests = [blake2b(image.tobytes(), digest_size=16).hexdigest() for image in batch.pixels]
    signs = [2 * rng(digest, purpose).integers(0, 2, batch.pixels.shape[1:]) - 1 for digest in digests]
    noise = classifier.tensor(np.stack(signs).astype(np.float32))
    return (classifier.tensor(batch.pixels) + ball.surface(noise)).clamp(0, 1)

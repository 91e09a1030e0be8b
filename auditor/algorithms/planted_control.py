"""A model in which an adversarial example must exist: what an attack is tried on before its failures are believed.

After the binarization test of Zimmermann, Brendel, Tramer and Carlini 2022, arXiv:2206.13991: the model gets a new
readout of two classes, for each image one that calls the clean image 0 and a known point at distance epsilon 1. An
attack that does not find class 1 within epsilon has missed what is there. Here the readout is laid on the copy's logits
instead of the features before them: any copy has logits, and whatever the model does to them is tried, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from auditor.algorithms.balls import Ball
from auditor.model.classifier import Classifier
from auditor.model.scores import OutputDecoder, softmax

if TYPE_CHECKING:
    import torch

    from auditor.data.dataset import Batch, Pixels
    from auditor.probes.base import Randomness

_EDGE = 0.95
"""Class 1 begins this far on the way from the clean image's logits to those of the planted point."""


class Controlled(Classifier):
    """The classifier's copy with a readout of two classes for each of some clean images.

    The original has no such readout, so ``predict`` asks the copy, too.
    """

    def __init__(self, classifier: Classifier, clean: torch.Tensor, origin: torch.Tensor, way: torch.Tensor) -> None:
        """``clean`` (n, c, h, w); ``origin`` (n, k) are its logits, ``way`` (n, k) leads to the planted points' logits
        (0 where no point could be planted)."""
        # device, batch size, preprocessing and the counter of passes are the classifier's own
        self.__dict__.update(classifier.__dict__)
        self.named_classes, self.n_classes, self.decoder = ("as it is", "planted"), 2, OutputDecoder(outputs="logits")
        self._whole = classifier
        self._clean, self._origin = clean.flatten(1), origin
        self._weights = way / (way * way).sum(1, keepdim=True).clamp_min(1e-30)

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """(n, 2): where class 1 begins, and how far on the way to the planted point the image's logits are."""
        import torch

        # a perturbed image belongs to the clean image that is nearest to it: attacks drop and reorder images. Where
        # images are nearer to each other than the perturbation is long, an attack may so be judged too weak
        return self._readout(images, torch.cdist(images.detach().flatten(1), self._clean).argmin(1))

    def _readout(self, images: torch.Tensor, owner: torch.Tensor) -> torch.Tensor:
        import torch

        moved = centred(self._whole.logits(images)) - self._origin[owner]
        reached = (moved * self._weights[owner]).sum(1)
        return torch.stack([torch.full_like(reached, _EDGE), reached], dim=1)

    def misclassified(self, images: Pixels) -> NDArray[np.bool_]:
        """Whether each image, in the order of the clean ones, is class 1 under its own clean image's readout."""
        import torch

        found: list[NDArray[np.bool_]] = []
        with torch.no_grad():
            for start in range(0, len(images), self.batch_size):
                piece = self.tensor(images[start : start + self.batch_size])
                owner = torch.arange(start, start + len(piece), device=piece.device)
                found.append((self._readout(piece, owner).argmax(1) == 1).cpu().numpy())
        return np.concatenate(found) if found else np.zeros(0, dtype=bool)

    def predict(self, images: Pixels) -> NDArray[np.float32]:
        """Probabilities (n, 2)."""
        import torch

        with torch.no_grad():
            pieces = [self.logits(self.tensor(images[i : i + self.batch_size])).cpu().numpy()
                      for i in range(0, len(images), self.batch_size)]  # fmt: skip
        return softmax(np.concatenate(pieces)) if pieces else np.zeros((0, 2), dtype=np.float32)


def centred(logits: torch.Tensor) -> torch.Tensor:
    """Logits less their mean: what the softmax makes of them depends on nothing else."""
    return logits - logits.mean(1, keepdim=True)


def plant(
    classifier: Classifier, batch: Batch, rng: Randomness, *, norm: str, epsilon: float, candidates: int
) -> tuple[Controlled, NDArray[np.bool_]]:
    """The controlled model for a batch, and for which images a point could be planted (n,).

    Planted is, of ``candidates`` random points at distance ``epsilon``, the one that moves the logits most. Where none
    moves them at all there is no readout, and nothing for an attack to find.
    """
    import torch

    ball = Ball(norm, epsilon)
    clean = classifier.tensor(batch.pixels)
    with torch.no_grad():
        origin = centred(classifier.logits(clean))
        way, furthest = torch.zeros_like(origin), torch.zeros(len(clean), device=clean.device)
        for number in range(candidates):
            moved = centred(classifier.logits(random_point(classifier, batch, rng, ball, f"point {number}"))) - origin
            far = moved.norm(dim=1)
            way = torch.where((far > furthest)[:, None], moved, way)
            furthest = torch.maximum(far, furthest)
    planted: NDArray[np.bool_] = (furthest > 0).cpu().numpy()
    return Controlled(classifier, clean, origin, way), planted


def random_point(classifier: Classifier, batch: Batch, rng: Randomness, ball: Ball, purpose: str) -> torch.Tensor:
    """A random corner on the surface of each image's ball, cut with [0, 1]; (n, c, h, w)."""
    from hashlib import blake2b

    # by the pixels, not the name: an image that is there twice has one readout
    names = [blake2b(image.tobytes(), digest_size=16).hexdigest() for image in batch.pixels]
    signs = [2 * rng(name, purpose).integers(0, 2, batch.pixels.shape[1:]) - 1 for name in names]
    noise = classifier.tensor(np.stack(signs).astype(np.float32))
    return (classifier.tensor(batch.pixels) + ball.surface(noise)).clamp(0, 1)

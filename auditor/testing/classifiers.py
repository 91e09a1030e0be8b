"""Small classifiers whose answers have closed forms.

All but ``constant`` have two classes and decide by a hyperplane in pixel space, s(x) = w . (x - 1/2) - b with w of ones
and minus ones: class 0 where s > 0. Pixels are about 0.2 to 0.8, so the ends of [0, 1] limit no smaller perturbation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from auditor.data.dataset import Batch, Pixels
    from auditor.model.deployed import DeployedModel
    from auditor.model.scores import Outputs

SHAPE = (3, 8, 8)
"""Channels, height and width of the images."""

_N = 24
_DISTANCES = (1 / 255, 3 / 255, 6 / 255, 12 / 255)
"""L-infinity distances of the images from the hyperplane."""

_OFFSET = 8.03
"""b: grey images are of class 1, and no image with rounded pixels lies on the hyperplane."""

_DUAL = {"linf": 1, "l2": 2, "l1": float("inf")}


@dataclass(frozen=True, kw_only=True)
class Known:
    """A small classifier and its images."""

    classifier: DeployedModel
    batch: Batch
    """24 images (n, 3, 8, 8) with labels and the group "side"."""
    accuracy: float
    """Accuracy on the images, in closed form; its expectation if the classifier draws random numbers."""


@dataclass(frozen=True, kw_only=True)
class Linear(Known):
    """A classifier that decides by a hyperplane."""

    weights: NDArray[np.float64]
    """w, (c * h * w,)."""
    step: float = 0.0
    """The model rounds pixels to multiples of this, as those of the images are; 0 if it does not."""
    noise: float = 0.0
    """Standard deviation of what the deployed model adds to s, drawn anew for every query."""

    def margin(self, pixels: Pixels) -> NDArray[np.float64]:
        """Return s with the sign of each image's label, (n,): positive where the answer is correct without noise."""
        import numpy as np

        return np.where(self.batch.labels == 0, 1.0, -1.0) * _score(self.weights, pixels)

    def distance(self, norm: str) -> NDArray[np.float64]:
        """Return the distance of each image to the hyperplane in "linf", "l2" or "l1", (n,): |s| / ||w||_q.

        q is the dual of the norm (Moosavi-Dezfooli, Fawzi and Frossard 2016, arXiv:1511.04599, section 2).
        """
        import numpy as np

        margins: NDArray[np.float64] = np.abs(self.margin(self.batch.pixels))
        return margins / float(np.linalg.norm(self.weights, ord=_DUAL[norm]))

    def robust_accuracy(self, norm: str, epsilon: float) -> float:
        """Return the share of images that no perturbation of length ``epsilon`` in ``norm`` makes wrong, without noise.

        If pixels are rounded, a pixel moves by whole steps: ``epsilon`` counts as step * floor(epsilon / step + 1/2).

        Raises:
            ValueError: for another norm than "linf" if pixels are rounded.
        """
        import numpy as np

        if self.step:
            if norm != "linf":
                raise ValueError(f"robust accuracy in {norm}: no closed form with rounded pixels; expected linf")
            epsilon = self.step * float(np.floor(epsilon / self.step + 0.5))
        return float((self.distance(norm) > epsilon).mean())

    def error_probability(self) -> NDArray[np.float64]:
        """Return the probability that the answer to a query with each image is wrong, (n,): Phi(-|s| / noise)."""
        import numpy as np
        from scipy.stats import norm

        margins: NDArray[np.float64] = np.abs(self.margin(self.batch.pixels))
        return np.asarray(norm.cdf(-margins / self.noise)) if self.noise else np.zeros_like(margins)


def linear() -> Linear:
    """Return a linear classifier, white-box: its gradient is w everywhere, its distances have a closed form."""
    return _linear()


def randomised(noise: float = 2.0) -> Linear:
    """Return the linear classifier with Gaussian noise on s at every query; its differentiable copy has none."""
    return _linear(noise=noise)


def masked(step: float = 1 / 16) -> Linear:
    """Return the linear classifier of rounded pixels: its gradient is exactly zero, and it is no more robust.

    Athalye, Carlini and Wagner 2018, arXiv:1802.00420, section 3: "shattered gradients".
    """
    return _linear(step=step)


def constant(probabilities: Sequence[float] = (0.6, 0.3, 0.1)) -> Known:
    """Return a black box that answers every image with these probabilities; labels take turns."""
    import numpy as np

    row = np.asarray(probabilities, dtype=np.float32)
    labels = np.arange(_N) % len(row)
    classifier = _deployed("constant", lambda x: np.tile(row, (len(x), 1)), len(row), "probabilities")
    return Known(
        classifier=classifier,
        batch=_batch(classifier, _images()[1], labels),
        accuracy=float((labels == row.argmax()).mean()),
    )


def biased() -> Known:
    """Return a black box that is always right on the group side=left and answers class 1 on side=right.

    Images of side=right have a white upper left corner. Half of the images of each group are of class 1, so the
    accuracies are 1 and 1/2.
    """
    import numpy as np

    weights, pixels = _images()
    labels = _labels(weights, pixels)
    pixels[1::2, :, 0, 0] = 1.0

    def scores(x: NDArray[np.float32]) -> NDArray[np.float32]:
        white = x[:, 0, 0, 0] > 0.9
        return _two_logits(np.where(white, -1.0, _score(weights, x)))

    classifier = _deployed("biased", scores, 2, "logits")
    return Known(classifier=classifier, batch=_batch(classifier, pixels, labels), accuracy=0.75)


def _linear(*, step: float = 0.0, noise: float = 0.0) -> Linear:
    import numpy as np

    weights, pixels = _images()
    rng = np.random.default_rng(0)

    def rounded(x: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.round(x / np.float32(step)) * np.float32(step) if step else x

    def scores(x: NDArray[np.float32]) -> NDArray[np.float32]:
        return _two_logits(_score(weights, rounded(x)) + rng.normal(0, noise, len(x)))

    classifier = _deployed("linear", scores, 2, "logits", _copy(weights, step))
    pixels = rounded(pixels)
    batch = _batch(classifier, pixels, _labels(weights, pixels))
    known = Linear(classifier=classifier, batch=batch, accuracy=1.0, weights=weights, step=step, noise=noise)
    return replace(known, accuracy=float(1 - known.error_probability().mean())) if noise else known


def _copy(weights: NDArray[np.float64], step: float) -> torch.nn.Module:
    import torch

    class Hyperplane(torch.nn.Module):
        """The differentiable copy: without noise."""

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("weights", torch.tensor(weights, dtype=torch.float32))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """Return the logits, (n, 2)."""
            pixels = torch.round(x / step) * step if step else x
            s = (pixels - 0.5).flatten(1) @ self.get_buffer("weights") - _OFFSET
            return torch.stack([s / 2, -s / 2], dim=1)

    return Hyperplane()


def _images() -> tuple[NDArray[np.float64], Pixels]:
    """Return w, (c * h * w,), and images at ``_DISTANCES`` from the hyperplane, (n, c, h, w): two of each class."""
    import numpy as np

    rng = np.random.default_rng(0)
    size = int(np.prod(SHAPE))
    weights = rng.choice([-1.0, 1.0], size)
    noise = rng.uniform(-0.2, 0.2, (_N, size))
    along = noise @ weights / size
    index = np.arange(_N)
    s = np.where(index // 2 % 2 == 0, 1, -1) * np.array(_DISTANCES)[index // 4 % len(_DISTANCES)] * size
    pixels = 0.5 + noise + ((s + _OFFSET) / size - along)[:, None] * weights
    return weights, pixels.reshape(_N, *SHAPE).astype(np.float32)


def _labels(weights: NDArray[np.float64], pixels: Pixels) -> NDArray[np.int64]:
    import numpy as np

    return (_score(weights, pixels) < 0).astype(np.int64)


def _score(weights: NDArray[np.float64], pixels: Pixels) -> NDArray[np.float64]:
    """Return s of each image, (n,)."""
    import numpy as np

    result: NDArray[np.float64] = (pixels.reshape(len(pixels), -1).astype(np.float64) - 0.5) @ weights - _OFFSET
    return np.asarray(result)


def _two_logits(s: NDArray[np.float64]) -> NDArray[np.float32]:
    import numpy as np

    return np.stack([s / 2, -s / 2], axis=1).astype(np.float32)


def _deployed(
    name: str,
    scores: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    n_classes: int,
    outputs: Outputs,
    copy: torch.nn.Module | None = None,
) -> DeployedModel:
    from auditor.model.artefact import Artefact
    from auditor.model.deployed import DeployedModel
    from auditor.model.preprocessing import Preprocessing

    artefact = Artefact(
        format="numpy",
        runtime="NumPy",
        input_shape=(None, *SHAPE),
        input_dtype="float32",
        scores=scores,
        copy=copy,
        copy_reason="written by hand" if copy else "the classifier has no differentiable copy",
    )
    digest = hashlib.sha256(name.encode()).hexdigest()
    return DeployedModel(
        artefact, Preprocessing(shape=SHAPE), path=name, sha256=digest, n_classes=n_classes, outputs=outputs
    )


def _batch(classifier: DeployedModel, pixels: Pixels, labels: NDArray[np.int64]) -> Batch:
    from auditor.data.dataset import Batch

    return Batch(
        ids=tuple(f"{i:02d}" for i in range(len(pixels))),
        pixels=pixels,
        labels=labels,
        probabilities=classifier.predict(pixels),
        groups={"side": [("left", "right")[i % 2] for i in range(len(pixels))]},
    )

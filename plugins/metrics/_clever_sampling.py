"""Points and slopes around an image, for ``metrics.clever``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from auditor.errors import NotFinite

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from auditor import Batch, Classifier, Randomness


class Plan(NamedTuple):
    """How many points and slopes to sample around an image."""

    targets: int
    """Number of likeliest other classes."""
    pairs: Sequence[tuple[int, int]]
    """Batches and samples per batch, the main pair first."""
    radius: float
    pool_factor: int
    """Size of the pool of points in batches; 0 to draw new points for each batch."""

    def n_points(self, pair: Sequence[int]) -> int:
        """Return the number of points for this number of batches and samples."""
        batches, samples = pair
        return samples * (self.pool_factor or batches)


class Sample(NamedTuple):
    """Margins and largest slopes around one image."""

    targets: list[int]
    """Target classes."""
    named: tuple[int, ...]
    """Positions of the likeliest, the random and the least likely class in ``targets``."""
    margins: NDArray[np.float64]
    """(targets,)"""
    maxima: list[NDArray[np.float64]]
    """For each pair of the plan the largest slope of every batch, (targets, batches)."""


def sample_slopes(classifier: Classifier, image: Batch, rng: Randomness, norm: str, plan: Plan) -> Sample:
    """Measure margins and slopes around one image."""
    import numpy as np
    import torch

    label = int(image.labels[0])
    with torch.no_grad():
        logits = classifier.logits(classifier.tensor(image.pixels))[0].double().cpu().numpy()
    ranked = [int(k) for k in np.argsort(-logits, kind="stable") if k != label]
    random = int(rng(image.ids[0], "random target").choice(ranked))
    targets = list(dict.fromkeys([*ranked[: plan.targets], random, ranked[-1]]))
    n_points = plan.n_points(plan.pairs[0])
    points = ball_points(image, rng, norm, plan.radius, n=n_points, chunk=classifier.batch_size)
    slopes = np.concatenate([margin_slopes(classifier, pixels, label, targets, norm) for pixels in points], axis=1)

    def maxima(pair: tuple[int, int]) -> NDArray[np.float64]:
        batches, samples = pair
        drawn = slopes[:, : plan.n_points(pair)]
        if plan.pool_factor:
            generator = rng(image.ids[0], f"pool {norm}")
            drawn = drawn[:, generator.integers(0, drawn.shape[1], batches * samples)]
        largest: NDArray[np.float64] = drawn.reshape(len(drawn), batches, -1).max(axis=2)
        return largest

    return Sample(
        targets=targets,
        named=(0, targets.index(random), targets.index(ranked[-1])),
        margins=logits[label] - logits[targets],
        maxima=[maxima(pair) for pair in plan.pairs],
    )


def ball_points(
    image: Batch, rng: Randomness, norm: str, radius: float, *, n: int, chunk: int
) -> Iterator[NDArray[np.float32]]:
    """Draw points uniformly from the ball around one image, clipped to [0, 1], in chunks (at most ``chunk``, c, h, w).

    L2 and L1 by Barthe, Guedon, Mendelson and Naor 2005 (Annals of Probability 33, theorem 1): directions from the
    density exp(-|x|^p), shortened by an exponential variable that represents one more coordinate.
    """
    import numpy as np

    directions, lengths = rng(image.ids[0], f"directions {norm}"), rng(image.ids[0], f"lengths {norm}")
    dims = image.pixels[0].size
    for start in range(0, n, chunk):
        shape = min(chunk, n - start), dims
        if norm == "linf":
            offsets = directions.uniform(-1, 1, shape)
        elif norm == "l2":
            offsets = directions.standard_normal(shape) * np.sqrt(0.5)
            offsets /= np.sqrt((offsets**2).sum(axis=1) + lengths.exponential(size=shape[0]))[:, None]
        else:
            offsets = directions.laplace(size=shape)
            offsets /= (np.abs(offsets).sum(axis=1) + lengths.exponential(size=shape[0]))[:, None]
        pixels = image.pixels + (offsets * radius).reshape(-1, *image.pixels.shape[1:])
        yield pixels.clip(0, 1).astype(np.float32)


def margin_slopes(
    classifier: Classifier, pixels: NDArray[np.float32], label: int, targets: Sequence[int], norm: str
) -> NDArray[np.float64]:
    """Return the dual norms of the margin gradients at points, (targets, points), from one forward pass.

    Raises NotFinite if a gradient is NaN or infinite.
    """
    import numpy as np
    import torch

    from auditor.algorithms.balls import length
    from auditor.algorithms.losses import DUAL

    x = classifier.tensor(pixels).requires_grad_()
    logits = classifier.logits(x)
    slopes = []
    for target in targets:
        margin = (logits[:, label] - logits[:, target]).sum()
        (gradient,) = torch.autograd.grad(margin, x, retain_graph=target != targets[-1])
        slopes.append(length(gradient, DUAL[norm]).double().cpu().numpy())
    result = np.stack(slopes)
    if not np.isfinite(result).all():
        raise NotFinite("the gradient of the differentiable copy is NaN or infinite near an image")
    return result

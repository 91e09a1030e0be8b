"""Points and slopes around an image, for ``metrics.clever``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from auditor.data.dataset import Batch
    from auditor.model.classifier import Classifier
    from auditor.probes.base import Randomness


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

    Raises ArithmeticError if a gradient is NaN or infinite.
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
        raise ArithmeticError("the gradient of the differentiable copy is NaN or infinite near an image")
    return result

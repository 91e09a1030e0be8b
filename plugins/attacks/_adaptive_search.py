"""The searches of ``attacks.adaptive``, and what it selects them by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch
    from numpy.typing import NDArray

    from auditor import Batch, Classifier, Pixels, Randomness

_MISLED_SHARE = 0.5
"""Share of the images on which random directions are as good as the gradient, above which it misleads."""

_DIRECTIONS = 8
"""Random directions that the gradient is compared with."""


class Effort(Protocol):
    """Settings of the searches."""

    @property
    def epsilon(self) -> float:
        """L-infinity size."""

    @property
    def iterations(self) -> int:
        """Steps."""

    @property
    def repeats(self) -> int:
        """Passes for one gradient."""

    @property
    def targets(self) -> int:
        """Target classes."""

    @property
    def pairs(self) -> int:
        """Pairs of queries for one slope."""


def is_random(answers: pd.DataFrame | None) -> bool:
    """Return whether ``sanity.determinism`` recorded probabilities that differ between equal queries."""
    return answers is not None and len(answers) > 0 and bool((answers["again"] > 0).any())


def gradients_mislead(classifier: Classifier, batch: Batch, rng: Randomness, epsilon: float) -> bool:
    """Return whether a step along the gradient raises the margin no more than the best of a few random steps."""
    import numpy as np

    def margins(images: Pixels) -> NDArray[np.float64]:
        return _margins(classifier, images, batch.labels)

    shape = batch.pixels.shape[1:]
    before = margins(batch.pixels)
    # the gradient of the label's lead falls towards an error
    along = -classifier.gradient(batch.pixels).cpu().numpy()
    found = margins((batch.pixels + np.float32(epsilon) * np.sign(along)).clip(0, 1)) - before
    random = np.full(len(batch), -np.inf)
    both = np.array([-1, 1], dtype=np.float32)
    for number in range(_DIRECTIONS):
        signs = np.stack([rng(i, f"direction {number}").choice(both, shape) for i in batch.ids])
        random = np.maximum(random, margins((batch.pixels + np.float32(epsilon) * signs).clip(0, 1)) - before)
    return bool((found <= random).mean() > _MISLED_SHARE)


def by_expectation(classifier: Classifier, batch: Batch, rng: Randomness, effort: Effort) -> Pixels:
    """Run APGD on both losses with averaged gradients; return the images (n, c, h, w) with the largest margins."""
    import numpy as np
    import torch

    from auditor.algorithms.apgd import apgd
    from auditor.algorithms.balls import Ball
    from auditor.algorithms.best_points import BestPoints
    from auditor.algorithms.losses import soft_margin, targeted_dlr
    from auditor.model.expectation import Expectation
    from auditor.probes.perturbation import start_noise

    expected = Expectation(classifier, effort.repeats)
    clean = classifier.tensor(batch.pixels)
    labels = torch.from_numpy(batch.labels).to(clean.device)
    ball, best = Ball("linf", effort.epsilon), BestPoints(clean)
    with torch.no_grad():
        others = expected.scaled_logits(clean).scatter(1, labels[:, None], -torch.inf)
    ranked = others.argsort(dim=1, descending=True)[:, : min(effort.targets, classifier.n_classes - 1)]
    for number in range(ranked.shape[1] + 1):
        left = (~best.broken).nonzero()[:, 0]
        if not len(left):
            break
        own, target = labels[left], ranked[left, number - 1]
        noise = start_noise(rng, [batch.ids[i] for i in left.tolist()], f"start {number}", batch.pixels.shape[1:])

        def objective(
            logits: torch.Tensor,
            rows: torch.Tensor,
            *,
            n: int = number,
            own: torch.Tensor = own,
            target: torch.Tensor = target,
        ) -> torch.Tensor:
            return targeted_dlr(logits, own[rows], target[rows]) if n else soft_margin(logits, own[rows])

        found = apgd(
            expected.scaled_logits,
            clean[left],
            own,
            ball=ball,
            start=ball.surface(torch.from_numpy(noise).to(clean.device)),
            iterations=effort.iterations,
            objective=objective,
        )
        best.see(left, found.images, found.margin)
    images: Pixels = best.images.cpu().numpy()
    # rounding may exceed the budget
    return images.clip(batch.pixels - np.float32(effort.epsilon), batch.pixels + np.float32(effort.epsilon)).clip(0, 1)


def by_scores(classifier: Classifier, batch: Batch, rng: Randomness, effort: Effort) -> Pixels:
    """Run SPSA on the deployed model; return the images (n, c, h, w) with the largest margins."""
    import numpy as np

    from auditor.algorithms.spsa import spsa

    def margins(images: Pixels, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        return _margins(classifier, images, batch.labels[rows])

    best = batch.pixels.copy()
    # as many images at once as there are queries for one in a batch of the model
    together = max(1, 4 * classifier.batch_size // effort.pairs)
    for start in range(0, len(batch), together):
        rows = np.arange(start, min(start + together, len(batch)))

        def offset(images: Pixels, among: NDArray[np.int64], rows: NDArray[np.int64] = rows) -> NDArray[np.float64]:
            return margins(images, rows[among])

        best[rows] = spsa(
            offset,
            batch.pixels[rows],
            epsilon=effort.epsilon,
            iterations=effort.iterations,
            pairs=effort.pairs,
            draws=[rng(batch.ids[row], "slopes") for row in rows],
        )
    return best


def wrong_share(classifier: Classifier, images: Pixels, labels: NDArray[np.int64], answers: int) -> NDArray[np.float64]:
    """Return the share of ``answers`` repeated answers to each image that are wrong, (n,)."""
    import numpy as np

    wrong = [classifier.predict(images).argmax(axis=1) != labels for _ in range(answers)]
    share: NDArray[np.float64] = np.mean(wrong, axis=0)
    return share


def _margins(classifier: Classifier, images: Pixels, labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the largest other log-probability of the deployed model minus the label's, (n,)."""
    import torch

    from auditor.algorithms.losses import margin

    scores = torch.from_numpy(classifier.log_probabilities(images)).double()
    found: NDArray[np.float64] = margin(scores, torch.from_numpy(labels)).numpy()
    return found

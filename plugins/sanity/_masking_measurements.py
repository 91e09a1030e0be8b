"""Measure signs of masked gradients on a batch, for ``sanity.gradient-masking``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from auditor.plugins.sanity._masking_checks import FACTOR

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from auditor import Batch, Classifier, Randomness
    from auditor.algorithms.best_points import BestPoints

_MIN_REACH = 0.1
"""A gradient is tiny if, to first order, moving every pixel across the whole range changes the margin by less than this
share of it."""

_RISING = 0.1
"""A loss still rises if this share of its rise falls into the last quarter of the steps (Pintor et al. 2022, incomplete
optimization). A step from a random start reaches every corner of the ball before that."""

_UNSTABLE = 0.5
"""A loss is unstable if random steps of an eighth of epsilon change it by this share of the attack's rise
(Pintor et al. 2022, unstable predictions)."""

_NEIGHBOURS = 4


@dataclass(frozen=True)
class GradientMeasurements:
    """A batch with its clean predictions as labels, and random signs (n, c, h, w) for starts and steps."""

    classifier: Classifier
    clean: torch.Tensor
    labels: torch.Tensor
    start: NDArray[np.float32]
    other_start: NDArray[np.float32]
    step: NDArray[np.float32]
    epsilon: float
    iterations: int

    @classmethod
    def of(
        cls, classifier: Classifier, batch: Batch, rng: Randomness, epsilon: float, iterations: int
    ) -> GradientMeasurements:
        """Draw the random signs of a batch."""
        import torch

        clean = classifier.tensor(batch.pixels)
        labels = torch.from_numpy(batch.predictions).to(clean.device)
        start, other_start, step = (_signs(rng, batch, name) for name in ("start", "other start", "step"))
        return cls(classifier, clean, labels, start, other_start, step, epsilon, iterations)

    def all(self, sizes: Mapping[str, float]) -> dict[str, NDArray[np.bool_]]:
        """Return the flags (n,) of every check, and the success of noise of ``sizes`` as ``noise_<norm>``."""
        from auditor.algorithms.best_points import MARGIN_TOLERANCE

        found = self._search(self.start, self.epsilon)
        margin = found.margin
        larger, smaller = (self._search(self.start, factor * self.epsilon).margin for factor in (2, 0.5))
        other = self._search(self.other_start, self.epsilon).margin
        longer = self._search(self.start, self.epsilon, 4 * self.iterations).margin
        # half-way to the corners, because other checks cover flat regions around the image itself
        unbounded = self._search(0.5 * self.start, 1.0, 2 * self.iterations)
        below, at, above = (m.clamp_max(MARGIN_TOLERANCE) for m in (smaller, margin, larger))
        tolerance = 0.01 * (at.abs() + MARGIN_TOLERANCE)
        success = margin > MARGIN_TOLERANCE
        flags = self._gradients() | self._steps()
        flags["rising-loss"] = (at < below - tolerance) | (above < at - tolerance)
        flags["random-start"] = success != (other > MARGIN_TOLERANCE)
        flags["convergence"] = (longer > MARGIN_TOLERANCE) & ~success
        columns: dict[str, NDArray[np.bool_]] = {name: flag.cpu().numpy() for name, flag in flags.items()}
        columns["unbounded"] = ~self._misclassified(unbounded.images)
        columns |= {f"noise_{norm}": self._noise_succeeds(norm, epsilon) for norm, epsilon in sizes.items()}
        columns["noise"] = columns["noise_linf"] & ~self._misclassified(found.images)
        return columns

    def _search(self, start: NDArray[np.float32], epsilon: float, iterations: int = 0) -> BestPoints:
        """Run APGD on the margin from ``start`` (n, c, h, w), in units of ``epsilon``."""
        import numpy as np

        from auditor.algorithms.apgd import apgd
        from auditor.algorithms.balls import Ball
        from auditor.algorithms.losses import margin

        return apgd(
            self.classifier.scaled_logits,
            self.clean,
            self.labels,
            ball=Ball("linf", epsilon),
            start=self.classifier.tensor(start * np.float32(epsilon)),
            iterations=iterations or self.iterations,
            objective=lambda logits, rows: margin(logits, self.labels[rows]),
        )

    def _misclassified(self, images: torch.Tensor) -> NDArray[np.bool_]:
        """Return whether the deployed model's prediction differs from the clean one, (n,)."""
        import numpy as np

        predictions = self.classifier.predict(images.cpu().numpy()).argmax(axis=1)
        wrong: NDArray[np.bool_] = np.asarray(predictions != self.labels.cpu().numpy())
        return wrong

    def _noise_succeeds(self, norm: str, epsilon: float) -> NDArray[np.bool_]:
        from auditor.algorithms.balls import Ball

        noise = Ball(norm, epsilon).surface(self.classifier.tensor(self.step))
        return self._misclassified((self.clean + noise).clamp(0, 1))

    def _steps(self) -> dict[str, torch.Tensor]:
        """Check the steps of PGD, which does not adapt its step size."""
        import numpy as np
        import torch

        from auditor.algorithms.balls import Ball
        from auditor.algorithms.best_points import MARGIN_TOLERANCE
        from auditor.algorithms.losses import margin
        from auditor.algorithms.pgd import pgd, usual_step

        classifier, clean, labels = self.classifier, self.clean, self.labels
        ball, usual = Ball("linf", self.epsilon), usual_step(self.epsilon, self.iterations)
        start = classifier.tensor(self.start * np.float32(self.epsilon / 2))

        def search(step: float, iterations: int) -> Any:
            model = classifier.scaled_logits
            return pgd(model, clean, labels, ball=ball, start=start, iterations=iterations, step=step)

        found, early = search(usual, self.iterations), search(usual, max(1, self.iterations * 3 // 4))
        smaller, larger = (search(factor * usual, self.iterations).broken for factor in (0.25, 4.0))
        with torch.no_grad():
            before = margin(classifier.scaled_logits(clean), labels)
            changes = []
            for shift in range(_NEIGHBOURS):
                noise = classifier.tensor(np.roll(self.step, shift, axis=3) * np.float32(self.epsilon / 8))
                near = margin(classifier.scaled_logits((found.images + noise).clamp(0, 1)), labels)
                changes.append((near - found.margin).abs())
        rise = (found.margin - before).clamp_min(0).clamp_min(MARGIN_TOLERANCE)
        return {
            "step-size": (smaller | larger) & ~found.broken,
            "unfinished": ~found.broken & (found.margin - early.margin > _RISING * rise),
            "unstable": torch.stack(changes).mean(0) > _UNSTABLE * rise,
        }

    def _gradients(self) -> dict[str, torch.Tensor]:
        """Check the gradient at the clean image."""
        import torch

        from auditor.algorithms.losses import margin

        x = self.clean.clone().requires_grad_()
        before = margin(self.classifier.scaled_logits(x), self.labels)
        (gradient,) = torch.autograd.grad(before.sum(), x)
        before = before.detach()
        size = self.epsilon / 4
        random = self.classifier.tensor(self.step)
        with torch.no_grad():
            scores = self.classifier.logits(self.clean)
            moved = (self.clean + size * gradient.sign()).clamp(0, 1)
            rise = margin(self.classifier.scaled_logits(moved), self.labels) - before
            random_logits = self.classifier.scaled_logits((self.clean + size * random).clamp(0, 1))
            random_rise = margin(random_logits, self.labels) - before
        predicted = ((moved - self.clean) * gradient).flatten(1).sum(1)
        ratio = rise / predicted.clamp_min(1e-30)
        flat = gradient.flatten(1)
        return {
            "zero-gradient": (flat == 0).float().mean(1) > 0.99,
            "tiny-gradient": flat.abs().sum(1) < _MIN_REACH * before.abs(),
            "random-step": rise <= random_rise,
            # a step that is clipped away has no prediction
            "first-order": (predicted > 0) & ((ratio < 1 / FACTOR) | (ratio > FACTOR)),
            "softmax": (scores.amin(1) >= 0) & ((scores.sum(1) - 1).abs() < 1e-3),
        }


def _signs(rng: Randomness, batch: Batch, purpose: str) -> NDArray[np.float32]:
    """Return random corners of the unit ball, (n, c, h, w)."""
    import numpy as np

    shape = batch.pixels.shape[1:]
    draws = [rng(image_id, purpose).integers(0, 2, shape) for image_id in batch.ids]
    return (2 * np.stack(draws) - 1).astype(np.float32)

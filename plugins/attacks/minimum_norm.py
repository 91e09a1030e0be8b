"""Fast minimum-norm attack (FMN): gradient steps within a ball whose radius follows the class boundary.

The radius shrinks by a factor 1 - gamma while the image is misclassified and grows by 1 + gamma while it is not. Until
the first error it is the first-order estimate ||delta|| + |margin| / ||grad||_dual of the distance. The step
delta <- Proj(delta + alpha grad / ||grad||_2) raises the margin; gamma and alpha decay along a cosine.
Pintor, Roli, Brendel and Biggio 2021, arXiv:2102.12827, algorithm 1.

``_minimum_norm_search.py`` lists the differences from the paper. If another gradient attack of the run needs less on an
image, its point is made again and the search continues from there, so that no distance recorded here exceeds it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from auditor import Meta, MinimumNorm, Probe, RunContext, ThreatModel
from auditor.algorithms.norms import image_norms
from auditor.plugins.attacks._known_errors import (
    SOURCES,
    KnownErrors,
    made_again,
    nearest_errors,
    rows_to_improve,
    sources,
)
from auditor.plugins.attacks._minimum_norm_search import nearest_by_radius, refined
from auditor.probes.attack import Attack
from auditor.probes.perturbation import start_noise

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from auditor import Batch, Classifier, Pixels, Randomness

_FURTHER_STEPS = 0.22
"""Steps from the point of another attack, as a share of the iterations: as many as from the own nearest error."""


@dataclass(frozen=True, kw_only=True)
class FastMinimumNorm(MinimumNorm):
    """One search per norm instead of one attack per epsilon."""

    meta = Meta(
        id="attacks.minimum-norm",
        title="Fast minimum-norm attack",
        area="attacks",
        why="The smallest perturbation that changes the answer, for each image. A distance is more informative than the"
        " result at one budget.",
        references=("https://arxiv.org/abs/2102.12827",),
        needs=frozenset({"gradients"}),
        version=4,
    )
    depends_on: ClassVar[Sequence[str]] = SOURCES
    waits: ClassVar[bool] = True
    norms: Sequence[str] = ("linf", "l2", "l1")
    iterations: int = 100
    """Gradient steps in each norm."""

    def __post_init__(self) -> None:
        """Refuse invalid settings."""
        super().__post_init__()
        if self.iterations < 1:
            raise ValueError("iterations must be at least 1")

    def threat_model(self) -> ThreatModel:
        """Return any distance and many gradient steps."""
        return self.any_distance(f"{self.iterations} gradient steps")

    def prepare(self, run: RunContext) -> Probe:
        """Return the probe with the errors that the other attacks of the run found."""
        attacks = sources(run.probes)
        return _Continued(**vars(self), attacks=attacks, known=nearest_errors(run.records, attacks))

    def fingerprint(self, probes: Sequence[Probe]) -> Any:
        """Return the other attacks with their settings."""
        return [[name, attack.meta.version, asdict(attack)] for name, attack in sources(probes).items()]

    def search(self, classifier: Classifier, batch: Batch, rng: Randomness, norm: str) -> Pixels:
        """Return the nearest iterate that the differentiable copy misclassifies."""

        def noise(number: int) -> torch.Tensor:
            return classifier.tensor(start_noise(rng, batch.ids, f"start {number} {norm}", batch.pixels.shape[1:]))

        return nearest_by_radius(classifier, batch, norm, iterations=self.iterations, noise=noise)


@dataclass(frozen=True, kw_only=True)
class _Continued(FastMinimumNorm):
    """The probe with what other attacks of the run found."""

    attacks: Mapping[str, Attack | MinimumNorm] = field(default_factory=dict)
    known: KnownErrors = field(default_factory=dict)

    def nearest(
        self, classifier: Classifier, batch: Batch, rng: Randomness, norm: str
    ) -> tuple[Pixels, NDArray[np.float32], NDArray[np.bool_]]:
        """Search, and continue from the points of attacks that needed less."""
        import numpy as np

        images, answers, found = super().nearest(classifier, batch, rng, norm)
        wrong = answers.argmax(axis=1) != batch.labels
        distances = np.where(wrong, image_norms(images - batch.pixels, norm), np.inf)
        rows, errors = rows_to_improve(self.known, batch, norm, distances)
        if not rows:
            return images, answers, found
        subset = batch.take(rows)
        starts = made_again(self.attacks, errors, classifier, subset, rng=rng, norm=norm)
        steps = max(1, int(_FURTHER_STEPS * self.iterations))
        # the deployed model may refute the nearer point and confirm the start
        for points in (refined(classifier, subset, starts, norm, iterations=steps), starts):
            nearer, given, _ = self.confirmed(classifier, subset, points)
            sizes = np.where(given.argmax(axis=1) != subset.labels, image_norms(nearer - subset.pixels, norm), np.inf)
            better = np.flatnonzero(sizes < distances[rows])
            at = np.asarray(rows)[better]
            images[at], answers[at], distances[at], found[at] = nearer[better], given[better], sizes[better], True
        return images, answers, found

"""Base class of minimum-norm attacks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from auditor.algorithms.norms import image_norms
from auditor.findings.finding import Conclusion, ThreatModel
from auditor.findings.metric import Metric, MetricSpec
from auditor.probes.attack import breaking_epsilon, clean_units
from auditor.probes.base import Columns, Example, Magnified, Probe, Randomness, Records
from auditor.probes.example_grid import spread_over_classes
from auditor.probes.levels import Level, number
from auditor.probes.minimum_norm_findings import SearchCounts, failure_reason, search_finding
from auditor.probes.perturbation import (
    ROUNDING,
    answer_columns,
    check_images,
    clean_columns,
    example_pictures,
    join_columns,
    size_columns,
)
from auditor.probes.robustness_metrics import (
    ATTACK_SUCCESS_RATE,
    DISTANCE_MEDIAN,
    ROBUST_ACCURACY,
    SNR_MEDIAN,
    UNCONFIRMED,
)

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from auditor.data.dataset import Batch, Pixels
    from auditor.model.classifier import Classifier

STANDARD_EPSILONS: Mapping[str, Sequence[float]] = {
    "linf": tuple(n / 255 for n in (0.5, 1, 2, 4, 8, 16, 32)),
    "l2": (0.1, 0.25, 0.5, 1.0, 2.0, 5.0),
    "l1": (1.0, 2.0, 4.0, 8.0, 12.0, 25.0, 60.0),
}
"""Epsilons of the reported accuracies. They include those of common benchmarks: 8/255 and 0.5 of RobustBench
(arXiv:2010.09670), L1 of 12 and 60 for CIFAR-10 and ImageNet (arXiv:2103.01208)."""

_EXTENSIONS = (1.0, 1.001, 1.01, 1.1, 1.5)
"""Multiples of the perturbation at which the deployed model is queried until it confirms the error."""

_HALVINGS = 18
"""Bisection steps towards the clean image: 2^-18 of the perturbation is about the resolution of float32 pixels."""

_EXAMPLE_EXTENSIONS = (1.0, 1.02, 1.05, 1.1, 1.25, 1.5, 2.0, 4.0)
"""Multiples of the perturbation tried for an example until the error survives rounding to 8 bits."""


@dataclass(frozen=True, kw_only=True)
class MinimumNorm(Probe):
    """Search for the *smallest* perturbation that makes the answer wrong, in one or several norms.

    One search gives the whole curve of accuracy against epsilon, because it finds a distance for every image. A result
    on the differentiable copy is moved along the line to the clean image, as near as the deployed model still
    misclassifies it; if the deployed model does not confirm it, slightly larger perturbations are tried. Images
    misclassified without an attack have distance 0.
    """

    metrics: ClassVar[Sequence[MetricSpec]] = (
        ROBUST_ACCURACY,
        DISTANCE_MEDIAN,
        SNR_MEDIAN,
        UNCONFIRMED,
        ATTACK_SUCCESS_RATE,
    )
    headline: ClassVar[Level] = {"norm": "linf", "epsilon": 8 / 255}
    """Level of the key metric, if its norm is searched."""
    failure_text: ClassVar[str] = "the search found nothing"
    """Describes images on which the search failed."""
    supported_norms: ClassVar[Sequence[str]] = tuple(STANDARD_EPSILONS)
    """Norms that the search knows."""

    norms: Sequence[str] = ("l2",)
    """Any of linf, l2, l1."""

    def __post_init__(self) -> None:
        """Refuse unknown and repeated norms; subclasses that override this call it, too."""
        known = set(self.norms) & set(self.supported_norms)
        if not self.norms or len(known) < len(self.norms):
            raise ValueError(f"norms is {list(self.norms)}; expected some of {', '.join(self.supported_norms)}")

    def any_distance(self, effort: str) -> ThreatModel:
        """Return the threat model of an attacker who accepts any distance; ``effort`` is the limit of the search."""
        return ThreatModel(
            goal="untargeted misclassification, as near as possible",
            knowledge="white-box" if "gradients" in self.meta.needs else "black-box",
            norm=" and ".join(self.norms),
            budget=f"any distance; {effort}",
        )

    def control_levels(self) -> Sequence[Level]:
        """Return the levels for ``sanity.positive-control``: per norm the headline's or the middle standard epsilon."""
        return [
            self.headline if norm == self.headline["norm"] else {"norm": norm, "epsilon": sizes[len(sizes) // 2]}
            for norm, sizes in STANDARD_EPSILONS.items()
            if norm in self.norms
        ]

    def perturbed(self, classifier: Classifier, batch: Batch, rng: Randomness, level: Level) -> Pixels:
        """Return what the search finds within the level's epsilon; the clean image if it finds nothing."""
        norm, epsilon = str(level["norm"]), number(level)[1]
        images = self.nearest(classifier, batch, rng, norm)[0]
        far = image_norms(images - batch.pixels, norm) > epsilon + ROUNDING
        images[far] = batch.pixels[far]
        return images

    @abstractmethod
    def search(self, classifier: Classifier, batch: Batch, rng: Randomness, norm: str) -> Pixels:
        """Return the nearest misclassified images found, (n, c, h, w); the clean image if none was found."""

    def nearest(
        self, classifier: Classifier, batch: Batch, rng: Randomness, norm: str
    ) -> tuple[Pixels, NDArray[np.float32], NDArray[np.bool_]]:
        """Search, and move the results as near to the clean images as the deployed model confirms them.

        Returns:
            Images (n, c, h, w), the clean one if nothing is confirmed; probabilities of the deployed model for them
            (n, k); and whether the search found something (n,).
        """
        results = check_images(
            f"{self.meta.id}: search", self.search(classifier, batch, rng, norm), batch, {"norm": norm}
        )
        return self.confirmed(classifier, batch, results)

    def confirmed(
        self, classifier: Classifier, batch: Batch, results: Pixels
    ) -> tuple[Pixels, NDArray[np.float32], NDArray[np.bool_]]:
        """Move ``results`` (n, c, h, w) as near to the clean images as the deployed model confirms; as ``nearest``."""
        import numpy as np

        delta = results - batch.pixels
        found: NDArray[np.bool_] = np.abs(delta).reshape(len(delta), -1).max(axis=1) > 0
        images, answers = batch.pixels.copy(), batch.probabilities.copy()
        inner, outer = np.zeros(len(batch)), np.zeros(len(batch))

        def query(rows: NDArray[np.int64], scale: NDArray[np.float64]) -> NDArray[np.bool_]:
            """Query the deployed model at ``scale`` times the perturbation and keep the misclassified images."""
            steps = delta[rows] * scale.astype(np.float32).reshape(-1, *[1] * (delta.ndim - 1))
            candidates = (batch.pixels[rows] + steps).clip(0, 1)
            probabilities = classifier.predict(candidates)
            wrong: NDArray[np.bool_] = probabilities.argmax(axis=1) != batch.labels[rows]
            hit = rows[wrong]
            images[hit], answers[hit], outer[hit] = candidates[wrong], probabilities[wrong], scale[wrong]
            inner[rows[~wrong]] = scale[~wrong]
            return wrong

        left = np.flatnonzero(found)
        for scale in _EXTENSIONS:
            if len(left):
                left = left[~query(left, np.full(len(left), scale))]
        confirmed = np.flatnonzero(outer > 0)
        for _ in range(_HALVINGS if len(confirmed) else 0):
            query(confirmed, (inner[confirmed] + outer[confirmed]) / 2)
        return images, answers, found

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Return ``ATTACK_COLUMNS``: per norm one row per image at epsilon 0, one per attacked image.

        ``epsilon`` is the distance found, NaN if the deployed model confirmed nothing. ``surrogate_misclassified``
        marks images for which the search itself found something.
        """
        import numpy as np

        attacked = np.flatnonzero(batch.predictions == batch.labels)
        parts: list[dict[str, NDArray[Any]]] = []
        for norm in self.norms:
            parts.append(clean_columns(batch, norm, searched=True))
            if len(attacked):
                columns = self._search_columns(classifier, batch.take(attacked), rng, norm)
                parts.append({**columns, "row": attacked})
        return join_columns(parts)

    def _search_columns(
        self, classifier: Classifier, victims: Batch, rng: Randomness, norm: str
    ) -> dict[str, NDArray[Any]]:
        import numpy as np

        images, answers, found = self.nearest(classifier, victims, rng, norm)
        columns = answer_columns(answers, victims.labels)
        success = columns["perturbed_prediction"] != victims.labels
        sizes = size_columns(images, victims.pixels, image_norms(victims.pixels))
        columns |= {name: np.where(success, values, np.nan) for name, values in sizes.items()}
        n = len(victims)
        return columns | {
            "norm": np.full(n, norm),
            "epsilon": columns[norm],
            "success": success,
            "searched": np.ones(n, dtype=bool),
            "surrogate_misclassified": found,
        }

    def examples(self, records: Records) -> Sequence[Example]:
        """Request the images nearest to an error in the headline's norm, spread over the classes."""
        frame = records.frame
        norm = self._example_norm()
        successes = frame[(frame["norm"] == norm) & frame["success"]]
        nearest = spread_over_classes(successes.sort_values("epsilon", kind="stable"))
        return [Example(image_id=image, at={"norm": norm}) for image in nearest["image_id"]]

    def draw_example(
        self, classifier: Classifier, batch: Batch, rng: Randomness, example: Example
    ) -> Mapping[str, Pixels | Magnified]:
        """Draw the clean images, the perturbation and the result, enlarged until the error survives 8 bits."""
        import numpy as np

        images, _, _ = self.nearest(classifier, batch, rng, str(example.at["norm"]))
        delta = images - batch.pixels
        left = np.arange(len(batch))
        for scale in _EXAMPLE_EXTENSIONS:
            enlarged = (batch.pixels[left] + np.float32(scale) * delta[left]).clip(0, 1)
            # float32 already, which the stubs of NumPy 2.5 do not know
            rounded = (np.rint(enlarged * 255) / np.float32(255)).astype(np.float32, copy=False)
            wrong = classifier.predict(rounded).argmax(axis=1) != batch.labels[left]
            images[left[wrong]] = rounded[wrong]
            left = left[~wrong]
            if not len(left):
                break
        return example_pictures(batch.pixels, images)

    def conclude(self, records: Records) -> Conclusion:
        """Return per norm accuracy by epsilon, median distance and SNR, unconfirmed errors and examples."""
        metrics: list[Metric] = []
        findings = []
        failures: list[str] = []
        for norm in dict.fromkeys(str(norm) for norm in records.frame["norm"]):
            frame = records.frame[records.frame["norm"] == norm]
            attacked = frame[frame["epsilon"] != 0]
            counts = SearchCounts.of(attacked, self.failure_text)
            robust, chosen, others = self._metrics(frame, attacked, norm)
            found = [chosen, *others, *(metric for metric in robust if metric is not chosen)]
            # the key metric comes first
            metrics = found + metrics if norm == self._example_norm() else metrics + found
            with_examples = norm == self._example_norm()
            findings.append(
                search_finding(
                    self.meta,
                    records,
                    frame,
                    robust,
                    chosen=chosen,
                    median=others[0],
                    counts=counts,
                    with_examples=with_examples,
                )
            )
            failures += failure_reason(counts, norm, records.kind)
        if not failures:
            return Conclusion(metrics=metrics, findings=findings)
        reason = f"{'; '.join(failures)}, although any distance was allowed: the attack failed, which is not robustness"
        return Conclusion(metrics=metrics, findings=findings, inconclusive=reason)

    def _example_norm(self) -> str:
        """Return the norm of the key metric and the examples."""
        wanted = str(self.headline["norm"])
        return wanted if wanted in self.norms else self.norms[0]

    def _metrics(
        self, frame: pd.DataFrame, attacked: pd.DataFrame, norm: str
    ) -> tuple[list[Metric], Metric, list[Metric]]:
        """Return robust accuracy by epsilon, the key one of these, and the other metrics, median distance first."""
        from auditor import statistics

        at = {"norm": norm}
        distance, units = breaking_epsilon(frame), clean_units(frame)
        robust = [
            statistics.proportion(
                "robust_accuracy", distance > epsilon, at={"norm": norm, "epsilon": epsilon}, units=units
            )
            for epsilon in (0.0, *STANDARD_EPSILONS[norm])
        ]
        robust = [robust[0], *(metric.lost_from(robust[0].value) for metric in robust[1:])]
        median = statistics.median("distance_median", distance, unit=norm, at=at, units=units)
        # in other norms than the headline's, the standard epsilon nearest to the median
        wanted = number(self.headline)[1] if norm == self.headline["norm"] else median.value or 0.0
        wanted = min(wanted, STANDARD_EPSILONS[norm][-1])
        chosen = min(robust[1:], key=lambda metric: abs(number(metric.at)[1] - wanted))
        successes = attacked[attacked["success"]]
        claimed = attacked[attacked["surrogate_misclassified"]]
        others = [
            median,
            statistics.median("snr_median", successes["snr_db"], unit="dB", at=at, units=successes.get("unit")),
            statistics.proportion("unconfirmed", ~claimed["success"], at=at, units=claimed.get("unit")),
            statistics.proportion("attack_success_rate", attacked["success"], at=at, units=attacked.get("unit")),
        ]
        return robust, chosen, others

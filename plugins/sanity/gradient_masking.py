"""Gradient masking: whether the gradients mislead the attacks of this audit.

The checks follow Athalye, Carlini and Wagner 2018, arXiv:1802.00420, section 3.1; Carlini et al. 2019,
arXiv:1902.06705, section 4; and Pintor et al. 2022, arXiv:2106.09947. Each is a share of images that should be small; a
check is positive when its whole 95 % interval lies above the limit. The reference label is the model's own clean
prediction, so no labels are needed.

Five of the six indicators of Pintor et al. are covered: unavailable gradients (zero, tiny), unstable predictions,
incomplete optimization (unfinished, convergence, step size), transfer failure (black-box) and failure without a bound.
Silent success does not occur: every search keeps its best point. AutoAttack's own warnings are included: probabilities
instead of logits, zero gradients, and Square succeeding where gradients fail. Random output is checked by
``sanity.determinism``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from auditor import Conclusion, Finding, Meta, Metric, MetricSpec, Probe, Records
from auditor.plugins.sanity._attack_comparison import compare_attacks, noise_comparison
from auditor.plugins.sanity._masking_checks import OWN_CHECKS, judge
from auditor.plugins.sanity._masking_evidence import masking_statement, masking_table
from auditor.plugins.sanity._masking_measurements import GradientMeasurements

if TYPE_CHECKING:
    from auditor import Batch, Classifier, Columns, Randomness

_MIN_IMAGES = 20
"""With fewer images nothing is concluded."""


@dataclass(frozen=True, kw_only=True)
class GradientMasking(Probe):
    """Check for signs of masked gradients, from own measurements and from the records of all attacks."""

    meta = Meta(
        id="sanity.gradient-masking",
        title="Gradient masking",
        area="sanity",
        why="A failed attack shows robustness only if it would succeed on a model that is not robust. Masked gradients"
        " make attacks fail without making the model robust.",
        references=(
            "https://arxiv.org/abs/1802.00420",
            "https://arxiv.org/abs/1902.06705",
            "https://arxiv.org/abs/2106.09947",
        ),
        needs=frozenset({"gradients"}),
        version=3,
    )
    metrics = (
        MetricSpec(
            name="masking_signs", label="Signs of masked gradients", better="neither", unit="count", bound="exact"
        ),
        MetricSpec(name="masking_share", label="Share of images with the sign", better="neither"),
    )
    depends_on: ClassVar[Sequence[str]] = ("attacks.*",)
    samples: int = 64
    epsilon: float = 8 / 255
    """L-infinity size of the checks."""
    l2_epsilon: float = 0.5
    l1_epsilon: float = 12.0
    """Sizes of the noise that L2 and L1 attacks are compared with."""
    iterations: int = 20

    def __post_init__(self) -> None:
        """Validate the settings."""
        if not 0 < self.epsilon <= 0.5 or min(self.l2_epsilon, self.l1_epsilon) <= 0 or self.iterations < 1:
            raise ValueError("epsilon must lie between 0 and 0.5, the others above 0, iterations be at least 1")

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Return for each image and each own check whether the sign is present, and the success of noise by norm."""
        measurements = GradientMeasurements.of(classifier, batch, rng, self.epsilon, self.iterations)
        found = measurements.all(self._sizes())
        noise = [f"noise_{norm}" for norm in self._sizes()]
        return {name: found[name] for name in [*(check.id for check in OWN_CHECKS), *noise]}

    def conclude(self, records: Records) -> Conclusion:
        """Report every check with its share, and the number of positive checks."""
        frame = records.frame
        n_units = int(frame["unit"].nunique()) if "unit" in frame else None
        size, kind = (len(frame), "images") if n_units is None else (n_units, "units")
        if size < _MIN_IMAGES:
            reason = f"{size} {kind} are too few to check gradients; at least {_MIN_IMAGES} are required"
            return Conclusion(inconclusive=reason)
        results = [judge(check, frame[check.id], units=frame.get("unit")) for check in OWN_CHECKS]
        results += compare_attacks(records, self.epsilon)
        positive = [result for result in results if result.verdict == "masked"]
        signs = Metric(name="masking_signs", value=len(positive), n=len(frame), unit="count", units=n_units)
        finding = Finding(
            id=f"{self.meta.id}/signs",
            title="Signs of masked gradients",
            statement=masking_statement(results, len(frame), self.epsilon),
            metric=signs,
            evidence=[masking_table(results), *noise_comparison(records, self._sizes())],
        )
        return Conclusion(metrics=[signs, *(result.share for result in results)], findings=[finding])

    def _sizes(self) -> dict[str, float]:
        """Return the size of the noise in each norm."""
        return {"linf": self.epsilon, "l2": self.l2_epsilon, "l1": self.l1_epsilon}

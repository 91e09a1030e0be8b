"""Positive control: whether the attacks of this audit find an adversarial example that is known to exist.

Zimmermann, Brendel, Tramer and Carlini 2022, arXiv:2206.13991. For each image the model gets a readout under which a
known point within epsilon is misclassified (``auditor/algorithms/planted_control.py``). Each attack of the run that
searches per image is run on it with its settings: by gradients, scores or labels. If an attack misses the planted
point, its failure on the model itself is not evidence of robustness.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from auditor import Conclusion, Finding, Meta, MetricSpec, NotApplicable, Probe, Records
from auditor.plugins.sanity._control_results import control_statement, control_table, tried_levels
from auditor.plugins.sanity._control_runs import SearchAttack, run_attacks, search_attacks

if TYPE_CHECKING:
    from auditor import Batch, Classifier, Columns, Randomness
    from auditor.probes.base import RunContext


@dataclass(frozen=True, kw_only=True)
class PositiveControl(Probe):
    """Run every attack on a model with a planted adversarial example."""

    meta = Meta(
        id="sanity.positive-control",
        title="Positive control of the attacks",
        area="sanity",
        why="An attack that misses a planted adversarial example does not work on this model. Its failure on the model"
        " itself is not evidence of robustness.",
        references=("https://arxiv.org/abs/2206.13991",),
        needs=frozenset({"gradients"}),
        version=3,
    )
    metrics = (
        MetricSpec(name="control_success", label="Planted adversarial examples found", better="neither"),
        MetricSpec(name="control_noise", label="Planted adversarial examples found by noise", better="neither"),
    )
    samples: int = 48
    query_samples: int = 36
    """Images for query-based attacks, which need thousands of queries per image and run in one norm each. With fewer
    than 35 images the interval of a perfect result starts below 90 %."""
    candidates: int = 16
    """Random points, of which the one with the largest change of the logits is planted."""

    def __post_init__(self) -> None:
        """Validate the settings."""
        if min(self.candidates, self.query_samples) < 1:
            raise ValueError("candidates and query_samples must be at least 1")

    def prepare(self, run: RunContext) -> Probe:
        """Return the probe with the attacks of the run."""
        attacks = search_attacks(run.probes)
        if not attacks:
            raise NotApplicable("no attack that searches for each image is part of this run")
        # a random order, so that the selection does not depend on the order of the images
        ordered = sorted(run.ids, key=lambda image_id: run.rng(image_id, "asked").random())
        return _WithAttacks(**vars(self), attacks=attacks, query_ids=frozenset(ordered[: self.query_samples]))

    def fingerprint(self, probes: Sequence[Probe]) -> Any:
        """Return the attacks with their settings."""
        return [[attack.meta.id, attack.meta.version, asdict(attack)] for attack in search_attacks(probes)]

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Raise an error: only the prepared probe measures."""
        raise NotImplementedError("only the probe that prepare returns measures")

    def conclude(self, records: Records) -> Conclusion:
        """Report the success of each attack and level, and of noise of equal size."""
        frame = records.frame[records.frame["attack"] != ""] if len(records.frame) else records.frame
        if not len(frame):
            return Conclusion(inconclusive="no images were measured")
        tried = tried_levels(frame)
        # of equally bad results, the one with the most images
        worst = min((result[0] for result in tried), key=lambda metric: (metric.value or 0.0, -metric.n))
        finding = Finding(
            id=f"{self.meta.id}/attacks",
            title="Planted adversarial examples found by the attacks",
            statement=control_statement(frame, tried, worst),
            metric=worst,
            evidence=[control_table(tried)],
        )
        metrics = [metric for success, noise, _ in tried for metric in (success, noise)]
        return Conclusion(metrics=[worst, *(metric for metric in metrics if metric is not worst)], findings=[finding])


@dataclass(frozen=True, kw_only=True)
class _WithAttacks(PositiveControl):
    """The probe with the attacks of the run."""

    attacks: Sequence[SearchAttack]
    query_ids: frozenset[str]
    """Images for query-based attacks."""

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Return one row per image, attack and level."""
        rows = [row for row, image_id in enumerate(batch.ids) if image_id in self.query_ids]
        return run_attacks(self.attacks, classifier, batch, rng, candidates=self.candidates, query_rows=rows)

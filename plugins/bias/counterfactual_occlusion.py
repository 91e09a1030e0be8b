"""Counterfactual occlusion: cover the region that an explanation attributes the prediction to, and a random control
region of equal size, and compare the change of every class's score.

An explanation shows where the model looks; this probe measures the effect of that region on the prediction, by group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from auditor import Conclusion, Example, Explanation, Finding, Meta, MetricSpec, NotApplicable, Probe, Records
from auditor.algorithms.masking import Fill
from auditor.plugins.bias._attributed_regions import region_maps
from auditor.plugins.bias._covered_cells import cover_cells, strongest_and_random_cells
from auditor.plugins.bias._occlusion_evidence import (
    PICTURES,
    effect_statement,
    groups_finding,
    occlusion_images,
    prediction_groupings,
)
from auditor.plugins.bias._score_drops import ScoreDrops, class_changes, drops_by_group
from auditor.probes.breakdown import Breakdown
from auditor.probes.cells import cell_means, map_cells
from auditor.probes.groupings import groupings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from auditor import Batch, Classifier, Columns, Pixels, Randomness
    from auditor.probes.base import RunContext


@dataclass(frozen=True, kw_only=True)
class CounterfactualOcclusion(Breakdown):
    """Compare the effect of occluding the attributed region with that of a random region."""

    meta = Meta(
        id="bias.counterfactual-occlusion",
        title="Counterfactual occlusion",
        area="bias",
        why="A saliency map does not show that the prediction depends on the region. It does if covering the region"
        " changes the score more than covering an equal area elsewhere.",
        references=("https://arxiv.org/abs/1806.07421", "https://arxiv.org/abs/1311.2901"),
        input_kinds=frozenset({"images", "rows"}),
        version=2,
    )
    metrics = (
        MetricSpec(
            name="score_drop_over_control", label="Score drop over the control", better="neither", difference=True
        ),
        MetricSpec(name="score_drop", label="Score drop", better="neither", difference=True),
        MetricSpec(
            name="score_drop_gap", label="Gap in the score drop over the control", better="neither", difference=True
        ),
    )
    depends_on: ClassVar[Sequence[str]] = ("explanations.*",)
    samples: int = 100
    explanation: str = "explanations.occlusion"
    """The probe whose maps define the region; it must be in the suite."""
    share: float = 0.1
    """Share of the map's cells (of tabular data: features) to cover, at least one."""
    grid: int = 8
    fill: Fill = "mean"
    minimum: int = 10
    """Classes and groups with fewer images are not aggregated."""
    examples_shown: int = 6

    def __post_init__(self) -> None:
        """Validate the settings."""
        if not 0 < self.share <= 0.5 or self.grid < 2:
            raise ValueError("share must lie above 0 and at most at 0.5, grid at 2 or above")

    def prepare(self, run: RunContext) -> Probe:
        """Return the probe with the run's explanation and its settings."""
        found = next((p for p in run.probes if p.meta.id == self.explanation and isinstance(p, Explanation)), None)
        if found is None:
            raise NotApplicable(f"{self.explanation} is not in this run, so there are no maps to define a region")
        method = found.prepare(run)
        assert isinstance(method, Explanation)
        return _Prepared(**vars(self), method=method)

    def fingerprint(self, probes: Sequence[Probe]) -> Any:
        """Return the settings of the explanation."""
        return [asdict(probe) for probe in probes if probe.meta.id == self.explanation]

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Return the cells of both regions and the change of every class's probability when each is covered."""
        import numpy as np

        named, control = self._regions(classifier, batch, rng)
        covered, other = (classifier.predict(self._cover(classifier, batch, cells)) for cells in (named, control))
        return {
            "named": named,
            "control": control,
            "cells": np.full(len(batch), len(map_cells(classifier, self.grid))),
            "change": (covered - batch.probabilities).astype(np.float32),
            "change_control": (other - batch.probabilities).astype(np.float32),
            "flipped": covered.argmax(axis=1) != batch.predictions,
            "flipped_control": other.argmax(axis=1) != batch.predictions,
        }

    def _maps(self, classifier: Classifier, batch: Batch, rng: Randomness) -> NDArray[Any]:
        raise NotApplicable("the probe was not prepared with an explanation")

    def _regions(self, classifier: Classifier, batch: Batch, rng: Randomness) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the indices of the cells with the highest attribution and of random others, (n, cells) each."""
        maps = cell_means(self._maps(classifier, batch, rng), map_cells(classifier, self.grid))
        return strongest_and_random_cells(maps, self.share, [rng(image_id, "control") for image_id in batch.ids])

    def _cover(self, classifier: Classifier, batch: Batch, region: NDArray[Any]) -> Pixels:
        """Return copies of the images with the cells ``region`` (n, cells) covered."""
        return cover_cells(classifier, batch.pixels, region, grid=self.grid, fill=self.fill)

    def examples(self, records: Records) -> Sequence[Example]:
        """Request images whose prediction changes under the region and not under the control."""
        frame = records.frame
        changed = frame[frame["flipped"] & ~frame["flipped_control"]].drop_duplicates("image_id")
        return [Example(image_id=image_id) for image_id in changed["image_id"].head(self.examples_shown)]

    def draw_example(
        self, classifier: Classifier, batch: Batch, rng: Randomness, example: Example
    ) -> Mapping[str, Pixels]:
        """Return the images clean, with the region covered and with the control covered."""
        del example
        named, control = self._regions(classifier, batch, rng)
        images = (batch.pixels, self._cover(classifier, batch, named), self._cover(classifier, batch, control))
        return dict(zip(PICTURES, images, strict=True))

    def conclude(self, records: Records) -> Conclusion:
        """Compare the score drop between region and control, and between groups; locate the region."""
        if not len(records.frame):
            return Conclusion(inconclusive=f"no {records.kind} were measured")
        drops = ScoreDrops.of(records)
        cuts = prediction_groupings(records)
        table, comparisons = drops_by_group(records, drops, cuts, self.minimum)
        maps, location = region_maps(records, cuts, comparisons)
        finding = Finding(
            id=f"{self.meta.id}/score",
            title="Effect of occluding the attributed region",
            statement=f"{effect_statement(records, drops, self.share, self.explanation)} {location}".strip(),
            metric=drops.excess,
            evidence=[table, *class_changes(records, self.minimum), *occlusion_images(records)],
        )
        metrics = [drops.excess, drops.region, drops.control]
        if not comparisons:
            return Conclusion(metrics=metrics, findings=[replace(finding, evidence=[*finding.evidence, *maps])])
        by_group = groups_finding(records, comparisons, self.minimum, maps)
        # prediction and correctness are no groups of the data; their gaps are in the table only
        groups = groupings(records.frame)
        gaps = [gap for c in comparisons if c.grouping in groups for gap in c.significant]
        subject = "The score drop over the control"
        return Conclusion(
            metrics=[*metrics, *(gap.metric for gap in gaps)],
            findings=[finding, by_group, *self.gap_findings(gaps, "Gap in the effect of the region", subject)],
        )


@dataclass(frozen=True, kw_only=True)
class _Prepared(CounterfactualOcclusion):
    """The probe with the explanation of the run."""

    method: Explanation

    def _maps(self, classifier: Classifier, batch: Batch, rng: Randomness) -> NDArray[Any]:
        return self.method.attribute(classifier, batch, rng)

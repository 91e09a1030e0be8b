"""Occlusion: a block at each position of a grid, in several fills, with a random other position as control.

The worst position reduces the label's probability most. It is the maximum over all positions, so it is never below the
control; the difference measures how local the evidence is. Zeiler and Fergus 2014, arXiv:1311.2901.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar

from auditor import Conclusion, Example, Finding, Level, Meta, Metric, MetricSpec, PerImage, Records, ThreatModel
from auditor.algorithms.masking import FILLS, Fill, cover, sliding
from auditor.findings.formatting import percent
from auditor.plugins.attacks import _occlusion_evidence as evidence
from auditor.plugins.attacks._occlusion_metrics import accuracies_per_image, drops_per_image, fill_metrics
from auditor.plugins.attacks._occlusion_positions import position_columns
from auditor.probes.example_grid import example_grid, spread_over_classes
from auditor.probes.grid_search import GridSearch, robust_accuracy, success_rate
from auditor.probes.metric_tables import lowest
from auditor.probes.units import units_by_image

if TYPE_CHECKING:
    import pandas as pd

    from auditor import Batch, Classifier, Columns, Pixels, Randomness


@dataclass(frozen=True, kw_only=True)
class Occlusion(GridSearch):
    """Cover a part of the image and query the deployed model."""

    meta = Meta(
        id="attacks.occlusion",
        title="Occlusion by a block",
        area="attacks",
        why="A sticker, a finger or dirt on the lens covers a part of the image; it requires no knowledge of the"
        " model.",
        references=("https://arxiv.org/abs/1311.2901", "https://arxiv.org/abs/1708.04552"),
        version=2,
    )
    metrics: ClassVar[Sequence[MetricSpec]] = (
        *GridSearch.metrics,
        MetricSpec(name="occluded_accuracy", label="Accuracy under occlusion at a random position", better="higher"),
        MetricSpec(name="confidence_drop", label="Confidence drop", better="lower", difference=True),
        MetricSpec(name="confidence_drop_control", label="Confidence drop, control", better="neither", difference=True),
    )
    block: float = 0.25
    """Side of the block as a share of the image side."""
    sizes: Sequence[float] = (0.125, 0.375, 0.5)
    """Sides of further blocks, for the curve of accuracy against size."""
    steps: int = 5
    """Positions along each axis."""
    fills: Sequence[Fill] = FILLS
    """Contents of the block."""

    def __post_init__(self) -> None:
        """Refuse blocks without room to move."""
        if not all(0 < size < 1 for size in (self.block, *self.sizes)) or self.steps < 2 or not self.fills:
            raise ValueError("block and sizes must lie between 0 and 1, steps be at least 2, fills name at least one")

    def threat_model(self) -> ThreatModel:
        """Return the grid of positions and fills."""
        return ThreatModel(
            goal="untargeted misclassification",
            knowledge="black-box",
            norm="none (contiguous block)",
            budget=f"one block of {', '.join(f'{100 * size:g}' for size in self._sides())} % of the side,"
            f" {self.steps} x {self.steps} positions, fills {', '.join(self.fills)}",
        )

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Return one row per image, size and fill."""
        import numpy as np

        parts: list[dict[str, Any]] = []
        for side, fill in product(self._sides(), self.fills):
            blocks = sliding(classifier.shape[1], classifier.shape[2], side, self.steps)
            covered = (cover(batch.pixels, [block], fill) for block in blocks)
            answers = self.query_grid(classifier, batch.labels, covered)
            place = {"block": np.full(len(batch), side), "fill": np.full(len(batch), fill)}
            parts.append({"row": np.arange(len(batch)), **place, **position_columns(batch, rng, blocks, answers)})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _sides(self) -> list[float]:
        """Return every size of the block, smallest first."""
        return sorted({self.block, *self.sizes})

    def _main(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Select the rows of the main block."""
        import numpy as np

        # settings read back from audit.json have six digits
        return frame[np.isclose(frame["block"], self.block, rtol=1e-5, atol=0)]

    def examples(self, records: Records) -> Sequence[Example]:
        """Request the images with the largest drops, spread over the classes."""
        frame = self._main(records.frame)
        successes = frame[frame["misclassified_at_worst"] & (frame["prediction"] == frame["label"])]
        largest_first = successes.sort_values("drop", ascending=False, kind="stable")
        return [
            Example(
                image_id=row.image_id,
                at={"fill": row.fill, "position": int(row.position), "control": int(row.control_position)},
            )
            for row in spread_over_classes(largest_first).itertuples()
        ]

    def draw_example(
        self, classifier: Classifier, batch: Batch, rng: Randomness, example: Example
    ) -> Mapping[str, Pixels]:
        """Draw the clean images, covered at the worst position and covered at the control position."""
        del rng
        blocks = sliding(classifier.shape[1], classifier.shape[2], self.block, self.steps)
        at: Mapping[str, Any] = example.at
        covered = {key: cover(batch.pixels, [blocks[at[key]]], at["fill"]) for key in ("position", "control")}
        return {"clean": batch.pixels, "worst position": covered["position"], "control": covered["control"]}

    def conclude(self, records: Records) -> Conclusion:
        """Return accuracy at the worst and at the control position, by fill, size, position and class."""
        from auditor import statistics

        every = records.frame.assign(correct=records.frame["prediction"] == records.frame["label"])
        frame = self._main(every)
        images = frame.groupby("image_id", sort=False).agg(
            correct=("correct", "first"), misclassified=("misclassified", "any")
        )
        units = units_by_image(frame, images.index)
        at: Level = {"block": self.block, "fill": "any"}
        overall = robust_accuracy(images["correct"], images["misclassified"], at, units=units)
        success = success_rate(images["correct"], images["misclassified"], at, units=units)
        by_fill: dict[str, list[Metric]] = {
            fill: fill_metrics(frame[frame["fill"] == fill], {"block": self.block, "fill": fill}) for fill in self.fills
        }
        clean = statistics.proportion("accuracy", images["correct"], units=units)
        worst = lowest(metrics[0] for metrics in by_fill.values())
        finding = Finding(
            id=f"{self.meta.id}/block",
            title="Accuracy under occlusion",
            statement=f"With one square block, {100 * self.block:g} % of the image side long, at the worst position"
            f" and with the worst fill, {records.accuracy_name} is {percent(overall)}; without a block it is"
            f" {percent(clean)} (n = {overall.n}). The worst single fill is {worst.at['fill']}: {percent(worst)}.",
            metric=overall,
            evidence=[
                evidence.fill_table(by_fill),
                *evidence.size_curve(every, self.fills, records.accuracy_name),
                evidence.position_map(frame),
                evidence.class_table(records, frame),
                *example_grid(
                    records,
                    "Images misclassified under occlusion",
                    ["clean", "worst position", "control"],
                    must_succeed="worst position",
                ),
            ],
        )
        other_sizes = [m for at, rows in self._other_sizes(every) for m in fill_metrics(rows, at)[:2]]
        by_fill_metrics = [metric for metrics in by_fill.values() for metric in metrics]
        return Conclusion(metrics=[overall, success, *by_fill_metrics, *other_sizes], findings=[finding])

    def _other_sizes(self, frame: pd.DataFrame) -> Iterator[tuple[Level, pd.DataFrame]]:
        for (side, fill), rows in frame.groupby(["block", "fill"], sort=False):
            if not len(self._main(rows)):
                yield {"block": float(side), "fill": str(fill)}, rows

    def per_image(self, records: Records) -> list[PerImage]:
        """Return whether each image is robust under every fill and each fill, and its confidence drop."""
        frame = self._main(records.frame).set_index("image_id")
        correct = frame["prediction"] == frame["label"]
        robust = correct & ~frame["misclassified"]
        at: Level = {"block": self.block, "fill": "any"}
        success = (~robust).groupby(level=0).any().astype(float).where(correct.groupby(level=0).first())
        values = [
            PerImage(name="robust_accuracy", values=robust.groupby(level=0).all(), at=at),
            PerImage(name="attack_success_rate", values=success, at=at),
        ]
        for fill in self.fills:
            rows, place = frame[frame["fill"] == fill], {"block": self.block, "fill": fill}
            values += [*accuracies_per_image(rows, place), *drops_per_image(rows, place)]
        for other, rows in self._other_sizes(records.frame):
            values += accuracies_per_image(rows.set_index("image_id"), other)
        return values

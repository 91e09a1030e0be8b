"""Spatial attack: the worst rotation and translation of a grid.

Engstrom et al. 2019, arXiv:1712.02779: up to 30 degrees and 10 % of the side, bilinear, black outside the image. They
found that searching the grid is stronger than gradient steps. Only predictions are needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from auditor import Conclusion, Example, Finding, Level, Meta, Metric, MetricSpec, Records, ThreatModel
from auditor.findings.formatting import percent
from auditor.plugins.attacks._spatial_evidence import budget_table, rotation_curve
from auditor.plugins.attacks._spatial_transform import Move, moved
from auditor.probes.example_grid import example_grid, spread_over_classes
from auditor.probes.grid_search import GridSearch, robust_accuracy, success_rate

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from auditor import Batch, Classifier, Columns, Pixels, Randomness
    from auditor.statistics import Units


@dataclass(frozen=True, kw_only=True)
class Spatial(GridSearch):
    """Rotate and translate the image and query the deployed model."""

    meta = Meta(
        id="attacks.spatial",
        title="Rotation and translation",
        area="attacks",
        why="Rotation and translation need no knowledge of the model and happen without an adversary. If the class"
        " depends on the orientation (6 and 9), a changed answer may be correct.",
        references=("https://arxiv.org/abs/1712.02779",),
    )
    metrics: ClassVar[Sequence[MetricSpec]] = (
        *GridSearch.metrics,
        MetricSpec(name="moved_accuracy", label="Accuracy at a random rotation and translation", better="higher"),
    )
    rotation: float = 30.0
    """Largest angle in degrees, in both directions."""
    translation: float = 0.1
    """Largest translation as a share of the side, in both directions."""
    angles: int = 7
    """Angles of the grid; odd, so that the unrotated image is one of them."""
    shifts: int = 3
    """Translations along each axis; odd."""

    def __post_init__(self) -> None:
        """Refuse grids without the unmoved image."""
        if not (self.angles % 2 and self.shifts % 2 and self.angles > 0 and self.shifts > 0):
            raise ValueError("angles and shifts must be odd, so that the unmoved image is in the grid")
        if not (0 <= self.rotation <= 180 and 0 <= self.translation < 1):
            raise ValueError("rotation must lie between 0 and 180 degrees, translation between 0 and 1")

    def threat_model(self) -> ThreatModel:
        """Return the grid of positions."""
        return ThreatModel(
            goal="untargeted misclassification",
            knowledge="black-box",
            norm="none (rotation and translation)",
            budget=f"up to {self.rotation:g} degrees and {100 * self.translation:g} % of the side, the worst of"
            f" {len(self.grid())} positions",
        )

    def grid(self) -> list[Move]:
        """Return every position."""

        def steps(most: float, count: int) -> list[float]:
            # rounded, so that the angles in both directions are equal
            return [round(most * (2 * i / (count - 1) - 1), 9) if count > 1 else 0.0 for i in range(count)]

        shifts = steps(self.translation, self.shifts)
        return [Move(a, d, r) for a in steps(self.rotation, self.angles) for d in shifts for r in shifts]

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Return one row per image: which positions are misclassified, and the worst position."""
        del rng
        import numpy as np

        positions = (moved(batch.pixels, move) for move in self.grid())
        probability, wrong = self.query_grid(classifier, batch.labels, positions)
        # the worst misclassified position if there is any
        candidates = wrong | ~wrong.any(axis=1, keepdims=True)
        worst = np.where(candidates, probability, np.inf).argmin(axis=1)
        label_probability = probability[np.arange(len(batch)), worst]
        return {"wrong": wrong.astype(np.uint8), "worst": worst, "confidence_label": label_probability}

    def examples(self, records: Records) -> Sequence[Example]:
        """Request the images with the lowest probability of the label, spread over the classes."""
        frame = records.frame
        successes = frame[(frame["prediction"] == frame["label"]) & frame["wrong"].map(max).astype(bool)]
        first = successes.sort_values("confidence_label", kind="stable")
        return [
            Example(image_id=row.image_id, at={"position": int(row.worst)})
            for row in spread_over_classes(first).itertuples()
        ]

    def draw_example(
        self, classifier: Classifier, batch: Batch, rng: Randomness, example: Example
    ) -> Mapping[str, Pixels]:
        """Draw the clean and the moved images."""
        del classifier, rng
        position = example.at["position"]
        assert isinstance(position, int)
        return {"clean": batch.pixels, "moved": moved(batch.pixels, self.grid()[position])}

    def conclude(self, records: Records) -> Conclusion:
        """Return accuracy at the worst position by budget, and at a random position."""
        import numpy as np

        from auditor import statistics

        frame = records.frame
        if not len(frame):
            return Conclusion(inconclusive="no image was measured")
        wrong = np.stack(frame["wrong"].to_list()).astype(bool)
        correct = (frame["prediction"] == frame["label"]).to_numpy()
        units = frame.get("unit")
        robust = [
            self._within(correct, wrong, angle, shift, units) for shift in self._shifts() for angle in self._angles()
        ]
        overall = robust[-1]
        success = success_rate(correct, wrong.any(axis=1), overall.at, units=units)
        moved_share = 1 - wrong.mean(axis=1)
        clean = statistics.proportion("accuracy", correct, units=units)
        random = statistics.mean(
            "moved_accuracy", moved_share, unit="fraction", share=True, at=overall.at, units=units
        ).lost_from(clean.value)
        finding = Finding(
            id=f"{self.meta.id}/grid",
            title="Accuracy under rotation and translation",
            statement=f"At the worst of {wrong.shape[1]} combinations of rotation (up to {self.rotation:g} degrees) and"
            f" translation (up to {100 * self.translation:g} % of the image side), {records.accuracy_name} is"
            f" {percent(overall)}; on the clean images it is {percent(clean)} (n = {overall.n}). Averaged over all"
            f" combinations it is {percent(random)}.",
            metric=overall,
            evidence=[
                rotation_curve(robust, self._shifts(), records.accuracy_name),
                budget_table(robust),
                *example_grid(
                    records,
                    "Misclassified rotated and translated images",
                    ["clean", "moved"],
                    must_succeed="moved",
                    row_text=self._move_text,
                ),
            ],
        )
        return Conclusion(metrics=[overall, success, random, *robust[:-1]], findings=[finding])

    def _move_text(self, level: Level, image_id: str) -> str:
        del image_id
        move = self.grid()[level["position"]]
        return f"{move.angle:g} degrees, {100 * move.down:g} % down, {100 * move.right:g} % right"

    def _angles(self) -> list[float]:
        return sorted({abs(move.angle) for move in self.grid()})

    def _shifts(self) -> list[float]:
        return sorted({0.0, self.translation if self.shifts > 1 else 0.0})

    def _within(
        self, correct: NDArray[np.bool_], wrong: NDArray[np.bool_], angle: float, shift: float, units: Units
    ) -> Metric:
        """Return the accuracy at the worst position of a budget."""
        inside = [
            abs(move.angle) <= angle + 1e-9 and max(abs(move.down), abs(move.right)) <= shift + 1e-9
            for move in self.grid()
        ]
        at: Level = {"rotation": angle, "translation": shift}
        return robust_accuracy(correct, wrong[:, inside].any(axis=1), at, units=units)

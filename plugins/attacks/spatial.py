"""Spatial attack: the image turned and shifted, the worst of a grid.

Engstrom et al. 2019, arXiv:1712.02779: up to 30 degrees and 10 % of the side, bilinear, black where nothing is; the
whole grid is searched, which there finds more than gradient steps do. Only predictions are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from auditor import (
    Axis,
    Conclusion,
    Curve,
    Example,
    Finding,
    GridRow,
    ImageGrid,
    Meta,
    Metric,
    Picture,
    Point,
    Probe,
    Records,
    Series,
    Table,
    ThreatModel,
    hookimpl,
)
from auditor.findings.metric import percent
from auditor.probes.perturbation import spread_over_classes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from auditor.data.dataset import Batch, Pixels
    from auditor.model.classifier import Classifier
    from auditor.probes.base import Columns, Randomness


class Move(NamedTuple):
    """A rotation in degrees, counter-clockwise, and a shift down and to the right in shares of the side."""

    angle: float
    down: float
    right: float


@dataclass(frozen=True, kw_only=True)
class Spatial(Probe):
    """Does the answer survive a turn of the camera?"""

    meta = Meta(
        id="attacks.spatial",
        title="Rotation and translation",
        area="attacks",
        why="Turning and shifting the image needs no knowledge of the model and happens without any adversary. Where"
        " the class depends on the position (a 6 and a 9) a change of answer may be right.",
        references=("https://arxiv.org/abs/1712.02779",),
    )
    rotation: float = 30.0
    """Largest angle in degrees, either way."""
    translation: float = 0.1
    """Largest shift as a share of the side, either way."""
    angles: int = 7
    """Angles of the grid, odd, so that the upright image is among them."""
    shifts: int = 3
    """Shifts along each axis, odd."""

    def __post_init__(self) -> None:
        """Refuse a grid that leaves out the image itself."""
        if not (self.angles % 2 and self.shifts % 2 and self.angles > 0 and self.shifts > 0):
            raise ValueError("angles and shifts must be odd, so that the unmoved image is in the grid")
        if not (0 <= self.rotation <= 180 and 0 <= self.translation < 1):
            raise ValueError("rotation must lie between 0 and 180 degrees, translation between 0 and 1")

    def threat_model(self) -> ThreatModel:
        """The best of a grid."""
        return ThreatModel(
            goal="untargeted misclassification",
            knowledge="black-box",
            norm="none (rotation and translation)",
            budget=f"up to {self.rotation:g} degrees and {100 * self.translation:g} % of the side, the worst of"
            f" {len(self.grid())} positions",
        )

    def grid(self) -> list[Move]:
        """Every position."""

        def steps(most: float, count: int) -> list[float]:
            # rounded, so that an angle to the left is exactly as large as one to the right
            return [round(most * (2 * i / (count - 1) - 1), 9) if count > 1 else 0.0 for i in range(count)]

        shifts = steps(self.translation, self.shifts)
        return [Move(a, d, r) for a in steps(self.rotation, self.angles) for d in shifts for r in shifts]

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """One row per image: at which positions the answer is wrong, and which costs the label most."""
        del rng
        import numpy as np

        rows = np.arange(len(batch))
        answers = [classifier.predict(moved(batch.pixels, move)) for move in self.grid()]
        label = np.stack([answer[rows, batch.labels] for answer in answers], axis=1)
        wrong = np.stack([answer.argmax(axis=1) != batch.labels for answer in answers], axis=1)
        # of the wrong ones the worst, if there are any
        worst = np.where(wrong | ~wrong.any(axis=1, keepdims=True), label, np.inf).argmin(axis=1)
        return {"wrong": wrong.astype(np.uint8), "worst": worst, "confidence_label": label[rows, worst]}

    def examples(self, records: Records) -> Sequence[Example]:
        """The images that lost most, from as many classes as possible."""
        frame = records.frame
        broken = frame[(frame["prediction"] == frame["label"]) & frame["wrong"].map(max).astype(bool)]
        first = broken.sort_values("confidence_label", kind="stable")
        return [
            Example(image_id=row.image_id, at={"position": int(row.worst)})
            for row in spread_over_classes(first).itertuples()
        ]

    def draw_example(
        self, classifier: Classifier, batch: Batch, rng: Randomness, example: Example
    ) -> Mapping[str, Pixels]:
        """The images as they are, and as they are moved."""
        del classifier, rng
        position = example.at["position"]
        assert isinstance(position, int)
        return {"clean": batch.pixels, "moved": moved(batch.pixels, self.grid()[position])}

    def conclude(self, records: Records) -> Conclusion:
        """Accuracy at the worst position by budget, and at a position drawn by chance."""
        import numpy as np

        from auditor import statistics

        frame = records.frame
        if not len(frame):
            return Conclusion(inconclusive="no image was measured")
        wrong = np.stack(frame["wrong"].to_list()).astype(bool)
        right = (frame["prediction"] == frame["label"]).to_numpy()
        clean = statistics.proportion("accuracy", right)
        robust = [self._within(right, wrong, angle, shift) for shift in self._shifts() for angle in self._angles()]
        overall = robust[-1]
        success = statistics.proportion("attack_success_rate", wrong[right].any(axis=1), at=overall.at)
        chance = statistics.mean("moved_accuracy", 1 - wrong.mean(axis=1), unit="fraction", at=overall.at)
        verb = records.accuracy_name
        finding = Finding(
            id=f"{self.meta.id}/grid",
            title="What turning and shifting costs",
            statement=f"At the worst of {wrong.shape[1]} positions, up to {self.rotation:g} degrees and"
            f" {100 * self.translation:g} % of the side, {verb} falls from {percent(clean)} to {percent(overall)}"
            f" (n = {overall.n}); at a position of the grid drawn by chance it is {percent(chance)}.",
            metric=overall,
            evidence=[
                Curve(
                    title="Accuracy against rotation, the worst position within it",
                    x=Axis(label="largest rotation (degrees)", low=0),
                    y=Axis(label=verb, format="percent", low=0, high=1, unit="fraction"),
                    series=[self._line(robust, shift) for shift in self._shifts()],
                    caption="Bands are 95 % intervals.",
                ),
                Table(
                    title="By budget",
                    columns=["rotation up to (degrees)", "shift up to", "accuracy", "n"],
                    formats=["number", "percent", "percent", "count"],
                    rows=[[m.at["rotation"], m.at["translation"], m.cell(), m.n] for m in robust],
                ),
                *_pictures(records, self.grid()),
            ],
        )
        return Conclusion(metrics=[overall, success, chance, *robust[:-1]], findings=[finding])

    def _angles(self) -> list[float]:
        return sorted({abs(move.angle) for move in self.grid()})

    def _shifts(self) -> list[float]:
        return sorted({0.0, self.translation if self.shifts > 1 else 0.0})

    def _within(self, right: NDArray[np.bool_], wrong: NDArray[np.bool_], angle: float, shift: float) -> Metric:
        """Accuracy at the worst position of a budget."""
        from auditor import statistics

        inside = [
            abs(move.angle) <= angle + 1e-9 and max(abs(move.down), abs(move.right)) <= shift + 1e-9
            for move in self.grid()
        ]
        at = {"rotation": angle, "translation": shift}
        return statistics.proportion("robust_accuracy", right & ~wrong[:, inside].any(axis=1), at=at)

    def _line(self, robust: Sequence[Metric], shift: float) -> Series:
        return Series(
            name=f"shifted by up to {100 * shift:g} %" if shift else "rotation alone",
            points=[
                Point(x=float(m.at["rotation"] or 0), y=m.value, low=m.low, high=m.high, n=m.n)
                for m in robust
                if m.at["translation"] == shift
            ],
        )


def moved(images: Pixels, move: Move) -> Pixels:
    """Images (n, c, h, w) turned about their middle, then shifted; bilinear, black from outside."""
    import math

    import torch

    if move == Move(0.0, 0.0, 0.0):
        return images
    height, width = images.shape[2:]
    cos, sin = math.cos(math.radians(move.angle)), math.sin(math.radians(move.angle))
    # where each pixel of the result comes from, in coordinates from -1 to 1; the angle is one in pixels
    turn = torch.tensor([[cos, -sin * height / width], [sin * width / height, cos]], dtype=torch.float64)
    shift = turn @ turn.new_tensor([[2 * move.right], [2 * move.down]])
    where = torch.cat([turn, -shift], dim=1)[None].float()
    grid = torch.nn.functional.affine_grid(where, [1, 1, height, width], align_corners=False)
    source = torch.from_numpy(images)
    result: Pixels = torch.nn.functional.grid_sample(
        source, grid.expand(len(images), -1, -1, -1), mode="bilinear", padding_mode="zeros", align_corners=False
    ).clamp(0, 1).numpy()  # fmt: skip
    return result


def _pictures(records: Records, grid: Sequence[Move]) -> list[ImageGrid]:
    import json

    rows = []
    for _, pictures in records.examples.groupby("example"):
        by_name = {row.picture: row for row in pictures.itertuples()}
        clean, changed = by_name["clean"], by_name["moved"]
        # what 8-bit rounding of the stored file repaired is no evidence
        if not changed.success:
            continue
        label = records.class_name(clean.label)
        move = grid[json.loads(changed.at)["position"]]
        said = f"{move.angle:g} degrees, {100 * move.down:g} % down, {100 * move.right:g} % right"
        cells = [
            Picture(file=shown.file, caption=records.said(shown), alt=f"{name}: image of class {label}")
            for name, shown in by_name.items()
        ]
        rows.append(GridRow(label=f"{label}; {said}", cells=cells))
    if not rows:
        return []
    caption = "Label in front; under each picture what the deployed model says to the stored 8-bit file."
    return [ImageGrid(title="Turned and shifted", columns=["clean", "moved"], rows=rows, caption=caption)]


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """Register the probe."""
    return [Spatial]

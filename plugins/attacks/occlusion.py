"""Occlusion: a block slid over the image, in several fills, with an equally large block elsewhere as control.

The worst place is the one that costs the reference class most probability. It is chosen by looking at all places, so it
is never less than the control's; how much more says how local the evidence is. Zeiler and Fergus 2014, arXiv:1311.2901.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

from auditor import (
    Axis,
    Conclusion,
    Curve,
    Example,
    Finding,
    GridRow,
    HeatMap,
    ImageGrid,
    Level,
    Meta,
    Metric,
    PerImage,
    Picture,
    Point,
    Probe,
    Records,
    Series,
    Table,
    ThreatModel,
    hookimpl,
)
from auditor.algorithms.masking import FILLS, Block, Fill, cover, sliding
from auditor.findings.metric import percent
from auditor.probes.perturbation import spread_over_classes

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from auditor.data.dataset import Batch, Pixels
    from auditor.model.classifier import Classifier
    from auditor.probes.base import Columns, Randomness


@dataclass(frozen=True, kw_only=True)
class Occlusion(Probe):
    """Can the answer be changed by covering a small part of the image?"""

    meta = Meta(
        id="attacks.occlusion",
        title="Occlusion by a block",
        area="attacks",
        why="A sticker, a finger or dirt on the lens covers a part of the image; it takes no knowledge of the model.",
        references=("https://arxiv.org/abs/1311.2901", "https://arxiv.org/abs/1708.04552"),
        version=2,
    )
    block: float = 0.25
    """Side of the block as a share of the image's side."""
    sizes: Sequence[float] = (0.125, 0.375, 0.5)
    """Sides of other blocks, for the curve of accuracy against size."""
    steps: int = 5
    """Places along each axis."""
    fills: Sequence[Fill] = FILLS
    """What the block shows."""

    def __post_init__(self) -> None:
        """Refuse a block that does not leave room to slide."""
        if not all(0 < size < 1 for size in (self.block, *self.sizes)) or self.steps < 2 or not self.fills:
            raise ValueError("block and sizes must lie between 0 and 1, steps be at least 2, fills name at least one")

    def threat_model(self) -> ThreatModel:
        """The best of a grid of places."""
        return ThreatModel(
            goal="untargeted misclassification",
            knowledge="black-box",
            norm="none (contiguous block)",
            budget=f"one block of {', '.join(f'{100 * size:g}' for size in self._sides())} % of the side,"
            f" {self.steps} x {self.steps} places,"
            f" fills {', '.join(self.fills)}",
        )

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """One row per image, size and fill."""
        import numpy as np

        rows = np.arange(len(batch))
        before = batch.probabilities[rows, batch.labels]
        parts: list[dict[str, Any]] = []
        for side, fill in product(self._sides(), self.fills):
            blocks = sliding(*classifier.shape[1:], side, self.steps)
            answers = [classifier.predict(cover(batch.pixels, [block], fill)) for block in blocks]
            drops = np.stack([before - answer[rows, batch.labels] for answer in answers], axis=1)
            wrong = np.stack([answer.argmax(axis=1) != batch.labels for answer in answers], axis=1)
            worst = drops.argmax(axis=1)
            control = np.array([self._control(rng, batch.ids[i], blocks, int(worst[i])) for i in rows])
            parts.append(
                {
                    "row": rows,
                    "block": np.full(len(batch), side),
                    "fill": np.full(len(batch), fill),
                    "place": worst,
                    "drop": drops[rows, worst],
                    "broken": wrong.any(axis=1),
                    "broken_at_worst": wrong[rows, worst],
                    "control_place": control,
                    "control_drop": drops[rows, control],
                    "control_broken": wrong[rows, control],
                    "drops": _objects(drops.astype(np.float32)),
                }
            )
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _sides(self) -> list[float]:
        """Every size of the block, smallest first."""
        return sorted({self.block, *self.sizes})

    def _main(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The rows of the block that stands for the probe."""
        import numpy as np

        # settings that come back from audit.json have six digits
        return frame[np.isclose(frame["block"], self.block, rtol=1e-5, atol=0)]

    def _control(self, rng: Randomness, image_id: str, blocks: Sequence[Block], worst: int) -> int:
        """Another place by chance: one that shares no pixel with the worst, where there is one."""
        apart = [i for i, block in enumerate(blocks) if not block.overlaps(blocks[worst])]
        others = apart or [i for i in range(len(blocks)) if i != worst]
        return int(rng(image_id, "control").choice(others))

    def examples(self, records: Records) -> Sequence[Example]:
        """The images that lost most, from as many classes as possible."""
        frame = self._main(records.frame)
        broken = frame[frame["broken_at_worst"] & (frame["prediction"] == frame["label"])]
        worst_first = broken.sort_values("drop", ascending=False, kind="stable")
        return [
            Example(
                image_id=row.image_id,
                at={"fill": row.fill, "place": int(row.place), "control": int(row.control_place)},
            )
            for row in spread_over_classes(worst_first).itertuples()
        ]

    def draw_example(
        self, classifier: Classifier, batch: Batch, rng: Randomness, example: Example
    ) -> Mapping[str, Pixels]:
        """The images, covered at the worst place, covered at the control's."""
        del rng
        blocks = sliding(*classifier.shape[1:], self.block, self.steps)
        fill: Any = example.at["fill"]

        def covered(key: str) -> Pixels:
            place = example.at[key]
            assert isinstance(place, int)
            return cover(batch.pixels, [blocks[place]], fill)

        return {"clean": batch.pixels, "worst place": covered("place"), "control": covered("control")}

    def conclude(self, records: Records) -> Conclusion:
        """Accuracy that is left at the worst place and at the control's, by fill, place and class."""
        from auditor import statistics

        every = records.frame.assign(
            correct=records.frame["prediction"] == records.frame["label"],
        )
        frame = self._main(every)
        at: Level = {"block": self.block, "fill": "any"}
        images = frame.groupby("image_id", sort=False).agg(correct=("correct", "first"), broken=("broken", "any"))
        overall = statistics.proportion("robust_accuracy", images["correct"] & ~images["broken"], at=at)
        success = statistics.proportion("attack_success_rate", images["broken"][images["correct"]], at=at)
        metrics: list[Metric] = [overall, success]
        rows: list[list[Any]] = []
        for fill in self.fills:
            some = frame[frame["fill"] == fill]
            robust = statistics.proportion(
                "robust_accuracy", some["correct"] & ~some["broken"], at={**at, "fill": fill}
            )
            chance = statistics.proportion("occluded_accuracy", ~some["control_broken"], at={**at, "fill": fill})
            drop = statistics.mean("confidence_drop", some["drop"], unit="fraction", at={**at, "fill": fill})
            control = statistics.mean(
                "confidence_drop_control", some["control_drop"], unit="fraction", at={**at, "fill": fill}
            )
            metrics += [robust, chance, drop, control]
            rows.append([fill, robust.cell(), chance.cell(), drop.cell(), control.cell(), robust.n])
        clean = statistics.proportion("accuracy", images["correct"])
        verb = records.accuracy_name
        worst = min((m for m in metrics if m.name == "robust_accuracy" and m.at["fill"] != "any"),
                    key=lambda m: 1.0 if m.value is None else m.value)  # fmt: skip
        finding = Finding(
            id=f"{self.meta.id}/block",
            title="What a block costs",
            statement=f"One block of {100 * self.block:g} % of the side, at its worst place and fill, brings {verb}"
            f" from {percent(clean)} to {percent(overall)} (n = {overall.n}); the worst fill is {worst.at['fill']}:"
            f" {percent(worst)}.",
            metric=overall,
            evidence=[
                Table(
                    title="By fill: the worst place against a block elsewhere",
                    columns=["fill", "accuracy, worst place", "accuracy, control", "confidence lost, worst place",
                             "confidence lost, control", "n"],
                    formats=["text", "percent", "percent", "percent", "percent", "count"],
                    rows=rows,
                    caption="Confidence lost: mean fall of the reference class's probability.",
                ),
                *self._by_size(every, verb),
                self._places(frame),
                self._classes(records, frame),
                *self._pictures(records),
            ],
        )  # fmt: skip
        return Conclusion(metrics=[*metrics, *self._other_sizes(every)], findings=[finding])

    def _other_sizes(self, every: pd.DataFrame) -> list[Metric]:
        """Accuracy at the worst place and at the control's under the other blocks, by size and fill."""
        from auditor import statistics

        metrics = []
        for at, some in self._of_other_sizes(every):
            metrics.append(statistics.proportion("robust_accuracy", some["correct"] & ~some["broken"], at=at))
            metrics.append(statistics.proportion("occluded_accuracy", ~some["control_broken"], at=at))
        return metrics

    def _of_other_sizes(self, every: pd.DataFrame) -> Iterator[tuple[Level, pd.DataFrame]]:
        for (side, fill), some in every.groupby(["block", "fill"], sort=False):
            if not len(self._main(some)):
                yield {"block": float(side), "fill": str(fill)}, some

    def _by_size(self, every: pd.DataFrame, verb: str) -> list[Curve]:
        """Accuracy against the block's side, for each fill; and of the control, over all fills."""
        from auditor import statistics

        def line(name: str, holds: Any) -> Series:
            points = []
            for side, some in every.groupby("block"):
                share = statistics.proportion(name, holds(some))
                points.append(Point(x=float(side), y=share.value, low=share.low, high=share.high, n=share.n))
            return Series(name=name, points=points)

        if every["block"].nunique() < 2:
            return []
        fills = [
            line(fill, lambda some, fill=fill: (some["correct"] & ~some["broken"])[some["fill"] == fill])
            for fill in self.fills
        ]
        control = line("elsewhere, mean of the fills", lambda some: ~some["control_broken"])
        return [
            Curve(
                title="Accuracy against the size of the block",
                caption="At the worst place, by fill; and with the same block at another place. Bands are 95 %"
                " intervals.",
                x=Axis(label="side of the block, share of the image's", format="percent", unit="fraction", low=0),
                y=Axis(label=verb, format="percent", low=0, high=1, unit="fraction"),
                series=[*fills, control],
            )
        ]

    def per_image(self, records: Records) -> list[PerImage]:
        """Whether each image stands under every fill and under each, and what the block costs it."""
        frame = self._main(records.frame).set_index("image_id")
        right = frame["prediction"] == frame["label"]
        stands = right & ~frame["broken"]
        at: Level = {"block": self.block, "fill": "any"}
        success = (~stands).groupby(level=0).any().astype(float).where(right.groupby(level=0).first())
        found = [
            PerImage(name="robust_accuracy", values=stands.groupby(level=0).all(), at=at),
            PerImage(name="attack_success_rate", values=success, at=at),
        ]
        for fill in self.fills:
            here = frame["fill"] == fill
            some, place = frame[here], {**at, "fill": fill}
            found += [
                PerImage(name="robust_accuracy", values=stands[here], at=place),
                PerImage(name="occluded_accuracy", values=~some["control_broken"], at=place),
                PerImage(name="confidence_drop", values=some["drop"], at=place),
                PerImage(name="confidence_drop_control", values=some["control_drop"], at=place),
            ]
        for at, some in self._of_other_sizes(records.frame):
            holds = (some["prediction"] == some["label"]) & ~some["broken"]
            each = {"robust_accuracy": holds, "occluded_accuracy": ~some["control_broken"]}
            found += [
                PerImage(name=name, values=values.set_axis(some["image_id"]), at=at) for name, values in each.items()
            ]
        return found

    def _places(self, frame: pd.DataFrame) -> HeatMap:
        import numpy as np

        mean = np.stack(frame["drops"].to_list()).mean(axis=0)
        # small images have fewer distinct places than steps
        side = round(len(mean) ** 0.5)
        values = mean.reshape(side, -1) if side * side == len(mean) else mean[None]
        return HeatMap(
            title="Which place costs most",
            values=values.tolist(),
            row_title="top to bottom",
            column_title="left to right",
            format="percent",
            diverging=True,
            caption="Mean fall of the reference class's probability over all images and fills, by place of the block.",
        )

    def _classes(self, records: Records, frame: pd.DataFrame) -> Table:
        from auditor import statistics

        rows: list[list[Any]] = []
        for label, some in frame.groupby("label"):
            by_image = some.groupby("image_id")[["drop", "control_drop"]].mean()
            drop = statistics.mean("drop", by_image["drop"], unit="fraction").cell()
            control = statistics.mean("drop", by_image["control_drop"], unit="fraction").cell()
            rows.append([records.class_name(float(label)), drop, control, len(by_image)])
        rows.sort(key=lambda row: -(row[1]["value"] or 0))
        return Table(
            title="Confidence lost by class, most first",
            columns=["class", "worst place", "control", "n"],
            formats=["text", "percent", "percent", "count"],
            rows=rows[:50],
            caption="" if len(rows) <= 50 else f"The first 50 of {len(rows)} classes.",
        )

    def _pictures(self, records: Records) -> list[ImageGrid]:
        rows = []
        for _, pictures in records.examples.groupby("example"):
            by_name = {row.picture: row for row in pictures.itertuples()}
            label = records.class_name(by_name["clean"].label)
            # what 8-bit rounding of the stored file repaired is no evidence
            if not by_name["worst place"].success:
                continue
            rows.append(
                GridRow(
                    label=label,
                    cells=[
                        Picture(
                            file=shown.file,
                            caption=records.said(shown),
                            alt=f"{name}: image of class {label}",
                        )
                        for name, shown in by_name.items()
                    ],
                )
            )
        caption = "Label in front; under each picture what the deployed model says to the stored 8-bit file."
        columns = ["clean", "worst place", "control"]
        return [ImageGrid(title="What changed the answer", columns=columns, rows=rows, caption=caption)] if rows else []


def _objects(rows: NDArray[Any]) -> NDArray[Any]:
    """Rows as objects: small images have fewer places for larger blocks, so rows of several sizes differ in length."""
    import numpy as np

    result = np.empty(len(rows), dtype=object)
    result[:] = list(rows)
    return result


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """Register the probe."""
    return [Occlusion]

"""Occlusion map: how much the answer's probability falls when each cell of a grid is covered (Zeiler and Fergus 2014,
arXiv:1311.2901), graded by deletion and insertion against a random order (Petsiuk, Das and Saenko 2018,
arXiv:1806.07421).

A saliency map without such a check is decoration. Deletion covers the cells from the most to the least important and
takes the mean probability on the way (lower is better); insertion uncovers them in that order (higher is better).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from auditor import (
    Axis,
    Conclusion,
    Curve,
    Exhibit,
    Finding,
    GridRow,
    HeatMap,
    ImageGrid,
    Meta,
    Metric,
    Picture,
    Point,
    Probe,
    Records,
    Series,
    hookimpl,
)
from auditor.blocks import Block, Fill, cells, colours, cover
from auditor.finding import percent

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from auditor.classifier import Classifier
    from auditor.images import Batch
    from auditor.probe import Columns, Randomness


@dataclass(frozen=True, kw_only=True)
class OcclusionMap(Probe):
    """What does the model look at, and does covering it change the answer?"""

    meta = Meta(
        id="explanations.occlusion",
        title="Occlusion map",
        area="explanations",
        why="If the answer hangs on the background or on the border, accuracy here says little about other data.",
        references=("https://arxiv.org/abs/1311.2901", "https://arxiv.org/abs/1806.07421"),
    )
    samples: int = 64
    grid: int = 8
    """Cells along each side of the map."""
    fill: Fill = "mean"
    """What a covered cell shows."""
    steps: int = 8
    """Steps of the deletion and insertion curves."""
    orders: int = 3
    """Random orders per image for comparison."""
    shown: int = 8
    """Maps shown in the report."""

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """One row per image: its map, and its deletion and insertion curves in the map's and in random order."""
        import numpy as np

        grid = cells(*classifier.shape[1:], self.grid)
        answer = batch.predictions
        rows = np.arange(len(batch))
        before = batch.probabilities[rows, answer]
        importance = np.stack(
            [before - classifier.predict(cover(batch.pixels, [cell], self.fill))[rows, answer] for cell in grid], axis=1
        )
        by_map = np.argsort(-importance, axis=1, kind="stable")
        chance = [
            np.stack([rng(i, f"order {k}").permutation(len(grid)) for i in batch.ids]) for k in range(self.orders)
        ]
        return {
            "answer": answer,
            "map": importance.astype(np.float32),
            "deletion": self._curve(classifier, batch, grid, by_map, reveal=False),
            "insertion": self._curve(classifier, batch, grid, by_map, reveal=True),
            "deletion_random": np.mean(
                [self._curve(classifier, batch, grid, order, reveal=False) for order in chance], axis=0
            ),
            "insertion_random": np.mean(
                [self._curve(classifier, batch, grid, order, reveal=True) for order in chance], axis=0
            ),
        }

    def _curve(
        self, classifier: Classifier, batch: Batch, grid: Sequence[Block], order: NDArray[np.int64], *, reveal: bool
    ) -> NDArray[np.float32]:
        """The answer's probability after 0, 1, ... ``steps`` equal shares of the cells, (n, steps + 1)."""
        import numpy as np

        rows, answer = np.arange(len(batch)), batch.predictions
        blank = np.broadcast_to(colours(batch.pixels, self.fill), batch.pixels.shape)
        current, target = (blank.copy(), batch.pixels) if reveal else (batch.pixels.copy(), blank)
        curve = [classifier.predict(current)[rows, answer]]
        done = 0
        for step in range(1, self.steps + 1):
            upto = round(len(grid) * step / self.steps)
            for i in rows:
                for cell in (grid[int(j)] for j in order[i, done:upto]):
                    part = (i, slice(None), slice(cell.top, cell.bottom), slice(cell.left, cell.right))
                    current[part] = target[part]
            done = upto
            curve.append(classifier.predict(current)[rows, answer])
        return np.stack(curve, axis=1).astype(np.float32)

    def exhibits(self, records: Records) -> Sequence[Exhibit]:
        """The most confident errors first, then one image of each class."""
        frame = records.frame.assign(wrong=records.frame["prediction"] != records.frame["label"])
        wrong = frame[frame["wrong"]]["image_id"].head(self.shown // 2)
        rest = frame[~frame["wrong"]].drop_duplicates("label")["image_id"]
        more = frame[~frame["wrong"]]["image_id"]
        chosen = dict.fromkeys([*wrong, *rest, *more])
        return [Exhibit(image_id=image_id) for image_id in list(chosen)[: self.shown]]

    def conclude(self, records: Records) -> Conclusion:
        """Deletion and insertion against chance, where attribution lies, the maps."""
        import numpy as np

        from auditor import stats

        frame = records.frame
        curves = {name: np.stack(frame[name].to_list()).astype(np.float64)
                  for name in ("deletion", "insertion", "deletion_random", "insertion_random")}  # fmt: skip
        areas = {name: _area(curve) for name, curve in curves.items()}
        advantage = stats.mean("deletion_advantage", areas["deletion_random"] - areas["deletion"], unit="fraction")
        metrics = [advantage] + [
            stats.mean(f"{kind}_auc", areas[kind + suffix], unit="fraction", at={"order": order})
            for kind in ("deletion", "insertion")
            for suffix, order in (("", "map"), ("_random", "random"))
        ]
        maps = np.stack(frame["map"].to_list()).astype(np.float64)
        border = _border_share(maps)
        if border is not None:
            metrics.append(stats.mean("border_attribution", border, unit="fraction"))
        faithful = _judgement(advantage)
        return Conclusion(
            metrics=metrics,
            findings=[
                self._faithfulness(advantage, curves, faithful),
                self._where(records, maps, metrics[-1] if border is not None else None, faithful),
            ],
        )

    def _faithfulness(self, advantage: Metric, curves: dict[str, NDArray[np.float64]], faithful: str) -> Finding:
        steps = [i / self.steps for i in range(self.steps + 1)]

        def plot(kind: str, better: str) -> Curve:
            return Curve(
                title=f"{kind.capitalize()} curve",
                x=Axis(
                    label=f"share of the image {'covered' if kind == 'deletion' else 'uncovered'}", format="percent"
                ),
                y=Axis(label="probability of the answer", format="percent", low=0, high=1, unit="fraction"),
                series=[
                    Series(
                        name=name,
                        points=[_mean_point(x, column) for x, column in zip(steps, curves[key].T, strict=True)],
                    )
                    for name, key in (("in the map's order", kind), ("in random order", kind + "_random"))
                ],
                caption=f"Mean over the images with its 95 % interval; {better}.",
            )

        return Finding(
            id="explanations.occlusion/faithfulness",
            title="Do the maps point at what matters?",
            statement=f"Covering cells in the map's order costs {percent(advantage)} more of the answer's probability,"
            f" on average over the curve, than in random order (n = {advantage.n}): {faithful}.",
            metric=advantage,
            evidence=[
                plot("deletion", "a steeper fall than chance means that the map found what the answer rests on"),
                plot("insertion", "a steeper rise than chance means the same"),
            ],
        )

    def _where(self, records: Records, maps: NDArray[np.float64], border: Metric | None, faithful: str) -> Finding:
        mean = maps.mean(axis=0)
        side = round(len(mean) ** 0.5)
        evidence: list[Any] = []
        statement = f"Maps of {len(maps)} images ({faithful})."
        if side * side == len(mean):
            evidence.append(
                HeatMap(
                    title="Mean map over all images",
                    values=mean.reshape(side, side).tolist(),
                    row_title="top to bottom", column_title="left to right", format="percent", diverging=True,
                    caption="Mean fall of the answer's probability when the cell is covered.",
                )
            )  # fmt: skip
        if border is not None:
            area = 1 - (side - 2) ** 2 / side**2
            statement = (
                f"{percent(border)} of the attribution lies in the outermost ring of cells, which is {100 * area:.0f} %"
                f" of the image (n = {border.n}; {faithful})."
            )
        evidence += self._pictures(records)
        return Finding(
            id="explanations.occlusion/where", title="What the model looks at", statement=statement, metric=border,
            evidence=evidence,
        )  # fmt: skip

    def _pictures(self, records: Records) -> list[ImageGrid]:
        import numpy as np

        maps = dict(zip(records.frame["image_id"], records.frame["map"], strict=True))
        rows = []
        for row in records.exhibits.itertuples():
            heat = np.asarray(maps[row.image_id], dtype=np.float64)
            side = round(len(heat) ** 0.5)
            if side * side != len(heat):
                continue
            said = records.said(row)
            label = records.class_name(row.label)
            rows.append(
                GridRow(
                    label=f"{label}, {row.image_id}" if records.labelled else str(row.image_id),
                    cells=[
                        Picture(file=row.file, caption=said, alt=f"image of class {label}"),
                        Picture(
                            file=row.file,
                            caption=f"largest fall {100 * float(heat.max()):.0f} points",
                            alt=f"occlusion map for {said}",
                            heat=heat.reshape(side, side).tolist(),
                        ),
                    ],
                )
            )
        caption = (
            "Under the image the model's answer; on the map, warm cells speak for the answer, cold ones against it."
        )
        return [ImageGrid(title="Maps", columns=["image", "map"], rows=rows, caption=caption)] if rows else []


def _area(curve: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean height of each curve by the trapezoid rule, (n,)."""
    result: NDArray[np.float64] = (curve[:, 1:] + curve[:, :-1]).mean(axis=1) / 2
    return result


def _border_share(maps: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Share of the positive attribution in the outermost ring, per image; NaN where there is none."""
    import numpy as np

    side = round(maps.shape[1] ** 0.5)
    if side * side != maps.shape[1] or side < 3:
        return None
    positive = np.clip(maps, 0, None).reshape(-1, side, side)
    total = positive.sum(axis=(1, 2))
    inside = positive[:, 1:-1, 1:-1].sum(axis=(1, 2))
    share: NDArray[np.float64] = np.full_like(total, np.nan)
    np.divide(total - inside, total, out=share, where=total > 0)
    return share


def _judgement(advantage: Metric) -> str:
    if advantage.low is None or advantage.high is None:
        return "too few images to grade the maps"
    if advantage.low > 0:
        return "the maps are faithful: they may be read"
    if advantage.high < 0:
        return "the maps are worse than chance: do not read them"
    return "the maps are not shown to be better than chance: do not rely on them"


def _mean_point(x: float, values: NDArray[np.float64]) -> Point:
    from auditor import stats

    value, low, high = stats.bootstrap(values)
    return Point(x=x, y=value, low=low, high=high, n=len(values))


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """Register the probe."""
    return [OcclusionMap]

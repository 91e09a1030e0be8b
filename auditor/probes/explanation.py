"""What all explanations share. An author writes ``attribute`` and nothing else.

The family grades every map, whatever made it: deletion and insertion against a random order (Petsiuk, Das and Saenko
2018, arXiv:1806.07421), infidelity and max-sensitivity (Yeh et al. 2019, arXiv:1901.09392), stability under other
random numbers, and whether the map changes when the model's weights are shuffled (Adebayo et al. 2018,
arXiv:1810.03292). A map that fails its checks is shown with that verdict. Nothing heavy is imported before it is
needed.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from auditor.algorithms.masking import Block, Fill, colours
from auditor.findings.evidence import Axis, Curve, GridRow, ImageGrid, Picture, Point, Series, Table
from auditor.findings.finding import Conclusion, Finding
from auditor.findings.metric import Metric, percent
from auditor.probes import attribution_summary
from auditor.probes.base import Columns, Example, Probe, Randomness, Records

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from auditor.data.dataset import Batch, Pixels
    from auditor.model.classifier import Classifier
from auditor.probes.grading import Grades, fair, grade, infidelity, means, parts, rank_correlation, shuffled

_RADIUS = 0.02
"""Half width of the uniform noise of max-sensitivity, as captum has it by default."""

_PIECE = 256 << 20
"""Bytes of changed images kept in memory at once."""


@dataclass(frozen=True, kw_only=True)
class Explanation(Probe):
    """A map of what speaks for the model's answer, graded."""

    randomness: ClassVar[bool] = False
    """Whether ``attribute`` draws random numbers, so that two runs may differ."""
    by_gradient: ClassVar[bool] = False
    """Whether ``attribute`` asks ``classifier.logits``: only then can it be asked about a model of shuffled weights."""
    depends_on: ClassVar[Sequence[str]] = ("performance.accuracy", "attacks.*")
    adds_images: ClassVar[bool] = True

    samples: int = 64
    grid: int = 8
    """Maps are kept and graded as the means of at most this many cells along each side."""
    fill: Fill = "mean"
    """What a covered cell shows."""
    steps: int = 8
    """Steps of the deletion and insertion curves."""
    orders: int = 2
    """Random orders per image for comparison."""
    subsets: int = 16
    """Random sets of covered cells per image, for infidelity."""
    neighbours: int = 2
    """Slightly noisy copies of each image, for max-sensitivity."""
    shown: int = 8
    """Maps shown in the report."""

    @abstractmethod
    def attribute(self, classifier: Classifier, batch: Batch, rng: Randomness) -> NDArray[Any]:
        """How much each pixel speaks for the answer ``batch.predictions``, (n, h, w); the scale is the method's own.

        Positive speaks for the answer, negative against it. Rows of features are images of one line, (n, 1, features).
        Raises NoCopy where it needs gradients and has none.
        """

    def draws(self, classifier: Classifier) -> bool:
        """Whether ``attribute`` draws random numbers for this model."""
        del classifier
        return self.randomness

    def extra_images(self, others: Mapping[str, pd.DataFrame]) -> Sequence[str]:
        """Images to be explained whatever the sample: the most confident errors, and what attacks broke most easily."""
        return [*_worst_errors(others, self.shown // 4), *_easily_broken(others, self.shown // 4)]

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """One row per image: its map as means of cells, and all grades of the map."""
        import numpy as np

        grid = parts(classifier, self.grid)
        pixels = self._pixels(classifier, batch, rng)
        maps = means(pixels, grid)
        columns: dict[str, Any] = {"answer": batch.predictions, "map": maps.astype(np.float32)}
        if classifier.input_kind == "rows":
            columns["values"] = classifier.preprocessing.apply(batch.pixels).astype(np.float64)
        if batch.masks is not None:
            columns["mask_share"], columns["mask_area"] = _inside(pixels, batch.masks)
        columns |= self._removal(classifier, batch, rng, grid, maps)
        columns["infidelity"] = self._infidelity(classifier, batch, rng, grid, maps)
        columns["sensitivity"] = self._sensitivity(classifier, batch, rng, grid, maps)
        nothing = np.full(len(batch), np.nan)
        columns["stability"] = columns["shuffled"] = nothing
        if self.draws(classifier):
            columns["stability"] = rank_correlation(maps, self._maps(classifier, batch, _again(rng), grid))
        if self.by_gradient and classifier.access == "white-box":
            other = shuffled(classifier, rng)
            if other is not None:
                columns["shuffled"] = rank_correlation(maps, self._maps(other, batch, rng, grid))
        return columns

    def _maps(
        self, classifier: Classifier, batch: Batch, rng: Randomness, grid: Sequence[Block]
    ) -> NDArray[np.float64]:
        """The map of each image as means over cells, (n, cells)."""
        return means(self._pixels(classifier, batch, rng), grid)

    def _pixels(self, classifier: Classifier, batch: Batch, rng: Randomness) -> NDArray[np.float64]:
        """What ``attribute`` gave, checked."""
        import numpy as np

        pixels = np.asarray(self.attribute(classifier, batch, rng), dtype=np.float64)
        expected = (len(batch), *classifier.shape[1:])
        if pixels.shape != expected:
            raise ValueError(f"{self.meta.id}: attribute returned shape {pixels.shape}; expected {expected}")
        if not np.isfinite(pixels).all():
            raise ValueError(f"{self.meta.id}: attribute returned NaN or infinity")
        return pixels

    def _removal(
        self, classifier: Classifier, batch: Batch, rng: Randomness, grid: Sequence[Block], maps: NDArray[np.float64]
    ) -> dict[str, Any]:
        """Deletion and insertion curves in the map's order and, as their mean, in random orders, (n, steps + 1)."""
        import numpy as np

        by_map = np.argsort(-maps, axis=1, kind="stable")
        chance = [
            np.stack([rng(i, f"order {k}").permutation(len(grid)) for i in batch.ids]) for k in range(self.orders)
        ]
        curves: dict[str, Any] = {}
        for kind, reveal in (("deletion", False), ("insertion", True)):
            curves[kind] = self._curve(classifier, batch, grid, by_map, reveal=reveal)
            random = [self._curve(classifier, batch, grid, order, reveal=reveal) for order in chance]
            curves[f"{kind}_random"] = np.mean(random, axis=0)
        return curves

    def _curve(
        self, classifier: Classifier, batch: Batch, grid: Sequence[Block], order: NDArray[np.int64], *, reveal: bool
    ) -> NDArray[np.float32]:
        """The answer's probability after 0, 1, ... ``steps`` equal shares of the cells, (n, steps + 1)."""
        import numpy as np

        rank = np.argsort(order, axis=1)
        upto = [round(len(grid) * step / self.steps) for step in range(self.steps + 1)]
        hidden = np.stack([(rank >= k) if reveal else (rank < k) for k in upto], axis=1)
        return answer_without(classifier, batch, grid, hidden, self.fill)

    def _infidelity(
        self, classifier: Classifier, batch: Batch, rng: Randomness, grid: Sequence[Block], maps: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Share of what covering random sets of cells costs that the map does not foretell, (n,), from 0 to 1.

        Yeh et al. 2019, definition 2.1, with the map scaled by the best factor (their section 3 on optimal scaling) and
        divided by the mean square of the cost, so that methods of any scale can be compared. NaN where nothing costs.
        """
        import numpy as np

        hidden = np.stack([
            rng(i, "subsets").random((self.subsets, len(grid))) < 0.5 for i in batch.ids
        ])  # fmt: skip
        before = batch.probabilities[np.arange(len(batch)), batch.predictions]
        cost = before[:, None] - answer_without(classifier, batch, grid, hidden, self.fill).astype(np.float64)
        foretold = np.einsum("nsc,nc->ns", hidden.astype(np.float64), maps)
        return infidelity(foretold, cost.astype(np.float64))

    def _sensitivity(
        self, classifier: Classifier, batch: Batch, rng: Randomness, grid: Sequence[Block], maps: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Largest relative change of the map under invisible noise, (n,) (Yeh et al. 2019, definition 2.3)."""
        import numpy as np

        worst = np.zeros(len(batch))
        length = np.linalg.norm(maps, axis=1)
        for k in range(self.neighbours):
            noise = np.stack([rng(i, f"neighbour {k}").uniform(-_RADIUS, _RADIUS, classifier.shape) for i in batch.ids])
            near = _with_pixels(batch, np.clip(batch.pixels + noise, 0, 1).astype(np.float32))
            change = np.linalg.norm(self._maps(classifier, near, rng, grid) - maps, axis=1)
            worst = np.maximum(worst, np.divide(change, length, out=np.zeros_like(change), where=length > 0))
        return worst

    def examples(self, records: Records) -> Sequence[Example]:
        """What is preferred, then errors, then one image of each class."""
        frame = records.frame
        wrong = frame["prediction"] != frame["label"]
        known = set(frame["image_id"])
        chosen = dict.fromkeys([
            *(i for i in self.extra_images(records.others) if i in known),
            *frame[wrong]["image_id"].head(self.shown // 4),
            *frame[~wrong].drop_duplicates("label")["image_id"], *frame[~wrong]["image_id"],
        ])  # fmt: skip
        return [Example(image_id=image_id) for image_id in list(chosen)[: self.shown]]

    def conclude(self, records: Records) -> Conclusion:
        """The grades with their verdict, where attribution lies, the maps."""
        import numpy as np

        if not len(records.frame):
            return Conclusion(inconclusive=f"no {records.kind[:-1]} was explained")
        frame = fair(records.frame)
        grades = grade(frame)
        maps = np.stack(frame["map"].to_list()).astype(np.float64)
        where = self._features if records.kind == "rows" else self._where
        placed, finding = where(records, frame, maps, grades.verdict)
        metrics = [m for m in grades.metrics if m.n]
        return Conclusion(metrics=[*metrics, *placed], findings=[self._grades(records, grades, frame), finding])

    def _grades(self, records: Records, grades: Grades, frame: pd.DataFrame) -> Finding:
        import numpy as np

        shares = [i / self.steps for i in range(self.steps + 1)]

        def plot(kind: str, better: str) -> Curve:
            series = [
                Series(name=name, points=[
                    _mean_point(x, column) for x, column in zip(shares, np.stack(frame[key].to_list()).T, strict=True)
                ]) for name, key in (("in the map's order", kind), ("in random order", f"{kind}_random"))
            ]  # fmt: skip
            done = "covered" if kind == "deletion" else "uncovered"
            whole = "features" if records.kind == "rows" else "image"
            return Curve(
                title=f"{kind.capitalize()} curve",
                x=Axis(label=f"share of the {whole} {done}", format="percent"),
                y=Axis(label="probability of the answer", format="percent", low=0, high=1, unit="fraction"),
                series=series,
                caption=f"Mean over the {records.kind} with its 95 % interval; {better}.",
            )

        advantage = grades.metrics[0]
        table = Table(
            title="The checks of the maps",
            columns=["check", "found", "wanted", "n", "verdict"],
            formats=["text", "number", "text", "count", "text"],
            rows=[[c.name, c.metric.cell(), c.wanted, c.metric.n, c.verdict] for c in grades.checks],
        )
        return Finding(
            id=f"{self.meta.id}/faithfulness",
            title="Do the maps point at what matters?",
            statement=f"Covering {'features' if records.kind == 'rows' else 'cells'} in the map's order costs"
            f" {percent(advantage)} more of the answer's probability,"
            f" on average over the curve, than in random order (n = {advantage.n}): {grades.verdict}.",
            metric=advantage,
            evidence=[
                table,
                plot("deletion", "a steeper fall than chance means that the map found what the answer rests on"),
                plot("insertion", "a steeper rise than chance means the same"),
            ],
        )

    def _where(
        self, records: Records, frame: pd.DataFrame, maps: NDArray[np.float64], verdict: str
    ) -> tuple[list[Metric], Finding]:
        """Of images the regions, mean maps and single maps."""
        found = attribution_summary.regions(frame, maps)
        metrics = attribution_summary.measured(found, frame)
        statement = attribution_summary.sentence(metrics, found) or f"Maps of {len(maps)} images."
        finding = Finding(
            id=f"{self.meta.id}/where", title="What the model looks at",
            statement=f"{statement} About these maps: {verdict}.", metric=metrics[-1] if metrics else None,
            evidence=[
                *attribution_summary.tables(records, frame, found),
                *attribution_summary.mean_maps(records, frame, maps),
                *self._pictures(records),
            ],
        )  # fmt: skip
        return metrics, finding

    def _features(
        self, records: Records, frame: pd.DataFrame, maps: NDArray[np.float64], verdict: str
    ) -> tuple[list[Metric], Finding]:
        """Of rows the features, over all rows and in single ones."""
        metrics, tables = attribution_summary.feature_tables(records, frame, maps)
        first = metrics[0]
        finding = Finding(
            id=f"{self.meta.id}/where", title="Which features the model goes by",
            statement=f"{first.at['feature']} has the largest share of the attribution, {percent(first)}"
            f" (n = {first.n}). About these maps: {verdict}.",
            metric=first,
            evidence=[
                *tables,
                *attribution_summary.row_table(records, records.frame, self.extra_images(records.others), self.shown),
            ],
        )  # fmt: skip
        return metrics, finding

    def _pictures(self, records: Records) -> list[ImageGrid]:
        import numpy as np

        maps = dict(zip(records.frame["image_id"], records.frame["map"], strict=True))
        preferred = set(self.extra_images(records.others))
        rows = []
        for row in records.examples.itertuples():
            heat = np.asarray(maps[row.image_id], dtype=np.float64)
            side = round(len(heat) ** 0.5)
            if side * side != len(heat):
                continue
            said, label = records.said(row), records.class_name(row.label)
            note = "a worst error, or easily broken" if row.image_id in preferred else ""
            rows.append(
                GridRow(
                    label=f"{label}, {row.image_id}" if records.labelled else str(row.image_id),
                    cells=[
                        Picture(file=row.file, caption=said, alt=f"image of class {label}"),
                        Picture(
                            file=row.file, caption=note, alt=f"{self.meta.title} for {said}",
                            heat=heat.reshape(side, side).tolist(),
                        ),
                    ],
                )
            )  # fmt: skip
        caption = (
            "Under the image the model's answer; on the map, warm cells speak for the answer, cold ones against it."
        )
        return [ImageGrid(title="Maps", columns=["image", "map"], rows=rows, caption=caption)] if rows else []


def blank(classifier: Classifier, images: Pixels, fill: Fill) -> NDArray[np.float32]:
    """What covered parts of images (n, c, h, w) show, to be broadcast: a colour, or a row's mean over the table."""
    import numpy as np

    if classifier.input_kind == "images":
        return colours(images, fill)
    mean: NDArray[np.float32] = background(classifier).mean(axis=0, dtype=np.float64).astype(np.float32)
    return np.broadcast_to(mean, (len(images), 1, 1, len(mean)))


def background(classifier: Classifier) -> NDArray[np.float32]:
    """Usual rows of the table, (m, features) in [0, 1]."""
    from auditor.model.tabular import RowPreprocessing

    found = classifier.preprocessing
    assert isinstance(found, RowPreprocessing)
    return found.background


def _inside(pixels: NDArray[np.float64], masks: Pixels) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Share of the positive attribution (n, h, w) inside the masks (n, h, w), and their share of the image; (n,) each,
    NaN for an image without a mask and for a map without anything positive."""
    import numpy as np

    positive = np.clip(pixels, 0, None)
    total = positive.sum(axis=(1, 2))
    inside = (positive * masks).sum(axis=(1, 2))
    share: NDArray[np.float64] = np.divide(inside, total, out=np.full_like(total, np.nan), where=total > 0)
    return share, masks.mean(axis=(1, 2), dtype=np.float64)


def answer_without(
    classifier: Classifier, batch: Batch, grid: Sequence[Block], hidden: NDArray[np.bool_], fill: Fill
) -> NDArray[np.float32]:
    """Probability of each image's answer with sets of cells covered: ``hidden`` (n, sets, cells) gives (n, sets)."""
    import numpy as np

    n, sets, _ = hidden.shape
    height, width = classifier.shape[1:]
    cell_of = np.empty((height, width), dtype=np.int64)
    for number, cell in enumerate(grid):
        cell_of[cell.top : cell.bottom, cell.left : cell.right] = number
    colour = blank(classifier, batch.pixels, fill)
    result = np.empty((n, sets), dtype=np.float32)
    step = max(1, _PIECE // max(1, sets * batch.pixels[:1].nbytes))
    for start in range(0, n, step):
        part = slice(start, min(n, start + step))
        masks = hidden[part][:, :, cell_of][:, :, None]
        changed = np.where(masks, colour[part, None], batch.pixels[part, None])
        answers = classifier.predict(changed.reshape(-1, *classifier.shape)).reshape(masks.shape[0], sets, -1)
        result[part] = np.take_along_axis(answers, batch.predictions[part, None, None], axis=2)[..., 0]
    return result


class _Again(Randomness):
    """Other random numbers of the same kind."""

    def __init__(self, rng: Randomness) -> None:
        self._rng = rng

    def __call__(self, image_id: str, purpose: str = "") -> np.random.Generator:
        return self._rng(image_id, f"again {purpose}")


def _again(rng: Randomness) -> Randomness:
    return _Again(rng)


def _with_pixels(batch: Batch, pixels: Pixels) -> Batch:
    """The same images with other pixels; what was answered stays, because that is what is explained."""
    from dataclasses import replace

    return replace(batch, pixels=pixels)


def _worst_errors(others: Mapping[str, pd.DataFrame], count: int) -> list[str]:
    frame = others.get("performance.accuracy")
    if frame is None or not {"confidence", "label", "prediction"} <= set(frame.columns):
        return []
    wrong = frame[frame["prediction"] != frame["label"]].drop_duplicates("image_id")
    return list(wrong.sort_values("confidence", ascending=False, kind="stable")["image_id"].head(count))


def _easily_broken(others: Mapping[str, pd.DataFrame], count: int) -> list[str]:
    import pandas as pd

    parts = [
        frame.loc[frame["success"].astype(bool) & (frame["norm"] == "linf"), ["image_id", "linf"]]
        for name, frame in others.items()
        if name.startswith("attacks.") and {"norm", "success", "linf", "image_id"} <= set(frame.columns)
    ]
    if not parts:
        return []
    nearest = pd.concat(parts).groupby("image_id")["linf"].min().sort_values(kind="stable")
    return list(nearest.index[:count])


def _mean_point(x: float, values: NDArray[np.float64]) -> Point:
    from auditor import statistics

    value, low, high = statistics.bootstrap(values)
    return Point(x=x, y=value, low=low, high=high, n=len(values))

"""Counterfactual occlusion: cover the region that an explanation names, and as control an equally large region that it
does not; what happens to the score of each class?

An explanation says where the model looks; this says what looking there does to the decision, and for whom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from auditor import (
    Conclusion,
    Exhibit,
    Explanation,
    Finding,
    GridRow,
    ImageGrid,
    Meta,
    Metric,
    NotApplicable,
    Picture,
    Probe,
    Records,
    Table,
    hookimpl,
)
from auditor.blocks import Fill, cells, colours
from auditor.finding import Evidence, percent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from auditor.classifier import Classifier
    from auditor.images import Batch, Pixels
    from auditor.probe import Columns, Randomness, Run

_MOST_CLASSES = 50


@dataclass(frozen=True, kw_only=True)
class CounterfactualOcclusion(Probe):
    """Which region carries the decision, and whose?"""

    meta = Meta(
        id="bias.counterfactual-occlusion",
        title="Counterfactual occlusion",
        area="bias",
        why="Seeing where a model looks does not show that it decides there. Covering the place does, if covering as"
        " much elsewhere does not.",
        references=("https://arxiv.org/abs/1806.07421", "https://arxiv.org/abs/1311.2901"),
    )
    uses: ClassVar[Sequence[str]] = ("explanations.*",)
    samples: int = 100
    explanation: str = "explanations.occlusion"
    """The probe whose maps name the region; it must be in the suite."""
    share: float = 0.1
    """Of the cells of the map to cover, at least one."""
    grid: int = 8
    fill: Fill = "mean"
    minimum: int = 10
    """Classes and groups with fewer images are not aggregated."""
    shown: int = 6

    def __post_init__(self) -> None:
        """Refuse what cannot be covered."""
        if not 0 < self.share <= 0.5 or self.grid < 2:
            raise ValueError("share must lie above 0 and at most at 0.5, grid at 2 or above")

    def prepare(self, run: Run) -> Probe:
        """Take the explanation from the run, with its settings."""
        found = next((p for p in run.probes if p.meta.id == self.explanation and isinstance(p, Explanation)), None)
        if found is None:
            raise NotApplicable(f"{self.explanation} is not in this run, so there are no maps to name a region")
        return _Prepared(**vars(self), method=found)

    def depends_on(self, probes: Sequence[Probe]) -> Any:
        """The settings of the explanation."""
        from dataclasses import asdict

        return [asdict(probe) for probe in probes if probe.meta.id == self.explanation]

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Per image the change of every class's probability, by the region and by the control, and the cells."""
        import numpy as np

        named, control = self._regions(classifier, batch, rng)
        covered, other = (
            classifier.predict(self._cover(classifier, batch, region)) for region in (named, control)
        )  # fmt: skip
        return {
            "named": named, "control": control,
            "change": (covered - batch.probabilities).astype(np.float32),
            "change_control": (other - batch.probabilities).astype(np.float32),
            "flipped": covered.argmax(axis=1) != batch.predictions,
            "flipped_control": other.argmax(axis=1) != batch.predictions,
        }  # fmt: skip

    def _maps(self, classifier: Classifier, batch: Batch, rng: Randomness) -> NDArray[Any]:
        raise NotApplicable("the probe was not prepared with an explanation")

    def _regions(self, classifier: Classifier, batch: Batch, rng: Randomness) -> tuple[NDArray[Any], NDArray[Any]]:
        """Numbers of the most important cells and of as many others by chance, (n, cells) each."""
        import numpy as np

        grid = cells(*classifier.shape[1:], self.grid)
        pixels = self._maps(classifier, batch, rng)
        maps = np.stack([pixels[:, c.top : c.bottom, c.left : c.right].mean(axis=(1, 2)) for c in grid], axis=1)
        count = max(1, min(round(len(grid) * self.share), len(grid) // 2))
        order = np.argsort(-maps, axis=1, kind="stable")
        control = np.stack([
            rng(image_id, "control").permutation(rest)[:count]
            for image_id, rest in zip(batch.ids, np.sort(order[:, count:], axis=1), strict=True)
        ])  # fmt: skip
        return np.sort(order[:, :count], axis=1), np.sort(control, axis=1)

    def _cover(self, classifier: Classifier, batch: Batch, region: NDArray[Any]) -> Pixels:
        import numpy as np

        grid = cells(*classifier.shape[1:], self.grid)
        colour = np.broadcast_to(colours(batch.pixels, self.fill), batch.pixels.shape)
        images: Pixels = batch.pixels.copy()
        for i, numbers in enumerate(region):
            for cell in (grid[int(number)] for number in numbers):
                part = (i, slice(None), slice(cell.top, cell.bottom), slice(cell.left, cell.right))
                images[part] = colour[part]
        return images

    def exhibits(self, records: Records) -> Sequence[Exhibit]:
        """Images whose answer changes under the region and not under the control."""
        frame = records.frame
        telling = frame[frame["flipped"] & ~frame["flipped_control"]].drop_duplicates("image_id")
        return [Exhibit(image_id=image_id) for image_id in telling["image_id"].head(self.shown)]

    def draw(self, classifier: Classifier, batch: Batch, rng: Randomness, exhibit: Exhibit) -> Mapping[str, Pixels]:
        """The images, covered where the map says, covered elsewhere."""
        del exhibit
        named, control = self._regions(classifier, batch, rng)
        return {
            "clean": batch.pixels,
            "region covered": self._cover(classifier, batch, named),
            "control covered": self._cover(classifier, batch, control),
        }

    def conclude(self, records: Records) -> Conclusion:
        """Fall of the answer's score by region and control, over all images and by class and group."""
        import numpy as np

        from auditor import stats
        from auditor.groups import groupings

        frame = records.frame
        if not len(frame):
            return Conclusion(inconclusive="no image was measured")
        answers = frame["prediction"].to_numpy()
        rows_ = np.arange(len(frame))
        change = np.stack(frame["change"].to_list()).astype(np.float64)
        control = np.stack(frame["change_control"].to_list()).astype(np.float64)
        fall, fall_control = -change[rows_, answers], -control[rows_, answers]
        named = stats.mean("score_drop", fall, unit="fraction", at={"region": "named"})
        other = stats.mean("score_drop", fall_control, unit="fraction", at={"region": "control"})
        more = stats.mean("score_drop_over_control", fall - fall_control, unit="fraction")
        rows: list[list[Any]] = [["all", "", named.cell(), other.cell(), more.cell(), named.n]]
        metrics: list[Metric] = [more, named, other]
        cuts = {"answer": frame["prediction"].map(records.class_name)} | groupings(frame)
        for name, values in cuts.items():
            for value in sorted(values.unique()):
                here = (values == value).to_numpy()
                if here.sum() < self.minimum:
                    continue
                parts = [stats.mean("score_drop", x[here], unit="fraction").cell()
                         for x in (fall, fall_control, fall - fall_control)]  # fmt: skip
                rows.append([name, str(value), *parts, int(here.sum())])
        verdict = _reading(more)
        statement = (
            f"Covering the {100 * self.share:.0f} % of the image that {self.explanation} names lowers the"
            f" answer's score by {percent(named)}, as much elsewhere by {percent(other)} (n = {named.n}): {verdict}."
        )
        table = Table(
            title="Fall of the answer's score",
            columns=["by", "value", "region", "control", "region over control", "n"],
            formats=["text", "text", "percent", "percent", "percent", "count"], rows=rows[:80],
            caption=f"Groups of at least {self.minimum} images; 95 % intervals over images.",
        )  # fmt: skip
        evidence: list[Evidence] = [table, *self._classes(records, change, control), *self._pictures(records)]
        finding = Finding(
            id=f"{self.meta.id}/score", title="What covering the named region does", statement=statement, metric=more,
            evidence=evidence,
        )  # fmt: skip
        return Conclusion(metrics=metrics, findings=[finding])

    def _classes(self, records: Records, change: NDArray[Any], control: NDArray[Any]) -> list[Table]:
        """Mean change of every class's score: where the answer's share goes."""
        from auditor import stats

        if len(records.classes) > _MOST_CLASSES:
            return []
        rows: list[list[Any]] = [
            [name, stats.mean("change", change[:, c], unit="fraction").cell(),
             stats.mean("change", control[:, c], unit="fraction").cell(), len(change)]
            for c, name in enumerate(records.classes)
        ]  # fmt: skip
        rows.sort(key=lambda row: row[1]["value"] or 0.0)
        return [
            Table(
                title="Mean change of every class's score", columns=["class", "region", "control", "n"],
                formats=["text", "percent", "percent", "count"], rows=rows,
                caption="Over all images, whatever their answer; below zero the class loses.",
            )
        ]  # fmt: skip

    def _pictures(self, records: Records) -> list[ImageGrid]:
        rows = []
        columns = ("clean", "region covered", "control covered")
        for _, pictures in records.exhibits.groupby("exhibit", sort=True):
            by_name = {row.picture: row for row in pictures.itertuples()}
            label = records.class_name(by_name["clean"].label)
            cells_ = [
                Picture(file=by_name[c].file, caption=records.said(by_name[c]), alt=f"class {label}, {c}")
                for c in columns
            ]  # fmt: skip
            rows.append(GridRow(label=label, cells=cells_))
        caption = "Images whose answer changes under the region and not under the control."
        return [ImageGrid(title="Covered", columns=list(columns), rows=rows, caption=caption)] if rows else []


@dataclass(frozen=True, kw_only=True)
class _Prepared(CounterfactualOcclusion):
    """With the explanation of the run."""

    method: Explanation

    def _maps(self, classifier: Classifier, batch: Batch, rng: Randomness) -> NDArray[Any]:
        return self.method.attribute(classifier, batch, rng)


def _reading(more: Metric) -> str:
    if more.low is None or more.high is None:
        return "too few images to tell"
    if more.low > 0:
        return "the decision hangs on the named region more than on others"
    return "no more than elsewhere, so the map does not name what the decision hangs on"


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """Register the probe."""
    return [CounterfactualOcclusion]

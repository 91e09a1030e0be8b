"""Counterfactual occlusion: cover the region that an explanation names, and as control an equally large region that it
does not; what happens to the score of each class?

An explanation says where the model looks; this says what looking there does to the decision, and for whom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from auditor import (
    Conclusion,
    Example,
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
from auditor.algorithms.masking import Fill
from auditor.findings.evidence import Evidence, HeatMap
from auditor.findings.formatting import points
from auditor.findings.metric import percent
from auditor.probes.explanation import blank
from auditor.probes.grading import means, parts

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from auditor.data.dataset import Batch, Pixels
    from auditor.model.classifier import Classifier
    from auditor.probes.base import Columns, Randomness, Run

_MOST_CLASSES = 50
_CROSSED = 6
"""Up to so many classes their scores are told for each answer by itself."""


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
        input_kinds=frozenset({"images", "rows"}),
        version=2,
    )
    depends_on: ClassVar[Sequence[str]] = ("explanations.*",)
    samples: int = 100
    explanation: str = "explanations.occlusion"
    """The probe whose maps name the region; it must be in the suite."""
    share: float = 0.1
    """Of the cells of the map (of a row's features) to cover, at least one."""
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
        ready = found.prepare(run)
        assert isinstance(ready, Explanation)
        return _Prepared(**vars(self), method=ready)

    def fingerprint(self, probes: Sequence[Probe]) -> Any:
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
            "cells": np.full(len(batch), len(parts(classifier, self.grid))),
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

        grid = parts(classifier, self.grid)
        maps = means(self._maps(classifier, batch, rng), grid)
        count = max(1, min(round(len(grid) * self.share), len(grid) // 2))
        order = np.argsort(-maps, axis=1, kind="stable")
        control = np.stack([
            rng(image_id, "control").permutation(rest)[:count]
            for image_id, rest in zip(batch.ids, np.sort(order[:, count:], axis=1), strict=True)
        ])  # fmt: skip
        return np.sort(order[:, :count], axis=1), np.sort(control, axis=1)

    def _cover(self, classifier: Classifier, batch: Batch, region: NDArray[Any]) -> Pixels:
        import numpy as np

        grid = parts(classifier, self.grid)
        colour = np.broadcast_to(blank(classifier, batch.pixels, self.fill), batch.pixels.shape)
        images: Pixels = batch.pixels.copy()
        for i, numbers in enumerate(region):
            for cell in (grid[int(number)] for number in numbers):
                part = (i, slice(None), slice(cell.top, cell.bottom), slice(cell.left, cell.right))
                images[part] = colour[part]
        return images

    def examples(self, records: Records) -> Sequence[Example]:
        """Images whose answer changes under the region and not under the control."""
        frame = records.frame
        telling = frame[frame["flipped"] & ~frame["flipped_control"]].drop_duplicates("image_id")
        return [Example(image_id=image_id) for image_id in telling["image_id"].head(self.shown)]

    def draw_example(
        self, classifier: Classifier, batch: Batch, rng: Randomness, example: Example
    ) -> Mapping[str, Pixels]:
        """The images, covered where the map says, covered elsewhere."""
        del example
        named, control = self._regions(classifier, batch, rng)
        return {
            "clean": batch.pixels,
            "region covered": self._cover(classifier, batch, named),
            "control covered": self._cover(classifier, batch, control),
        }

    def conclude(self, records: Records) -> Conclusion:
        """Fall of the answer's score by region and control, over all images and by class and group; where it lies."""
        import numpy as np

        from auditor import statistics
        from auditor.probes.breakdown import groupings

        frame = records.frame
        if not len(frame):
            return Conclusion(inconclusive=f"no {records.kind[:-1]} was measured")
        answers = frame["prediction"].to_numpy()
        rows_ = np.arange(len(frame))
        change = np.stack(frame["change"].to_list()).astype(np.float64)
        control = np.stack(frame["change_control"].to_list()).astype(np.float64)
        fall, fall_control = -change[rows_, answers], -control[rows_, answers]
        named = statistics.mean("score_drop", fall, unit="fraction", at={"region": "named"})
        other = statistics.mean("score_drop", fall_control, unit="fraction", at={"region": "control"})
        more = statistics.mean("score_drop_over_control", fall - fall_control, unit="fraction")
        cuts: dict[str, pd.Series] = {"answer": frame["prediction"].map(records.class_name)}
        if records.labelled:
            cuts["the answer is"] = (frame["prediction"] == frame["label"]).map({True: "right", False: "wrong"})
        cuts |= groupings(frame)
        table, comparisons = self._by_group(records, cuts, (named, other, more), (fall, fall_control))
        what = "features" if records.kind == "rows" else "image"
        changed = [
            f"{statistics.proportion('flipped', frame[name]).value or 0:.0%}".replace("%", " %")
            for name in ("flipped", "flipped_control")
        ]
        statement = (
            f"Covering the {100 * self.share:.0f} % of the {what} that {self.explanation} names lowers the"
            f" answer's score by {percent(named)}, as much elsewhere by {percent(other)} (n = {named.n}); the answer"
            f" changes in {changed[0]} and {changed[1]}: {_reading(more)}."
        )
        where, place = self._where(records, cuts, comparisons)
        finding = Finding(
            id=f"{self.meta.id}/score", title="What covering the named region does",
            statement=f"{statement} {place}".strip(), metric=more,
            evidence=[table, *self._classes(records, change, control), *self._pictures(records)],
        )  # fmt: skip
        findings = [finding]
        if comparisons:
            findings.append(self._difference(records, comparisons, where))
        elif where:
            findings[0] = replace(finding, evidence=[*finding.evidence, *where])
        return Conclusion(metrics=[more, named, other], findings=findings)

    def _by_group(
        self, records: Records, cuts: Mapping[str, pd.Series], whole: tuple[Metric, Metric, Metric],
        falls: tuple[NDArray[Any], NDArray[Any]],
    ) -> tuple[Table, list[_Difference]]:  # fmt: skip
        """The falls of every large class and group; and of each column its extremes with a test."""
        from scipy.stats import kruskal

        from auditor import statistics

        fall, control = falls
        named, other, more = whole
        rows: list[list[Any]] = [["all", "", named.cell(), other.cell(), more.cell(), named.n]]
        found: list[_Difference] = []
        for name, values in cuts.items():
            over: dict[str, Metric] = {}
            parts_: list[Any] = []
            for value in sorted(values.unique()):
                here = (values == value).to_numpy()
                if here.sum() < self.minimum:
                    continue
                one, two, both = (statistics.mean("score_drop", x[here], unit="fraction")
                                  for x in (fall, control, fall - control))  # fmt: skip
                rows.append([name, str(value), one.cell(), two.cell(), both.cell(), int(here.sum())])
                over[str(value)] = both
                parts_.append((fall - control)[here].round(6))
            if len(over) > 1:
                same = len({x for part in parts_ for x in part.tolist()}) == 1
                order = sorted(over, key=lambda v: over[v].value or 0.0)
                p_value = 1.0 if same else float(kruskal(*parts_).pvalue)
                found.append(_Difference(name, order[-1], order[0], over, p_value))
        adjusted = statistics.holm([d.p_value for d in found])
        table = Table(
            title="Fall of the answer's score",
            columns=["by", "value", "region", "control", "region over control", "n"],
            formats=["text", "text", "percent", "percent", "percent", "count"], rows=rows[:80],
            caption=f"Classes and groups of at least {self.minimum} {records.kind}; 95 % intervals over"
            f" {records.kind}.",
        )  # fmt: skip
        return table, [d._replace(p_value=p) for d, p in zip(found, adjusted, strict=True)]

    def _difference(self, records: Records, found: Sequence[_Difference], where: Sequence[Evidence]) -> Finding:
        """Whose decision hangs on the named region more than others'."""
        first = min(found, key=lambda d: d.p_value)
        shown = [d for d in found if d.p_value < 0.05]
        n = sum(metric.n for metric in first.over.values())
        if shown:
            statement = (
                f"How much hangs on the named region differs demonstrably by {', '.join(d.by for d in shown)};"
                f" clearest by {first.by}: most for {first.most}, {points(first.over[first.most])} more than"
                f" the control, least for {first.least}, {points(first.over[first.least])} (n = {n}; p ="
                f" {first.p_value:.2g}, Holm over {len(found)})."
            )
        else:
            statement = (
                f"Cannot tell: by none of {len(found)} columns it is shown that more hangs on the named region for some"
                f" than for others (n = {n}; smallest p = {first.p_value:.2g}, Kruskal-Wallis, Holm)."
            )
        table = Table(
            title="Fall over the control: the extremes by column",
            columns=["by", "most for", "fall", "least for", "fall", "p (Holm)", "reading"],
            formats=["text", "text", "percent", "text", "percent", "text", "text"],
            rows=[[d.by, d.most, d.over[d.most].cell(), d.least, d.over[d.least].cell(), f"{d.p_value:.2g}",
                   "groups differ" if d.p_value < 0.05 else "not shown"] for d in found],
            caption=f"Values with at least {self.minimum} {records.kind}. Kruskal-Wallis test over all of them: the"
            " extremes were picked, so their intervals alone show nothing.",
        )  # fmt: skip
        return Finding(
            id=f"{self.meta.id}/groups", title="Whose decision hangs on it", statement=statement,
            evidence=[table, *where],
        )  # fmt: skip

    def _where(
        self, records: Records, cuts: Mapping[str, pd.Series], found: Sequence[_Difference]
    ) -> tuple[list[Evidence], str]:
        """How often each cell is named: over all images, for each answer, and for the groups that differ most."""
        import numpy as np

        named = np.stack(records.frame["named"].to_list()).astype(np.int64)
        rows = records.kind == "rows"
        count = int(records.frame["cells"].iloc[0])
        side = round(count**0.5)
        if not rows and side * side != count:
            return [], ""
        often = np.zeros((len(named), count))
        np.put_along_axis(often, named, 1.0, axis=1)
        share = often.mean(axis=0)
        top = int(share.argmax())
        place = (
            records.features[top]
            if rows
            else f"row {top // side + 1}, column {top % side + 1} of {side} x {side} cells"
        )
        text = f"Named most often: {place}, for {100 * share[top]:.0f} % of the {records.kind}."
        groups: list[tuple[str, NDArray[np.bool_]]] = [("all", np.ones(len(named), dtype=bool))]
        differing = [d for d in found if d.p_value < 0.05 and d.by != "answer"]
        wanted = [("answer", value) for d in found if d.by == "answer" for value in list(d.over)[:4]]
        if differing:
            first = min(differing, key=lambda d: d.p_value)
            wanted += [(first.by, first.most), (first.by, first.least)]
        groups += [(f"{by} {value}", (cuts[by] == value).to_numpy()) for by, value in wanted]
        if rows:
            order = np.argsort(-share, kind="stable")[:20]
            return [
                HeatMap(
                    title="How often each feature is named",
                    values=[often[here].mean(axis=0)[order].tolist() for _, here in groups],
                    row_labels=[name for name, _ in groups], column_labels=[records.features[i] for i in order],
                    format="percent",
                )
            ], text  # fmt: skip
        return [
            HeatMap(
                title=f"How often each cell is named, {name}",
                values=often[here].mean(axis=0).reshape(side, side).tolist(), row_title="top to bottom",
                column_title="left to right", format="percent",
                caption=f"Share of {int(here.sum())} images; by chance each cell would be named in"
                f" {100 * named.shape[1] / count:.0f} %.",
            )
            for name, here in groups
        ], text  # fmt: skip

    def _classes(self, records: Records, change: NDArray[Any], control: NDArray[Any]) -> list[Table]:
        """Mean change of every class's score by the model's answer: where the answer's share goes."""
        from auditor import statistics

        k = len(records.classes)
        if k > _MOST_CLASSES:
            return []
        answers = records.frame["prediction"].to_numpy()
        rows: list[list[Any]] = []
        for answer in range(k) if k <= _CROSSED else [None]:
            here = answers == answer if answer is not None else answers >= 0
            if here.sum() < self.minimum:
                continue
            said = "any" if answer is None else records.class_name(answer)
            rows += [
                [said, name, statistics.mean("change", change[here, c], unit="fraction").cell(),
                 statistics.mean("change", control[here, c], unit="fraction").cell(), int(here.sum())]
                for c, name in enumerate(records.classes)
            ]  # fmt: skip
        table = Table(
            title="Mean change of every class's score", columns=["answer", "score of", "region", "control", "n"],
            formats=["text", "text", "percent", "percent", "count"], rows=rows,
            caption="Below zero the class loses; what one class loses the others win.",
        )  # fmt: skip
        return [table] if rows else []

    def _pictures(self, records: Records) -> list[ImageGrid]:
        rows = []
        columns = ("clean", "region covered", "control covered")
        for _, pictures in records.examples.groupby("example", sort=True):
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


class _Difference(NamedTuple):
    """The extremes of one column."""

    by: str
    most: str
    least: str
    over: Mapping[str, Metric]
    """Fall over the control of every large value."""
    p_value: float
    """Kruskal-Wallis, Holm over the columns."""


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

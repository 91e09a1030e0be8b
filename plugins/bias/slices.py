"""Slice discovery: clusters of images with a high error rate, found without group labels.

Images are clustered by the input of the differentiable copy's last layer, or by a descriptor of their pixels for a
black box. Clusters with a high error rate in one half of the images are tested on the other half, so that a slice is
not an artefact of the search (Eyuboglu et al. 2022, arXiv:2203.14960; d'Eon et al. 2022, arXiv:2107.00758).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from auditor import (
    Conclusion,
    Example,
    Finding,
    GridRow,
    ImageGrid,
    Meta,
    Metric,
    MetricSpec,
    Picture,
    Records,
    Table,
)
from auditor.findings.formatting import sample_size
from auditor.plugins.bias._slice_search import OTHERS, Search, Slice, find_slices, image_features, slice_row
from auditor.probes.breakdown import Breakdown
from auditor.probes.gaps import Gap

if TYPE_CHECKING:
    from auditor import Batch, Classifier, Columns, Randomness

_WIDTH = 64
"""Features are projected to at most this many numbers, which keeps distances (Johnson and Lindenstrauss 1984)."""

_TITLE = "Slices with high error rates"


@dataclass(frozen=True, kw_only=True)
class Slices(Breakdown):
    """Find clusters of images with a high error rate."""

    meta = Meta(
        id="bias.slices",
        title=_TITLE,
        area="bias",
        why="A group with a high error rate is often not recorded in the data.",
        references=("https://arxiv.org/abs/2203.14960", "https://arxiv.org/abs/2107.00758"),
        needs=frozenset({"labels"}),
        version=2,
    )
    metrics = (
        MetricSpec(name="confirmed_slices", label="Confirmed slices", better="lower", unit="count"),
        MetricSpec(
            name="slice_error_gap", label="Error rate of the slice above the others", better="lower", difference=True
        ),
        MetricSpec(name="slice_error_rate", label="Error rate of the slice", better="lower"),
    )
    clusters: int = 20
    """Maximum number of clusters; fewer for few images."""
    minimum: int = 10
    """Minimum number of images (or units, if the data states them) of a cluster in each half."""
    candidates: int = 5
    """Maximum number of clusters that are tested on the held-out half."""
    examples_shown: int = 6
    """Images shown of each slice."""

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Return the features of each image, at most 64 numbers, and their source."""
        import numpy as np

        features, source = image_features(classifier, batch)
        if features.shape[1] > _WIDTH:
            # the same projection for every image
            projection = rng("", f"projection {features.shape[1]}").normal(size=(features.shape[1], _WIDTH))
            features = features @ (projection / np.sqrt(_WIDTH))
        return {"features": features.astype(np.float32), "source": np.full(len(batch), source)}

    def examples(self, records: Records) -> Sequence[Example]:
        """Request held-out images of the confirmed slices, errors first."""
        ids = [image_id for found in self._search(records).confirmed for image_id in found.ids[: self.examples_shown]]
        return [Example(image_id=image_id) for image_id in dict.fromkeys(ids)]

    def conclude(self, records: Records) -> Conclusion:
        """Report the candidate slices with their held-out error rates."""
        frame, search = records.frame, self._search(records)
        finding_id = f"{self.meta.id}/slices"
        if not search.slices:
            errors = int((frame["label"] != frame["prediction"]).sum()) if len(frame) else 0
            statement = (
                f"Undecided: too few images or errors to search one half and test on the other, or no cluster with a"
                f" high error rate (n = {len(frame)} images, {errors} errors)."
            )
            return Conclusion(
                metrics=[Metric(name="confirmed_slices", value=None, n=len(frame), unit="count")],
                findings=[Finding(id=finding_id, title=_TITLE, statement=statement, n=len(frame))],
            )
        count = Metric(
            name="confirmed_slices",
            value=float(len(search.confirmed)),
            n=search.held_out,
            unit="count",
            units=search.units,
        )
        rates = [found.errors for found in search.slices]
        gaps = [found.gap.metric for found in search.slices if found.gap]
        table = Table(
            title="Candidate slices on the held-out half",
            columns=["slice", "error rate", "error rate elsewhere", "n", "p (Holm)", "verdict", "most frequent"],
            formats=["text", "percent", "percent", "count", "text", "text", "text"],
            rows=[slice_row(found) for found in search.slices],
            caption=f"Found by clustering the {frame['source'].iloc[0]} of one half of the images.",
        )
        finding = Finding(
            id=finding_id,
            title=_TITLE,
            statement=_statement(search, count),
            metric=count,
            evidence=[table],
        )
        slices = [self._slice(records, found, found.gap) for found in search.confirmed if found.gap]
        return Conclusion(metrics=[count, *gaps, *rates], findings=[finding, *slices])

    def _slice(self, records: Records, found: Slice, gap: Gap) -> Finding:
        names = {str(found.number): f"slice {found.number}", OTHERS: "all other held-out images"}
        return Finding(
            id=f"{self.meta.id}/slice-{found.number}",
            title=f"Slice {found.number}",
            statement=f"{gap.statement('Error rate', names)} In the slice, {found.content}.",
            metric=gap.metric,
            evidence=self._images(records, [found]),
        )

    def _search(self, records: Records) -> Search:
        return find_slices(records, clusters=self.clusters, minimum=self.minimum, candidates=self.candidates)

    def _images(self, records: Records, confirmed: Sequence[Slice]) -> list[ImageGrid]:
        drawn = {row.image_id: row for row in records.examples.itertuples() if row.picture == "clean"}
        rows = []
        for found in confirmed:
            pictures = [
                Picture(
                    file=row.file,
                    caption=f"{records.class_name(row.label)}; predicted {records.prediction_text(row)}",
                    alt=f"image of class {records.class_name(row.label)} of slice {found.number}",
                )
                for row in (drawn[i] for i in found.ids[: self.examples_shown] if i in drawn)
            ]
            pictures += [Picture(file=None) for _ in range(self.examples_shown - len(pictures))]
            rows.append(GridRow(label=f"slice {found.number}", cells=pictures))
        columns = [str(i + 1) for i in range(self.examples_shown)]
        caption = "Held-out images, errors first; label, then prediction."
        return [ImageGrid(title="Images of the slice", columns=columns, rows=rows, caption=caption)] if rows else []


def _statement(search: Search, count: Metric) -> str:
    """Say how many slices are confirmed; ``count`` is their metric."""
    if not search.confirmed:
        return (
            f"No slice is confirmed: of {len(search.slices)} clusters with a high error rate in one half, none is"
            f" significant on the held-out half (n = {sample_size(count)})."
        )
    test = "Fisher" if search.units is None else "Fisher over units"
    return (
        f"Confirmed on held-out images: {len(search.confirmed)} of {len(search.slices)} candidate slices"
        f" (n = {sample_size(count)}; {test}, Holm)."
    )

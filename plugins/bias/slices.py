"""Slice discovery: kinds of images on which the model errs, found without any group labels.

Images are clustered by what the copy's last layer sees (or, for a black box, by a plain descriptor of their pixels);
clusters whose error rate stands out in one half of the images are tested on the other half, so that a slice is never an
artefact of the search (Eyuboglu et al. 2022, arXiv:2203.14960; d'Eon et al. 2022, arXiv:2107.00758).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from auditor import (
    Conclusion,
    Example,
    Finding,
    GridRow,
    ImageGrid,
    Meta,
    Metric,
    Picture,
    Probe,
    Records,
    Table,
    hookimpl,
)
from auditor.findings.evidence import Evidence
from auditor.findings.metric import percent

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from auditor.data.dataset import Batch
    from auditor.model.classifier import Classifier
    from auditor.probes.base import Columns, Randomness

_WIDTH = 64
"""Features are projected to at most this many numbers: distances survive (Johnson and Lindenstrauss)."""


class Slice(NamedTuple):
    """A cluster that stood out in the search, and what the held-out half says of it."""

    number: int
    errors: Metric
    """Error rate of its held-out images."""
    others: float
    """Error rate of the other held-out images."""
    p_value: float
    """Fisher's exact test on the held-out half, Holm over the candidates."""
    ids: Sequence[str]
    """Its held-out images, errors first."""
    answers: str
    """What the model mostly says there, and what would be right."""


@dataclass(frozen=True, kw_only=True)
class Slices(Probe):
    """Is there a kind of image that the model fails, whatever it is called?"""

    meta = Meta(
        id="bias.slices",
        title="Slices with many errors",
        area="bias",
        why="The group that a model fails is often one that nobody wrote down.",
        references=("https://arxiv.org/abs/2203.14960", "https://arxiv.org/abs/2107.00758"),
        needs=frozenset({"labels"}),
        version=2,
    )
    clusters: int = 20
    """Clusters to search; fewer where there are few images."""
    minimum: int = 10
    """Smallest number of images of a cluster in each half."""
    candidates: int = 5
    """Clusters that may be tested on the held-out half."""
    shown: int = 6
    """Pictures of each slice."""

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """The features of each image, at most 64 numbers."""
        import numpy as np

        white = classifier.access == "white-box"
        found = _last_layer(classifier, batch) if white else None
        features = _descriptor(batch) if found is None else found
        if features.shape[1] > _WIDTH:
            # the same projection for every image
            project = rng("", f"projection {features.shape[1]}").normal(size=(features.shape[1], _WIDTH))
            features = features @ (project / np.sqrt(_WIDTH))
        return {
            "features": features.astype(np.float32),
            "source": np.full(len(batch), "pixels" if found is None else "last layer"),
        }

    def examples(self, records: Records) -> Sequence[Example]:
        """Held-out images of the slices that were confirmed, errors first."""
        slices, _ = self._search(records)
        wished = [i for s in slices if s.p_value < 0.05 for i in s.ids[: self.shown]]
        return [Example(image_id=image_id) for image_id in dict.fromkeys(wished)]

    def conclude(self, records: Records) -> Conclusion:
        """The candidates with their held-out error rates, and pictures of what was confirmed."""
        frame = records.frame
        slices, held = self._search(records)
        if not slices:
            errors = int((frame["label"] != frame["prediction"]).sum()) if len(frame) else 0
            return Conclusion(
                metrics=[Metric(name="confirmed_slices", value=None, n=len(frame), unit="count")],
                findings=[Finding(
                    id=f"{self.meta.id}/slices", title="Slices with many errors",
                    statement=f"Cannot tell: {len(frame)} images with {errors} errors are too few to search one half"
                    f" and test on the other, or no cluster stood out (n = {len(frame)}).",
                )],
            )  # fmt: skip
        confirmed = [s for s in slices if s.p_value < 0.05]
        worst = (confirmed or slices)[0]
        if confirmed:
            statement = (
                f"{len(confirmed)} of {len(slices)} candidate slices are confirmed on held-out images: the worst has an"
                f" error rate of {percent(worst.errors)} (n = {worst.errors.n}) against {100 * worst.others:.1f} %"
                f" elsewhere (p = {worst.p_value:.2g}, Fisher, Holm); {worst.answers}."
            )
        else:
            statement = (
                f"No slice is confirmed: {len(slices)} clusters stood out in one half of the images and none of them"
                f" demonstrably on the held-out half (n = {held})."
            )
        table = Table(
            title="Candidate slices on the held-out half",
            columns=["slice", "error rate", "error rate elsewhere", "n", "p (Holm)", "verdict", "mostly"],
            formats=["text", "percent", "percent", "count", "text", "text", "text"],
            rows=[
                [f"slice {s.number}", s.errors.cell(), s.others, s.errors.n, f"{s.p_value:.2g}",
                 "confirmed" if s.p_value < 0.05 else "not confirmed", s.answers]
                for s in slices
            ],
            caption=f"Found by clustering the {frame['source'].iloc[0]} of one half of the images.",
        )  # fmt: skip
        count = Metric(name="confirmed_slices", value=float(len(confirmed)), n=held, unit="count")
        rates = [Metric(**{**vars(s.errors), "at": {"slice": s.number}}) for s in slices]
        evidence: list[Evidence] = [table, *self._pictures(records, confirmed)]
        finding = Finding(id=f"{self.meta.id}/slices", title="Slices with many errors", statement=statement,
                          metric=count, evidence=evidence)  # fmt: skip
        return Conclusion(metrics=[count, *rates], findings=[finding])

    def _search(self, records: Records) -> tuple[list[Slice], int]:
        """Clusters that stand out in the search half, tested on the other; and how many images were held out."""
        from hashlib import blake2b

        import numpy as np
        from scipy.stats import fisher_exact
        from sklearn.cluster import KMeans

        from auditor import statistics

        frame = records.frame
        if len(frame) < 4 * self.minimum:
            return [], 0
        # by a digest of the name, so that the halves do not depend on the order or on other images
        half = np.array([blake2b(str(i).encode(), digest_size=1).digest()[0] % 2 == 0 for i in frame["image_id"]])
        wrong = (frame["label"] != frame["prediction"]).to_numpy()
        if half.sum() < 2 * self.minimum or (~half).sum() < 2 * self.minimum or not wrong[half].any():
            return [], int((~half).sum())
        features = np.stack(frame["features"].to_list()).astype(np.float64)
        scale = features[half].std(axis=0)
        features = (features - features[half].mean(axis=0)) / np.where(scale > 0, scale, 1)
        k = int(max(2, min(self.clusters, half.sum() // (2 * self.minimum))))
        means = KMeans(k, n_init=3, random_state=0).fit(features[half])
        cluster = means.predict(features)
        found = []
        for number in range(k):
            search, held = half & (cluster == number), ~half & (cluster == number)
            if (
                search.sum() >= self.minimum
                and held.sum() >= self.minimum
                and wrong[search].mean() > wrong[half].mean()
            ):
                found.append((float(wrong[search].mean()), number, held))
        found.sort(key=lambda item: (-item[0], item[1]))
        found = found[: self.candidates]
        tests = []
        for _, _, held in found:
            rest = ~half & ~held
            table = [[wrong[held].sum(), (~wrong[held]).sum()], [wrong[rest].sum(), (~wrong[rest]).sum()]]
            tests.append(float(fisher_exact(table, alternative="greater").pvalue))
        adjusted = statistics.holm(tests)
        slices = [
            Slice(
                number=number, errors=statistics.proportion("slice_error_rate", wrong[held]),
                others=float(wrong[~half & ~held].mean()), p_value=p, answers=_mostly(records, held),
                ids=[str(i) for i in frame["image_id"][held].to_numpy()[np.argsort(~wrong[held], kind="stable")]],
            )
            for (_, number, held), p in zip(found, adjusted, strict=True)
        ]  # fmt: skip
        slices.sort(key=lambda s: (s.p_value, -(s.errors.value or 0.0)))
        return slices, int((~half).sum())

    def _pictures(self, records: Records, confirmed: Sequence[Slice]) -> list[ImageGrid]:
        shown = {row.image_id: row for row in records.examples.itertuples() if row.picture == "clean"}
        rows = []
        for found in confirmed:
            pictures = [shown[i] for i in found.ids[: self.shown] if i in shown]
            pictured = [
                Picture(
                    file=row.file, caption=f"{records.class_name(row.label)}; says {records.said(row)}",
                    alt=f"image of class {records.class_name(row.label)} of slice {found.number}",
                )
                for row in pictures
            ]  # fmt: skip
            pictured += [Picture(file=None) for _ in range(self.shown - len(pictured))]
            rows.append(GridRow(label=f"slice {found.number}", cells=pictured))
        columns = [str(i + 1) for i in range(self.shown)]
        caption = "Held-out images, errors first; the label, then what the model says."
        return [ImageGrid(title="Confirmed slices", columns=columns, rows=rows, caption=caption)] if rows else []


def _mostly(records: Records, here: NDArray[Any]) -> str:
    """The commonest label and answer of a slice."""
    labels, answers = (records.frame[c][here].value_counts() for c in ("label", "prediction"))
    return (
        f"label {records.class_name(labels.index[0])} in {100 * labels.iloc[0] / here.sum():.0f} %,"
        f" answer {records.class_name(answers.index[0])} in {100 * answers.iloc[0] / here.sum():.0f} %"
    )


def _last_layer(classifier: Classifier, batch: Batch) -> NDArray[Any] | None:
    """What the copy's last layer gets, (n, d), means over places; None where unseen."""
    import numpy as np

    from auditor.algorithms.layers import last_layer

    step = classifier.fixed_batch or len(batch)
    parts = []
    for start in range(0, len(batch), step):
        found = last_layer(classifier, batch.pixels[start : start + step])
        if found is None:
            return None
        parts.append(found)
    return np.concatenate(parts)


def _descriptor(batch: Batch) -> NDArray[Any]:
    """A plain descriptor of the pixels: the image as an 8x8 thumbnail, with mean and spread of each channel, (n, d)."""
    import numpy as np

    from auditor.algorithms.masking import cells

    height, width = batch.pixels.shape[2:]
    grid = cells(height, width, 8)
    means = [batch.pixels[:, :, c.top : c.bottom, c.left : c.right].mean(axis=(2, 3)) for c in grid]
    whole = [batch.pixels.mean(axis=(2, 3)), batch.pixels.std(axis=(2, 3))]
    return np.concatenate([*means, *whole], axis=1)


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """Register the probe."""
    return [Slices]

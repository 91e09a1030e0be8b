"""Base class of explanations. Authors implement ``attribute``; the base class grades the maps.

Every map is graded in the same way: deletion and insertion, infidelity, max-sensitivity, stability under another random
seed, and similarity to the map of a model with shuffled weights. Nothing heavy is imported before it is needed.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from auditor.algorithms.masking import Fill
from auditor.findings.finding import Conclusion, Finding
from auditor.findings.formatting import percent
from auditor.findings.metric import Metric
from auditor.probes import attribution_regions, feature_attribution
from auditor.probes.base import Columns, Example, Probe, Randomness, Records
from auditor.probes.cells import Cell, cell_means, map_cells, map_shape
from auditor.probes.explanation_evidence import faithfulness_finding, map_images
from auditor.probes.grading import GRADE_METRICS, grade, random_sample, rank_correlation
from auditor.probes.map_checks import MapChecks, Reseeded, attribution_in_mask
from auditor.probes.shuffled_weights import shuffled

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from auditor.data.dataset import Batch
    from auditor.model.classifier import Classifier


@dataclass(frozen=True, kw_only=True)
class Explanation(Probe):
    """A map of the evidence for the model's prediction, with grades."""

    metrics = (*GRADE_METRICS, *attribution_regions.METRICS, feature_attribution.METRIC)
    randomness: ClassVar[bool] = False
    """Whether ``attribute`` draws random numbers."""
    by_gradient: ClassVar[bool] = False
    """Whether ``attribute`` uses ``classifier.logits``; only then are maps of shuffled weights computed."""
    depends_on: ClassVar[Sequence[str]] = ("performance.accuracy", "attacks.*")
    adds_images: ClassVar[bool] = True

    samples: int = 64
    grid: int = 8
    """Maps are stored and graded as means over at most this many cells along each side."""
    fill: Fill = "mean"
    """Content of covered cells."""
    steps: int = 8
    """Steps of the deletion and insertion curves."""
    orders: int = 2
    """Random orders per image to compare with."""
    subsets: int = 16
    """Random sets of covered cells per image, for infidelity."""
    neighbours: int = 2
    """Noisy copies of each image, for max-sensitivity."""
    examples_shown: int = 8
    """Maps shown in the report."""

    @abstractmethod
    def attribute(self, classifier: Classifier, batch: Batch, rng: Randomness) -> NDArray[Any]:
        """Return the attribution of each pixel to the prediction ``batch.predictions``, (n, h, w), at any scale.

        Positive values support the prediction, negative values oppose it. Tabular data has shape (n, 1, features).
        Raises NoCopy if gradients are needed and unavailable.
        """

    def draws(self, classifier: Classifier) -> bool:
        """Return whether ``attribute`` draws random numbers for this model."""
        del classifier
        return self.randomness

    def extra_images(self, others: Mapping[str, pd.DataFrame]) -> Sequence[str]:
        """Return the most confident errors and the images with the smallest adversarial perturbations."""
        return [*_confident_errors(others, self.examples_shown // 4), *_least_robust(others, self.examples_shown // 4)]

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Return each image's map as means over cells, and all grades of the map."""
        import numpy as np

        grid = map_cells(classifier, self.grid)
        pixels = self._pixel_maps(classifier, batch, rng)
        maps = cell_means(pixels, grid)
        columns: dict[str, Any] = {"answer": batch.predictions, "map": maps.astype(np.float32)}
        if classifier.input_kind == "rows":
            columns["values"] = classifier.preprocessing.apply(batch.pixels).astype(np.float64)
        if batch.masks is not None:
            columns["mask_share"], columns["mask_area"] = attribution_in_mask(pixels, batch.masks)
        checks = MapChecks(classifier, batch, rng, grid, maps, self.fill)
        columns |= checks.removal(self.steps, self.orders)
        columns["infidelity"] = checks.infidelity(self.subsets)
        columns["sensitivity"] = checks.sensitivity(
            lambda noisy: self._cell_maps(classifier, noisy, rng, grid), self.neighbours
        )
        columns["stability"] = columns["shuffled"] = np.full(len(batch), np.nan)
        if self.draws(classifier):
            columns["stability"] = rank_correlation(maps, self._cell_maps(classifier, batch, Reseeded(rng), grid))
        if self.by_gradient and classifier.access == "white-box":
            other = shuffled(classifier, rng)
            if other is not None:
                columns["shuffled"] = rank_correlation(maps, self._cell_maps(other, batch, rng, grid))
        return columns

    def _cell_maps(
        self, classifier: Classifier, batch: Batch, rng: Randomness, grid: Sequence[Cell]
    ) -> NDArray[np.float64]:
        """Return the map of each image as means over cells, (n, cells)."""
        return cell_means(self._pixel_maps(classifier, batch, rng), grid)

    def _pixel_maps(self, classifier: Classifier, batch: Batch, rng: Randomness) -> NDArray[np.float64]:
        """Return the result of ``attribute``, (n, h, w), after validation."""
        import numpy as np

        pixels = np.asarray(self.attribute(classifier, batch, rng), dtype=np.float64)
        expected = (len(batch), *map_shape(classifier))
        if pixels.shape != expected:
            raise ValueError(f"{self.meta.id}: attribute returned shape {pixels.shape}; expected {expected}")
        if not np.isfinite(pixels).all():
            raise ValueError(f"{self.meta.id}: attribute returned NaN or infinity")
        return pixels

    def examples(self, records: Records) -> Sequence[Example]:
        """Request the extra images, then errors, then one image of each class."""
        frame = records.frame
        wrong = frame["prediction"] != frame["label"]
        known = set(frame["image_id"])
        chosen = [
            *(i for i in self.extra_images(records.others) if i in known),
            *frame[wrong]["image_id"].head(self.examples_shown // 4),
            *frame[~wrong].drop_duplicates("label")["image_id"],
            *frame[~wrong]["image_id"],
        ]
        return [Example(image_id=image_id) for image_id in list(dict.fromkeys(chosen))[: self.examples_shown]]

    def conclude(self, records: Records) -> Conclusion:
        """Report the grades, the location of the attribution and example maps."""
        import numpy as np

        if not len(records.frame):
            return Conclusion(inconclusive=f"no {records.kind} were explained")
        frame = random_sample(records.frame)
        grades = grade(frame)
        maps = np.stack(frame["map"].to_list()).astype(np.float64)
        locate = self._features if records.kind == "rows" else self._regions
        located, finding = locate(records, frame, maps, grades.verdict)
        faithfulness = faithfulness_finding(self.meta.id, records, grades, frame, self.steps)
        graded = [metric for metric in grades.metrics if metric.n]
        return Conclusion(metrics=[*graded, *located], findings=[faithfulness, finding])

    def _regions(
        self, records: Records, frame: pd.DataFrame, maps: NDArray[np.float64], verdict: str
    ) -> tuple[list[Metric], Finding]:
        """Return the attribution of regions of the image, mean maps and example maps."""
        regions = attribution_regions.find_regions(frame, maps)
        metrics = attribution_regions.region_metrics(regions, frame)
        statement = attribution_regions.statement(metrics, regions) or f"Maps of {len(maps)} images."
        finding = Finding(
            id=f"{self.meta.id}/where",
            title="Location of the attribution",
            statement=f"{statement} Faithfulness: {verdict}.",
            metric=metrics[-1] if metrics else None,
            n=len(maps),
            evidence=[
                *attribution_regions.tables(records, frame, regions),
                *attribution_regions.mean_maps(records, frame, maps),
                *map_images(self.meta.title, records, self.extra_images(records.others)),
            ],
        )
        return metrics, finding

    def _features(
        self, records: Records, frame: pd.DataFrame, maps: NDArray[np.float64], verdict: str
    ) -> tuple[list[Metric], Finding]:
        """Return the attribution of each feature of tabular data, over all rows and for single rows."""
        metrics, tables = feature_attribution.feature_tables(records, frame, maps)
        first = metrics[0]
        extra = self.extra_images(records.others)
        finding = Finding(
            id=f"{self.meta.id}/where",
            title="Attribution of the features",
            statement=f"{first.at['feature']} has the largest share of the attribution, {percent(first)}"
            f" (n = {first.n}). Faithfulness: {verdict}.",
            metric=first,
            evidence=[*tables, *feature_attribution.row_table(records, records.frame, extra, self.examples_shown)],
        )
        return metrics, finding


def library_seeds(batch: Batch, rng: Randomness, purpose: str) -> list[int]:
    """Return a seed for each image, for libraries that make their own generator."""
    return [int(rng(image_id, purpose).integers(2**31)) for image_id in batch.ids]


def _confident_errors(others: Mapping[str, pd.DataFrame], count: int) -> list[str]:
    """Return the ids of the most confident errors on clean images."""
    frame = others.get("performance.accuracy")
    if frame is None or not {"confidence", "label", "prediction"} <= set(frame.columns):
        return []
    wrong = frame[frame["prediction"] != frame["label"]].drop_duplicates("image_id")
    return list(wrong.sort_values("confidence", ascending=False, kind="stable")["image_id"].head(count))


def _least_robust(others: Mapping[str, pd.DataFrame], count: int) -> list[str]:
    """Return the ids of the images with the smallest L-infinity perturbation that succeeded."""
    import pandas as pd

    successes = [
        frame.loc[frame["success"].astype(bool) & (frame["norm"] == "linf"), ["image_id", "linf"]]
        for name, frame in others.items()
        if name.startswith("attacks.") and {"norm", "success", "linf", "image_id"} <= set(frame.columns)
    ]
    if not successes:
        return []
    nearest = pd.concat(successes).groupby("image_id")["linf"].min().sort_values(kind="stable")
    return list(nearest.index[:count])

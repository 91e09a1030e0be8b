"""Features of images and the search for slices, for ``bias.slices``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from auditor import Metric, Records
from auditor.probes.gap_statistics import share_cell, shares
from auditor.probes.gaps import Gap, Stratum, find_gaps
from auditor.probes.units import unit_codes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from auditor import Batch, Classifier
    from auditor.findings.evidence import Cell
    from auditor.statistics import Units

OTHERS = "all others"
"""The held-out images that are not in a slice."""


class Slice(NamedTuple):
    """A cluster with a high error rate in the search half, tested on the held-out half."""

    number: int
    errors: Metric
    """Error rate of its held-out images."""
    others: float
    """Error rate of the other held-out images."""
    gap: Gap | None
    """Its error rate above that of the others, corrected for all candidates; None if it is lower."""
    ids: Sequence[str]
    """Its held-out images, errors first."""
    content: str
    """The most frequent label and prediction."""

    @property
    def confirmed(self) -> bool:
        """Whether its error rate is significantly higher than elsewhere."""
        return self.gap is not None and self.gap.significant

    @property
    def p_value(self) -> float:
        """Fisher's exact test on the held-out half, adjusted with Holm's method over the candidates."""
        return self.gap.p_value if self.gap else 1.0


class Search(NamedTuple):
    """The result of a search, most significant slice first."""

    slices: Sequence[Slice]
    held_out: int
    """Number of held-out images."""
    units: int | None = None
    """Number of their units; None if the data states no units."""

    @property
    def confirmed(self) -> list[Slice]:
        """The slices whose test is significant."""
        return [found for found in self.slices if found.confirmed]


def slice_row(found: Slice) -> list[Cell]:
    """Return a slice as a row of the table of candidates."""
    return [
        f"slice {found.number}",
        found.errors.cell(),
        found.others,
        found.errors.n,
        f"{found.p_value:.2g}",
        "confirmed" if found.confirmed else "not confirmed",
        found.content,
    ]


def find_slices(records: Records, *, clusters: int, minimum: int, candidates: int) -> Search:
    """Cluster one half of the images and test clusters with a high error rate on the other half."""
    import numpy as np

    frame = records.frame
    if not len(frame):
        return Search([], 0)
    # images of one unit are in the same half, and a minimum of images is one of units
    units = frame.get("unit", frame["image_id"]).to_numpy()
    search = _search_half(units)
    wrong = (frame["label"] != frame["prediction"]).to_numpy()
    held_out = int((~search).sum())
    searched = len(np.unique(units[search]))
    if min(searched, len(np.unique(units[~search]))) < 2 * minimum or not wrong[search].any():
        return Search([], held_out)
    features = np.stack(frame["features"].to_list()).astype(np.float64)
    k = int(max(2, min(clusters, searched // (2 * minimum))))
    cluster = _clusters(features, search, k)
    found = _candidates(cluster, search, wrong, units, minimum)[:candidates]
    n_units = len(np.unique(units[~search])) if "unit" in frame else None
    return Search(_tested(records, found, search, wrong), held_out, n_units)


def _search_half(ids: Any) -> NDArray[np.bool_]:
    """Return the mask of the search half, drawn from each id so that other images do not affect it."""
    from hashlib import blake2b

    import numpy as np

    return np.array([blake2b(str(i).encode(), digest_size=1).digest()[0] % 2 == 0 for i in ids])


def _clusters(features: NDArray[np.float64], search: NDArray[np.bool_], k: int) -> NDArray[np.int64]:
    """Return the cluster of each image, (n,), by k-means fitted on the standardised search half."""
    import numpy as np
    from sklearn.cluster import KMeans

    scale = features[search].std(axis=0)
    standardised = (features - features[search].mean(axis=0)) / np.where(scale > 0, scale, 1)
    clusters: NDArray[np.int64] = KMeans(k, n_init=3, random_state=0).fit(standardised[search]).predict(standardised)
    return clusters


def _candidates(
    cluster: NDArray[np.int64],
    search: NDArray[np.bool_],
    wrong: NDArray[np.bool_],
    units: NDArray[Any],
    minimum: int,
) -> list[tuple[int, NDArray[np.bool_]]]:
    """Return (cluster, mask of its held-out images), highest error rate in the search half first."""
    import numpy as np

    found = []
    for number in range(int(cluster.max()) + 1):
        searched, held = search & (cluster == number), ~search & (cluster == number)
        large = min(len(np.unique(units[half])) for half in (searched, held)) >= minimum
        if large and wrong[searched].mean() > wrong[search].mean():
            found.append((float(wrong[searched].mean()), number, held))
    found.sort(key=lambda item: (-item[0], item[1]))
    return [(number, held) for _, number, held in found]


def _tested(
    records: Records,
    found: Sequence[tuple[int, NDArray[np.bool_]]],
    search: NDArray[np.bool_],
    wrong: NDArray[np.bool_],
) -> list[Slice]:
    """Test whether the error rate of each cluster is higher than elsewhere, on the held-out half."""
    import numpy as np

    from auditor import statistics

    ids, units = records.frame["image_id"], unit_codes(records.frame)
    gaps = find_gaps([_stratum(number, wrong, held, ~search & ~held, units) for number, held in found])
    by_slice = {gap.group: gap for gap in gaps}
    slices = [
        Slice(
            number=number,
            errors=statistics.proportion(
                "slice_error_rate", wrong[held], at={"slice": number}, units=statistics.keep(units, held)
            ),
            others=float(wrong[~search & ~held].mean()),
            gap=by_slice.get(str(number)),
            ids=[str(i) for i in ids[held].to_numpy()[np.argsort(~wrong[held], kind="stable")]],
            content=_content(records, held),
        )
        for number, held in found
    ]
    return sorted(slices, key=lambda found: (found.p_value, -(found.errors.value or 0.0)))


def _stratum(
    number: int, wrong: NDArray[np.bool_], held: NDArray[np.bool_], others: NDArray[np.bool_], units: Units
) -> Stratum:
    """Compare the error rate of a slice with that of all other held-out images; masks (n,) and units (n,), if any."""
    from auditor import statistics

    parts = {str(number): held, OTHERS: others}
    return Stratum(
        gap="slice_error_gap",
        cells={name: share_cell(wrong[part], statistics.keep(units, part)) for name, part in parts.items()},
        statistic=shares(over_units=units is not None),
        key="slice",
        family=(str(number),),
        worse=1,
    )


def _content(records: Records, mask: NDArray[np.bool_]) -> str:
    """Describe the most frequent label and prediction of a slice."""
    labels, predictions = (records.frame[column][mask].value_counts() for column in ("label", "prediction"))
    return (
        f"{100 * labels.iloc[0] / mask.sum():.0f} % of its images have the label {records.class_name(labels.index[0])},"
        f" and {100 * predictions.iloc[0] / mask.sum():.0f} % are predicted as"
        f" {records.class_name(predictions.index[0])}"
    )


def image_features(classifier: Classifier, batch: Batch) -> tuple[NDArray[Any], str]:
    """Return features (n, d) of the images and their source: "last layer" or "pixels"."""
    features = last_layer_inputs(classifier, batch) if classifier.access == "white-box" else None
    return (_pixel_descriptor(batch), "pixels") if features is None else (features, "last layer")


def last_layer_inputs(classifier: Classifier, batch: Batch) -> NDArray[Any] | None:
    """Return the input of the copy's last layer, (n, d), averaged over positions; None if there is none."""
    import numpy as np

    from auditor.algorithms.layers import last_layer

    step = classifier.fixed_batch or len(batch)
    chunks = []
    for start in range(0, len(batch), step):
        found = last_layer(classifier, batch.pixels[start : start + step])
        if found is None:
            return None
        chunks.append(found)
    return np.concatenate(chunks)


def _pixel_descriptor(batch: Batch) -> NDArray[Any]:
    """Return an 8x8 thumbnail with mean and standard deviation of each channel, (n, d)."""
    import numpy as np

    from auditor.algorithms.masking import cells

    height, width = batch.pixels.shape[2:]
    grid = cells(height, width, 8)
    means = [batch.pixels[:, :, c.top : c.bottom, c.left : c.right].mean(axis=(2, 3)) for c in grid]
    whole = [batch.pixels.mean(axis=(2, 3)), batch.pixels.std(axis=(2, 3))]
    return np.concatenate([*means, *whole], axis=1)

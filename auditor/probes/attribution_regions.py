"""Location of the attribution: border, centre and masked objects, over all images, by prediction and by group."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from auditor.findings.evidence import Cell, Evidence, HeatMap, Table
from auditor.findings.formatting import percent
from auditor.findings.metric import Metric, MetricSpec

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from auditor.probes.base import Records

METRICS = (
    MetricSpec(name="border_attribution", label="Attribution in the border", better="neither"),
    MetricSpec(name="centre_attribution", label="Attribution in the centre", better="neither"),
    MetricSpec(name="mask_attribution", label="Attribution in the masked object", better="neither"),
    MetricSpec(
        name="mask_attribution_gain",
        label="Attribution in the masked object over its area",
        better="neither",
        difference=True,
    ),
)

_MIN_GROUP = 10
"""Classes and groups with fewer images are not listed."""

_ROWS_SHOWN = 40
_MAPS_SHOWN = 4
"""Mean maps per grouping."""

_LOWEST_SHOWN = 10


class Region(NamedTuple):
    """A part of the image."""

    name: str
    metric: str
    area: float
    """Its share of the image."""
    share: NDArray[Any]
    """Its share of each image's positive attribution, (n,); NaN for maps without positive attribution."""


def find_regions(frame: pd.DataFrame, maps: NDArray[Any]) -> list[Region]:
    """Return border, centre and, for data with masks, the masked objects; ``maps`` (n, cells)."""
    import numpy as np

    found = _ring_and_centre(maps)
    if "mask_share" in frame:
        share, area = (frame[name].to_numpy(dtype=float) for name in ("mask_share", "mask_area"))
        known = np.isfinite(share)
        if known.any():
            found.append(Region("masked object", "mask_attribution", float(area[known].mean()), share))
    return found


def _ring_and_centre(maps: NDArray[Any]) -> list[Region]:
    """Return the outermost ring of cells and the central quarter; empty for maps smaller than 3 x 3 cells."""
    import numpy as np

    side = _side(maps)
    if side < 3:
        return []
    positive = np.clip(maps, 0, None).reshape(-1, side, side)
    total = positive.sum(axis=(1, 2))
    margin = side // 4 or 1
    middle = slice(margin, side - margin)
    ring = total - positive[:, 1:-1, 1:-1].sum(axis=(1, 2))
    centre = positive[:, middle, middle].sum(axis=(1, 2))
    parts = (
        ("border", ring, 1 - (side - 2) ** 2 / side**2),
        ("centre", centre, (side - 2 * margin) ** 2 / side**2),
    )
    return [
        Region(
            name,
            f"{name}_attribution",
            area,
            np.divide(part, total, out=np.full_like(total, np.nan), where=total > 0),
        )
        for name, part, area in parts
    ]


def _side(maps: NDArray[Any]) -> int:
    """Return the cells along each side of square maps (n, cells); 0 for other maps."""
    side = round(maps.shape[1] ** 0.5)
    return side if side * side == maps.shape[1] else 0


def region_metrics(regions: Sequence[Region], frame: pd.DataFrame) -> list[Metric]:
    """Return the mean share of each region; for masks also the excess over the area of the mask."""
    from auditor import statistics

    units = frame.get("unit")
    metrics = [statistics.mean(region.metric, region.share, unit="fraction", units=units) for region in regions]
    if any(region.metric == "mask_attribution" for region in regions):
        excess = (frame["mask_share"] - frame["mask_area"]).to_numpy(dtype=float)
        metrics.append(statistics.mean("mask_attribution_gain", excess, unit="fraction", units=units))
    return metrics


def statement(metrics: Sequence[Metric], regions: Sequence[Region]) -> str:
    """State the shares of border and masks next to their areas; empty without regions."""
    sentences = [
        f"{percent(metric)} of the positive attribution lies in the {region.name}, which is {100 * region.area:.0f} %"
        f" of the image (n = {metric.n})."
        for metric, region in zip(metrics, regions, strict=False)
        if region.name != "centre"
    ]
    gain = next((metric for metric in metrics if metric.name == "mask_attribution_gain"), None)
    if gain is not None and gain.low is not None and gain.high is not None:
        comparison = (
            "significantly more than"
            if gain.low > 0
            else "significantly less than"
            if gain.high < 0
            else "not significantly different from"
        )
        sentences.append(f"The share of the masked object is {comparison} its area.")
    return " ".join(sentences)


def tables(records: Records, frame: pd.DataFrame, regions: Sequence[Region]) -> list[Evidence]:
    """Return the shares over all images, by prediction and by group, and the images with the lowest mask share."""
    from auditor import statistics

    if not regions:
        return []
    rows: list[list[Cell]] = []
    for by, value, mask in cuts(records, frame):
        units = statistics.keep(frame.get("unit"), mask)
        shares = [
            statistics.mean(region.metric, region.share[mask], unit="fraction", units=units).cell()
            for region in regions
        ]
        rows.append([by, value, *shares, int(mask.sum())])
    areas = ", ".join(f"{region.name} {100 * region.area:.0f} %" for region in regions)
    formats: list[Any] = ["percent"] * len(regions)
    table = Table(
        title="Share of the attribution by region",
        columns=["by", "value", *[region.name for region in regions], "n"],
        formats=["text", "text", *formats, "count"],
        rows=rows[:_ROWS_SHOWN],
        caption=f"Of the positive attribution; 95 % intervals over images. Areas: {areas}. Classes and groups of at"
        f" least {_MIN_GROUP} images." + (f" First {_ROWS_SHOWN} of {len(rows)}." if len(rows) > _ROWS_SHOWN else ""),
    )
    masked = regions[-1].metric == "mask_attribution"
    return [table, _lowest_mask_shares(records, frame)] if masked else [table]


def _lowest_mask_shares(records: Records, frame: pd.DataFrame) -> Table:
    known = frame[frame["mask_share"].notna()]
    lowest = known.sort_values(["mask_share", "image_id"], kind="stable").head(_LOWEST_SHOWN)
    rows: list[list[Cell]] = [
        [
            row.image_id,
            records.class_name(row.label),
            records.class_name(row.answer),
            float(row.mask_share),
            float(row.mask_area),
        ]
        for row in lowest.itertuples()
    ]
    return Table(
        title="Least attribution inside the mask",
        columns=["image", "label", "prediction", "share inside", "area of the mask"],
        formats=["text", "text", "text", "percent", "percent"],
        rows=rows,
        caption=f"Lowest {len(lowest)} of {len(known)} images with a mask; the records hold every image.",
    )


def mean_maps(records: Records, frame: pd.DataFrame, maps: NDArray[Any]) -> list[Evidence]:
    """Return the mean map over all images, by prediction, and for the first values of each column of groups."""
    side = _side(maps)
    if not side:
        return []
    found: list[Evidence] = []
    drawn = Counter[str]()
    for by, value, mask in cuts(records, frame, cross=False):
        drawn[by] += 1
        if drawn[by] > _MAPS_SHOWN:
            continue
        found.append(
            HeatMap(
                title="Mean map over all images" if by == "all" else f"Mean map, {by} {value}",
                values=maps[mask].mean(axis=0).reshape(side, side).tolist(),
                row_title="top to bottom",
                column_title="left to right",
                diverging=True,
                caption=f"Mean over {int(mask.sum())} images, in the unit of the method.",
            )
        )
    return found


def cuts(records: Records, frame: pd.DataFrame, *, cross: bool = True) -> Iterator[tuple[str, str, NDArray[Any]]]:
    """Yield (grouping, value, mask (n,)) for all images, each prediction and each group that is large enough."""
    import numpy as np

    from auditor.probes.groupings import groupings

    yield "all", "", np.ones(len(frame), dtype=bool)
    keys = {"prediction": frame["answer"].map(records.class_name), **groupings(frame, cross=cross)}
    for key, values in keys.items():
        sizes = frame.get("unit", frame["image_id"]).groupby(values).nunique()
        if len(sizes) < 2:
            continue
        for value in sorted(str(v) for v, n in sizes.items() if n >= _MIN_GROUP):
            yield key, value, (values.astype(str) == value).to_numpy()

"""Where attribution lies: in the border, in the centre, in the data's masks, in which features; over all images, by
class and by group. Pure functions of the rows that explanations record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from auditor.findings.evidence import Evidence, HeatMap, Table
from auditor.findings.metric import Metric, percent

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from auditor.probes.base import Records

_FEWEST = 10
"""Classes and groups with fewer images get no line of their own."""

_LINES = 40
_MAPS = 4
"""Mean maps of each column of groups."""

_FEATURES = 20


class Region(NamedTuple):
    """A part of the image."""

    name: str
    metric: str
    area: float
    """Its share of the image."""
    share: NDArray[Any]
    """Of each image's positive attribution, (n,); NaN where nothing is positive."""


def regions(frame: pd.DataFrame, maps: NDArray[Any]) -> list[Region]:
    """Border, centre and, where the data has masks, the masked objects; ``maps`` (n, cells) of square grids."""
    import numpy as np

    found: list[Region] = []
    side = side_of(maps)
    if side >= 3:
        positive = np.clip(maps, 0, None).reshape(-1, side, side)
        total = positive.sum(axis=(1, 2))
        quarter = side // 4 or 1
        middle = slice(quarter, side - quarter)
        ring = total - positive[:, 1:-1, 1:-1].sum(axis=(1, 2))
        for name, part, area in (
            ("border", ring, 1 - (side - 2) ** 2 / side**2),
            ("centre", positive[:, middle, middle].sum(axis=(1, 2)), (side - 2 * quarter) ** 2 / side**2),
        ):
            share = np.divide(part, total, out=np.full_like(total, np.nan), where=total > 0)
            found.append(Region(name, f"{name}_attribution", area, share))
    if "mask_share" in frame:
        share, area = (frame[name].to_numpy(dtype=float) for name in ("mask_share", "mask_area"))
        known = np.isfinite(share)
        if known.any():
            found.append(Region("masked object", "mask_attribution", float(area[known].mean()), share))
    return found


def side_of(maps: NDArray[Any]) -> int:
    """Cells along each side of square maps (n, cells); 0 where the maps are not square."""
    side = round(maps.shape[1] ** 0.5)
    return side if side * side == maps.shape[1] else 0


def measured(found: Sequence[Region], frame: pd.DataFrame) -> list[Metric]:
    """The mean share of each region; for masks also how much more than the masks' own share of the image."""
    from auditor import statistics

    metrics = [statistics.mean(region.metric, region.share, unit="fraction") for region in found]
    if any(region.metric == "mask_attribution" for region in found):
        excess = (frame["mask_share"] - frame["mask_area"]).to_numpy(dtype=float)
        metrics.append(statistics.mean("mask_attribution_gain", excess, unit="fraction"))
    return metrics


def sentence(metrics: Sequence[Metric], found: Sequence[Region]) -> str:
    """What a reader takes away: border, and masks where there are any, each beside its share of the image."""
    said = []
    for metric, region in zip(metrics, found, strict=False):
        if region.name != "centre":
            said.append(f"{percent(metric)} of what speaks for the answer lies in the {region.name}, which is"
                        f" {100 * region.area:.0f} % of the image (n = {metric.n})")  # fmt: skip
    if not said:
        return ""
    text = "; ".join(said)
    gain = next((m for m in metrics if m.name == "mask_attribution_gain"), None)
    if gain is not None and gain.low is not None and gain.high is not None:
        text += (
            ", demonstrably more than its share" if gain.low > 0
            else ", demonstrably less than its share" if gain.high < 0
            else ", not demonstrably more or less than its share"
        )  # fmt: skip
    return text + "."


def tables(records: Records, frame: pd.DataFrame, found: Sequence[Region]) -> list[Evidence]:
    """The regions' shares over all images, by answer and by group; and the images least explained by their mask."""
    from auditor import statistics

    if not found:
        return []
    rows: list[list[Any]] = []
    for by, value, here in _cuts(records, frame):
        cells = [statistics.mean(region.metric, region.share[here], unit="fraction").cell() for region in found]
        rows.append([by, value, *cells, int(here.sum())])
    areas = ", ".join(f"{region.name} {100 * region.area:.0f} %" for region in found)
    shares: list[Any] = ["percent"] * len(found)
    evidence: list[Evidence] = [
        Table(
            title="Share of the attribution by region",
            columns=["by", "value", *[region.name for region in found], "n"],
            formats=["text", "text", *shares, "count"], rows=rows[:_LINES],
            caption=f"Of what speaks for the answer; 95 % intervals over images. Shares of the image: {areas}."
            f" Classes and groups of at least {_FEWEST} images."
            + (f" The first {_LINES} of {len(rows)}." if len(rows) > _LINES else ""),
        )
    ]  # fmt: skip
    if found[-1].metric == "mask_attribution":
        known = frame[frame["mask_share"].notna()]
        lowest = known.sort_values(["mask_share", "image_id"], kind="stable").head(10)
        evidence.append(
            Table(
                title="Least attribution inside the mask",
                columns=["image", "label", "answer", "share inside", "mask's share of the image"],
                formats=["text", "text", "text", "percent", "percent"],
                rows=[[row.image_id, records.class_name(row.label), records.class_name(row.answer),
                       float(row.mask_share), float(row.mask_area)] for row in lowest.itertuples()],
                caption=f"The {len(lowest)} lowest of {len(known)} images with a mask; records hold every image.",
            )
        )  # fmt: skip
    return evidence


def mean_maps(records: Records, frame: pd.DataFrame, maps: NDArray[Any]) -> list[Evidence]:
    """The mean map over all images, of each answer, and of the largest values of each column of groups."""
    side = side_of(maps)
    if not side:
        return []
    shown: list[Evidence] = []
    drawn: dict[str, int] = {}
    for by, value, here in _cuts(records, frame, cross=False):
        drawn[by] = drawn.get(by, 0) + 1
        if drawn[by] > _MAPS:
            continue
        name = "Mean map over all images" if by == "all" else f"Mean map, {by} {value}"
        shown.append(
            HeatMap(
                title=name, values=maps[here].mean(axis=0).reshape(side, side).tolist(), row_title="top to bottom",
                column_title="left to right", diverging=True,
                caption=f"Mean over {int(here.sum())} images, in the method's own unit.",
            )
        )  # fmt: skip
    return shown


def feature_tables(records: Records, frame: pd.DataFrame, maps: NDArray[Any]) -> tuple[list[Metric], list[Evidence]]:
    """Of rows: how much of each row's attribution (n, features) every feature has, by answer and group, row by row."""
    import numpy as np

    from auditor import statistics

    names = list(records.features) or [f"feature {i}" for i in range(maps.shape[1])]
    size = np.abs(maps)
    total = size.sum(axis=1, keepdims=True)
    share = np.divide(size, total, out=np.full_like(size, np.nan), where=total > 0)
    metrics = [statistics.mean("feature_attribution", share[:, i], unit="fraction", at={"feature": name})
               for i, name in enumerate(names)]  # fmt: skip
    order = sorted(range(len(names)), key=lambda i: (-(metrics[i].value or 0.0), i))[:_FEATURES]
    rows: list[list[Any]] = [
        [names[i], metrics[i].cell(), statistics.mean("mean", maps[:, i], unit="1").cell(), metrics[i].n] for i in order
    ]
    more = "" if len(names) <= _FEATURES else f" The {_FEATURES} largest of {len(names)}."
    evidence: list[Evidence] = [
        Table(
            title="Attribution by feature", columns=["feature", "share", "mean, with its sign", "n"],
            formats=["text", "percent", "number", "count"], rows=rows,
            caption="Share: of the sum of absolute attributions of a row. Mean: in the method's own unit, above zero"
            f" where the feature speaks for the answer.{more}",
        )
    ]  # fmt: skip
    cuts = [(f"{by} {value}".strip(), maps[here].mean(axis=0)[order].tolist(), int(here.sum()))
            for by, value, here in _cuts(records, frame, cross=False)][:_LINES]  # fmt: skip
    if len(cuts) > 1:
        evidence.append(
            HeatMap(
                title="Mean attribution by answer and group", values=[values for _, values, _ in cuts],
                row_labels=[f"{name} ({n})" for name, _, n in cuts], column_labels=[names[i] for i in order],
                diverging=True, caption="In brackets the number of rows; in the method's own unit.",
            )
        )  # fmt: skip
    return sorted(metrics, key=lambda m: -(m.value or 0.0))[:_FEATURES], evidence


def row_table(records: Records, frame: pd.DataFrame, first: Sequence[str], most: int) -> list[Table]:
    """Of rows: some of them with the three features that decide, the ids in ``first`` before the others."""
    import numpy as np

    if not len(frame):
        return []
    turn = {image_id: number for number, image_id in enumerate(first)}
    wrong = frame["prediction"] != frame["label"]
    order = frame.assign(turn=frame["image_id"].map(turn).fillna(len(turn) + 1 - wrong.astype(int)))
    lines: list[list[Any]] = []
    for row in order.sort_values("turn", kind="stable").head(most).itertuples():
        values, attribution = np.asarray(row.values), np.asarray(row.map)
        strongest = np.argsort(-np.abs(attribution), kind="stable")[:3]
        said = "; ".join(f"{records.features[i]} = {values[i]:.4g} ({attribution[i]:+.3g})" for i in strongest)
        lines.append([row.image_id, records.class_name(row.label), records.class_name(row.prediction), said])
    return [
        Table(
            title="Single rows", columns=["row", "label", "answer", "the three strongest features"],
            formats=["text", "text", "text", "text"], rows=lines,
            caption="The worst errors and the easily broken first. In brackets the attribution: above zero the value"
            " speaks for the answer.",
        )
    ]  # fmt: skip


def _cuts(records: Records, frame: pd.DataFrame, *, cross: bool = True) -> Iterator[tuple[str, str, NDArray[Any]]]:
    """All images, those of each answer, those of each group that is large enough: what, which, and where (n,)."""
    import numpy as np

    from auditor.probes.breakdown import groupings

    yield "all", "", np.ones(len(frame), dtype=bool)
    keys = {"answer": frame["answer"].map(records.class_name), **groupings(frame, cross=cross)}
    for key, values in keys.items():
        sizes = values.value_counts()
        if len(sizes) < 2:
            continue
        for value in sorted(str(v) for v, n in sizes.items() if n >= _FEWEST):
            yield key, value, (values.astype(str) == value).to_numpy()

"""How often each cell or feature is attributed, for ``bias.counterfactual-occlusion``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from auditor import HeatMap, Records
from auditor.probes.gaps import clearness

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from auditor import Evidence
    from auditor.probes.breakdown import Comparison

_PREDICTIONS_SHOWN = 4
_FEATURES_SHOWN = 20

Groups = Mapping[str, "NDArray[np.bool_]"]


def region_maps(
    records: Records, cuts: Mapping[str, pd.Series], comparisons: Sequence[Comparison]
) -> tuple[list[Evidence], str]:
    """Return maps of how often each cell is in the region, and a sentence on the most frequent one.

    Maps are over all images, for some predictions and for the extreme groups with the clearest difference. Empty if the
    cells form no square.
    """
    import numpy as np

    named = np.stack(records.frame["named"].to_list()).astype(np.int64)
    count = int(records.frame["cells"].iloc[0])
    side = round(count**0.5)
    tabular = records.kind == "rows"
    if not tabular and side * side != count:
        return [], ""
    member = np.zeros((len(named), count))
    np.put_along_axis(member, named, 1.0, axis=1)
    share = member.mean(axis=0)
    top = int(share.argmax())
    square = f"cell is row {top // side + 1}, column {top % side + 1} of {_article(side)} {side} x {side} grid"
    place = f"feature is {records.features[top]}" if tabular else square
    text = f"The most frequently attributed {place} ({100 * share[top]:.0f} % of the {records.kind})."
    groups = _groups(cuts, comparisons, len(named))
    if tabular:
        return [_feature_map(records, member, share, groups)], text
    return _cell_maps(member, groups, side, named.shape[1] / count), text


def _article(side: int) -> str:
    """Return the indefinite article of a number below 80."""
    return "an" if side in {8, 11, 18} else "a"


def _groups(cuts: Mapping[str, pd.Series], comparisons: Sequence[Comparison], n: int) -> Groups:
    """Return the masks (n,) of the groups to draw, by title."""
    import numpy as np

    wanted = [
        ("prediction", value)
        for comparison in comparisons
        if comparison.grouping == "prediction"
        for value in list(comparison.groups)[:_PREDICTIONS_SHOWN]
    ]
    differing = [c for c in comparisons if c.verdict == "groups differ" and c.grouping != "prediction"]
    if differing:
        clearest = max((gap for comparison in differing for gap in comparison.significant), key=clearness)
        grouping = str(clearest.stratum.at["group"])
        wanted += [(grouping, clearest.group), (grouping, clearest.against)]
    return {"all": np.ones(n, dtype=bool)} | {
        f"{name} {value}": (cuts[name] == value).to_numpy() for name, value in wanted
    }


def _feature_map(records: Records, member: NDArray[np.float64], share: NDArray[np.float64], groups: Groups) -> HeatMap:
    import numpy as np

    order = np.argsort(-share, kind="stable")[:_FEATURES_SHOWN]
    return HeatMap(
        title="Attribution frequency of each feature",
        values=[member[mask].mean(axis=0)[order].tolist() for mask in groups.values()],
        row_labels=list(groups),
        column_labels=[records.features[i] for i in order],
        format="percent",
    )


def _cell_maps(member: NDArray[np.float64], groups: Groups, side: int, expected: float) -> list[Evidence]:
    return [
        HeatMap(
            title=f"Attribution frequency of each cell, {name}",
            values=member[mask].mean(axis=0).reshape(side, side).tolist(),
            row_title="top to bottom",
            column_title="left to right",
            format="percent",
            caption=f"Share of {int(mask.sum())} images; expected by chance: {100 * expected:.0f} %.",
        )
        for name, mask in groups.items()
    ]

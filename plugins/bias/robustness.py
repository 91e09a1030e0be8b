"""Robustness by group: are some people's images easier to attack, or worse under ordinary corruption?
(Nanda et al. 2021, arXiv:2006.12621.) The same cut of the images as ``bias.groups``, over the records of every attack
and corruption; makes no model call of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from auditor import Conclusion, Finding, Meta, Metric, Probe, Records, Table, hookimpl
from auditor.findings.formatting import norm_name, points
from auditor.probes.breakdown import Comparison, compare, groupings
from auditor.probes.levels import size

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from auditor.data.dataset import Batch
    from auditor.model.classifier import Classifier
    from auditor.probes.base import Columns, Randomness

_SHOWN = 60
_SEED = 20260103


@dataclass(frozen=True, kw_only=True)
class RobustnessBias(Probe):
    """Whose images break first?"""

    meta = Meta(
        id="bias.robustness",
        title="Robustness by group",
        area="bias",
        why="Equal accuracy on clean images can hide that one group's images are far easier to turn into errors.",
        references=("https://arxiv.org/abs/2006.12621",),
        needs=frozenset({"labels"}),
        input_kinds=frozenset({"images", "rows"}),
    )
    depends_on: ClassVar[Sequence[str]] = ("attacks.*", "corruptions.*")
    minimum: int = 20
    """Groups with fewer images are listed but not compared."""
    epsilon: float = 8 / 255
    """The L-infinity size at which attacks are compared; the nearest that the attack used is taken."""

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Nothing: all is in the attacks' and corruptions' records."""
        del classifier, batch, rng
        return {}

    def conclude(self, records: Records) -> Conclusion:
        """For each attack and corruption and each grouping, classes included, the share that goes wrong by group."""
        from auditor import statistics

        lost = self._lost(records)
        if not lost:
            return Conclusion(inconclusive="no attack and no corruption was run, so there is nothing to cut by group")
        cuts: list[_Cut] = []
        for probe_id, (what, frame) in lost.items():
            for name, values in (groupings(frame) | {"class": frame["label"].map(records.class_name)}).items():
                comparison = compare(name, frame["lost"], values, self.minimum, metric="robustness_gap")
                gap = replace(comparison.gap, at={"probe": probe_id, "group": name})
                reach = None
                if "distance" in frame:
                    reach = _reach(frame["distance"].to_numpy(), values, comparison, frame["norm"].iloc[0])
                    reach = reach._replace(gap=replace(reach.gap, at={"probe": probe_id, "group": name}))
                cuts.append(_Cut(probe_id, what, name, comparison, gap, reach))
        adjusted = statistics.holm([cut.comparison.p_value for cut in cuts])
        p_values = {(cut.probe_id, cut.grouping): p for cut, p in zip(cuts, adjusted, strict=True)}
        reaching = [cut for cut in cuts if cut.reach is not None]
        tests = statistics.holm([cut.reach.p_value for cut in reaching if cut.reach is not None])
        reach_p = {(cut.probe_id, cut.grouping): p for cut, p in zip(reaching, tests, strict=True)}
        # the largest gap that is demonstrably there comes first
        cuts.sort(key=lambda cut: (cut.gap.value is None, -(cut.gap.low or 0.0), -(cut.gap.value or 0.0)))
        names = dict.fromkeys(cut.grouping for cut in cuts)
        findings = [
            self._finding(records, name, [c for c in cuts if c.grouping == name], p_values, reach_p) for name in names
        ]
        distances = [cut.reach.gap for cut in cuts if cut.reach is not None]
        return Conclusion(metrics=[*(cut.gap for cut in cuts), *distances], findings=findings)

    def _lost(self, records: Records) -> dict[str, tuple[str, pd.DataFrame]]:
        """Per probe what "lost" means, and one row per image that was right: ``lost``, its groups, its distance."""
        import numpy as np

        from auditor.probes.attack import breaking_epsilon

        lost: dict[str, tuple[str, pd.DataFrame]] = {}
        for probe_id, frame in records.others.items():
            columns = set(frame.columns)
            if {"norm", "success", "epsilon"} <= columns:
                norm = "linf" if (frame["norm"] == "linf").any() else str(frame["norm"].iloc[0])
                here = frame[frame["norm"] == norm]
                clean = here[here["epsilon"] == 0].drop_duplicates("image_id")
                if not len(clean):
                    continue
                broken = breaking_epsilon(here)
                sizes = here["epsilon"][here["epsilon"] > 0].unique()
                wanted = self.epsilon if norm == "linf" or not len(sizes) else float(np.median(sizes))
                what = f"broken within {size(norm, wanted)} ({norm_name(norm)})"
                per_image = clean.assign(lost=broken <= wanted + 1e-6, distance=broken)
            elif {"perturbed_prediction", "image_id"} <= columns:
                wrong = (frame["perturbed_prediction"] != frame["label"]).groupby(frame["image_id"]).mean()
                once = frame.drop_duplicates("image_id").set_index("image_id", drop=False)
                what = "wrong under more than half of the levels"
                per_image = once.assign(lost=(wrong.reindex(once.index) > 0.5).to_numpy()).reset_index(drop=True)
            else:
                continue
            right = per_image[(per_image["prediction"] == per_image["label"]).to_numpy()].reset_index(drop=True)
            if len(right):
                lost[probe_id] = (what, right)
        return lost

    def _finding(
        self, records: Records, name: str, cuts: Sequence[_Cut], p_values: Mapping[tuple[str, str], float],
        reach_p: Mapping[tuple[str, str], float],
    ) -> Finding:  # fmt: skip
        """One grouping: every attack and corruption in a table, the largest gap in detail."""
        rows: list[list[Any]] = []
        for cut in cuts:
            p = p_values[cut.probe_id, name]
            reading = "cannot tell" if cut.gap.value is None else "groups differ" if p < 0.05 else "not shown"
            rows.append([cut.probe_id, cut.what, cut.comparison.best, cut.comparison.worst, cut.gap.cell(), cut.gap.n,
                         f"{p:.2g}", reading])  # fmt: skip
        table = Table(
            title=f"Share of right {records.kind} lost, by {name}",
            columns=["probe", "lost means", "loses most", "loses least", "gap", "n", "p (Holm)", "reading"],
            formats=["text", "text", "text", "text", "percent", "count", "text", "text"],
            rows=rows,
            caption=f"Of the {records.kind} that are right without it; the interval allows for having picked the"
            " extremes.",
        )
        first = cuts[0]
        differing = sum(row[-1] == "groups differ" for row in rows)
        if first.gap.value is None:
            statement = f"Cannot tell: fewer than two values of {name} have {self.minimum} {records.kind} or more."
        elif first.comparison.best == first.comparison.worst:
            statement = f"Every group of {name} loses the same share under all {len(cuts)} (n = {first.gap.n})."
        else:
            statement = (
                f"Robustness differs demonstrably by {name} under {differing} of {len(cuts)} attacks and corruptions;"
                f" the clearest gap is under {first.probe_id}, {points(first.gap)}:"
                f" {first.comparison.best} loses most, {first.comparison.worst} least (n = {first.gap.n}; p ="
                f" {p_values[first.probe_id, name]:.2g}, Holm over {len(p_values)} tests)."
            )
        return Finding(
            id=f"{self.meta.id}/{name}", title=f"Robustness by {name}", statement=statement, metric=first.gap,
            evidence=[table, *self._distances(records, name, cuts, reach_p), self._detail(records, first)],
        )  # fmt: skip

    def _distances(
        self, records: Records, name: str, cuts: Sequence[_Cut], p_values: Mapping[tuple[str, str], float]
    ) -> list[Table]:
        """Whose images lie nearest to an error, attack by attack."""
        tables = []
        for norm in dict.fromkeys(cut.reach.gap.unit for cut in cuts if cut.reach is not None):
            rows: list[list[Any]] = []
            for cut in cuts:
                if cut.reach is None or cut.reach.gap.unit != norm or not cut.reach.nearest:
                    continue
                p = p_values[cut.probe_id, name]
                rows.append([cut.probe_id, cut.reach.nearest, cut.reach.medians[cut.reach.nearest].cell(),
                             cut.reach.farthest, cut.reach.medians[cut.reach.farthest].cell(), cut.reach.gap.cell(),
                             cut.reach.gap.n, f"{p:.2g}", "groups differ" if p < 0.05 else "not shown"])  # fmt: skip
            size_format: Any = "n/255" if norm == "linf" and records.kind == "images" else "number"
            if rows:
                tables.append(
                    Table(
                        title=f"Median distance to the error found, by {name} ({norm_name(norm)})",
                        columns=["probe", "nearest", "its median", "farthest", "its median", "gap", "n", "p (Holm)",
                                 "reading"],
                        formats=["text", "text", size_format, "text", size_format, size_format, "count", "text",
                                 "text"],
                        rows=rows,
                        caption="Kruskal-Wallis test over all groups; bootstrap intervals, the gap's allows for having"
                        " picked the extremes. A dash: more than half of the group was never broken.",
                    )
                )  # fmt: skip
        return tables

    def _detail(self, records: Records, cut: _Cut) -> Table:
        rows: list[list[Any]] = []
        groups = sorted(cut.comparison.groups.items(), key=lambda item: -(item[1][0]["value"] or 0))
        for value, (cell, n) in groups[:_SHOWN]:
            row: list[Any] = [value, cell]
            if cut.reach is not None:
                row.append(cut.reach.medians[value].cell() if value in cut.reach.medians else None)
            rows.append([*row, n, "yes" if n >= self.minimum else "too small"])
        more = [] if cut.reach is None else ["median distance found"]
        small = cut.reach is not None and cut.reach.gap.unit == "linf" and records.kind == "images"
        numbers: list[Any] = ["n/255" if small else "number"] * len(more)
        return Table(
            title=f"{cut.probe_id} by {cut.grouping}",
            columns=[cut.grouping, f"share {cut.what}", *more, "n", "compared"],
            formats=["text", "percent", *numbers, "count", "text"],
            rows=rows,
            caption=f"No distance: more than half of the group's {records.kind} were never broken, or it is too small."
            if more
            else "",
        )


class _Cut(NamedTuple):
    """One probe's losses by one grouping."""

    probe_id: str
    what: str
    grouping: str
    comparison: Comparison
    gap: Metric
    reach: _Reach | None


class _Reach(NamedTuple):
    """How far the images of each large group are from the errors found."""

    medians: Mapping[str, Metric]
    nearest: str
    farthest: str
    """Groups with the smallest and the largest median; empty where fewer than two are large."""
    gap: Metric
    p_value: float
    """Kruskal-Wallis: are all distances of one kind? An image that was never broken is farther than all others."""


def _reach(distance: NDArray[np.float64], values: pd.Series, comparison: Comparison, norm: str) -> _Reach:
    """Medians by group with bootstrap intervals, and the gap of the extreme two at a level shared out over all pairs.

    ``distance`` (n,), infinite for an image that was never broken; ``values`` (n,) its groups.
    """
    import numpy as np
    from scipy.stats import kruskal

    from auditor import statistics

    text = values.astype(str).to_numpy()
    parts = {v: distance[text == v] for v in comparison.groups if v not in comparison.small}
    medians = {value: statistics.median("distance_median", part, unit=norm) for value, part in parts.items()}
    n = sum(len(part) for part in parts.values())
    nothing = Metric(name="distance_gap", value=None, n=n, unit=norm)
    if len(parts) < 2:
        return _Reach(medians, "", "", nothing, 1.0)
    order = sorted(parts, key=lambda v: (np.median(parts[v]), v))
    near, far = order[0], order[-1]
    ranks = np.unique(distance, return_inverse=True)[1]
    groups = [ranks[text == value] for value in parts]
    p_value = float(kruskal(*groups).pvalue) if len(np.unique(np.concatenate(groups))) > 1 else 1.0
    middle = [float(np.median(parts[v])) for v in (near, far)]
    if not np.isfinite(middle).all():
        return _Reach(medians, near, far, nothing, p_value)
    rng = np.random.default_rng(_SEED)
    one, other = (np.median(parts[v][rng.integers(0, len(parts[v]), (statistics.RESAMPLES, len(parts[v])))], axis=1)
                  for v in (near, far))  # fmt: skip
    level = 0.05 / (len(parts) * (len(parts) - 1) / 2)
    with np.errstate(invalid="ignore"):
        drawn = np.nan_to_num(other - one, nan=np.inf)
    # "lower"/"higher" keep infinities out of the interpolation, which would turn them into NaN
    low = float(np.quantile(drawn, level / 2, method="lower"))
    high = float(np.quantile(drawn, 1 - level / 2, method="higher"))
    gap = Metric(name="distance_gap", value=middle[1] - middle[0], low=low, high=high, n=n, unit=norm)
    return _Reach(medians, near, far, gap, p_value)


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """Register the probe."""
    return [RobustnessBias]

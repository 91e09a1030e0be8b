"""Robustness by group: are some people's images easier to attack, or worse under ordinary corruption?
(Nanda et al. 2021, arXiv:2006.12621.) The same cut of the images as ``bias.groups``, over the records of every attack
and corruption; makes no model call of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from auditor import Conclusion, Finding, Meta, Metric, Probe, Records, Table, hookimpl
from auditor.families import size
from auditor.finding import percent
from auditor.groups import Comparison, compare, groupings
from auditor.numbers import norm_name

if TYPE_CHECKING:
    import pandas as pd

    from auditor.classifier import Classifier
    from auditor.images import Batch
    from auditor.probe import Columns, Randomness

_SHOWN = 60


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
        takes=frozenset({"images", "rows"}),
    )
    uses: ClassVar[Sequence[str]] = ("attacks.*", "corruptions.*")
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
        from auditor import stats

        lost = self._lost(records)
        if not lost:
            return Conclusion(inconclusive="no attack and no corruption was run, so there is nothing to cut by group")
        cuts: list[_Cut] = []
        for probe_id, (what, frame) in lost.items():
            for name, values in (groupings(frame) | {"class": frame["label"].map(records.class_name)}).items():
                comparison = compare(name, frame["lost"], values, self.minimum, metric="robustness_gap")
                gap = replace(comparison.gap, at={"probe": probe_id, "group": name})
                middle = frame["distance"].groupby(values.to_numpy()).median() if "distance" in frame else None
                cuts.append(_Cut(probe_id, what, name, comparison, gap, middle))
        adjusted = stats.holm([cut.comparison.p_value for cut in cuts])
        p_values = {(cut.probe_id, cut.grouping): p for cut, p in zip(cuts, adjusted, strict=True)}
        # the largest gap that is demonstrably there comes first
        cuts.sort(key=lambda cut: (cut.gap.value is None, -(cut.gap.low or 0.0), -(cut.gap.value or 0.0)))
        names = dict.fromkeys(cut.grouping for cut in cuts)
        findings = [self._finding(name, [c for c in cuts if c.grouping == name], p_values) for name in names]
        return Conclusion(metrics=[cut.gap for cut in cuts], findings=findings)

    def _lost(self, records: Records) -> dict[str, tuple[str, pd.DataFrame]]:
        """Per probe what "lost" means, and one row per image that was right: ``lost``, its groups, its distance."""
        import numpy as np

        from auditor.families import breaking_epsilon

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

    def _finding(self, name: str, cuts: Sequence[_Cut], p_values: Mapping[tuple[str, str], float]) -> Finding:
        """One grouping: every attack and corruption in a table, the largest gap in detail."""
        rows: list[list[Any]] = []
        for cut in cuts:
            p = p_values[cut.probe_id, name]
            reading = "cannot tell" if cut.gap.value is None else "groups differ" if p < 0.05 else "not shown"
            rows.append([cut.probe_id, cut.what, cut.comparison.best, cut.comparison.worst, cut.gap.cell(), cut.gap.n,
                         f"{p:.2g}", reading])  # fmt: skip
        table = Table(
            title=f"Share of right images lost, by {name}",
            columns=["probe", "lost means", "loses most", "loses least", "gap", "n", "p (Holm)", "reading"],
            formats=["text", "text", "text", "text", "percent", "count", "text", "text"],
            rows=rows,
            caption="Of the images that are right without it; the interval allows for having picked the extremes.",
        )
        first = cuts[0]
        differing = sum(row[-1] == "groups differ" for row in rows)
        if first.gap.value is None:
            statement = f"Cannot tell: fewer than two values of {name} have {self.minimum} images or more."
        else:
            statement = (
                f"Robustness differs demonstrably by {name} under {differing} of {len(cuts)} attacks and corruptions;"
                f" the clearest gap is under {first.probe_id}, {percent(first.gap)}: {first.comparison.best} loses"
                f" most, {first.comparison.worst} least (n = {first.gap.n}; p ="
                f" {p_values[first.probe_id, name]:.2g}, Holm over {len(p_values)} tests)."
            )
        return Finding(
            id=f"{self.meta.id}/{name}", title=f"Robustness by {name}", statement=statement, metric=first.gap,
            evidence=[table, self._detail(first)],
        )  # fmt: skip

    def _detail(self, cut: _Cut) -> Table:
        import numpy as np

        rows: list[list[Any]] = []
        groups = sorted(cut.comparison.groups.items(), key=lambda item: -(item[1][0]["value"] or 0))
        for value, (cell, n) in groups[:_SHOWN]:
            row: list[Any] = [value, cell]
            if cut.distance is not None:
                middle = float(cut.distance.get(value, np.nan))
                row.append(middle if np.isfinite(middle) else None)
            rows.append([*row, n, "yes" if n >= self.minimum else "too small"])
        more = [] if cut.distance is None else ["median distance found"]
        numbers: list[Any] = ["number"] * len(more)
        return Table(
            title=f"{cut.probe_id} by {cut.grouping}",
            columns=[cut.grouping, f"share {cut.what}", *more, "n", "compared"],
            formats=["text", "percent", *numbers, "count", "text"],
            rows=rows,
            caption="No distance: more than half of the group's images were never broken." if more else "",
        )


class _Cut(NamedTuple):
    """One probe's losses by one grouping."""

    probe_id: str
    what: str
    grouping: str
    comparison: Comparison
    gap: Metric
    distance: pd.Series | None


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """Register the probe."""
    return [RobustnessBias]

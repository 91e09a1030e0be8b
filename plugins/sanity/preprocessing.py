"""Preprocessing: would the model be better off with another of the usual ones? The same images, asked about again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from auditor import Conclusion, Finding, Meta, Metric, Probe, Records, Table, hookimpl
from auditor.findings.metric import percent

if TYPE_CHECKING:
    from auditor.data.dataset import Batch
    from auditor.model.classifier import Classifier
    from auditor.probes.base import Columns, Randomness


@dataclass(frozen=True, kw_only=True)
class Preprocessing(Probe):
    """Accuracy with every usual preprocessing, each paired with the one in use."""

    meta = Meta(
        id="sanity.preprocessing",
        title="Preprocessing in use against the usual ones",
        area="sanity",
        why="Wrong mean, range or order of channels is the commonest reason for a wrong audit: the model answers, only"
        " worse, and everything that is measured is about a model that nobody will deploy.",
        references=("https://doi.org/10.1007/BF02295996", "https://doi.org/10.1002/sim.1781"),
        needs=frozenset({"labels"}),
    )

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """One row per image and preprocessing; that in use has an empty name."""
        del rng
        import numpy as np

        from auditor.model import presets

        rights = {"": batch.predictions == batch.labels}
        for name, other in presets.others(classifier.preprocessing).items():
            rights[name] = presets.answers(classifier.with_preprocessing(other), batch.pixels) == batch.labels
        return {
            "row": np.tile(np.arange(len(batch)), len(rights)),
            "preprocessing": np.repeat(np.array(list(rights), dtype=object), len(batch)),
            "correct": np.concatenate(list(rights.values())),
        }

    def conclude(self, records: Records) -> Conclusion:
        """What the best other one would gain, with an interval that allows for the picking."""
        from auditor import statistics

        frame = records.frame
        by_name = {str(name): part.set_index("image_id")["correct"] for name, part in
                   frame.groupby("preprocessing", sort=False)} if len(frame) else {}  # fmt: skip
        used = by_name.pop("", None)
        if used is None or not by_name:
            gain = Metric(name="preprocessing_gain", value=None, n=0 if used is None else len(used))
            nothing = Finding(
                id="sanity.preprocessing/best", title="No other preprocessing is usual", metric=gain,
                statement="Cannot tell: no other preprocessing is usual for such an input (n = 0 others).",
            )  # fmt: skip
            return Conclusion(metrics=[gain], findings=[nothing], inconclusive="no other preprocessing is usual here")
        compared = {name: _compare(used, other, len(by_name)) for name, other in by_name.items()}
        adjusted = dict(zip(compared, statistics.holm([c["p"] for c in compared.values()]), strict=True))
        best = max(compared, key=lambda name: (compared[name]["gain"].low or 0.0, compared[name]["gain"].value or 0.0))
        value, low, high = compared[best]["gain"]
        gain = Metric(name="preprocessing_gain", value=value, low=low, high=high, n=len(used), at={"preset": best})
        accuracies = {
            name: statistics.proportion("accuracy", right, at={"preset": name or "in use"})
            for name, right in [("", used), *by_name.items()]
        }
        better = adjusted[best] < 0.05
        statement = (
            f"With {best} the model would be right on {percent(accuracies[best])} of the images, with the preprocessing"
            f" in use it is on {percent(accuracies[''])} (n = {len(used)}; McNemar's exact test, Holm over"
            f" {len(compared)} others: p = {adjusted[best]:.2g})."
        )
        statement += " The preprocessing in use is probably not the one of the training." if better else (
            " No usual preprocessing is significantly better than the one in use.")  # fmt: skip
        rows: list[list[Any]] = [["in use", accuracies[""].cell(), None, None, None, len(used)]]
        for name in sorted(compared, key=lambda name: -(accuracies[name].value or 0.0)):
            c = compared[name]
            rows.append([name, accuracies[name].cell(), c["gained"], c["lost"], adjusted[name], len(used)])
        table = Table(
            title="Accuracy by preprocessing",
            columns=["preprocessing", "accuracy", "right only here", "right only as used", "p, Holm", "n"],
            formats=["text", "percent", "count", "count", "number", "count"], rows=rows,
            caption="p: chance of such an advantage over the preprocessing in use if there were none. Size and crop"
            " stay as they are.",
        )  # fmt: skip
        finding = Finding(
            id="sanity.preprocessing/best", title="Would another preprocessing fit better?", statement=statement,
            metric=gain, evidence=[table],
        )  # fmt: skip
        return Conclusion(metrics=[gain, *accuracies.values()], findings=[finding])


def _compare(used: Any, other: Any, others: int) -> Mapping[str, Any]:
    """The images that only one of two gets right; the interval holds for all ``others`` at once (Bonferroni)."""
    from auditor import statistics

    other = other.reindex(used.index)
    gained, lost = int((other & ~used).sum()), int((used & ~other).sum())
    interval = statistics.matched(gained, lost, len(used), confidence=1 - 0.05 / others)
    return {"gained": gained, "lost": lost, "gain": interval, "p": statistics.mcnemar(gained, lost)}


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """Register the probe."""
    return [Preprocessing]

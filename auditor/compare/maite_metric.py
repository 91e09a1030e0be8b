"""A number of a finished audit as a metric of MAITE (protocol of MAITE 0.10), so that MAITE's tasks report it.

The metric is the mean over the images that ``update`` names by the ids in their metadata. What the audit measured on
each of them decides; predictions and targets are not read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auditor import statistics
from auditor.compare.pairing import image_values, metric_key
from auditor.compare.runs import CannotCompare, open_run
from auditor.errors import BadInput
from auditor.findings.record import MetricRecord
from auditor.plugin.registry import load

if TYPE_CHECKING:
    import pandas as pd


@dataclass(kw_only=True)
class MaiteMetric:
    """A metric of MAITE with the results of an audit."""

    metadata: Mapping[str, str]
    """The id: probe, metric and setting."""
    metric: MetricRecord
    """The number over all images of the audit."""
    values: pd.Series
    """Each image's contribution by id; NaN for an image that does not count."""
    units: pd.Series | None = None
    """The unit of each image (patient, person, video) by id; None if the data states none."""
    _ids: list[str] = field(default_factory=list)

    def reset(self) -> None:
        """Forget the images."""
        self._ids.clear()

    def update(
        self, pred_batch: Sequence[Any], target_batch: Sequence[Any], metadata_batch: Sequence[Mapping[str, Any]], /
    ) -> None:
        """Add the images that the ids in ``metadata_batch`` name."""
        del pred_batch, target_batch
        self._ids += [str(about["id"]) for about in metadata_batch]

    def compute(self) -> Mapping[str, float | int | None]:
        """Return value, low and high (95 % interval) and n over the images, and how many were not audited.

        The numbers are None without an image that counts.
        """
        ids = list(dict.fromkeys(self._ids))
        known = [image_id for image_id in ids if image_id in self.values.index]
        values = self.values.loc[known].astype(float).dropna()
        units = None if self.units is None else self.units.loc[list(values.index)].to_numpy()
        name, unit = self.metric["name"], self.metric["unit"]
        if values.isin([0.0, 1.0]).all():
            found = statistics.proportion(name, values.astype(bool).to_numpy(), units=units)
        else:
            found = statistics.mean(name, values.to_numpy(), unit=unit, units=units, share=unit == "fraction")
        return {
            "value": found.value if found.n else None,
            "low": found.low if found.n else None,
            "high": found.high if found.n else None,
            "n": found.n,
            "not_audited": len(ids) - len(known),
        }


def maite_metric(folder: Path, probe_id: str, metric: MetricRecord) -> MaiteMetric:
    """Return a metric of a run as one of MAITE. Raises BadInput if it is no mean over images."""
    run = open_run("A", folder)
    try:
        values = image_values(run, probe_id, load())
    except CannotCompare as error:
        raise BadInput(f"{folder}: {probe_id} {error}") from None
    key = metric_key(metric)
    if key not in values:
        means = ", ".join(sorted({name for name, _ in values})) or "none"
        raise BadInput(
            f"{folder}: {metric['name']} of {probe_id} is no mean over images, so it is no metric of MAITE; expected"
            f" one of: {means}"
        )
    texts = [probe_id, metric["name"], *(f"{name}={value}" for name, value in metric["at"].items())]
    return MaiteMetric(metadata={"id": " ".join(texts)}, metric=metric, values=values[key], units=run.units)

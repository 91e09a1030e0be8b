"""Large losses of accuracy under attacks and corruptions that no rule of the policy judged.

They are named on page one and in the verdict: that nothing judged has failed says little next to a change that leaves
no accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from auditor.findings import formatting
from auditor.findings.record import MetricRecord, ProbeRecord, spec_of

LARGE = 0.3
"""A loss of at least this much, by its interval, is named."""


class UnjudgedLoss(NamedTuple):
    """A large loss, and why it was not judged."""

    probe: ProbeRecord
    metric: MetricRecord
    reason: str

    @property
    def text(self) -> str:
        """Describe the loss: ``robust accuracy falls from 98.8 % to 0.3 % [0.1, 1.9] at rotation 30 (n = 300)``."""
        spec = spec_of(self.probe, self.metric)
        return (
            f"{formatting.lower(spec['label'])} falls from {formatting.formatted(self.metric['clean'], 'percent')} to"
            f" {formatting.measured(self.metric, spec)}{formatting.place(self.metric['at'])} (n = {self.metric['n']})"
        )


def unjudged_losses(probes: Sequence[ProbeRecord]) -> list[UnjudgedLoss]:
    """Return the large losses that no rule judged, the largest first.

    Of each probe the loss at the smallest perturbation of the most harmful kind, and of several attacks in the same
    norm the most harmful one. Left out are sizes in a norm of which the policy judges some size, probes that failed at
    severity medium or above, and those that a failed check invalidated.
    """
    found = [loss for probe in probes if (loss := _largest(probe)) is not None]
    largest_first = sorted(found, key=lambda loss: -_lost(loss.metric))
    by_norm = {loss.metric["at"].get("norm", loss.probe["id"]): loss for loss in reversed(largest_first)}
    return [loss for loss in largest_first if loss in by_norm.values()]


def _largest(probe: ProbeRecord) -> UnjudgedLoss | None:
    if probe.get("invalidated_by") or probe["severity"] not in ("none", "low"):
        return None
    places = [entry["at"] for entry in probe.get("judgements", [])]
    norms = {place["norm"] for place in places if "norm" in place}
    open_ones = [
        metric
        for metric in probe["metrics"]
        if _lost(metric) >= LARGE and metric["at"] not in places and metric["at"].get("norm") not in norms
    ]
    if not open_ones:
        return None
    worst = max(open_ones, key=_lost)
    same_kind = [metric for metric in open_ones if _kind(metric["at"]) == _kind(worst["at"])]
    first = min(same_kind, key=_size)
    where = {formatting.measured_at(place) for place in places if place}
    reason = "the policy has no threshold at this level" if where else "the policy has no threshold for it"
    if len(where) == 1:
        reason = f"the policy judges this probe only at {min(where)}"
    return UnjudgedLoss(probe, first, reason)


def _lost(metric: MetricRecord) -> float:
    """Return the loss from the clean accuracy, by the end of the interval that is nearer to it."""
    high = metric["high"] if metric["high"] is not None else metric["value"]
    return 0.0 if high is None or "clean" not in metric else metric["clean"] - high


def _kind(at: object) -> tuple[tuple[str, str], ...]:
    """Return the texts of a setting: norm, corruption, fill."""
    items = at.items() if isinstance(at, dict) else ()
    return tuple(sorted((key, value) for key, value in items if isinstance(value, str)))


def _size(metric: MetricRecord) -> float:
    """Return the size of a perturbation; a higher SNR is a smaller one."""
    numbers = {k: float(v) for k, v in metric["at"].items() if isinstance(v, int | float)}
    return -numbers["snr"] if "snr" in numbers else sum(numbers.values())

"""Accepted findings: failures that a named person accepts, with a justification and an expiry date.

An acceptance changes no number and no status. The failure remains in the report, marked as accepted. It does not count
towards the verdict until it expires, unless it becomes more severe than what was accepted.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, cast

from auditor.findings.finding import SEVERITIES, Severity
from auditor.findings.metric import Scalar
from auditor.findings.record import AcceptanceRecord, AcceptanceStateRecord, MetricRecord, ProbeRecord
from auditor.toml import Text


@dataclass(frozen=True, kw_only=True)
class Acceptance:
    """One accepted failure."""

    probe: Text
    """Id of the probe."""
    severity: Literal["low", "medium", "high", "critical"]
    """The worst severity that is accepted; a worse one counts."""
    justification: Text
    author: Text
    expires: dt.date
    """The last day on which the acceptance holds."""
    metric: str = ""
    """Only failures of this metric; all metrics of the probe by default."""
    at: Mapping[str, Scalar] = field(default_factory=dict)
    """Only metrics measured at this, for example ``{"group": "sex"}``."""

    def covers(self, metric: MetricRecord, severity: Severity, today: dt.date) -> bool:
        """Whether a failure of ``metric`` at this severity is accepted on the day ``today``."""
        return (
            today <= self.expires
            and self.metric in ("", metric["name"])
            and at_matches(self.at, metric["at"])
            and SEVERITIES.index(severity) <= SEVERITIES.index(self.severity)
        )

    def plain(self) -> AcceptanceRecord:
        """The acceptance as recorded in audit.json."""
        return cast(AcceptanceRecord, {**asdict(self), "at": dict(self.at), "expires": self.expires.isoformat()})


def states(
    acceptances: Sequence[Acceptance], probes: Sequence[ProbeRecord], today: dt.date
) -> list[AcceptanceStateRecord]:
    """Every acceptance with its state: "holds", "expired", or "unused" if nothing failed that it covers."""
    used = [entry for probe in probes for entry in probe.get("accepted", ())]
    found: list[AcceptanceStateRecord] = []
    for acceptance in acceptances:
        entry = acceptance.plain()
        held = any({**each, **entry} == each for each in used)
        state: Literal["expired", "holds", "unused"] = "holds" if held else "unused"
        found.append({**entry, "state": "expired" if today > acceptance.expires else state})
    return found


def at_matches(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Whether a metric's ``at`` contains all of ``wanted``, up to the rounding of audit.json."""

    def equal(a: Any, b: Any) -> bool:
        numbers = isinstance(a, int | float) and isinstance(b, int | float)
        return math.isclose(a, b, rel_tol=1e-2) if numbers else a == b

    return all(key in found and equal(value, found[key]) for key, value in wanted.items())

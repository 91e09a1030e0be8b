"""Accepted findings: failures that somebody answers for, with a reason and until a day.

An acceptance changes no number and no status. The failure stays in the report, named as accepted; it only does not
count towards the verdict, as long as it is not worse than what was accepted, and until the day is over.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, cast

from auditor.errors import BadInput
from auditor.findings.finding import SEVERITIES, Severity
from auditor.findings.record import AcceptanceRecord, AcceptanceStateRecord, MetricRecord, ProbeRecord
from auditor.toml import refuse_unknown

_TEXTS = ("probe", "severity", "justification", "author")
_KEYS = {*_TEXTS, "metric", "at", "expires"}


@dataclass(frozen=True, kw_only=True)
class Acceptance:
    """One accepted failure."""

    probe: str
    severity: Severity
    """The worst outcome that is accepted; a worse one counts."""
    justification: str
    author: str
    expires: dt.date
    """The last day on which it holds."""
    metric: str = ""
    """Only failures of this metric; empty for all of the probe."""
    at: Mapping[str, Any] = field(default_factory=dict)
    """Only where it was measured at this, for example ``{"group": "sex"}``."""

    def covers(self, metric: MetricRecord, severity: Severity, today: dt.date) -> bool:
        """Whether a failure of this severity in a number of the probe is accepted today."""
        return (
            today <= self.expires
            and self.metric in ("", metric["name"])
            and at_matches(self.at, metric["at"])
            and SEVERITIES.index(severity) <= SEVERITIES.index(self.severity)
        )

    def plain(self) -> AcceptanceRecord:
        """As it stands in audit.json."""
        return cast(AcceptanceRecord, {**asdict(self), "at": dict(self.at), "expires": self.expires.isoformat()})


def read_acceptance(entry: Mapping[str, Any], where: str) -> Acceptance:
    """One ``[[accepted]]`` table of a policy. Raises BadInput: it must say what, why, by whom and until when."""
    refuse_unknown(entry, _KEYS, where)
    for key in _TEXTS:
        if not (isinstance(entry.get(key), str) and entry[key].strip()):
            raise BadInput(
                f"{where}: has no {key}; an accepted finding says probe, severity, justification, author and expires"
            )
    if entry["severity"] not in SEVERITIES[1:]:
        raise BadInput(f"{where}: severity is {entry['severity']!r}; expected one of {', '.join(SEVERITIES[1:])}")
    expires = entry.get("expires")
    if type(expires) is not dt.date:
        raise BadInput(f"{where}: expires is {expires!r}; expected a date such as 2030-01-31, without quotes")
    if not isinstance(entry.get("metric", ""), str) or not isinstance(entry.get("at", {}), dict):
        raise BadInput(f"{where}: metric must be a name and at a table such as {{ group = 'sex' }}")
    return Acceptance(
        probe=entry["probe"], severity=cast(Severity, entry["severity"]), justification=entry["justification"],
        author=entry["author"], expires=expires, metric=entry.get("metric", ""), at=entry.get("at", {}),
    )  # fmt: skip


def states(
    acceptances: Sequence[Acceptance], probes: Sequence[ProbeRecord], today: dt.date
) -> list[AcceptanceStateRecord]:
    """Every acceptance with what became of it: it holds, it has expired, or nothing failed that it speaks of."""
    used = [entry for probe in probes for entry in probe.get("accepted", ())]
    found: list[AcceptanceStateRecord] = []
    for acceptance in acceptances:
        entry = acceptance.plain()
        held = any({**each, **entry} == each for each in used)
        state: Literal["expired", "holds", "unused"] = "holds" if held else "unused"
        found.append({**entry, "state": "expired" if today > acceptance.expires else state})
    return found


def at_matches(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Whether a number was measured at what is wanted, up to the rounding of audit.json."""

    def equal(a: Any, b: Any) -> bool:
        numbers = isinstance(a, int | float) and isinstance(b, int | float)
        return math.isclose(a, b, rel_tol=1e-2) if numbers else a == b

    return all(key in found and equal(value, found[key]) for key, value in wanted.items())

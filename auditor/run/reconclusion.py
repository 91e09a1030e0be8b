"""Conclude the probes of a finished run again from their records, and find where audit.json says otherwise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from auditor.errors import AuditorError, NotApplicable, one_line
from auditor.findings.finding import Status
from auditor.findings.record import ProbeRecord
from auditor.plugin.registry import Registry
from auditor.probes.base import Probe, Records
from auditor.run.concluding import conclude
from auditor.run.folder import Cost
from auditor.run.record import probe_record
from auditor.run.stored import StoredRun

_TOLERANCE = 1e-5
"""Relative; audit.json keeps six digits, and the last one depends on the machine."""


@dataclass(frozen=True)
class Concluded:
    """A probe concluded again, before the policy judges it."""

    record: ProbeRecord
    problem: str = ""
    """Why the records do not decide; the record is then that of audit.json."""


def conclude_again(run: StoredRun, plugins: Registry) -> list[Concluded]:
    """Conclude every probe of audit.json from its records."""
    settings = run.manifest["settings"]
    probes: dict[str, Probe] = {}
    problems: dict[str, str] = {}
    for probe_id in settings:
        try:
            probes[probe_id] = plugins.configure(probe_id, settings[probe_id], where="manifest.json")
        except (AuditorError, KeyError) as error:
            problems[probe_id] = f"not installed with these settings: {one_line(error)}"
    found = []
    for published in run.audit["probes"]:
        probe = probes.get(published["id"])
        if probe is None:
            reason = problems.get(published["id"], "manifest.json has no settings of it")
            found.append(Concluded(published, reason))
        else:
            found.append(_concluded(run, probe, list(probes.values()), published))
    return found


def _concluded(run: StoredRun, probe: Probe, probes: Sequence[Probe], published: ProbeRecord) -> Concluded:
    calls = published["model_calls"]
    cost = Cost(published["seconds"], calls["forward"], calls["backward"])

    def ended(status: Status, reason: str) -> Concluded:
        return Concluded(probe_record(probe, cost, status=status, reason=reason))

    try:
        records = run.records(probe, probes)
        if published["status"] == "error" and _broke(run, probe, records):
            return Concluded(published, "the probe broke in the run")
        if records.frame.empty:
            return _without_rows(probe, cost, published)
        # a probe may return no row for some images, so the rows only limit the stated number
        measured = max(records.frame["image_id"].nunique(), min(published["n"], len(run.images)))
        left_out, note = published.get("left_out", []), published.get("note", "")
        units = run.unit_of is not None
        return Concluded(conclude(probe, records, cost, measured=measured, units=units, left_out=left_out, note=note))
    except NotApplicable as error:
        return ended("not-applicable", str(error))
    except Exception as error:
        # an exception is the result of the probe, as in the run
        return ended("error", one_line(error))


def _broke(run: StoredRun, probe: Probe, records: Records) -> bool:
    """Whether the run left a traceback of the probe, or too few rows for a result."""
    traceback = run.folder / "records" / probe.meta.id / "error.txt"
    planned = len(run.order[: probe.samples or None])
    return traceback.is_file() or records.frame["image_id"].nunique() < planned


def _without_rows(probe: Probe, cost: Cost, published: ProbeRecord) -> Concluded:
    """Return a record without numbers: the probe did not apply, or there was no time for one image."""
    if published["status"] == "not-applicable":
        return Concluded(probe_record(probe, cost, status="not-applicable", reason=published["reason"]))
    return Concluded(probe_record(probe, cost, caveat=published.get("caveat", "") or "no image was measured"))


def difference(published: Any, concluded: Any, place: str = "") -> str:
    """Name the first place at which two JSON values differ, with both values; empty if they agree."""
    if isinstance(published, dict) and isinstance(concluded, dict):
        for key in [*concluded, *(key for key in published if key not in concluded)]:
            if key not in published or key not in concluded:
                return f"{place}{key} is {'missing' if key in concluded else 'not part of the result'}"
            if found := difference(published[key], concluded[key], f"{place}{key}."):
                return found
        return ""
    if isinstance(published, list) and isinstance(concluded, list):
        if len(published) != len(concluded):
            return f"{place.rstrip('.')} has {len(published)} entries, the records give {len(concluded)}"
        pairs = enumerate(zip(published, concluded, strict=True))
        return next((text for i, (a, b) in pairs if (text := difference(a, b, f"{place}{i}."))), "")
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (published, concluded))
    same = math.isclose(published, concluded, rel_tol=_TOLERANCE) if numbers else _equal(published, concluded)
    return "" if same else f"{place.rstrip('.')} is {_short(published)}, the records give {_short(concluded)}"


def _equal(a: Any, b: Any) -> bool:
    # True equals 1 in Python, not in JSON
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."

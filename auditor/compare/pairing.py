"""Compare one probe over all runs, on the images that it measured in all of them."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from auditor.compare.differences import compare_values
from auditor.compare.overlay import overlay
from auditor.compare.runs import CannotCompare, MetricKey, ProbeResult, Run, first_record
from auditor.compare.sides import sides
from auditor.errors import AuditorError
from auditor.findings.comparison_record import ComparedMetricRecord, ComparedProbeRecord, ValueRecord
from auditor.findings.encoding import plain
from auditor.findings.metric import Scalar
from auditor.findings.record import FindingRecord, MetricRecord, ProbeRecord
from auditor.plugin.registry import Registry
from auditor.probes.base import Probe, Records, no_examples
from auditor.run.folder import read_rows
from auditor.run.selection import depends_on

if TYPE_CHECKING:
    import pandas as pd

_NOT_MEASURED = ("not-applicable", "error")

_SAMPLING_SETTINGS = ("samples",)
"""Settings that only choose the images; the common ones are compared anyway."""


def compare_probe(
    runs: Sequence[Run], probe_id: str, common: set[str] | None, plugins: Registry
) -> ComparedProbeRecord:
    """Compare one probe over all runs; ``common`` holds the ids of the common images, None for all."""
    first = first_record(runs, probe_id)
    entry: ComparedProbeRecord = {
        "id": probe_id,
        "title": first["title"],
        "area": first["area"],
        "status": [run.probes[probe_id]["status"] if probe_id in run.probes else None for run in runs],
        "severity": [run.probes[probe_id]["severity"] if probe_id in run.probes else None for run in runs],
        "reason": "",
        "metric_specs": first.get("metric_specs", []),
        "metrics": [],
        "curves": [],
        "sides": sides(runs, probe_id),
    }
    try:
        results = _results(runs, probe_id, common, plugins)
    except CannotCompare as reason:
        return {**entry, "reason": str(reason)}
    metrics = list(_metrics(runs, results))
    return {
        **entry,
        "reason": "" if metrics else "has no metric in common",
        "metrics": metrics,
        "curves": list(overlay(runs, results)),
    }


def image_values(run: Run, probe_id: str, plugins: Registry) -> Mapping[MetricKey, pd.Series]:
    """Return the contribution of each image to the metrics of a probe that are means over images, by image id.

    Raises CannotCompare if the run folder does not tell.
    """
    probe = _configured(plugins, probe_id, run.probes[probe_id])
    if probe is None:
        raise CannotCompare("is not installed")
    records = _records(run, probe, None)
    if records is None:
        raise CannotCompare("has no rows in the run folder")
    return _result_of(run, probe, records, complete=True).values


def metric_key(metric: MetricRecord) -> MetricKey:
    """Return the key of a metric among those of its probe."""
    return _key(metric["name"], metric["at"])


def _metrics(runs: Sequence[Run], results: Sequence[ProbeResult]) -> Iterator[ComparedMetricRecord]:
    """Compare the metrics that every run has.

    L1 and L2 sizes depend on the resolution, so they are left out if the input shapes differ.
    """
    shapes = {tuple(run.audit["model"]["input"]["shape"][1:]) for run in runs}
    first_key = _key_metric(results)
    for key in results[0].metrics:
        if not all(key in result.metrics for result in results):
            continue
        metrics = [result.metrics[key] for result in results]
        if len(shapes) > 1 and {metrics[0]["unit"], str(metrics[0]["at"].get("norm"))} & {"l1", "l2"}:
            continue
        headline = key == first_key
        pairs = itertools.combinations(range(len(runs)), 2) if headline or len(runs) == 2 else ()
        values = [result.values.get(key) for result in results]
        units = next((run.units for run in runs if run.units is not None), None)
        yield {
            "name": metrics[0]["name"],
            "at": metrics[0]["at"],
            "unit": metrics[0]["unit"],
            "headline": headline,
            "values": [_value(metric) for metric in metrics],
            "pairs": [compare_values(pair, metrics, values, units) for pair in pairs],
        }


def _key_metric(results: Sequence[ProbeResult]) -> MetricKey | None:
    """Return the key metric, the first of a probe, or the first of the same name that every run has.

    The clearest gap of one run may be between groups that have no gap in another; another metric cannot replace it.
    """
    name = next((name for name, _ in results[0].metrics), None)
    common = (key for key in results[0].metrics if all(key in result.metrics for result in results))
    return next((key for key in common if key[0] == name), None)


def _value(metric: MetricRecord) -> ValueRecord:
    return {"value": metric["value"], "low": metric["low"], "high": metric["high"], "n": metric["n"]}


def _results(runs: Sequence[Run], probe_id: str, common: set[str] | None, plugins: Registry) -> list[ProbeResult]:
    """Return the result of every run on the images that the probe measured in all of them.

    Raises CannotCompare if there is none, or if the settings differ.
    """
    _refuse_missing(runs, probe_id)
    _refuse_other_settings(runs, probe_id)
    probe = _configured(plugins, probe_id, first_record(runs, probe_id))
    if probe is None:
        return _published_results(runs, probe_id, common, "is not installed")
    if probe.depends_on:
        _refuse_other_dependencies(runs, probe)
    records = [records for run in runs if (records := _records(run, probe, common)) is not None]
    if len(records) < len(runs):
        return _published_results(runs, probe_id, common, "has no rows in the run folder")
    ids = [set(each.frame["image_id"]) for each in records]
    shared = set.intersection(*ids)
    if not shared:
        raise CannotCompare("measured no image that is in every run")
    return [
        _result_of(run, probe, _restrict(each, shared), complete=len(own) == len(shared))
        for run, each, own in zip(runs, records, ids, strict=True)
    ]


def _refuse_missing(runs: Sequence[Run], probe_id: str) -> None:
    for run in runs:
        if probe_id not in run.probes:
            raise CannotCompare(f"was not run in {run.name}")
        probe = run.probes[probe_id]
        if probe["status"] in _NOT_MEASURED:
            raise CannotCompare(f"{probe['status'].replace('-', ' ')} in {run.name}: {probe['reason']}")


def _refuse_other_settings(runs: Sequence[Run], probe_id: str) -> None:
    settings = {run.name: run.probes[probe_id]["settings"] for run in runs}
    names = sorted({name for each in settings.values() for name in each} - set(_SAMPLING_SETTINGS))
    parts = []
    for name in names:
        values = {run: json.dumps(each.get(name), sort_keys=True) for run, each in settings.items()}
        if len(set(values.values())) > 1:
            parts.append(f"{name}: " + ", ".join(f"{run} {value}" for run, value in values.items()))
    if parts:
        raise CannotCompare(f"its settings differ ({'; '.join(parts)})")


def _refuse_other_dependencies(runs: Sequence[Run], probe: Probe) -> None:
    """Refuse a probe if the probes that it depends on ran with different settings."""
    settings = [
        {
            probe_id: json.dumps({k: v for k, v in record["settings"].items() if k not in _SAMPLING_SETTINGS})
            for probe_id, record in _dependencies(run, probe).items()
        }
        for run in runs
    ]
    other = sorted({i for each in settings for i in each if len({e.get(i) for e in settings}) > 1})
    if other:
        raise CannotCompare(f"depends on {', '.join(other)}, which did not run with the same settings in every run")


def _dependencies(run: Run, probe: Probe) -> dict[str, ProbeRecord]:
    """Return the measured probes of a run whose records ``probe`` reads."""
    return {
        probe_id: record
        for probe_id, record in run.probes.items()
        if record["status"] not in _NOT_MEASURED and depends_on(probe, probe_id)
    }


def _configured(plugins: Registry, probe_id: str, record: ProbeRecord) -> Probe | None:
    """Return the probe with its settings, or None if it is no longer installed or has other settings now."""
    try:
        if not plugins.has(probe_id):
            return None
        return plugins.configure(probe_id, record["settings"], where="audit.json")
    except AuditorError:
        return None


def _published_results(runs: Sequence[Run], probe_id: str, common: set[str] | None, problem: str) -> list[ProbeResult]:
    """Return the results of audit.json; they are comparable only if every run measured the same images."""
    if common is not None or len({run.probes[probe_id]["n"] for run in runs}) > 1:
        raise CannotCompare(f"measured other images in each run, and the probe {problem}, so it cannot be restricted")
    return [_result(run.probes[probe_id]["metrics"], run.probes[probe_id]["findings"]) for run in runs]


def _result_of(run: Run, probe: Probe, records: Records, *, complete: bool) -> ProbeResult:
    """Return a run's result on restricted records; audit.json has it if the records are ``complete``."""
    published = run.probes[probe.meta.id]
    try:
        if complete and len(set(records.frame["image_id"])) == published["n"]:
            result = _result(published["metrics"], published["findings"])
        else:
            conclusion = probe.conclude(records)
            result = _result(plain(conclusion.metrics), plain(conclusion.findings))
        result.values = {
            _key(each.name, plain(each.at)): each.values
            for each in probe.per_image(records)
            if each.values.index.is_unique
        }
    except Exception as error:
        raise CannotCompare(f"could not be concluded from {run.name}: {type(error).__name__}: {error}") from None
    return result


def _records(run: Run, probe: Probe, common: set[str] | None) -> Records | None:
    """Read the records of a probe and of those that it depends on; None if some are missing."""
    ids = [probe.meta.id, *_dependencies(run, probe)]
    frames = {i: read_rows(run.folder, i, run.keys.get(i)) for i in ids}
    if run.units is not None:
        frames = {i: f if f is None else f.assign(unit=f["image_id"].map(run.units)) for i, f in frames.items()}
    known = {i: frame for i, frame in frames.items() if frame is not None}
    if len(known) < len(frames):
        return None
    records = Records(
        frame=known.pop(probe.meta.id),
        examples=no_examples(),
        classes=run.audit["model"]["classes"],
        labelled=run.audit["data"]["labelled"],
        others=known,
    )
    return records if common is None else _restrict(records, common)


def _restrict(records: Records, ids: Collection[str]) -> Records:
    """Keep the rows of these images."""
    others = {probe_id: _rows_of(frame, ids) for probe_id, frame in records.others.items()}
    return dataclasses.replace(records, frame=_rows_of(records.frame, ids), others=others)


def _rows_of(frame: pd.DataFrame, ids: Collection[str]) -> pd.DataFrame:
    return frame[frame["image_id"].isin(ids)].reset_index(drop=True)


def _result(metrics: Sequence[MetricRecord], findings: Sequence[FindingRecord]) -> ProbeResult:
    return ProbeResult({_key(metric["name"], metric["at"]): metric for metric in metrics}, list(findings))


def _key(name: str, at: Mapping[str, Scalar]) -> MetricKey:
    return name, json.dumps(at, sort_keys=True)

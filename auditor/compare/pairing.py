"""Pair two runs image by image and test the differences."""

from __future__ import annotations

import dataclasses
import fnmatch
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from auditor import statistics
from auditor.compare.runs import Part
from auditor.errors import AuditorError
from auditor.findings.encoding import plain
from auditor.plugin.registry import Registry
from auditor.probes.base import Probe, Records, no_examples
from auditor.run.folder import read_rows

if TYPE_CHECKING:
    import pandas as pd
from auditor.compare.overlay import overlay
from auditor.compare.runs import CannotCompare, Run, first_record
from auditor.compare.verdict import outcome_of

_NOT_MEASURED = ("not-applicable", "error")
_CHANGES_NOTHING = ("samples",)
"""Settings that choose images alone; only the common ones are compared."""


def compare_probe(
    runs: Sequence[Run], probe_id: str, common: set[str] | None, plugins: Registry
) -> dict[str, Any]:  # fmt: skip
    """Compare one probe over all runs."""
    about = first_record(runs, probe_id)
    entry: dict[str, Any] = {
        "id": probe_id,
        "title": about["title"],
        "area": about["area"],
        "status": [run.probes[probe_id]["status"] if probe_id in run.probes else None for run in runs],
        "severity": [run.probes[probe_id]["severity"] if probe_id in run.probes else None for run in runs],
        "reason": "",
        "metrics": [],
        "curves": [],
    }
    try:
        _refuse_other_settings(runs, probe_id)
        probe = _probe(plugins, probe_id, about)
        if probe is not None and probe.depends_on:
            _refuse_other_base(runs, probe)
        parts = _parts(runs, probe, probe_id, common)
    except CannotCompare as why:
        return entry | {"reason": str(why)}
    shapes = {tuple(run.audit["model"]["input"]["shape"][1:]) for run in runs}
    everywhere = [key for key in parts[0].metrics if all(key in part.metrics for part in parts)]
    for position, key in enumerate(everywhere):
        metrics = [part.metrics[key] for part in parts]
        headline = position == 0 and key == next(iter(parts[0].metrics))
        if len(shapes) > 1 and {metrics[0]["unit"], str(metrics[0]["at"].get("norm"))} & {"l1", "l2"}:
            continue
        pairs = itertools.combinations(range(len(runs)), 2) if headline or len(runs) == 2 else ()
        entry["metrics"].append(
            {
                **{name: metrics[0][name] for name in ("name", "at", "unit")},
                "headline": headline,
                "values": [{name: metric[name] for name in ("value", "low", "high", "n")} for metric in metrics],
                "pairs": [_pair(i, j, metrics, [part.values.get(key) for part in parts]) for i, j in pairs],
            }
        )
    if not entry["metrics"]:
        entry["reason"] = "has no metric in common"
    entry["curves"] = list(overlay(runs, parts))
    return entry


def _refuse_other_settings(runs: Sequence[Run], probe_id: str) -> None:
    for run in runs:
        if probe_id not in run.probes:
            raise CannotCompare(f"was not run in {run.name}")
        probe = run.probes[probe_id]
        if probe["status"] in _NOT_MEASURED:
            raise CannotCompare(f"{probe['status'].replace('-', ' ')} in {run.name}: {probe['reason']}")
    settings = [run.probes[probe_id]["settings"] for run in runs]
    names = sorted({name for each in settings for name in each} - set(_CHANGES_NOTHING))
    other = [name for name in names if len({json.dumps(each.get(name), sort_keys=True) for each in settings}) > 1]
    if other:
        said = "; ".join(
            f"{name}: " + ", ".join(f"{run.name} {json.dumps(each.get(name))}" for run, each in zip(runs, settings,
                                                                                                strict=True))
            for name in other
        )  # fmt: skip
        raise CannotCompare(f"its settings differ ({said})")


def _refuse_other_base(runs: Sequence[Run], probe: Probe) -> None:
    """A probe that rests on other probes' rows compares only where these are the same probes with the same settings."""
    bases = [
        {
            probe_id: json.dumps({k: v for k, v in record["settings"].items() if k not in _CHANGES_NOTHING})
            for probe_id, record in _bases(run, probe).items()
        }
        for run in runs
    ]
    other = sorted({i for base in bases for i in base if len({each.get(i) for each in bases}) > 1})
    if other:
        raise CannotCompare(f"rests on {', '.join(other)}, which did not run with the same settings everywhere")


def _bases(run: Run, probe: Probe) -> dict[str, dict[str, Any]]:
    """The probes of a run whose rows ``probe`` reads."""
    return {
        probe_id: record
        for probe_id, record in run.probes.items()
        if record["status"] not in _NOT_MEASURED and any(fnmatch.fnmatch(probe_id, glob) for glob in probe.depends_on)
    }


def _probe(plugins: Registry, probe_id: str, record: Mapping[str, Any]) -> Probe | None:
    """The probe as it was set, or None where it is not installed (any more) as it was."""
    if probe_id not in plugins.probes:
        return None
    try:
        return plugins.configure(probe_id, record["settings"], where="audit.json")
    except AuditorError:
        return None


def _parts(runs: Sequence[Run], probe: Probe | None, probe_id: str, common: set[str] | None) -> list[Part]:
    """The metrics of every run on the images that this probe measured in all of them, and each image's share."""
    records = [None if probe is None else _records(run, probe, common) for run in runs]
    if probe is None or any(record is None for record in records):
        if common is not None or len({run.probes[probe_id]["n"] for run in runs}) > 1:
            why = "is not installed" if probe is None else "has no rows in the run folder"
            raise CannotCompare(f"measured other images in each run, and the probe {why}, so it cannot be restricted")
        return [_part(run.probes[probe_id]["metrics"], run.probes[probe_id]["findings"]) for run in runs]
    whole = [record for record in records if record is not None]
    ids = [set(record.frame["image_id"]) for record in whole]
    shared = set.intersection(*ids)
    if not shared:
        raise CannotCompare("measured no image that is in every run")
    parts = []
    for run, record, own in zip(runs, whole, ids, strict=True):
        some = _restrict(record, shared)
        told = run.probes[probe_id]
        try:
            if len(own) == len(shared) == told["n"]:
                part = _part(told["metrics"], told["findings"])
            else:
                conclusion = probe.conclude(some)
                part = _part(plain(conclusion.metrics), plain(conclusion.findings))
            part.values = {
                _key(each.name, plain(each.at)): each.values
                for each in probe.per_image(some)
                if each.values.index.is_unique
            }
        except Exception as error:
            raise CannotCompare(f"could not be concluded from {run.name}: {type(error).__name__}: {error}") from None
        parts.append(part)
    return parts


def _records(run: Run, probe: Probe, common: set[str] | None) -> Records | None:
    def rows(probe_id: str) -> pd.DataFrame | None:
        return read_rows(run.folder, probe_id, run.keys.get(probe_id))

    frame = rows(probe.meta.id)
    others = {i: rows(i) for i in _bases(run, probe)}
    if frame is None or any(other is None for other in others.values()):
        return None
    records = Records(
        frame=frame, examples=no_examples(), classes=run.audit["model"]["classes"],
        labelled=run.audit["data"]["labelled"], others={i: other for i, other in others.items() if other is not None},
    )  # fmt: skip
    return records if common is None else _restrict(records, common)


def _restrict(records: Records, ids: set[str]) -> Records:
    def some(frame: pd.DataFrame) -> pd.DataFrame:
        return frame[frame["image_id"].isin(ids)].reset_index(drop=True)

    others = {probe_id: some(frame) for probe_id, frame in records.others.items()}
    return dataclasses.replace(records, frame=some(records.frame), others=others)


def _part(metrics: Sequence[dict[str, Any]], findings: Sequence[dict[str, Any]]) -> Part:
    return Part({_key(metric["name"], metric["at"]): metric for metric in metrics}, list(findings))


def _key(name: str, at: Mapping[str, Any]) -> tuple[str, str]:
    return name, json.dumps(at, sort_keys=True)


# one number of two runs


def _pair(i: int, j: int, metrics: Sequence[Mapping[str, Any]], values: Sequence[pd.Series | None]) -> dict[str, Any]:
    """The difference of run ``j`` from run ``i`` with its interval and p-value, before correction."""
    import numpy as np

    first, second = values[i], values[j]
    only: list[int] | None = None
    p: float | None
    n = min(metrics[i]["n"], metrics[j]["n"])
    if first is not None and second is not None and _stands_for(first, metrics[i]) and _stands_for(second, metrics[j]):
        x, y = first.astype(float).align(second.astype(float))
        a, b = x.to_numpy(), y.to_numpy()
        if np.isin(np.concatenate([a, b]), (0.0, 1.0)).all():
            lost, gained = int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())
            interval, p = (
                statistics.paired_proportions(lost, gained, len(a)),
                statistics.mcnemar_two_sided(lost, gained),
            )
            only, test, n = [lost, gained], "mcnemar", len(a)
        else:
            (interval, p), test = statistics.paired_means(a, b), "bootstrap"
    else:
        ends = [statistics.Interval(metrics[k]["value"], metrics[k]["low"], metrics[k]["high"]) for k in (i, j)]
        (interval, p), test = statistics.from_intervals(*ends), "intervals"
    return {
        "runs": [i, j],
        "difference": plain(interval._asdict()),
        "n": n,
        "test": "none" if p is None else test,
        "only": only,
        "p": None if p is None else float(p),
        "p_adjusted": None,
        "outcome": "not-tested",
    }


def _stands_for(values: pd.Series, metric: Mapping[str, Any]) -> bool:
    """Whether the mean over images really is the metric; what a plugin tells is checked before it is used."""
    mean = float(values.astype(float).mean())
    return metric["value"] is not None and math.isclose(mean, metric["value"], rel_tol=1e-4, abs_tol=1e-6)


def correct_p_values(probes: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Correct the p-values for their number and say what follows; the number of tests in each family."""
    counts = {}
    families = {True: "headline", False: "other"}
    tested = {
        headline: [
            (metric, pair)
            for probe in probes
            for metric in probe["metrics"]
            for pair in metric["pairs"]
            if metric["headline"] is headline and pair["p"] is not None
        ]
        for headline in families
    }
    share = sum(bool(found) for found in tested.values())
    for headline, name in families.items():
        counts[name] = len(tested[headline])
        adjusted = statistics.holm([pair["p"] for _, pair in tested[headline]])
        for (metric, pair), p in zip(tested[headline], adjusted, strict=True):
            pair["p_adjusted"] = min(1.0, share * p)
            pair["outcome"] = outcome_of(metric, pair)
    return counts

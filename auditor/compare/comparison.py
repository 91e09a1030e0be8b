"""The comparison of two or more runs, and its files."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import auditor
from auditor.compare.differences import correct_p_values
from auditor.compare.facts import differences, refuse_mixed_labels, refuse_other_classes
from auditor.compare.pairing import compare_probe
from auditor.compare.runs import Run, common_images, first_record, open_run
from auditor.compare.verdict import ALPHA, decide, leaderboard
from auditor.compare.worst_gaps import worst_gaps
from auditor.errors import AuditorError, BadInput, one_line
from auditor.files import write_whole
from auditor.findings.comparison_record import (
    ComparedProbeRecord,
    ComparedRunRecord,
    ComparisonRecord,
)
from auditor.findings.finding import AREAS
from auditor.plugin.registry import Registry, load
from auditor.printable import printable_text
from auditor.run.untrusted import from_folders

FORMATS = ("html", "pdf", "json")

MAX_RUNS = 26


def compare(folders: Sequence[Path], plugins: Registry | None = None) -> ComparisonRecord:
    """Return the content of comparison.json for these run folders; the first is the baseline.

    Raises BadInput for fewer than two runs, different classes, no common image, no common probe, or labels in only some
    of the runs.
    """
    if not 2 <= len(folders) <= MAX_RUNS:
        raise BadInput(f"compare: {len(folders)} runs; expected 2 to {MAX_RUNS} run folders")
    with from_folders(folders):
        return _compared([open_run(chr(ord("A") + i), Path(folder)) for i, folder in enumerate(folders)], plugins)


def _compared(runs: Sequence[Run], plugins: Registry | None) -> ComparisonRecord:
    refuse_mixed_labels(runs)
    refuse_other_classes(runs)
    common, images = common_images(runs)
    probes = _probes(runs, common, plugins or load())
    tests = correct_p_values(probes)
    result: ComparisonRecord = {
        "schema": "auditor-compare/1",
        "auditor": auditor.__version__,
        "runs": [_run_record(run) for run in runs],
        "images": images,
        "differences": list(differences(runs, images)),
        "alpha": ALPHA,
        "tests": tests,
        "probes": probes,
        "leaderboard": leaderboard(len(runs), probes) if len(runs) > 2 else [],
        "verdict": "no-difference",
        "verdict_reason": "",
        "decided_by": [],
        "gaps": worst_gaps(runs),
    }
    result["verdict"], result["verdict_reason"], result["decided_by"] = decide(result)
    return result


def _probes(runs: Sequence[Run], common: set[str] | None, plugins: Registry) -> list[ComparedProbeRecord]:
    """Compare every probe of any run, ordered by area. Raises BadInput if none has a common metric."""
    ids = dict.fromkeys(probe_id for run in runs for probe_id in run.probes)
    # the sort is stable: within an area the order of the runs stays
    ordered = sorted(ids, key=lambda probe_id: AREAS.index(first_record(runs, probe_id)["area"]))
    probes = [compare_probe(runs, probe_id, common, plugins) for probe_id in ordered]
    if not any(probe["metrics"] for probe in probes):
        reasons = "; ".join(f"{probe['id']}: {probe['reason']}" for probe in probes[:3])
        raise BadInput(
            f"{runs[1].folder}: has no probe in common with {runs[0].folder} that could be compared ({reasons})"
        )
    return probes


def regressed(comparison: ComparisonRecord) -> bool:
    """Whether the second of two runs is significantly worse than the first in any metric."""
    return any(
        pair["outcome"] == "worse"
        for probe in comparison["probes"]
        for metric in probe["metrics"]
        for pair in metric["pairs"]
    )


class Written(NamedTuple):
    """The files of a comparison, and why others are missing."""

    files: list[Path]
    problems: list[str]


def write(comparison: ComparisonRecord, out: Path, formats: Sequence[str]) -> Written:
    """Write comparison.json and the reports. Raises BadInput for an unknown format or an unwritable folder."""
    check_formats(formats)
    text = json.dumps(comparison, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    problems = []
    try:
        files = [write_whole(out / "comparison.json", text.encode())]
        for name in dict.fromkeys(formats):
            if name == "json":
                continue
            try:
                files.append(write_whole(out / f"comparison.{name}", _renderer(name)(comparison)))
            except OSError:
                raise
            except Exception as error:
                reason = str(error) if isinstance(error, AuditorError) else one_line(error)
                problems.append(f"comparison.{name} was not written: {reason}")
    except OSError as error:
        raise BadInput(f"{out}: cannot be written ({error.strerror}); choose another folder with --out") from None
    return Written(files, problems)


def _renderer(name: str) -> Callable[[ComparisonRecord], bytes]:
    from auditor.report.comparison import render_html, render_pdf

    return {"html": render_html, "pdf": render_pdf}[name]


def check_formats(formats: Sequence[str]) -> None:
    """Raise BadInput for a format that comparisons do not have."""
    for name in formats:
        if name not in FORMATS:
            raise BadInput(f"--format {name}: a comparison is written as html, pdf or json")


def _run_record(run: Run) -> ComparedRunRecord:
    audit, model, data = run.audit, run.audit["model"], run.audit["data"]
    return {
        "name": run.name,
        "path": printable_text(str(run.folder)),
        "created": audit["created"],
        "auditor": audit["auditor"],
        "suite": audit["suite"],
        "seed": audit["seed"],
        "policy": audit["policy"]["name"],
        "model": {
            "path": model["path"],
            "sha256": model["sha256"],
            "format": model["format"],
            "access": model["access"],
        },
        "data": {"path": data["path"], "sha256": data["sha256"], "n": data["n"], "labelled": data["labelled"]},
        "verdict": audit["verdict"],
    }

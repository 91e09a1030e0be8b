"""Audits from Python and notebooks: ``auditor.audit(...)`` measures, ``auditor.load(...)`` opens what was measured.

The same engine, run folder and audit.json as the command line's; docs/how-to/python.md shows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auditor.data.location import locate
from auditor.errors import BadInput
from auditor.files import parse_json, read_inside, write_whole
from auditor.findings.finding import SEVERITIES, Severity
from auditor.findings.record import AuditRecord, MetricRecord
from auditor.plugin.registry import load as load_plugins
from auditor.printable import printable_name
from auditor.report import whole
from auditor.report.plain_summary import plain_summary
from auditor.report.summary import file_name, headline
from auditor.run.folder import read_rows
from auditor.run.replay import read_audit
from auditor.run.request import Objects, Request
from auditor.run.session import run
from auditor.run.writing import drawn, pick_formats

if TYPE_CHECKING:
    import pandas as pd

    from auditor.compare.maite_metric import MaiteMetric
    from auditor.findings.comparison_record import ComparisonRecord

_FORMATS = {".html": "html", ".pdf": "pdf", ".json": "json", ".sarif": "sarif", ".xml": "junit", ".md": "md"}


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A finding as it stands in audit.json, with the probe that it is from."""

    probe: str
    id: str
    title: str
    statement: str
    severity: Severity
    metric: MetricRecord | None


@dataclass(frozen=True)
class Audit:
    """A finished audit: its folder, and the content of its audit.json."""

    folder: Path
    record: AuditRecord

    @property
    def verdict(self) -> str:
        """ "pass", "fail" or "incomplete"."""
        return str(self.record["verdict"])

    @property
    def findings(self) -> list[Claim]:
        """Every finding, the most severe first."""
        found = [
            Claim(
                probe=probe["id"],
                id=finding["id"],
                title=finding["title"],
                statement=finding["statement"],
                severity=finding["severity"],
                metric=finding["metric"],
            )
            for probe in self.record["probes"]
            for finding in probe["findings"]
        ]
        return sorted(found, key=lambda claim: -SEVERITIES.index(claim.severity))

    def metric(self, probe: str, name: str | None = None, **at: Any) -> MetricRecord:
        """A number of a probe with interval, n and unit: its headline, or the first of this name measured at ``at``.

        Raises BadInput where there is none.
        """
        for record in self.record["probes"]:
            if record["id"] == probe:
                for metric in record["metrics"]:
                    if name in (None, metric["name"]) and all(metric["at"].get(k) == v for k, v in at.items()):
                        return metric
        raise BadInput(f"{self.folder}: has no metric {name or ''} {at or ''} of {probe}; see .record['probes']")

    def maite_metric(self, probe: str, name: str | None = None, **at: Any) -> MaiteMetric:
        """Return a number of a probe, chosen as in ``metric``, as a metric of MAITE: reset, update, compute, metadata.

        Raises BadInput where there is none, and for one that is no mean over images.
        """
        from auditor.compare.maite_metric import maite_metric

        return maite_metric(self.folder, probe, self.metric(probe, name, **at))

    def rows(self, probe: str) -> pd.DataFrame:
        """What a probe measured, one row per image (and level). Raises BadInput for a probe without rows."""
        try:
            keys = parse_json(read_inside(self.folder, "manifest.json"), "manifest.json").get("records", {})
        except FileNotFoundError:
            keys = {}
        frame = read_rows(self.folder, probe, keys.get(probe))
        if frame is None:
            raise BadInput(f"{self.folder}: has no rows of {probe}")
        return frame

    def report(self, path: str | Path) -> Path:
        """Write the report; the ending says the format: .html, .pdf, .json, .sarif, .xml (JUnit) or .md."""
        target = Path(path)
        name = _FORMATS.get(target.suffix)
        if name is None:
            raise BadInput(f"{target}: unknown ending {target.suffix!r}; expected one of {', '.join(_FORMATS)}")
        if name == "json":
            return write_whole(target, (self.folder / "audit.json").read_bytes())
        (chosen,) = pick_formats(load_plugins(), [name])
        return write_whole(target, whole(drawn(chosen, self.record, self.folder)))

    def compare(self, *others: Audit) -> ComparisonRecord:
        """This audit as the baseline against others: the content of comparison.json (compare.schema.json)."""
        from auditor.compare.comparison import compare

        return compare([self.folder, *(other.folder for other in others)])

    def __repr__(self) -> str:
        model, n = file_name(self.record["model"]["path"]), self.record["data"]["n"]
        return f"<Audit of {model} on {n} images: {self.verdict}, in {self.folder}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: verdict, plain summary, every probe with its headline."""
        from markupsafe import Markup

        row = Markup("<tr><th>{}</th><td>{}</td><td>{}</td><td>{}</td></tr>")
        rows = Markup("").join(row.format(p["id"], p["status"], headline(p), p["n"]) for p in self.record["probes"])
        items = Markup("").join(Markup("<li>{}</li>").format(text) for text in plain_summary(self.record))
        page = Markup(
            "<p><b>{}</b>: {}</p><ul>{}</ul><table><thead><tr><th>probe</th><th>status</th><th>headline</th><th>n</th>"
            "</tr></thead><tbody>{}</tbody></table>"
        )
        return str(page.format(self.verdict.upper(), self.record["verdict_reason"], items, rows))


def audit(
    model: Any,
    *,
    data: Any = None,
    suite: str = "standard",
    out: str | Path | None = None,
    augmentations: Mapping[str, Any] | None = None,
    **options: Any,
) -> Audit:
    """Audit a model, as ``auditor run`` does; no report is written but audit.json (see ``Audit.report``).

    Args:
        model: the path of a model file, a ``torch.nn.Module``, or a model of MAITE for image classification.
        data: a path, a URI such as ``s3://bucket/images``, or a dataset of MAITE.
        suite: name or path of the suite.
        out: the run folder.
        augmentations: augmentations of MAITE by name, run as corruptions: each one augmentation, or a list of them,
            mildest first.
        options: further fields of ``auditor.run.request.Request``.

    Raises:
        BadInput: for what cannot be used.
    """
    settings = {"formats": (), "command": "auditor.audit(...)"} | options
    objects = _objects(model, data, augmentations)
    if objects != Objects() and (settings.get("engine", "local") == "ray" or (settings.get("workers") or 1) > 1):
        raise BadInput("auditor.audit: Python objects are audited by one process; leave engine and workers out")
    try:
        request = Request(
            model=Path(model) if objects.model is None else _path_of(objects.model),
            data=None if data is None or objects.data is not None else locate(data),
            suite=suite,
            out=None if out is None else Path(out),
            objects=objects,
            **settings,
        )
    except TypeError as error:
        raise BadInput(f"auditor.audit: {error}; options are the fields of auditor.run.request.Request") from None
    outcome = run(request)
    return Audit(outcome.out, outcome.audit)


def _objects(model: Any, data: Any, augmentations: Mapping[str, Any] | None) -> Objects:
    """Return what is given as Python objects. Raises BadInput for those that do not follow the protocols of MAITE."""
    model, data = (None if isinstance(each, str | Path) else each for each in (model, data))
    if model is None and data is None and not augmentations:
        return Objects()
    from auditor.data.augmentations import open_augmentations
    from auditor.data.maite import open_dataset
    from auditor.probes.augmentation_effects import effects_of

    dataset = None if data is None else open_dataset(data)
    if not augmentations:
        return Objects(model=model, data=dataset)
    opened = open_augmentations(augmentations, dataset)
    return Objects(model=model, data=dataset, augmentations=opened, effects=effects_of(opened))


def _path_of(model: Any) -> Path:
    """Return what stands for the path of a model that is an object; no file is next to it."""
    from auditor.model.maite import model_name

    return Path("<python>") / printable_name(model_name(model)).replace("/", "-")


def load(folder: str | Path) -> Audit:
    """Open the run folder of a finished audit. Raises BadInput where it is none."""
    return Audit(Path(folder), read_audit(Path(folder)))

"""The typed record: its types agree with the JSON Schemas, and records survive reading and writing."""

from __future__ import annotations

import json
import types
import typing
from pathlib import Path
from typing import Any, Literal, NotRequired, get_args, get_origin, get_type_hints, is_typeddict

import numpy as np
import pytest

from auditor import Metric, statistics
from auditor.compare.comparison import compare
from auditor.findings import comparison_record, record
from auditor.run.record import check_metrics
from auditor.run.replay import read_audit
from auditor.run.request import Request
from auditor.run.session import run
from auditor.schemas import validator

GOLDEN = Path(__file__).parent / "data" / "golden_audit.json"

AUDIT = {
    record.AuditRecord: "",
    record.ModelRecord: "properties/model",
    record.InputRecord: "properties/model/properties/input",
    record.FeatureRecord: "properties/model/properties/input/properties/features/items",
    record.OutputRecord: "properties/model/properties/output",
    record.ParityRecord: "properties/model/properties/parity",
    record.DataRecord: "properties/data",
    record.SkippedRecord: "properties/data/properties/skipped/items",
    record.BenchmarkRecord: "properties/data/properties/benchmark",
    record.UnitsRecord: "properties/data/properties/units",
    record.UnknownRecord: "properties/data/properties/unknown",
    record.SupervisionRecord: "properties/supervision",
    record.PolicyRecord: "properties/policy",
    record.PlannedRecord: "$defs/planned",
    record.PlanRecord: "properties/plan",
    record.DigestsRecord: "properties/digests",
    record.SeverityScaleRecord: "properties/policy/properties/severity/additionalProperties",
    record.EndpointRecord: "properties/model/properties/endpoint",
    record.ReviewRecord: "$defs/review",
    record.RuleRecord: "properties/policy/properties/rules/items",
    record.PluginRecord: "properties/plugins/items",
    record.DocumentedRecord: "properties/documented/items",
    record.DocumentedRowRecord: "properties/documented/items/properties/rows/items",
    record.AcceptanceRecord: "$defs/acceptance",
    record.ProbeRecord: "$defs/probe",
    record.ThreatModelRecord: "$defs/probe/properties/threat_model",
    record.ModelCallsRecord: "$defs/probe/properties/model_calls",
    record.FindingRecord: "$defs/finding",
    record.MetricSpecRecord: "$defs/metric_spec",
    record.MetricRecord: "$defs/metric",
    record.JudgementRecord: "$defs/probe/properties/judgements/items",
    record.AxisRecord: "$defs/axis",
    record.SeriesRecord: "$defs/series",
    record.PointRecord: "$defs/series/properties/points/items",
    record.CurveRecord: "$defs/plot",
    record.ScatterRecord: "$defs/plot",
    record.TableRecord: "$defs/table",
    record.ImageGridRecord: "$defs/image-grid",
    record.GridRowRecord: "$defs/image-grid/properties/rows/items",
    record.PictureRecord: "$defs/image-grid/properties/rows/items/properties/cells/items",
    record.HeatMapRecord: "$defs/heat-map",
    record.TextRecord: "$defs/text",
    record.IntervalRecord: "$defs/cell",
}
COMPARISON = {
    comparison_record.ComparisonRecord: "",
    comparison_record.ComparedRunRecord: "properties/runs/items",
    comparison_record.ComparedModelRecord: "properties/runs/items/properties/model",
    comparison_record.ComparedDataRecord: "properties/runs/items/properties/data",
    comparison_record.ImagesRecord: "properties/images",
    comparison_record.DifferenceRecord: "properties/differences/items",
    comparison_record.TestsRecord: "properties/tests",
    comparison_record.RankRecord: "properties/leaderboard/items",
    comparison_record.ComparedProbeRecord: "properties/probes/items",
    comparison_record.SideRecord: "properties/probes/items/properties/sides/items",
    comparison_record.ComparedMetricRecord: "$defs/metric",
    comparison_record.ValueRecord: "$defs/metric/properties/values/items",
    comparison_record.DecidingRecord: "properties/decided_by/items",
    comparison_record.RunGapRecord: "properties/gaps/items",
    comparison_record.PairRecord: "$defs/metric/properties/pairs/items",
    record.IntervalRecord: "$defs/metric/properties/pairs/items/properties/difference",
}


@pytest.mark.parametrize(
    ("kind", "schema", "path"),
    [
        *((kind, validator("audit").schema, path) for kind, path in AUDIT.items()),
        *((kind, validator("compare").schema, path) for kind, path in COMPARISON.items()),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_types_agree_with_the_schema(kind: Any, schema: dict[str, Any], path: str) -> None:
    node = schema
    for part in path.split("/") if path else ():
        node = node[part]
    assert set(get_type_hints(kind)) == set(node["properties"])
    assert required_keys(kind) == set(node.get("required", []))


def required_keys(kind: Any) -> set[str]:
    """Return the keys without NotRequired; ``__required_keys__`` does not resolve postponed annotations."""
    hints = get_type_hints(kind, include_extras=True) if kind.__total__ else {}
    return {key for key, hint in hints.items() if get_origin(hint) is not NotRequired}


def test_every_type_of_the_record_is_compared_with_the_schema() -> None:
    compared = {*AUDIT, *COMPARISON}
    for module in (record, comparison_record):
        for kind in vars(module).values():
            # an extension of an acceptance adds its own two keys under allOf
            if is_typeddict(kind) and not kind.__name__.endswith(("AcceptanceRecord", "AcceptanceStateRecord")):
                assert kind in compared, kind.__name__


def mismatch(value: Any, hint: Any, place: str = "") -> str:
    """Return the first place at which a JSON value does not have the type of a hint; empty if it has."""
    if hint is Any or hint is record.Json or isinstance(hint, typing.ForwardRef | str):
        return ""
    if is_typeddict(hint):
        return mismatch_of_dict(value, hint, place)
    origin = get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        problems = [mismatch(value, option, place) for option in get_args(hint)]
        # the deepest problem belongs to the option that was meant
        return "" if "" in problems else max(problems, key=len)
    if origin is Literal:
        return "" if value in get_args(hint) else f"{place}: {value!r}"
    if origin is list:
        items = enumerate(value) if isinstance(value, list) else ()
        problems = [mismatch(item, get_args(hint)[0], f"{place}/{i}") for i, item in items]
        return next(filter(None, problems), "" if isinstance(value, list) else f"{place}: {value!r}")
    if origin is dict:
        pairs = value.items() if isinstance(value, dict) else ()
        problems = [mismatch(item, get_args(hint)[1], f"{place}/{key}") for key, item in pairs]
        return next(filter(None, problems), "" if isinstance(value, dict) else f"{place}: {value!r}")
    allowed = (int, float) if hint is float else hint
    exact = isinstance(value, allowed) and (hint is bool or not isinstance(value, bool))
    return "" if exact else f"{place}: {value!r}"


def mismatch_of_dict(value: Any, hint: Any, place: str) -> str:
    if not isinstance(value, dict):
        return f"{place}: {value!r}"
    hints = get_type_hints(hint)
    if missing := required_keys(hint) - set(value):
        return f"{place}: lacks {sorted(missing)}"
    if unknown := set(value) - set(hints):
        return f"{place}: unknown {sorted(unknown)}"
    return next(filter(None, (mismatch(item, hints[key], f"{place}/{key}") for key, item in value.items())), "")


def test_the_checker_finds_wrong_types() -> None:
    metric = {"name": "accuracy", "value": 1, "low": None, "high": 0.5, "n": 3, "unit": "fraction", "at": {}}
    assert mismatch(metric, record.MetricRecord) == ""
    assert mismatch(metric | {"n": 1.5}, record.MetricRecord) == "/n: 1.5"
    assert mismatch(metric | {"unit": "parsec"}, record.MetricRecord) == "/unit: 'parsec'"
    assert mismatch(metric | {"extra": 1}, record.MetricRecord) == ": unknown ['extra']"
    assert mismatch([{"kind": "text", "title": "", "text": None}], list[record.EvidenceRecord]).startswith("/0")


def test_golden_audit_has_the_declared_types() -> None:
    assert mismatch(json.loads(GOLDEN.read_text("utf-8")), record.AuditRecord) == ""


@pytest.fixture(scope="module")
def folder(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of a small suite with every kind of evidence."""
    folder = tmp_path_factory.mktemp("typed")
    (folder / "suite.toml").write_text(
        'probes = ["performance.*", "attacks.fgsm", "metrics.adversarial-distance", "bias.classes", "sanity.parity",'
        ' "explanations.occlusion"]\n[settings."explanations.occlusion"]\nsamples = 4\n'
    )
    for name in ("first", "second"):
        request = Request(
            model=digits / "digits-cnn.onnx",
            suite=str(folder / "suite.toml"),
            samples=40,
            out=folder / name,
            formats=(),
            device="cpu",
        )
        run(request)
    return folder


def test_fresh_audit_has_the_declared_types_and_is_written_back_unchanged(folder: Path) -> None:
    path = folder / "first" / "audit.json"
    audit = read_audit(folder / "first")
    assert mismatch(audit, record.AuditRecord) == ""
    assert not list(validator("audit").iter_errors(audit))
    kinds = {item["kind"] for probe in audit["probes"] for f in probe["findings"] for item in f["evidence"]}
    assert kinds >= {"curve", "table", "image-grid", "heat-map"}
    written = json.dumps(audit, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    assert written == path.read_text("utf-8")


def test_comparison_has_the_declared_types(folder: Path) -> None:
    result = compare([folder / "first", folder / "second"])
    assert mismatch(json.loads(json.dumps(result)), comparison_record.ComparisonRecord) == ""
    assert not list(validator("compare").iter_errors(result))


def test_only_unbounded_metrics_may_be_infinite() -> None:
    """The median distance is infinite if most images have no adversarial one; a share never is."""
    distances = statistics.median("distance_median", [0.1, np.inf, np.inf], unit="l2")
    assert distances.value == np.inf
    check_metrics([distances])
    with pytest.raises(ValueError, match="'share' is infinite"):
        check_metrics([Metric(name="share", value=np.inf, n=3)])

"""The in-toto statement and the CycloneDX BOM, read by reference implementations; the identity of SARIF alerts."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from google.protobuf import json_format
from in_toto_attestation.predicates.test_result.v0 import test_result_pb2
from in_toto_attestation.v1 import statement_pb2

from auditor.errors import AuditorError
from auditor.report.cyclonedx import render_bom
from auditor.report.eval_results import render_eval_results
from auditor.report.intoto import PREDICATE, render_statement
from auditor.report.sarif import render_sarif

GOLDEN = Path(__file__).parent / "data" / "golden_audit.json"
HOSTILE = "<b>&'\"\u202e\x1b[31m\ud800.onnx"


@pytest.fixture
def audit(tmp_path: Path) -> dict[str, Any]:
    """The golden audit, which is also in the run folder ``tmp_path``."""
    (tmp_path / "audit.json").write_bytes(GOLDEN.read_bytes())
    loaded: dict[str, Any] = json.loads(GOLDEN.read_text("utf-8"))
    return loaded


def planned(audit: dict[str, Any]) -> dict[str, Any]:
    """The audit with plan and digests, as runs write them."""
    return audit | {
        "plan": {
            "written": "2026-01-02T03:04:05+00:00",
            "seed": 0,
            "probes": [],
            "suite": {"name": "quick", "sha256": "1" * 64},
            "policy": {"name": "default", "sha256": "2" * 64},
        },
        "digests": {"suite": "1" * 64, "manifest": "3" * 64, "records": "4" * 64, "evidence": "5" * 64},
    }


def test_statement_is_valid_for_the_reference_implementation(audit: dict[str, Any], tmp_path: Path) -> None:
    text = render_statement(planned(audit), tmp_path)
    statement = json_format.Parse(text, statement_pb2.Statement())
    assert statement.type == "https://in-toto.io/Statement/v1"
    assert statement.predicate_type == PREDICATE == "https://in-toto.io/attestation/test-result/v0.1"
    model, record = statement.subject
    assert model.digest["sha256"] == audit["model"]["sha256"]
    assert record.digest["sha256"] == hashlib.sha256((tmp_path / "audit.json").read_bytes()).hexdigest()
    predicate = json_format.ParseDict(json.loads(text)["predicate"], test_result_pb2.TestResult())
    by_status = {status: [p["id"] for p in audit["probes"] if p["status"] == status] for status in ("pass", "fail")}
    assert list(predicate.passed_tests) == by_status["pass"]
    assert set(by_status["fail"]) <= set(predicate.failed_tests)
    names = {each.name: each.digest["sha256"] for each in predicate.configuration}
    assert names["records"] == "4" * 64
    assert names["planned policy"] == "2" * 64
    assert names["suite"] == names["planned suite"] == "1" * 64
    assert names["policy"] == audit["policy"]["sha256"]
    assert names["data"] == audit["data"]["sha256"]


@pytest.mark.parametrize(("verdict", "result"), [("pass", "PASSED"), ("fail", "FAILED"), ("incomplete", "FAILED")])
def test_only_a_pass_is_a_passed_statement(verdict: str, result: str, audit: dict[str, Any], tmp_path: Path) -> None:
    statement = json.loads(render_statement(audit | {"verdict": verdict}, tmp_path))
    assert statement["predicate"]["result"] == result


@pytest.mark.parametrize("name", ["models/net.onnx", HOSTILE])
def test_bom_fits_the_published_schema(name: str, audit: dict[str, Any], tmp_path: Path) -> None:
    audit["model"]["path"] = name
    text = render_bom(audit, tmp_path).decode("utf-8")
    problem = JsonStrictValidator(SchemaVersion.V1_7).validate_str(text)
    assert problem is None, problem


def test_bom_has_every_number_with_slice_and_interval(audit: dict[str, Any], tmp_path: Path) -> None:
    card = json.loads(render_bom(audit, tmp_path))["metadata"]["component"]["modelCard"]
    entries = card["quantitativeAnalysis"]["performanceMetrics"]
    metrics = [metric for probe in audit["probes"] for metric in probe["metrics"] if metric["value"] is not None]
    assert [float(entry["value"]) for entry in entries] == [metric["value"] for metric in metrics]
    for entry, metric in zip(entries, metrics, strict=True):
        assert ("slice" in entry) == bool(metric["at"])
        if metric["low"] is not None:
            assert float(entry["confidenceInterval"]["lowerBound"]) == metric["low"]
            assert float(entry["confidenceInterval"]["upperBound"]) == metric["high"]
    details = {each["name"]: each["value"] for each in card["properties"]}
    assert f"n {metrics[0]['n']}" in details["auditor:metric:0"]


def test_bom_of_the_same_audit_has_the_same_serial_number(audit: dict[str, Any], tmp_path: Path) -> None:
    first = json.loads(render_bom(audit, tmp_path))["serialNumber"]
    assert json.loads(render_bom(audit, tmp_path))["serialNumber"] == first
    audit["seed"] += 1
    assert json.loads(render_bom(audit, tmp_path))["serialNumber"] != first


def test_eval_results_are_those_of_the_hub(audit: dict[str, Any], tmp_path: Path) -> None:
    """Keys and types as in huggingface.co/docs/hub/eval-results."""
    audit["data"]["benchmark"] = {"id": "organisation/signs", "task_id": "default"}
    (entry,) = yaml.safe_load(render_eval_results(audit, tmp_path))
    accuracy = next(p["metrics"][0] for p in audit["probes"] if p["id"] == "performance.accuracy")
    assert entry["dataset"] == {"id": "organisation/signs", "task_id": "default"}
    assert entry["value"] == accuracy["value"]
    assert entry["date"] == audit["created"]
    assert f"n = {accuracy['n']}" in entry["notes"]
    assert set(entry) == {"dataset", "value", "date", "notes"}


def test_eval_results_need_a_benchmark_and_an_accuracy(audit: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(AuditorError, match=r"state it in the sidecar of the model: \[data\] benchmark"):
        render_eval_results(audit, tmp_path)
    audit["data"]["benchmark"] = {"id": "organisation/signs", "task_id": "default"}
    audit["probes"] = []
    with pytest.raises(AuditorError, match=r"performance\.accuracy"):
        render_eval_results(audit, tmp_path)


def test_sarif_alerts_keep_their_identity_when_the_model_changes(audit: dict[str, Any], tmp_path: Path) -> None:
    def identity() -> tuple[str, list[str]]:
        scan = json.loads(render_sarif(audit, tmp_path))["runs"][0]
        prints = [result["partialFingerprints"]["primaryLocationLineHash"] for result in scan["results"]]
        return scan["automationDetails"]["id"], prints

    category, prints = identity()
    assert prints
    assert len(set(prints)) == len(prints)
    audit["model"]["sha256"] = "0" * 64
    audit["created"] = "2030-01-01T00:00:00+00:00"
    assert identity() == (category, prints)
    audit["model"]["path"] = "models/other.onnx"
    other, same = identity()
    assert other == "auditor/models/other.onnx/" != category
    assert same == prints, "the category and the path tell the models apart"

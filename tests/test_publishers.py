"""Publishing to MLflow and Weights & Biases: metrics with intervals, reports and records arrive on disk."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from auditor.plugins.publishers._wanted import flat_metrics
from auditor.run.request import Outcome, Request
from auditor.run.session import run

pytest.importorskip("mlflow", reason="auditor[mlflow] is not installed")
pytest.importorskip("wandb", reason="auditor[wandb] is not installed")


@pytest.fixture
def audit(tmp_path: Path, linear_model: Callable[..., Path]) -> Callable[[], Outcome]:
    """Audit a linear model of 20 images, with a report in Markdown."""
    rng = np.random.default_rng(0)
    weights, images = rng.normal(size=(3, 16)), rng.integers(0, 256, (20, 4, 4), dtype=np.uint8)
    model = linear_model(tmp_path / "m.onnx", weights, np.zeros(3), (1, 4, 4))
    np.savez(tmp_path / "d.npz", x=images, y=rng.integers(0, 3, 20), groups_side=np.array(["left", "rechts ä"] * 10))
    request = Request(
        model=model,
        data=tmp_path / "d.npz",
        probes=["performance.accuracy", "bias.groups"],
        out=tmp_path / "out",
        formats=("md",),
    )
    return lambda: run(request)


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of an empty store on disk, which the environment names."""
    from mlflow import MlflowClient

    uri = (tmp_path / "store").as_uri()
    # MLflow refuses folders otherwise; the other backends need a database library
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "audits")
    monkeypatch.setenv("AUDITOR_PUBLISH", "mlflow")
    return MlflowClient(uri, uri)


def only_run(client: Any) -> Any:
    (found,) = client.search_runs([client.get_experiment_by_name("audits").experiment_id])
    return found


def test_run_holds_metrics_with_intervals_reports_and_records(audit: Callable[[], Outcome], client: Any) -> None:
    outcome = audit()
    assert outcome.problems == []
    published = only_run(client)
    accuracy = outcome.audit["probes"][0]["metrics"][0]
    logged = published.data.metrics
    for end, key in {"": "value", ".low": "low", ".high": "high"}.items():
        assert logged[f"performance.accuracy/accuracy{end}"] == accuracy[key]  # type: ignore[literal-required]
    measured = [m for probe in outcome.audit["probes"] for m in probe["metrics"] if m["value"] is not None]
    ends = sum(metric[key] is not None for metric in measured for key in ("value", "low", "high"))
    assert len(logged) == ends, "two metrics had one name"
    assert published.data.tags["auditor.verdict"] == outcome.audit["verdict"]
    assert published.info.status == "FINISHED"
    names = {item.path for item in client.list_artifacts(published.info.run_id, "audit")}
    assert names == {"audit/audit.json", "audit/summary.md", "audit/records"}
    stored = Path(client.download_artifacts(published.info.run_id, "audit/audit.json"))
    assert json.loads(stored.read_text()) == json.loads((outcome.out / "audit.json").read_text())


def test_names_differ_where_their_characters_are_replaced() -> None:
    def metric(group: str) -> dict[str, Any]:
        return {"name": "recall", "value": 0.5, "low": None, "high": None, "at": {"group": group}}

    audit: Any = {
        "probes": [{"id": "bias.groups", "metrics": [metric("a"), metric("ä"), metric("ö"), metric("a" * 300)]}]
    }
    names = list(flat_metrics(audit))
    assert names[0] == "bias.groups/recall.group_a"
    assert len(set(names)) == 4
    assert all(len(name) < 250 and name.isascii() for name in names)


def test_registered_model_gets_the_verdict(
    audit: Callable[[], Outcome], client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.create_registered_model("digits")
    client.create_model_version("digits", "file:///none")
    monkeypatch.setenv("AUDITOR_MLFLOW_MODEL", "digits/1")
    outcome = audit()
    assert outcome.problems == []
    tags = client.get_model_version("digits", "1").tags
    assert tags == {"auditor.verdict": outcome.audit["verdict"], "auditor.run_id": only_run(client).info.run_id}


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("AUDITOR_PUBLISH", "mlfow", "unknown publisher 'mlfow'; expected mlflow, wandb"),
        ("AUDITOR_MLFLOW_MODEL", "digits", "expected name/version"),
    ],
)
def test_unusable_variables_are_a_problem_of_the_finished_audit(
    audit: Callable[[], Outcome], client: Any, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    monkeypatch.setenv(variable, value)
    outcome = audit()
    assert outcome.incomplete
    assert message in outcome.problems[0]
    assert client.get_experiment_by_name("audits") is None


def test_nothing_is_published_unless_the_variable_asks_for_it(
    audit: Callable[[], Outcome], client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AUDITOR_PUBLISH")
    assert audit().problems == []
    assert client.get_experiment_by_name("audits") is None


def chunks(raw: bytes) -> Iterator[bytes]:
    """Return the records of a W&B file: LevelDB's log format after seven bytes, in blocks of 32 KiB."""
    position, whole = 7, b""
    while position + 7 <= len(raw):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", raw, position)
        whole += raw[position + 7 : position + 7 + length]
        position += 7 + length
        # a whole record, or the last part of one
        if kind in {1, 4}:
            yield whole
            whole = b""


def test_offline_run_of_wandb_holds_the_metrics(
    audit: Callable[[], Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wandb.proto.wandb_internal_pb2 import Record

    for name, value in {"AUDITOR_PUBLISH": "wandb", "WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    outcome = audit()
    assert outcome.problems == []
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    summary, config = {}, {}
    for data in chunks(file.read_bytes()):
        record = Record.FromString(data)
        updates = [*record.summary.update, *record.run.summary.update]
        summary |= {each.key or "/".join(each.nested_key): json.loads(each.value_json) for each in updates}
        config |= {each.key: json.loads(each.value_json) for each in record.run.config.update}
    assert {name: summary[name] for name in flat_metrics(outcome.audit)} == flat_metrics(outcome.audit)
    assert config["auditor.verdict"] == outcome.audit["verdict"]

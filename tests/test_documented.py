"""Published numbers are compared with measured ones; they are never judged, and never replace a measurement."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from auditor.errors import BadInput
from auditor.plugin import registry
from auditor.plugin.suite import find_suite
from auditor.policy import published
from auditor.policy.published import PublishedNumber
from auditor.report import documented
from auditor.toml import decode

ENTRY = {"claim": "Half are right", "source": "a paper", "probe": "performance.accuracy", "metric": "accuracy"}
PROBES: dict[str, Any] = {"performance.accuracy": None, "attacks.fgsm": None}

SUITE = """
probes = ["performance.accuracy", "attacks.fgsm"]
samples = 60
[settings."attacks.fgsm"]
epsilons = [0.01, 0.1]
l2_epsilons = []
[[documented]]
claim = "Nine of ten <b>digits</b>"
source = "a paper"
probe = "performance.accuracy"
metric = "accuracy"
value = 0.2
[[documented]]
claim = "Falls with epsilon"
source = "a paper"
model = "digits-*"
probe = "attacks.fgsm"
metric = "robust_accuracy"
at = { norm = "linf" }
over = "epsilon"
steps = [0.01, 0.1, 0.3]
values = [0.999, 0.5, 0.0]
series = "theirs"
figure = "Sweep"
[[documented]]
claim = "Another network"
source = "a paper"
model = "other-*"
probe = "attacks.fgsm"
metric = "robust_accuracy"
at = { norm = "linf" }
over = "epsilon"
steps = [0.01, 0.1]
values = [0.8, 0.1]
series = "another's"
figure = "Sweep"
"""


def metric(value: float | None, **at: Any) -> dict[str, Any]:
    return {"name": "accuracy", "value": value, "low": 0.4, "high": 0.6, "n": 50, "at": at}


def rows(value: float | None, metrics: list[dict[str, Any]], **more: Any) -> list[dict[str, Any]]:
    fields = {**ENTRY, **more} if value is None else {**ENTRY, "value": value, **more}
    records = [{"id": "performance.accuracy", "metrics": metrics}]
    (entry,) = published.compare_published([decode(PublishedNumber, fields, "s")], records, "m/net.onnx")
    result: list[dict[str, Any]] = entry["rows"]
    return result


@pytest.mark.parametrize(
    ("value", "reading"),
    [
        (0.5, "within the interval"),
        (0.4, "within the interval"),
        (0.7, "measured lower"),
        (0.3, "measured higher"),
        (None, "no number documented"),
    ],
)
def test_position_of_a_published_number(value: float | None, reading: str) -> None:
    assert [row["reading"] for row in rows(value, [metric(0.5)])] == [reading]


def test_unmeasured_metric_has_no_number() -> None:
    (row,) = rows(0.5, [metric(0.5, group="a")], at={"group": "b"})
    assert (row["value"], row["reading"]) == (None, "not measured")
    assert rows(0.5, [metric(None)])[0]["reading"] == "not measured"
    assert rows(0.5, [metric(0.5)], model="other*")[0]["value"] is None


def test_metric_with_the_fewest_other_conditions_is_used() -> None:
    (row,) = rows(0.5, [metric(0.1, group="a", band="b"), metric(0.5)])
    assert row["value"] == 0.5


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({**ENTRY, "nonsense": 1}, "unknown key 'nonsense'"),
        ({key: value for key, value in ENTRY.items() if key != "source"}, "has no source"),
        ({**ENTRY, "value": "much"}, "value is 'much'; expected a number"),
        ({**ENTRY, "over": "epsilon", "steps": [1], "values": [1, 2]}, "steps and as many values"),
        ({**ENTRY, "over": "epsilon", "steps": [1], "values": ["x"]}, "expected a number"),
        ({**ENTRY, "steps": [1], "values": [1]}, "expected over, steps"),
        ({**ENTRY, "unit": "miles"}, "unit is 'miles'"),
        ({**ENTRY, "at": 3}, "expected a table"),
        ({**ENTRY, "claim": 3}, "expected a text"),
    ],
)
def test_invalid_entry_is_refused(entry: dict[str, Any], problem: str) -> None:
    with pytest.raises(BadInput, match=problem):
        decode(PublishedNumber, entry, "suite.toml: documented 1")


def test_entry_with_unknown_probe_is_refused() -> None:
    entry = decode(PublishedNumber, {**ENTRY, "probe": "attacks.fgms"}, "suite.toml")
    with pytest.raises(BadInput, match=r"no such probe \(did you mean 'attacks\.fgsm'\?\)"):
        published.check_probes([entry], PROBES, "suite.toml")


def test_suite_with_published_numbers(digits: Path, auditor_cli: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(SUITE)
    ran = auditor_cli(
        "run", digits / "digits-cnn.onnx", "--suite", "s.toml", "--out", "run", "--format", "html,json,md"
    )
    assert ran.exit_code == 0, ran.output
    audit = json.loads((tmp_path / "run" / "audit.json").read_text())
    first, sweep, other = audit["documented"]
    assert first["rows"][0]["reading"] == "measured higher"
    measured = {
        m["at"]["epsilon"]: m["value"]
        for p in audit["probes"]
        if p["id"] == "attacks.fgsm"
        for m in p["metrics"]
        if m["name"] == "robust_accuracy" and m["at"].get("norm") == "linf"
    }
    assert [row["value"] for row in sweep["rows"]] == [measured[0.01], measured[0.1], None]
    assert not other["this_model"]
    assert {row["value"] for row in other["rows"]} == {None}
    assert "documented and measured" in ran.output
    assert "robust accuracy\n  L∞ 2.55/255 " in ran.output, "the place of the measurement is shown in full"
    assert "another" not in ran.output
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Nine of ten &lt;b&gt;digits" in page
    assert "theirs, documented" in page
    assert "another&#39;s, documented" in page
    assert "### Documented and measured numbers" in (tmp_path / "run" / "summary.md").read_text()
    # judged again, the comparison is the same
    assert auditor_cli("judge", "run", "--policy", "strict", "--format", "json").exit_code == 0
    assert json.loads((tmp_path / "run" / "audit.json").read_text())["documented"] == audit["documented"]


def test_audits_without_them_show_nothing() -> None:
    assert documented.claims({}) == []
    assert documented.lines({}) == []


@pytest.mark.parametrize("name", ["birds", "cifar10", "eye-state", "faces", "gender"])
def test_published_numbers_are_about_metrics_of_their_probes(name: str) -> None:
    plugins = registry.load()
    for entry in find_suite(name, plugins).documented:
        assert entry.metric in {spec.name for spec in plugins.probes[entry.probe].metrics}, entry.claim

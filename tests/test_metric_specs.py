"""Metric specs: every probe declares its metrics, and a name has one meaning.

``test_contract.py`` checks that every metric of a real audit has a spec and its unit.
"""

from __future__ import annotations

from typing import Any

import pytest

from auditor import MetricSpec
from auditor.conformance.checks import check_record
from auditor.conformance.subject import Breach
from auditor.findings.encoding import plain
from auditor.plugin import registry

PROBES = registry.load().probes


@pytest.mark.parametrize("probe_id", PROBES)
def test_every_probe_declares_its_metrics_once(probe_id: str) -> None:
    names = [spec.name for spec in PROBES[probe_id].metrics]
    assert names
    assert len(set(names)) == len(names)


def test_metric_name_has_one_meaning() -> None:
    specs: dict[str, MetricSpec] = {}
    for probe_id, probe in PROBES.items():
        for spec in probe.metrics:
            assert spec == specs.setdefault(spec.name, spec), f"{probe_id} declares {spec.name} with another meaning"


def test_labels_are_unique() -> None:
    specs = {spec.name: spec for probe in PROBES.values() for spec in probe.metrics}
    labels = [spec.label for spec in specs.values()]
    assert len(set(labels)) == len(labels)


def test_difference_is_a_fraction() -> None:
    differences = [spec for probe in PROBES.values() for spec in probe.metrics if spec.difference]
    assert {spec.unit for spec in differences} == {"fraction"}


def record(metric: dict[str, Any], *specs: MetricSpec) -> dict[str, Any]:
    """Build a probe's record with one metric."""
    defaults: dict[str, Any] = {"value": 0.5, "low": None, "high": None, "n": 2, "unit": "fraction", "at": {}}
    return {
        "id": "metrics.x",
        "status": "informative",
        "findings": [{"id": "metrics.x/y", "statement": "Half (n = 2).", "metric": "share", "n": None}],
        "metric_specs": plain(specs),
        "metrics": [defaults | metric],
    }


SHARE = MetricSpec(name="share", label="Share", better="higher")
DISTANCE = MetricSpec(name="distance", label="Distance", better="higher", unit="norm")


@pytest.mark.parametrize(
    ("norm", "unit"), [("linf", "linf"), ("l2", "l2"), ("l1", "l1"), ("snr", "dB")], ids=["linf", "l2", "l1", "snr"]
)
def test_unit_norm_is_the_norm_measured_at(norm: str, unit: str) -> None:
    check_record(record({"name": "distance", "unit": unit, "at": {"norm": norm}}, DISTANCE))


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ({"name": "other"}, "other has no MetricSpec"),
        ({"name": "share", "unit": "1"}, "share has unit 1"),
        ({"name": "distance", "unit": "l2", "at": {"norm": "linf"}}, "distance has unit l2"),
        ({"name": "distance", "unit": "l2"}, "distance has unit l2"),
        ({"name": "share", "value": 2.0}, "its unit is fraction"),
    ],
    ids=["unknown", "other unit", "other norm", "no norm", "above 1"],
)
def test_metric_that_contradicts_its_spec_is_a_breach(metric: dict[str, Any], message: str) -> None:
    with pytest.raises(Breach, match=message):
        check_record(record(metric, SHARE, DISTANCE))


def test_metric_declared_twice_is_a_breach() -> None:
    with pytest.raises(Breach, match="declares a name twice"):
        check_record(record({"name": "share"}, SHARE, SHARE))

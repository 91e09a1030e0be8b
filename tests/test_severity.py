"""Severity depends on the loss and on what it takes to cause it, and every numeric probe is judged or explained."""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import Any

import pytest

from auditor.errors import BadInput
from auditor.plugin.registry import load
from auditor.policy.rules import read_policy
from auditor.policy.severity import GRADES, KNOWLEDGE
from auditor.policy.verdict import judge


def loss(probe_id: str, metric: str, at: dict[str, Any], value: float) -> dict[str, Any]:
    """Return a probe whose accuracy of 1 falls to ``value``, known to one point."""
    number = {"name": metric, "value": value, "low": value - 0.005, "high": value + 0.005, "n": 500, "unit": "fraction"}
    measured = {**number, "at": at, "clean": 1.0}
    fields = {"id": probe_id, "status": "informative", "severity": "none", "reason": "", "caveat": "", "findings": []}
    return fields | {"metrics": [measured]}


@pytest.mark.parametrize("value", [0.85, 0.7, 0.55, 0.4, 0.003])
def test_natural_change_is_never_milder_than_a_gradient_attack(value: float) -> None:
    policy = read_policy("default")
    moved = {"rotation": 30, "translation": 0.1}
    natural = judge(loss("attacks.spatial", "moved_accuracy", moved, value), policy)  # type: ignore[arg-type]
    size = {"norm": "linf", "epsilon": 8 / 255}
    attacked = judge(loss("attacks.universal", "robust_accuracy", size, value), policy)  # type: ignore[arg-type]
    ranks = ["none", *GRADES]
    assert ranks.index(natural["severity"]) >= ranks.index(attacked["severity"])
    assert natural["status"] == "fail"


def test_policy_with_a_milder_natural_scale_is_refused(tmp_path: Path) -> None:
    table = '[severity.natural]\nat_most_lost = {{ low = {} }}\nrationale = "x"\nsource = "y"\n'
    file = tmp_path / "mine.toml"
    file.write_text(table.format(0.5) + table.format(0.2).replace("natural", "white-box"), "utf-8")
    with pytest.raises(BadInput, match=r"severity\.natural reaches low at 0\.5, severity\.white-box at 0\.2"):
        read_policy(str(file))


def test_rule_without_thresholds_needs_a_scale(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    rule = '[[rule]]\nprobe = "attacks.pgd"\nmetric = "robust_accuracy"\nreason = "x"\nsource = "y"\n'
    file.write_text(rule + 'knowledge = "natural"\n', "utf-8")
    with pytest.raises(BadInput, match=r"no thresholds and no table \[severity\.natural\]"):
        read_policy(str(file))


def test_every_probe_with_numbers_has_a_rule_or_a_reason_for_having_none() -> None:
    policy = read_policy("default")
    judged = {rule.probe for rule in policy.rules}
    stated = [pattern for entry in policy.unjudged for pattern in entry.probes]
    plugins = load()
    probes = [probe_id for probe_id, kind in plugins.probes.items() if kind.metrics]
    assert len(probes) > 40
    generated = [f"{family.prefix}any" for family in plugins.families.values() if family.name != "maite"]
    assert len(generated) >= 3
    for probe_id in [*probes, *generated, "corruptions.maite-augmentations"]:
        explained = any(fnmatch.fnmatch(probe_id, pattern) for pattern in stated)
        assert probe_id in judged or explained, f"{probe_id}: add a rule or an [[unjudged]] reason to default.toml"


def test_stated_reason_replaces_the_general_one() -> None:
    judged = judge(loss("metrics.clever", "clever_median", {}, 0.5), read_policy("default"))  # type: ignore[arg-type]
    assert "an estimate without a guarantee" in judged["reason"]


def test_record_holds_rules_and_severity_table() -> None:
    described = read_policy("default").described([])
    assert list(described["severity"]) == list(KNOWLEDGE)
    assert all(rule["thresholds"] for rule in described["rules"])


def test_judgement_names_threshold_rationale_and_source() -> None:
    probe = loss("attacks.spatial", "moved_accuracy", {"rotation": 30, "translation": 0.1}, 0.6)
    found = judge(probe, read_policy("default"))["judgements"]  # type: ignore[arg-type]
    assert (found[0]["side"], found[0]["limit"], found[0]["severity"]) == ("at_most_lost", 0.1, "high")
    assert found[0]["rationale"]
    assert found[0]["source"]

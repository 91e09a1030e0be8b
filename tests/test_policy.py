"""Thresholds are judged on the ends of intervals, and a verdict never counts as passed what did not pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from auditor.errors import BadInput
from auditor.policy.rules import Policy, Rule, builtin, read_policy
from auditor.policy.verdict import at_or_above, judge, verdict

GRADES = {"low": 0.9, "medium": 0.75, "high": 0.5, "critical": 0.2}


def rule(**changes: Any) -> Rule:
    given: dict[str, Any] = {
        "probe": "performance.accuracy",
        "metric": "accuracy",
        "side": "at_least",
        "thresholds": GRADES,
        "reason": "too low",
        "source": "test",
    } | changes
    given[given.pop("side")] = given.pop("thresholds")
    return Rule(**given)


def policy(*rules: Rule, **options: Any) -> Policy:
    return Policy(name="test", rules=rules, **options)


def metric(low: float | None, value: float | None, high: float | None, **changes: Any) -> dict[str, Any]:
    given = {"name": "accuracy", "value": value, "low": low, "high": high, "n": 100, "unit": "fraction", "at": {}}
    return given | changes


def probe(*metrics: dict[str, Any], **changes: Any) -> dict[str, Any]:
    findings = [{"id": f"performance.accuracy/{i}", "metric": m, "severity": "none"} for i, m in enumerate(metrics)]
    given = {"id": "performance.accuracy", "status": "informative", "severity": "none", "reason": "", "caveat": ""}
    return given | {"metrics": list(metrics), "findings": findings} | changes


@pytest.mark.parametrize(
    ("interval", "status", "severity"),
    [
        ((0.91, 0.95, 0.98), "pass", "none"),
        ((0.90, 0.95, 0.98), "pass", "none"),
        ((0.89, 0.95, 0.98), "inconclusive", "none"),
        ((0.70, 0.80, 0.90), "inconclusive", "none"),
        ((0.70, 0.80, 0.899), "fail", "low"),
        ((0.60, 0.70, 0.76), "fail", "low"),
        ((0.60, 0.70, 0.74), "fail", "medium"),
        ((0.30, 0.40, 0.49), "fail", "high"),
        ((0.05, 0.10, 0.19), "fail", "critical"),
        ((None, 0.95, None), "pass", "none"),
        ((None, 0.10, None), "fail", "critical"),
    ],
)
def test_at_least_is_judged_by_the_ends_of_the_interval(interval: Any, status: str, severity: str) -> None:
    judged = judge(probe(metric(*interval)), policy(rule()))
    assert (judged["status"], judged["severity"]) == (status, severity)
    assert [finding["severity"] for finding in judged["findings"]] == [severity]


@pytest.mark.parametrize(
    ("interval", "status", "severity"),
    [
        ((0.01, 0.03, 0.05), "pass", "none"),
        ((0.01, 0.03, 0.06), "inconclusive", "none"),
        ((0.06, 0.08, 0.30), "fail", "low"),
        ((0.11, 0.15, 0.30), "fail", "medium"),
        ((0.25, 0.30, 0.35), "fail", "high"),
        ((0.40, 0.50, 0.60), "fail", "critical"),
    ],
)
def test_at_most_is_its_mirror(interval: Any, status: str, severity: str) -> None:
    grades = {"low": 0.05, "medium": 0.1, "high": 0.2, "critical": 0.35}
    judged = judge(probe(metric(*interval)), policy(rule(side="at_most", thresholds=grades)))
    assert (judged["status"], judged["severity"]) == (status, severity)


def test_surviving_a_weak_attack_is_never_a_pass_but_failing_it_is_a_fail() -> None:
    weak = policy(rule(only_fails="a stronger attack must be run"))
    passed, failed = (judge(probe(metric(*i)), weak) for i in ((0.95, 0.97, 0.99), (0.1, 0.2, 0.3)))
    assert (passed["status"], failed["status"]) == ("inconclusive", "fail")
    assert "a stronger attack must be run" in passed["reason"]


@pytest.mark.parametrize("rules", [[], [rule(probe="attacks.fgsm")]], ids=["no rule", "other probe"])
def test_a_probe_without_a_rule_is_not_judged(rules: Any) -> None:
    assert judge(probe(metric(0.9, 0.95, 0.99)), policy(*rules))["status"] == "informative"


@pytest.mark.parametrize(
    ("metrics", "asked"),
    [
        ([metric(0.9, 0.95, 0.99)], rule(metric="recall")),
        ([metric(0.9, 0.95, 0.99)], rule(at={"norm": "linf"})),
        ([metric(0.9, 0.95, 0.99, at={"epsilon": 0.1})], rule(at={"epsilon": 0.2})),
        ([metric(None, None, None)], rule()),
        ([], rule()),
    ],
    ids=["other metric", "not at this norm", "not at this epsilon", "no number", "no metric"],
)
def test_a_rule_without_a_matching_number_is_never_met(metrics: Any, asked: Any) -> None:
    judged = judge(probe(*metrics), policy(asked))
    assert judged["status"] == "inconclusive"
    assert "was not measured" in judged["reason"]


def test_a_policy_on_a_probe_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "typo.toml"
    path.write_text(
        '[[rule]]\nprobe = "performance.acuracy"\nmetric = "accuracy"\nat_least = {low = 0.9}\n'
        'reason = "r"\nsource = "s"\n'
    )
    with pytest.raises(BadInput, match=r"performance\.acuracy"):
        read_policy(str(path), ["performance.accuracy"])


def test_the_worst_of_all_matching_numbers_counts_and_its_finding_bears_the_severity() -> None:
    numbers = [metric(0.95, 0.97, 0.99, at={"k": "a"}), metric(0.3, 0.4, 0.45, at={"k": "b"}), metric(0.6, 0.8, 0.95)]
    judged = judge(probe(*numbers), policy(rule()))
    assert (judged["status"], judged["severity"]) == ("fail", "high")
    assert [finding["severity"] for finding in judged["findings"]] == ["none", "high", "none"]


def test_the_worst_of_several_rules_counts() -> None:
    rules = [rule(), rule(metric="recall", thresholds={"low": 0.99})]
    numbers = [metric(0.1, 0.15, 0.19), metric(0.5, 0.6, 0.7, name="recall")]
    judged = judge(probe(*numbers), policy(*rules))
    assert (judged["status"], judged["severity"]) == ("fail", "critical")
    assert [finding["severity"] for finding in judged["findings"]] == ["critical", "low"]


def test_a_caveat_stops_a_pass_but_no_failure() -> None:
    doubtful = {"caveat": "the gradients mislead"}
    passed, failed = (
        judge(probe(metric(*i), **doubtful), policy(rule())) for i in ((0.95, 0.97, 1.0), (0.1, 0.2, 0.3))
    )
    assert (passed["status"], passed["reason"]) == ("inconclusive", "the gradients mislead")
    assert failed["status"] == "fail"


@pytest.mark.parametrize("status", ["error", "not-applicable"])
def test_what_was_not_measured_is_not_judged(status: str) -> None:
    assert judge(probe(metric(0.1, 0.1, 0.1), status=status), policy(rule()))["status"] == status


def test_judging_twice_is_judging_once_and_a_milder_policy_takes_the_severity_back() -> None:
    strict, mild = policy(rule()), policy(rule(thresholds={"low": 0.05}))
    once = judge(probe(metric(0.1, 0.15, 0.19)), strict)
    assert judge(once, strict) == once
    again = judge(once, mild)
    assert (again["status"], again["severity"], again["findings"][0]["severity"]) == ("pass", "none", "none")


def ended(probe_id: str, status: str, severity: str = "none") -> dict[str, Any]:
    return {"id": probe_id, "status": status, "severity": severity}


@pytest.mark.parametrize(
    ("probes", "broken", "expected"),
    [
        ([ended("a.a", "pass"), ended("b.b", "informative")], [], "pass"),
        ([ended("a.a", "pass"), ended("b.b", "inconclusive")], [], "pass"),
        ([ended("a.a", "inconclusive")], [], "incomplete"),
        ([ended("a.a", "not-applicable")], [], "incomplete"),
        ([ended("a.a", "informative")], [], "incomplete"),
        ([ended("b.b", "pass")], [], "incomplete"),
        ([ended("a.a", "pass"), ended("b.b", "error")], [], "incomplete"),
        ([ended("a.a", "pass")], ["third:plugin"], "incomplete"),
        ([ended("a.a", "error"), ended("b.b", "fail", "high")], ["third:plugin"], "fail"),
        ([ended("a.a", "pass"), ended("b.b", "fail", "medium")], [], "fail"),
        ([ended("a.a", "pass"), ended("b.b", "fail", "low")], [], "pass"),
    ],
)
def test_fail_goes_before_incomplete_before_pass(probes: Any, broken: list[str], expected: str) -> None:
    found, why = verdict(probes, policy(required=["a.a"], fails_at="medium"), broken)
    assert found == expected
    assert why


def test_what_a_pass_leaves_open_is_named() -> None:
    probes = [ended("a.a", "fail", "low"), ended("b.b", "inconclusive"), ended("c.c", "pass")]
    found, why = verdict(probes, policy(required=["a.a"], fails_at="medium"), [])
    assert found == "pass"
    assert why == ("no probe failed at severity medium or above; milder failures: a.a (low); not settled: b.b")


@pytest.mark.parametrize(
    ("level", "expected"), [("low", True), ("medium", True), ("high", True), ("critical", False), ("never", False)]
)
def test_fail_on_asks_for_this_severity_or_above(level: str, expected: bool) -> None:
    probes = [ended("a.a", "fail", "high"), ended("b.b", "inconclusive", "none"), ended("c.c", "error", "none")]
    assert at_or_above(probes, level) is expected


@pytest.mark.parametrize("name", builtin())
def test_the_packaged_policies_read_and_every_rule_gives_its_source(name: str) -> None:
    found = read_policy(name)
    assert found.rules
    assert all(r.reason and r.source for r in found.rules)


WHOLE = 'probe = "a.b"\nmetric = "m"\nreason = "r"\nsource = "s"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[rule", "not readable as TOML"),
        ("limit = 3", "unknown key 'limit'"),
        ('fails_at = "none"', "fails_at is 'none'"),
        ('[[rule]]\nprobe = "a.b"', "has no metric"),
        (f"[[rule]]\n{WHOLE}", "exactly one of at_least and at_most"),
        (f"[[rule]]\n{WHOLE}at_least = {{ low = 1 }}\nat_most = {{ low = 1 }}", "exactly one of at_least and at_most"),
        (f"[[rule]]\n{WHOLE}at_least = 0.5", "at_least is 0.5; expected a table"),
        (
            f"[[rule]]\n{WHOLE}at_least = {{ dire = 0.5 }}",
            "unknown key 'dire'; expected one of low, medium, high, critical",
        ),
        (f'[[rule]]\n{WHOLE}at_least = {{ low = "x" }}', "at_least.low is 'x'; expected a number"),
        (f"[[rule]]\n{WHOLE}at_least = {{ low = 0.1, high = 0.5 }}", "further from the goal"),
        (f"[[rule]]\n{WHOLE}at_most = {{ low = 0.5, high = 0.1 }}", "further from the goal"),
        (f"[[rule]]\n{WHOLE}at_least = {{ low = 0.5 }}\nwhen = 1", "unknown key 'when'"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "policy.toml").write_text(text)
    with pytest.raises(BadInput, match=said):
        read_policy(str(tmp_path / "policy.toml"))


@pytest.mark.parametrize("name", ["nonsense", "nowhere.toml"])
def test_a_policy_that_is_not_there_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="no such policy"):
        read_policy(name)


def test_a_threshold_at_a_level_is_found_up_to_rounding() -> None:
    """8/255 is written 0.031372549 in a policy, and 0.0313725 in audit.json."""
    rules = rule(at={"norm": "linf", "epsilon": 0.031372549})
    number = metric(0.1, 0.15, 0.19, at={"norm": "linf", "epsilon": 0.0313725})
    assert judge(probe(number), policy(rules))["severity"] == "critical"

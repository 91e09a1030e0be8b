"""Thresholds apply to the ends of intervals, and only passed probes count as passed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from auditor.errors import BadInput
from auditor.policy.rules import Policy, Rule, builtin, read_policy
from auditor.policy.verdict import at_or_above, judge, verdict

GRADES = {"low": 0.9, "medium": 0.75, "high": 0.5, "critical": 0.2}


def rule(**changes: Any) -> Rule:
    fields: dict[str, Any] = {
        "probe": "performance.accuracy",
        "metric": "accuracy",
        "side": "at_least",
        "thresholds": GRADES,
        "reason": "too low",
        "source": "test",
    } | changes
    fields[fields.pop("side")] = fields.pop("thresholds")
    return Rule(**fields)


def policy(*rules: Rule, **options: Any) -> Policy:
    return Policy(name="test", rules=rules, **options)


def metric(low: float | None, value: float | None, high: float | None, **changes: Any) -> dict[str, Any]:
    fields = {"name": "accuracy", "value": value, "low": low, "high": high, "n": 100, "unit": "fraction", "at": {}}
    return fields | changes


def probe(*metrics: dict[str, Any], **changes: Any) -> dict[str, Any]:
    findings = [{"id": f"performance.accuracy/{i}", "metric": m, "severity": "none"} for i, m in enumerate(metrics)]
    fields = {"id": "performance.accuracy", "status": "informative", "severity": "none", "reason": "", "caveat": ""}
    return fields | {"metrics": list(metrics), "findings": findings} | changes


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
        ((None, 0.95, None), "inconclusive", "none"),
        ((None, 0.10, None), "inconclusive", "none"),
        ((0.95, 0.95, 0.95), "inconclusive", "none"),
        ((0.10, 0.10, 0.10), "fail", "critical"),
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


def test_weak_attack_can_fail_but_not_pass() -> None:
    weak = policy(rule(only_fails="a stronger attack must be run"))
    passed, failed = (judge(probe(metric(*i)), weak) for i in ((0.95, 0.97, 0.99), (0.1, 0.2, 0.3)))
    assert (passed["status"], failed["status"]) == ("inconclusive", "fail")
    assert "a stronger attack must be run" in passed["reason"]


@pytest.mark.parametrize("rules", [[], [rule(probe="attacks.fgsm")]], ids=["no rule", "other probe"])
def test_probe_without_rule_is_not_judged(rules: Any) -> None:
    assert judge(probe(metric(0.9, 0.95, 0.99)), policy(*rules))["status"] == "informative"


@pytest.mark.parametrize(
    ("metrics", "required"),
    [
        ([metric(0.9, 0.95, 0.99)], rule(metric="recall")),
        ([metric(0.9, 0.95, 0.99)], rule(at={"norm": "linf"})),
        ([metric(0.9, 0.95, 0.99, at={"epsilon": 0.1})], rule(at={"epsilon": 0.2})),
        ([metric(None, None, None)], rule()),
        ([], rule()),
    ],
    ids=["other metric", "not at this norm", "not at this epsilon", "no number", "no metric"],
)
def test_rule_without_matching_metric_is_not_met(metrics: Any, required: Any) -> None:
    judged = judge(probe(*metrics), policy(required))
    assert judged["status"] == "inconclusive"
    assert "was not measured" in judged["reason"]


@pytest.mark.parametrize(
    ("n", "limit", "status", "missing"),
    [
        (58, 0.95, "inconclusive", "at least 73 images, so 15 are missing"),
        (73, 0.95, "pass", ""),
        (58, 0.9, "pass", ""),
        (19, 0.5, "inconclusive", "at least 20 images, so 1 is missing"),
    ],
)
def test_rule_states_the_smallest_n_at_which_it_can_be_met(n: int, limit: float, status: str, missing: str) -> None:
    """Full agreement on n images passes as soon as Wilson's lower end n / (n + 1.96^2) reaches the threshold."""
    low = n / (n + 1.96**2)
    judged = judge(probe(metric(low, 1.0, 1.0, n=n)), policy(rule(thresholds={"low": limit})))
    assert judged["status"] == status
    assert missing in judged["reason"]


def test_exact_number_needs_no_interval() -> None:
    spec = {"name": "accuracy", "label": "Accuracy", "better": "neither", "unit": "count", "bound": "exact"}
    spec["difference"] = False  # type: ignore[assignment]
    counted = rule(side="at_most", thresholds={"low": 0})
    for value, status in ((0.0, "pass"), (1.0, "fail")):
        number = metric(None, value, None, unit="count")
        assert judge(probe(number, metric_specs=[spec]), policy(counted))["status"] == status


ROBUST = {"name": "robust_accuracy", "label": "Robust accuracy", "better": "higher", "unit": "fraction"}
ROBUST |= {"bound": "upper", "difference": False, "monotone": "epsilon"}


@pytest.mark.parametrize(
    ("epsilon", "interval", "status"),
    [
        (4 / 255, (0.05, 0.08, 0.12), "fail"),
        (4 / 255, (0.95, 0.97, 0.99), "inconclusive"),
        (16 / 255, (0.95, 0.97, 0.99), "pass"),
        (16 / 255, (0.05, 0.08, 0.12), "inconclusive"),
        (0.0, (0.05, 0.08, 0.12), "inconclusive"),
    ],
    ids=["fails at a smaller size", "passes at a smaller size", "passes at a larger size", "fails at a larger size",
         "wrong without an attack"],
)  # fmt: skip
def test_robust_accuracy_is_judged_by_its_monotonicity(epsilon: float, interval: Any, status: str) -> None:
    wanted = rule(metric="robust_accuracy", at={"norm": "linf", "epsilon": 8 / 255})
    at = {"norm": "linf", "epsilon": epsilon}
    judged = judge(probe(metric(*interval, name="robust_accuracy", at=at), metric_specs=[ROBUST]), policy(wanted))
    assert judged["status"] == status
    other = metric(*interval, name="robust_accuracy", at={**at, "norm": "l2"})
    assert judge(probe(other, metric_specs=[ROBUST]), policy(wanted))["status"] == "inconclusive"
    if status == "inconclusive" and epsilon:
        assert "it follows neither from a failure at a smaller" in judged["reason"]


def test_loss_from_the_clean_accuracy_is_judged() -> None:
    lost = rule(metric="robust_accuracy", side="at_most_lost", thresholds={"low": 0.2, "high": 0.5})
    at = {"norm": "linf", "epsilon": 8 / 255}
    for interval, status, severity in (
        ((0.55, 0.58, 0.60), "pass", "none"),
        ((0.30, 0.34, 0.38), "fail", "low"),
        ((0.02, 0.05, 0.08), "fail", "high"),
        ((0.35, 0.40, 0.45), "inconclusive", "none"),
    ):
        number = metric(*interval, name="robust_accuracy", at=at, clean=0.6)
        judged = judge(probe(number, metric_specs=[ROBUST]), policy(lost))
        assert (judged["status"], judged["severity"]) == (status, severity)
        assert judged["findings"][0]["severity"] == severity
        assert "Loss of robust accuracy from 60.0 %" in judged["reason"]


def test_large_loss_that_no_rule_judges_is_in_the_verdict() -> None:
    spec = {**ROBUST, "monotone": ""}
    l1 = metric(0.0, 0.002, 0.01, name="robust_accuracy", at={"norm": "l1", "epsilon": 6.0}, clean=0.98)
    linf = metric(0.9, 0.95, 0.98, name="robust_accuracy", at={"norm": "linf", "epsilon": 0.03}, clean=0.98)
    wanted = policy(rule(metric="robust_accuracy", at={"norm": "linf"}))
    judged = judge(probe(linf, l1, metric_specs=[spec], id="performance.accuracy"), wanted)
    outcome, why = verdict([judged], wanted, [])
    assert outcome == "pass"
    assert "large losses that the policy does not judge" in why
    assert "falls from 98.0 % to 0.2 % [0.0, 1.0] at L1 6" in why
    small = [linf, {**l1, "value": 0.9, "low": 0.85, "high": 0.95}]
    assert "large" not in verdict([judge(probe(*small, metric_specs=[spec]), wanted)], wanted, [])[1]


def test_advisory_rule_can_fail_but_does_not_prevent_a_pass() -> None:
    advice = rule(metric="recall", advisory=True)
    good, open_, bad = ((0.95, 0.97, 0.99), (0.85, 0.92, 0.97), (0.1, 0.2, 0.3))
    for interval, status in ((good, "pass"), (open_, "pass"), (bad, "fail")):
        numbers = [metric(*good), metric(*interval, name="recall")]
        assert judge(probe(*numbers), policy(rule(), advice))["status"] == status


def test_policy_with_unknown_probe_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "typo.toml"
    path.write_text(
        '[[rule]]\nprobe = "performance.acuracy"\nmetric = "accuracy"\nat_least = {low = 0.9}\n'
        'reason = "r"\nsource = "s"\n'
    )
    with pytest.raises(BadInput, match=r"performance\.acuracy"):
        read_policy(str(path), ["performance.accuracy"])


def test_worst_matching_metric_counts_and_its_finding_has_the_severity() -> None:
    numbers = [metric(0.95, 0.97, 0.99, at={"k": "a"}), metric(0.3, 0.4, 0.45, at={"k": "b"}), metric(0.6, 0.8, 0.95)]
    judged = judge(probe(*numbers), policy(rule()))
    assert (judged["status"], judged["severity"]) == ("fail", "high")
    assert [finding["severity"] for finding in judged["findings"]] == ["none", "high", "none"]


def test_open_rule_prevents_the_pass_of_another() -> None:
    passed, open_ = metric(0.91, 0.95, 0.98), metric(0.8, 0.95, 0.98, name="recall")
    judged = judge(probe(passed, open_), policy(rule(), rule(metric="recall")))
    assert judged["status"] == "inconclusive"
    assert judge(probe(passed, open_), policy(rule()))["status"] == "pass"


def test_worst_of_several_rules_counts() -> None:
    rules = [rule(), rule(metric="recall", thresholds={"low": 0.99})]
    numbers = [metric(0.1, 0.15, 0.19), metric(0.5, 0.6, 0.7, name="recall")]
    judged = judge(probe(*numbers), policy(*rules))
    assert (judged["status"], judged["severity"]) == ("fail", "critical")
    assert [finding["severity"] for finding in judged["findings"]] == ["critical", "low"]


def test_caveat_prevents_a_pass_but_not_a_failure() -> None:
    doubtful = {"caveat": "the gradients mislead"}
    passed, failed = (
        judge(probe(metric(*i), **doubtful), policy(rule())) for i in ((0.95, 0.97, 1.0), (0.1, 0.2, 0.3))
    )
    assert (passed["status"], passed["reason"]) == ("inconclusive", "the gradients mislead")
    assert failed["status"] == "fail"


@pytest.mark.parametrize("status", ["error", "not-applicable"])
def test_unmeasured_probe_is_not_judged(status: str) -> None:
    assert judge(probe(metric(0.1, 0.1, 0.1), status=status), policy(rule()))["status"] == status


def test_judging_is_idempotent_and_a_milder_policy_resets_the_severity() -> None:
    strict, mild = policy(rule()), policy(rule(thresholds={"low": 0.05}))
    once = judge(probe(metric(0.1, 0.15, 0.19)), strict)
    assert judge(once, strict) == once
    again = judge(once, mild)
    assert (again["status"], again["severity"], again["findings"][0]["severity"]) == ("pass", "none", "none")


def ended(probe_id: str, status: str, severity: str = "none") -> dict[str, Any]:
    return {"id": probe_id, "status": status, "severity": severity, "metrics": []}


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
def test_fail_precedes_incomplete_precedes_pass(probes: Any, broken: list[str], expected: str) -> None:
    result, why = verdict(probes, policy(required=["a.a"], fails_at="medium"), broken)
    assert result == expected
    assert why


def test_pass_names_the_open_points() -> None:
    probes = [ended("a.a", "fail", "low"), ended("b.b", "inconclusive"), ended("c.c", "pass")]
    result, why = verdict(probes, policy(required=["a.a"], fails_at="medium"), [])
    assert result == "pass"
    assert why == ("no probe failed at severity medium or above; milder failures: a.a (low); not settled: b.b")


@pytest.mark.parametrize(
    ("level", "expected"), [("low", True), ("medium", True), ("high", True), ("critical", False), ("never", False)]
)
def test_fail_on_includes_higher_severities(level: str, expected: bool) -> None:
    probes = [ended("a.a", "fail", "high"), ended("b.b", "inconclusive", "none"), ended("c.c", "error", "none")]
    assert at_or_above(probes, level) is expected


@pytest.mark.parametrize("name", builtin())
def test_packaged_policies_load_and_every_rule_has_a_source(name: str) -> None:
    loaded = read_policy(name)
    assert loaded.rules
    assert all(r.reason and r.source for r in loaded.rules)


COMPLETE = 'probe = "a.b"\nmetric = "m"\nreason = "r"\nsource = "s"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[rule", "not readable as TOML"),
        ("limit = 3", "unknown key 'limit'"),
        ('fails_at = "none"', "fails_at is 'none'"),
        ('[[rule]]\nprobe = "a.b"', "has no metric"),
        (f"[[rule]]\n{COMPLETE}", "exactly one of at_least, at_most, at_most_lost"),
        (
            f"[[rule]]\n{COMPLETE}at_least = {{ low = 1 }}\nat_most = {{ low = 1 }}",
            "exactly one of at_least, at_most, at_most_lost",
        ),
        (f"[[rule]]\n{COMPLETE}at_least = 0.5", "at_least is 0.5; expected a table"),
        (
            f"[[rule]]\n{COMPLETE}at_least = {{ dire = 0.5 }}",
            "unknown key 'dire'; expected one of low, medium, high, critical",
        ),
        (f'[[rule]]\n{COMPLETE}at_least = {{ low = "x" }}', "at_least.low is 'x'; expected a number"),
        (f"[[rule]]\n{COMPLETE}at_least = {{ low = 0.1, high = 0.5 }}", "further from the goal"),
        (f"[[rule]]\n{COMPLETE}at_most = {{ low = 0.5, high = 0.1 }}", "further from the goal"),
        (f"[[rule]]\n{COMPLETE}at_least = {{ low = 0.5 }}\nwhen = 1", "unknown key 'when'"),
    ],
)
def test_invalid_policy_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "policy.toml").write_text(text)
    with pytest.raises(BadInput, match=message):
        read_policy(str(tmp_path / "policy.toml"))


@pytest.mark.parametrize("name", ["nonsense", "nowhere.toml"])
def test_missing_policy_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="no such policy"):
        read_policy(name)


def test_threshold_level_matches_up_to_rounding() -> None:
    """8/255 is written 0.031372549 in a policy, and 0.0313725 in audit.json."""
    rules = rule(at={"norm": "linf", "epsilon": 0.031372549})
    number = metric(0.1, 0.15, 0.19, at={"norm": "linf", "epsilon": 0.0313725})
    assert judge(probe(number), policy(rules))["severity"] == "critical"


@pytest.mark.parametrize(
    ("n", "units", "status"), [(2, None, "inconclusive"), (20, None, "fail"), (40, 2, "inconclusive")]
)
def test_interval_of_one_point_from_few_images_does_not_fail(n: int, units: int | None, status: str) -> None:
    """A bootstrap of two equal values has an interval of one point, but a third value may differ."""
    judged = judge(probe(metric(0.1, 0.1, 0.1, n=n, units=units)), policy(rule()))
    assert judged["status"] == status
    assert ("from fewer than 20" in judged["reason"]) == (status == "inconclusive")


def test_model_without_an_answer_for_some_images_does_not_pass() -> None:
    outcome, why = verdict([ended("a.a", "pass")], policy(), [], unanswered=3)
    assert outcome == "incomplete"
    assert "NaN or infinity for 3 images" in why
    assert verdict([ended("a.a", "fail", "high")], policy(), [], unanswered=3)[0] == "fail"
    assert verdict([ended("a.a", "pass")], policy(), [])[0] == "pass"

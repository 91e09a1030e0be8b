"""Accepted failures are reported and counted; acceptances expire, and a policy can extend another."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from auditor.errors import BadInput
from auditor.policy.rules import Policy, read_policy
from auditor.policy.verdict import at_or_above, judge, judge_all, verdict
from auditor.report.html import render_html
from auditor.report.junit import render_junit
from auditor.report.markdown import render_markdown
from auditor.report.sarif import render_sarif
from auditor.schemas import validator

GOLDEN = Path(__file__).parent / "data" / "golden_audit.json"
TODAY = dt.date(2030, 1, 31)
RULES = """
[[rule]]
probe = "bias.groups"
metric = "accuracy_gap"
at_most = { low = 0.05, high = 0.2 }
reason = "a gap"
source = "test"
"""


def accepted(**changes: Any) -> str:
    defaults = {
        "probe": '"bias.groups"',
        "severity": '"low"',
        "justification": '"retrained in March"',
        "author": '"Ada"',
    }
    entries = defaults | {"expires": "2030-01-31"} | changes
    return "[[accepted]]\n" + "\n".join(f"{key} = {value}" for key, value in entries.items()) + "\n"


def policy(folder: Path, *parts: str, today: dt.date = TODAY) -> Policy:
    path = folder / "own.toml"
    path.write_text("\n".join([*parts[:-1], RULES, *parts[-1:]]), "utf-8")
    return read_policy(str(path), today=today)


def probe(*gaps: tuple[str, float]) -> dict[str, Any]:
    metrics = [
        {
            "name": "accuracy_gap",
            "value": value,
            "low": value - 0.01,
            "high": value + 0.01,
            "n": 90,
            "unit": "fraction",
            "at": {"group": group},
        }
        for group, value in gaps
    ]
    findings = [{"id": f"bias.groups/{m['at']['group']}", "metric": m, "severity": "none"} for m in metrics]
    return {
        "id": "bias.groups",
        "status": "informative",
        "severity": "none",
        "reason": "",
        "metrics": metrics,
        "findings": findings,
    }


def test_accepted_failure_stays_a_failure_but_does_not_count(tmp_path: Path) -> None:
    loaded = policy(tmp_path, accepted())
    judged = judge(probe(("sex", 0.1)), loaded)
    assert (judged["status"], judged["severity"]) == ("fail", "none")
    assert "accepted by Ada until 2030-01-31: retrained in March" in judged["reason"]
    assert (judged["findings"][0]["severity"], judged["findings"][0]["accepted"]) == ("low", True)
    assert [entry["found"] for entry in judged["accepted"]] == ["low"]
    assert not at_or_above([judged], "low")
    assert verdict([judged], loaded, []) == (
        "pass",
        "no probe failed at severity low or above; accepted by the policy: bias.groups (low, until 2030-01-31)",
    )
    assert loaded.described([judged])["accepted"][0]["state"] == "holds"


def test_acceptance_expires_after_its_last_day(tmp_path: Path) -> None:
    loaded = policy(tmp_path, accepted(), today=TODAY + dt.timedelta(days=1))
    judged = judge(probe(("sex", 0.1)), loaded)
    assert judged["severity"] == "low"
    assert "accepted" not in judged
    assert verdict([judged], loaded, [])[0] == "fail"
    assert loaded.described([judged])["accepted"][0]["state"] == "expired"


@pytest.mark.parametrize(
    ("entry", "gap"),
    [
        ({}, ("sex", 0.3)),
        ({"at": '{ group = "age" }'}, ("sex", 0.1)),
        ({"metric": '"accuracy"'}, ("sex", 0.1)),
        ({"probe": '"bias.classes"'}, ("sex", 0.1)),
    ],
    ids=["a worse failure", "another group", "another metric", "another probe"],
)
def test_failure_without_acceptance_counts(tmp_path: Path, entry: dict[str, str], gap: tuple[str, float]) -> None:
    loaded = policy(tmp_path, accepted(**entry))
    judged = judge(probe(gap), loaded)
    assert judged["severity"] in ("low", "high")
    assert "accepted" not in judged["findings"][0]
    assert loaded.described([judged])["accepted"][0]["state"] == "unused"


def test_acceptance_of_one_group_excludes_the_other(tmp_path: Path) -> None:
    rules = RULES.replace("at_most", 'at = { group = "GROUP" }\nat_most')
    path = tmp_path / "two.toml"
    path.write_text(rules.replace("GROUP", "sex") + rules.replace("GROUP", "age") + accepted(at='{ group = "sex" }'))
    judged = judge(probe(("sex", 0.15), ("age", 0.1)), read_policy(str(path), today=TODAY))
    assert judged["severity"] == "low"
    assert [finding.get("accepted", False) for finding in judged["findings"]] == [True, False]
    assert [entry["at"] for entry in judged["accepted"]] == [{"group": "sex"}]


def test_verdict_names_the_worst_of_many_failures(tmp_path: Path) -> None:
    many = [{**judge(probe(("sex", 0.1)), policy(tmp_path, "")), "id": f"bias.n{number}"} for number in range(8)]
    many[7]["severity"] = "critical"
    _, why = verdict(many, policy(tmp_path, ""), [])
    assert ": bias.n7 (critical), bias.n0 (low), " in why
    assert why.endswith("bias.n4 (low) and 2 more")


def test_judging_without_the_acceptance_removes_it(tmp_path: Path) -> None:
    excused = judge(probe(("sex", 0.1)), policy(tmp_path, accepted()))
    again = judge(excused, policy(tmp_path, ""))
    assert again == judge(probe(("sex", 0.1)), policy(tmp_path, ""))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"justification": '" "'}, "justification is ' '; expected a text that is not empty"),
        ({"author": "3"}, "author is 3; expected a text"),
        ({"severity": '"none"'}, "severity is 'none'"),
        ({"expires": '"2030-01-31"'}, "expires is '2030-01-31'"),
        ({"expires": "2030-01-31T10:00:00"}, "without quotes"),
        ({"at": '"sex"'}, "at is 'sex'; expected a table"),
        ({"until": "2030-01-31"}, "unknown key 'until'"),
    ],
)
def test_acceptance_requires_reason_author_and_expiry(tmp_path: Path, entry: dict[str, str], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        policy(tmp_path, accepted(**entry))


def test_acceptance_of_unknown_probe_is_refused(tmp_path: Path) -> None:
    (tmp_path / "typo.toml").write_text(accepted(probe='"bias.gruops"'))
    with pytest.raises(BadInput, match=r"bias\.gruops"):
        read_policy(str(tmp_path / "typo.toml"), ["bias.groups"])


def test_policy_extends_another(tmp_path: Path) -> None:
    base, loaded_policy = read_policy("default"), policy(tmp_path, 'extends = "default"\nfails_at = "high"', accepted())
    assert loaded_policy.required == base.required
    assert loaded_policy.fails_at == "high"
    assert len(loaded_policy.rules) == len(base.rules)  # its one rule replaces the one on the same metric
    assert next(r for r in loaded_policy.rules if r.probe == "bias.groups").reason == "a gap"
    assert loaded_policy.invalidations == base.invalidations
    assert loaded_policy.sha256 != base.sha256


def test_circular_extension_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('extends = "b.toml"')
    (tmp_path / "b.toml").write_text('extends = "a.toml"')
    with pytest.raises(BadInput, match="remove one of the two"):
        read_policy(str(tmp_path / "a.toml"))


def test_packaged_policies_differ_as_documented(tmp_path: Path) -> None:
    default, strict, ci = (read_policy(name) for name in ("default", "strict", "ci"))
    assert (strict.fails_at, default.fails_at, ci.fails_at) == ("low", "medium", "high")
    assert list(ci.rules) == list(default.rules)
    mild = {str(rule.number()): rule for rule in default.rules}
    for rule in strict.rules:
        known = mild[str(rule.number())]
        sign = 1 if rule.side == "at_least" else -1
        assert rule.side == known.side
        for grade, limit in rule.thresholds.items():
            assert sign * limit >= sign * known.thresholds.get(grade, limit)


@pytest.fixture
def audit(tmp_path: Path) -> dict[str, Any]:
    """Return the golden audit, judged by a policy that accepts its worst failure."""
    loaded: dict[str, Any] = json.loads(GOLDEN.read_text("utf-8"))
    path = tmp_path / "excuse.toml"
    path.write_text(
        'extends = "default"\n'
        + accepted(probe='"attacks.pgd"', severity='"critical"', author='"<b>Ada</b>"')
        + accepted(probe='"bias.groups"', severity='"critical"', expires="2020-01-01")
    )
    applied = read_policy(str(path), today=TODAY)
    loaded["probes"] = judge_all(loaded["probes"], applied)
    loaded["policy"] = applied.described(loaded["probes"])
    loaded["verdict"], loaded["verdict_reason"] = verdict(loaded["probes"], applied, [])
    return loaded


def test_every_format_reports_acceptances(audit: dict[str, Any], tmp_path: Path) -> None:
    assert not list(validator("audit").iter_errors(audit))
    assert [entry["state"] for entry in audit["policy"]["accepted"]] == ["holds", "expired"]
    assert "accepted by the policy: attacks.pgd (critical, until 2030-01-31)" in audit["verdict_reason"]
    page = render_html(audit, tmp_path).decode()
    assert "Accepted by the policy" in page
    assert "Failed; not counted." in page
    assert "Expired; failures count again." in page
    assert "<b>Ada</b>" not in page
    results = json.loads(render_sarif(audit, tmp_path))["runs"][0]["results"]
    suppressed = {result["ruleId"] for result in results if result.get("suppressions")}
    assert suppressed == {"attacks.pgd"}
    suite = ET.fromstring(render_junit(audit, tmp_path))[0]
    (case,) = (case for case in suite.findall("testcase") if case.attrib["name"] == "attacks.pgd")
    assert "accepted by" in case[0].attrib["message"]
    assert case[0].tag == "skipped"
    assert "holds: `attacks.pgd` up to critical" in render_markdown(audit, tmp_path).decode()

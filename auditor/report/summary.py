"""What the first page says: five sentences, the worst findings, the counts, and what was not measured or broke.

All of it is derived from audit.json alone, so the terminal, the report and the Markdown summary cannot disagree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PureWindowsPath
from typing import Any, NamedTuple

from auditor.findings import formatting
from auditor.findings.finding import AREAS, SEVERITIES

Record = Mapping[str, Any]
"""audit.json or a part of it."""

STATUSES = ("pass", "fail", "inconclusive", "informative", "not-applicable", "error")

AREA_TITLES = {
    "performance": "Performance",
    "attacks": "Adversarial attacks",
    "corruptions": "Common corruptions",
    "metrics": "Robustness metrics",
    "bias": "Bias",
    "explanations": "Explanations",
    "sanity": "Sanity of the audit",
}

_MEASURED = ("pass", "fail", "inconclusive", "informative")
# For these a small number is good news; for every other proportion it is bad news.
_SMALL_IS_GOOD = (
    "attack_success_rate",
    "accuracy_gap",
    "mce",
    "relative_mce",
    "ece",
    "brier",
    "log_loss",
    "clever_below_distance",
)


class Gap(NamedTuple):
    """Something that the audit does not say, and why."""

    what: str
    why: str
    loud: bool
    """True when something broke, rather than having been left out."""


class Worst(NamedTuple):
    """A finding together with the probe it belongs to."""

    probe: Record
    finding: Record


def file_name(path: str) -> str:
    """The last part of a path of any system."""
    return PureWindowsPath(path).name or path


def headline(probe: Record) -> str:
    """The first metric of a probe with its interval; a dash where there is none."""
    return formatting.measured(probe["metrics"][0]) if probe["metrics"] else "-"


def counts(audit: Record) -> dict[str, dict[str, int]]:
    """How many probes ended in each status, and how many findings have each severity."""
    status = Counter(probe["status"] for probe in audit["probes"])
    severity = Counter(finding["severity"] for probe in audit["probes"] for finding in probe["findings"])
    return {
        "status": {name: status[name] for name in STATUSES},
        "severity": {name: severity[name] for name in reversed(SEVERITIES)},
    }


def _badness(metric: Record | None) -> float:
    """How bad a number is, from 0 to 1: only to order findings of one severity."""
    if metric is None or metric["value"] is None or metric["unit"] != "fraction":
        return 0.5
    small_is_good = metric["name"] in _SMALL_IS_GOOD or metric["name"].endswith(("_gap", "_difference"))
    return float(metric["value"] if small_is_good else 1 - metric["value"])


def _strength(metric: Record | None) -> float:
    """The size of the change that a number was measured at: the smaller, the worse the news."""
    epsilon = metric["at"].get("epsilon") if metric else None
    return float(epsilon) if isinstance(epsilon, int | float) else 0.0


def _order(worst: Worst) -> tuple[float, float, float]:
    metric = worst.finding["metric"]
    return (-SEVERITIES.index(worst.finding["severity"]), -_badness(metric), _strength(metric))


def worst_findings(audit: Record, most: int = 3, areas: Sequence[str] = AREAS) -> list[Worst]:
    """The findings with a severity, worst first; of one probe only its worst."""
    found = [
        Worst(probe, finding)
        for probe in audit["probes"]
        for finding in probe["findings"]
        if probe["area"] in areas and finding["severity"] != "none"
    ]
    first: dict[str, Worst] = {}
    for worst in sorted(found, key=_order):
        first.setdefault(worst.probe["id"], worst)
    return list(first.values())[:most]


def worst_numbers(audit: Record, most: int = 3) -> list[Worst]:
    """What to show beside too few findings with a severity: the worst numbers that no threshold judged, worst first.

    Each is a probe's headline number, where it is a bad one and its finding says it; the audit's own checks and
    explanations are about other things than how good the model is.
    """
    found = [
        Worst(probe, finding)
        for probe in audit["probes"]
        if probe["status"] in ("informative", "inconclusive") and probe["area"] not in ("sanity", "explanations")
        for finding in probe["findings"][:1]
        if finding["metric"] is not None
        and finding["metric"] == probe["metrics"][0]
        and _comparably(finding["metric"])
        and _badness(finding["metric"]) >= _BAD
    ]
    return sorted(found, key=_order)[:most]


_BAD = 0.2
"""From so far away from perfect on a number is worth the first page without a threshold."""


class Glance(NamedTuple):
    """One area in one line."""

    area: str
    title: str
    outcomes: Sequence[tuple[str, int]]
    """Statuses and how many probes ended so, without zeros."""
    probe: Record | None
    """The one that speaks for the area: what failed, else what was judged, else what was measured."""
    metric: Record | None


def glance(audit: Record) -> list[Glance]:
    """Every area with its outcomes and the number that speaks for it."""
    lines = []
    for area in AREAS:
        probes = _in_area(audit, area)
        outcomes = Counter(probe["status"] for probe in probes)
        chosen = min(
            (p for p in _ran(probes) if p["metrics"] and p["metrics"][0]["value"] is not None),
            key=lambda p: (_SPEAKS.index(p["status"]), not _comparably(p["metrics"][0]), -_badness(p["metrics"][0])),
            default=None,
        )
        said = [(name, outcomes[name]) for name in STATUSES if outcomes[name]]
        lines.append(Glance(area, AREA_TITLES[area], said, chosen, chosen["metrics"][0] if chosen else None))
    return lines


def _comparably(metric: Record) -> bool:
    """Whether a number is a proportion of which it is known which way is better."""
    return bool(metric["unit"] == "fraction" and formatting.better_side(metric) and 0 <= (metric["value"] or 0) <= 1)


_SPEAKS = ("fail", "pass", "inconclusive", "informative")


def accepted(audit: Record) -> list[Record]:
    """The failures that the policy accepts, with their state; audits of older versions have none."""
    return list(audit["policy"].get("accepted", []))


def _in_area(audit: Record, *areas: str) -> list[Record]:
    return [probe for probe in audit["probes"] if probe["area"] in areas]


def _ran(probes: Iterable[Record]) -> list[Record]:
    return [probe for probe in probes if probe["status"] in _MEASURED]


def gaps(audit: Record) -> list[Gap]:
    """What was not measured, is inconclusive or broke, with the reason: loud ones first, then what concerns most."""
    data, model = audit["data"], audit["model"]
    found = [Gap(f"plugin {p['name']}", p["error"], True) for p in audit["plugins"] if p["error"]]
    if data["n_unreadable"]:
        found.append(Gap(f"{data['n_unreadable']} unreadable images", "skipped; the record names them", True))
    if not data["labelled"]:
        why = "the images carry no labels: the model's own answers stand in for them"
        found.append(Gap("accuracy and bias", why, False))
    if model["access"] == "black-box":
        found.append(Gap("white-box attacks", model["access_reason"], False))
    areas = {probe["area"] for probe in audit["probes"]}
    absent = [AREA_TITLES[area] for area in AREAS if area not in areas]
    if absent:
        found.append(Gap(", ".join(absent), "nothing of this was in the suite", False))
    found += _unsettled(audit["probes"])
    return sorted(found, key=lambda gap: not gap.loud)


_SAID = {"error": "broke", "inconclusive": "inconclusive", "not-applicable": "not applicable"}
_FEW = 3
"""So many probes of one kind are named line by line; more share a line."""


def _unsettled(probes: Sequence[Record]) -> list[Gap]:
    """The probes that broke or could not judge; those with one reason share a line."""
    together: dict[tuple[str, str], list[Record]] = {}
    unsure = [probe for probe in probes if probe["status"] == "inconclusive"]
    shared = "the numbers do not settle it, which is no pass; each probe says why"
    for probe in probes:
        reason = probe["reason"] or "no reason recorded"
        if probe["status"] == "inconclusive" and len(unsure) >= _FEW:
            reason = shared
        if probe["status"] in _SAID:
            together.setdefault((probe["status"], reason), []).append(probe)
    return [
        Gap(f"{_named(group)}: {_SAID[status]}", reason, status == "error")
        for (status, reason), group in together.items()
    ]


def _named(probes: Sequence[Record]) -> str:
    if len(probes) == 1:
        return f"{probes[0]['title']} ({probes[0]['id']})"
    ids = [probe["id"] for probe in probes]
    shown = ids if len(ids) <= _FEW + 1 else [*ids[:_FEW], f"and {len(ids) - _FEW} more"]
    return f"{len(probes)} probes ({', '.join(shown)})"


def sentences(audit: Record) -> list[str]:
    """Five sentences: what was audited, what breaks it, whom it fails, what it looks at, how far to trust this."""
    return [_audited(audit), _breaks(audit), _fails(audit), _looks_at(audit), _trust(audit)]


def _audited(audit: Record) -> str:
    model, data = audit["model"], audit["data"]
    kind = "labelled" if data["labelled"] else "unlabelled"
    what = f"{file_name(model['path'])} ({len(model['classes'])} classes, SHA-256 {model['sha256'][:12]})"
    text = (
        f"{what} was audited with the {audit['suite']} suite on {data['n']} {kind} {data.get('kind', 'images')}"
        f" from {data['path']}, "
        f"and the verdict is {audit['verdict'].upper()}"
    )
    return _sentence(f"{text}: {audit['verdict_reason']}" if audit.get("verdict_reason") else text)


def _breaks(audit: Record) -> str:
    parts = [_broken_by(audit, "attacks", "attack"), _broken_by(audit, "corruptions", "corruption")]
    return _sentence("What breaks it: " + "; ".join(parts))


def _broken_by(audit: Record, area: str, noun: str) -> str:
    """What one area says about how little it takes."""
    probes = _ran(_in_area(audit, area))
    numbered = [(p, m) for p in probes for m in _comparable(p)]
    if not numbered:
        return f"{noun}s were not measured"
    failed = [p for p in probes if p["status"] == "fail"]
    judged = [p for p in probes if p["status"] in ("pass", "fail")]
    if failed:
        worst = worst_findings({"probes": failed}, 1)
        chosen = (worst[0].probe, worst[0].finding["metric"]) if worst and worst[0].finding["metric"] else None
        shown = chosen or min(((p, m) for p, m in numbered if p in failed), key=_worst_first, default=numbered[0])
        return f"{_under(shown)}, and {len(failed)} of {len(judged)} judged {noun} probes failed"
    unsure = any(p["status"] == "inconclusive" for p in probes)
    verdict = f"no {noun} crossed the policy's threshold" if judged else f"no {noun} could be judged"
    verdict += " (some are inconclusive)" if judged and unsure else ""
    return f"{verdict}, the worst number being {_under(min(numbered, key=_worst_first))}"


def _comparable(probe: Record) -> list[Record]:
    """A probe's proportions with a value: the numbers that can be compared between probes."""
    # what the original did not confirm says something about the attack, not about the model
    usable = [m for m in probe["metrics"] if m["value"] is not None and m["unit"] == "fraction"
              and m["name"] != "unconfirmed"]  # fmt: skip
    return usable or [m for m in probe["metrics"][:1] if m["value"] is not None]


def _worst_first(pair: tuple[Record, Record]) -> tuple[float, float]:
    return (-_badness(pair[1]), _strength(pair[1]))


def _number(metric: Record) -> str:
    """A number in words: ``robust accuracy 3.1 % [1.7, 5.6] at L∞ 4/255 (n = 256)``."""
    name = formatting.lower(formatting.name(metric))
    return f"{name} {formatting.measured(metric)}{formatting.place(metric)} (n = {metric['n']})"


def _under(pair: tuple[Record, Record]) -> str:
    return f"{_number(pair[1])} under {pair[0]['title']}"


def _fails(audit: Record) -> str:
    start = "Whom it fails: "
    everything = _in_area(audit, "bias")
    probes = _ran(everything)
    numbered = [(p, m) for p in probes for m in _comparable(p)]
    if not numbered:
        return _sentence(start + "not measured" + _because(everything))
    preferred = [pair for pair in numbered if pair[1]["name"].endswith("_gap")] or numbered
    # what is demonstrably there counts for more than what is large in a small group
    probe, metric = max(preferred, key=lambda pair: (pair[1]["low"] or 0.0, _badness(pair[1])))
    failed = sum(p["status"] == "fail" for p in probes)
    judged = sum(p["status"] in ("pass", "fail") for p in probes)
    if judged:
        ending = f"{failed} of {judged} judged bias probes failed"
    else:
        unsure = any(p["status"] == "inconclusive" for p in probes)
        ending = "too uncertain to judge (inconclusive)" if unsure else "the policy judges none of it"
    return _sentence(f"{start}the largest difference measured is {_number(metric)} in {probe['title']}; {ending}")


def _looks_at(audit: Record) -> str:
    start = "What it looks at: "
    everything = _in_area(audit, "explanations")
    probes = _ran(everything)
    worst = worst_findings({"probes": probes}, 1)
    # without a failure the table of all methods speaks for the area, where there is one
    graded = sorted(probes, key=lambda probe: probe["id"] != "explanations.faithfulness")
    statements = [f["statement"] for _, f in worst] or [f["statement"] for p in graded for f in p["findings"][:1]]
    if statements:
        return _sentence(start + statements[0])
    numbered = [(p, m) for p in probes for m in _comparable(p)]
    if numbered:
        return _sentence(start + _under(numbered[0]))
    return _sentence(start + "not measured" + _because(everything))


def _because(probes: Sequence[Record]) -> str:
    """Why none of these probes has a number."""
    reasons = [p["reason"].rstrip(". ") for p in probes if p["reason"]]
    return f" ({reasons[0]})" if reasons else " (no probe of this area ran)"


def _trust(audit: Record) -> str:
    model, data = audit["model"], audit["data"]
    parts = [
        f"{model['access']} access to the model",
        _parity(model["parity"]),
        f"{data['n']} {data.get('kind', 'images')}",
    ]
    if not data["labelled"]:
        parts.append("no labels, so accuracy and bias were not measured")
    status = counts(audit)["status"]
    said = {"error": "broke", "inconclusive": "inconclusive", "not-applicable": "not applicable"}
    missing = [f"{status[name]} {word}" for name, word in said.items() if status[name]]
    parts.append(f"of {len(audit['probes'])} probes " + ", ".join(missing) if missing else "every probe ran to its end")
    broken = [plugin["name"] for plugin in audit["plugins"] if plugin["error"]]
    if broken:
        parts.append(f"broken plugins: {', '.join(broken)}")
    excused = [entry for entry in accepted(audit) if entry["state"] == "holds"]
    if excused:
        who = ", ".join(f"{entry['probe']} by {entry['author']} until {entry['expires']}" for entry in excused)
        parts.append(f"accepted by the policy and not counted: {who}")
    areas = {probe["area"] for probe in _ran(audit["probes"])}
    absent = [AREA_TITLES[area].lower() for area in AREAS if area not in areas]
    if absent:
        parts.append(f"not measured at all: {', '.join(absent)}")
    return _sentence("How far to trust this: " + "; ".join(parts))


def _parity(parity: Record | None) -> str:
    if parity is None or not parity["n"] or parity["label_agreement"] is None:
        return "no parity of copy and original was measured"
    agreement = formatting.formatted(parity["label_agreement"], "percent")
    return f"copy and original agree on {agreement} of {parity['n']} images"


def _sentence(text: str) -> str:
    """One line that ends with a full stop."""
    return formatting.clean(" ".join(text.split())).rstrip(". ") + "."

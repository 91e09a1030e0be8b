"""Verify the claims of a finished audit: digests, plan, conclusions, judgement, pictures and statement.

Each check compares two things that a manipulation would have to change together. An attacker who changes all of them
remains undetected without a signature, so the statement (``--format intoto``) is what should be signed.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from auditor.data.location import Uri, shown
from auditor.errors import AuditorError, BadInput, one_line
from auditor.files import digest, file_sha256, inside
from auditor.findings.record import ProbeRecord, plugin_title
from auditor.model.deployed import DeployedModel
from auditor.plugin.registry import Registry, load
from auditor.policy.document import restore_policy
from auditor.policy.rules import Policy, read_policy
from auditor.policy.verdict import judge_all, verdict
from auditor.report import intoto
from auditor.run.integrity import differences, file_digests
from auditor.run.plan import departures
from auditor.run.reconclusion import conclude_again, difference
from auditor.run.reopening import reopen_data, reopen_model
from auditor.run.replay import replay_on
from auditor.run.stored import StoredRun, open_stored
from auditor.run.untrusted import from_folders

Outcome = Literal["holds", "FAILED", "not checked"]


@dataclass(frozen=True)
class Check:
    """One claim of an audit and whether it holds."""

    claim: str
    outcome: Outcome
    text: str


@dataclass(frozen=True, kw_only=True)
class Given:
    """What to verify against, in addition to the run folder."""

    model: Path | None = None
    """The model file; that of the run by default, if it exists."""
    data: Path | Uri | None = None
    """The data; that of the run by default, if it is on this machine. A run does not choose which address is opened."""
    policy: str | None = None
    """The policy that judged, if it is not the planned one."""
    device: str = "auto"
    trust: bool = False


def verify(folder: Path, given: Given) -> Iterator[Check]:
    """Yield one check per claim. Raises BadInput if the folder is not one of a finished audit."""
    with from_folders([folder]):
        run = open_stored(folder)
    if "plan" not in run.audit or "digests" not in run.audit or "plan" not in run.manifest:
        raise BadInput(f"{folder}: written by a version of auditor without plan and digests; audit the model again")
    with from_folders([folder]):
        yield from _checks(run, load(), given)


def _checks(run: StoredRun, plugins: Registry, given: Given) -> Iterator[Check]:
    yield _plan(run)
    yield from _files(run)
    yield from _judgement(run, plugins, given.policy)
    yield from _model_and_data(run, plugins, given)
    yield _statement(run)


def _check(claim: str, problems: Sequence[str], text: str) -> Check:
    """Return the check of a claim that holds without problems; ``text`` describes it then."""
    return Check(claim, "FAILED" if problems else "holds", "; ".join(problems) or text)


def _plan(run: StoredRun) -> Check:
    plan, published = run.manifest["plan"], run.audit["plan"]
    problems = [
        f"the content of the {name} in manifest.json has another digest than {where}"
        for name in ("suite", "policy")
        for where, sha256 in (("it states", plan[name]["sha256"]), ("audit.json states", published[name]["sha256"]))
        if digest(plan[name]["content"]) != sha256
    ]
    seeds = {"manifest.json": run.manifest["seed"], "plan": plan["seed"], "audit.json": run.audit["seed"]}
    if len({*seeds.values(), published["seed"]}) > 1:
        problems.append("the seeds differ: " + ", ".join(f"{name} {seed}" for name, seed in seeds.items()))
    if plan["written"] != published["written"] or plan["probes"] != published["probes"]:
        problems.append("audit.json states another time or other probes than manifest.json")
    problems += departures(run.audit)
    policy, suite = published["policy"], published["suite"]
    text = f"seed {plan['seed']}, suite {suite['name']} and policy {policy['name']} were chosen on {plan['written']}"
    return _check("plan", problems, f"{text}, before the first measurement")


def _files(run: StoredRun) -> Iterator[Check]:
    published = run.audit["digests"]
    listed, found = run.manifest.get("files", {}), file_digests(run.folder)
    manifest = file_sha256(inside(run.folder, "manifest.json"))
    other = [] if manifest == published["manifest"] else ["its digest is not the one that audit.json states"]
    yield _check("manifest.json", other, f"SHA-256 {manifest[:12]}")
    for part in ("records", "evidence"):
        problems = differences(listed.get(part, {}), found[part])
        if digest(found[part]) != published[part] and not problems:
            problems = ["the files are not those that audit.json states"]
        yield _check(part, problems, f"{len(found[part])} files have their digest")


def _judgement(run: StoredRun, plugins: Registry, policy_name: str | None) -> Iterator[Check]:
    """Conclude from the records, judge, and compare with audit.json, probe by probe and as a whole."""
    concluded = conclude_again(run, plugins)
    policy, problem = _policy(run, plugins, policy_name)
    if policy is None:
        yield Check("policy", "FAILED", problem)
        policy = restore_policy(run.manifest["plan"]["policy"]["content"], "plan", _judged(run))
    judged = judge_all([each.record for each in concluded], policy)
    for each, record, published in zip(concluded, judged, run.audit["probes"], strict=True):
        claim = f"probe {published['id']}"
        other = difference(published, json.loads(json.dumps(record)))
        if other:
            yield Check(claim, "FAILED", other)
        elif each.problem:
            yield Check(claim, "not checked", each.problem)
        else:
            yield Check(claim, "holds", _summary(published))
    yield _verdict(run, policy, judged)


def _summary(probe: ProbeRecord) -> str:
    severity = "" if probe["severity"] == "none" else f" ({probe['severity']})"
    return f"{probe['status']}{severity}, {len(probe['metrics'])} metrics and {len(probe['findings'])} findings"


def _judged(run: StoredRun) -> dt.date:
    return dt.date.fromisoformat(run.audit["policy"]["judged"])


def _policy(run: StoredRun, plugins: Registry, name: str | None) -> tuple[Policy | None, str]:
    """Return the policy that judged, or why it is not known."""
    stated, planned = run.audit["policy"], run.manifest["plan"]["policy"]
    try:
        if name is not None:
            policy = read_policy(name, plugins.probes, _judged(run), plugins.policies())
        elif stated["sha256"] == planned["sha256"]:
            policy = restore_policy(planned["content"], stated["name"], _judged(run))
        else:
            policy = read_policy(stated["name"], plugins.probes, _judged(run), plugins.policies())
    except (AuditorError, KeyError, TypeError, ValueError) as error:
        return None, f"the policy that judged cannot be read ({one_line(error)}); give it with --policy"
    if policy.sha256 != stated["sha256"]:
        return None, f"{policy.name} is not the policy that judged: its digest differs; give that one with --policy"
    return policy, ""


def _verdict(run: StoredRun, policy: Policy, judged: Sequence[ProbeRecord]) -> Check:
    audit = run.audit
    broken = [plugin_title(plugin) for plugin in audit["plugins"] if plugin["error"]]
    outcome, reason = verdict(judged, policy, broken, unanswered=audit["data"].get("n_unanswered", 0))
    described = {**policy.described(judged), "name": audit["policy"]["name"]}
    stated = {"verdict": audit["verdict"], "reason": audit.get("verdict_reason", ""), "policy": audit["policy"]}
    found = {"verdict": outcome, "reason": reason, "policy": described}
    other = difference(stated, found)
    return _check("verdict", [other] if other else [], f"{outcome}: {reason}")


def _model_and_data(run: StoredRun, plugins: Registry, given: Given) -> Iterator[Check]:
    audit, manifest = run.audit, run.manifest
    path, data = given.model or Path(audit["model"]["path"]), given.data or Path(audit["data"]["path"])
    if audit["model"]["sha256"] != manifest["model"]["sha256"]:
        yield Check("model", "FAILED", "audit.json states another digest than manifest.json")
        return
    if not path.is_file():
        yield Check("model", "not checked", f"{path} does not exist; give the file with --model")
        return
    try:
        classifier = reopen_model(run, path, given.device, trust=given.trust)
    except BadInput as error:
        yield Check("model", "FAILED", one_line(error))
        return
    same = classifier.sha256 == audit["model"]["sha256"]
    yield _check("model", [] if same else [f"{path} is not the audited file: its digest differs"], f"{path}")
    if not same:
        return
    yield _data(run, plugins, path, data, given)
    yield from _pictures(run, classifier)


def _data(run: StoredRun, plugins: Registry, model: Path, data: Path | Uri, given: Given) -> Check:
    stated = run.manifest["data"]
    if {key: run.audit["data"][key] for key in ("path", "sha256")} != {key: stated[key] for key in ("path", "sha256")}:
        return Check("data", "FAILED", "audit.json states other data than manifest.json")
    if isinstance(data, Path) and not data.exists():
        return Check("data", "not checked", f"{shown(data)} is not on this machine; give path or URI with --data")
    try:
        images = reopen_data(run, plugins, model, data, given.device, trust=given.trust)
    except BadInput as error:
        return Check("data", "FAILED", one_line(error))
    same = images.sha256 == stated["sha256"]
    return _check("data", [] if same else [f"{shown(data)} is not the audited data: its digest differs"], shown(data))


def _pictures(run: StoredRun, classifier: DeployedModel) -> Iterator[Check]:
    """Query the model again with the stored pictures of every finding."""
    try:
        claims = replay_on(classifier, run.folder, run.audit)
    except BadInput as error:
        yield Check("pictures", "not checked", one_line(error))
        return
    for claim in claims:
        failed = [image.text for image in claim.images if not image.holds]
        text = f"{len(claim.images)} pictures have the reported prediction"
        yield _check(f"pictures of {claim.finding}", failed, text)


def _statement(run: StoredRun) -> Check:
    path = inside(run.folder, intoto.FILE)
    if not path.is_file():
        return Check("statement", "not checked", f"there is no {path.name}; write it with --format intoto")
    same = path.read_bytes() == intoto.render_statement(run.audit, run.folder)
    return _check("statement", [] if same else [f"{path.name} does not state this audit"], f"{path.name}")

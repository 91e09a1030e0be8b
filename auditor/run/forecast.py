"""What is known before the start: why the audit cannot end with a pass under its policy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from auditor.data.dataset import Images
from auditor.model.deployed import DeployedModel
from auditor.policy.rules import Policy
from auditor.probes.base import Probe
from auditor.run.planning import unmet_requirement


def cannot_pass(policy: Policy, probes: Sequence[Probe], classifier: DeployedModel, images: Images) -> list[str]:
    """Return the warning that the verdict cannot be "pass", with the reasons; empty if it can be."""
    reasons = list(_reasons(policy, probes, classifier, images))
    if not reasons:
        return []
    return [f"This audit can fail, but not pass, under the policy {policy.name}: {'; '.join(reasons)}."]


def _reasons(policy: Policy, probes: Sequence[Probe], classifier: DeployedModel, images: Images) -> Iterator[str]:
    by_id = {probe.meta.id: probe for probe in probes}
    for probe_id in policy.required:
        probe = by_id.get(probe_id)
        if probe is None:
            yield f"it requires {probe_id}, which is not part of the run"
        elif unmet := unmet_requirement(probe, classifier, images):
            yield f"it requires {probe_id}, which is not applicable ({unmet})"
        elif short := _too_few(policy, probe, images):
            yield short


def _too_few(policy: Policy, probe: Probe, images: Images) -> str:
    """Say how many images, or units if the data states them, a required probe lacks for its rules; empty if none."""
    size, kind = (len(images), "images") if images.units is None else (len(set(images.units)), "units")
    n = min(probe.samples or size, size)
    specs = {spec.name: spec for spec in probe.metrics}
    needed = [
        rule.smallest_n(share=specs[rule.metric].unit == "fraction" and not specs[rule.metric].difference)
        for rule in policy.rules
        if rule.probe == probe.meta.id and rule.metric in specs and not rule.advisory and rule.side != "at_most_lost"
    ]
    if not needed or n >= max(needed):
        return ""
    return f"{probe.meta.id} needs at least {max(needed)} {kind} and has {n}"

"""Choose, configure and order the probes of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from auditor.errors import BadInput
from auditor.plugin.registry import Registry
from auditor.plugin.suite import Suite
from auditor.probes.base import Probe
from auditor.run.request import Request


def choose_probes(plugins: Registry, suite: Suite, request: Request) -> list[Probe]:
    """The probes of a run, configured, in the order in which they measure."""
    wanted = plugins.select(suite.probes, option="suite probes:")
    if request.probes:
        wanted = plugins.select(request.probes, option="--probe")
    dropped = plugins.select(request.skip, option="--skip") if request.skip else []
    left = [probe_id for probe_id in wanted if probe_id not in dropped]
    if not left:
        raise BadInput("no probe is left to run: --skip leaves out all of them")
    lent = {"surrogates": [str(path) for path in request.surrogates]}
    for path in request.surrogates:
        if not path.is_file():
            raise BadInput(f"--surrogate {path}: no such file; expected a model for the same classes")
    takers = [i for i in left if "surrogates" in {f.name for f in fields(plugins.probes[i])}]
    if request.surrogates and not takers:
        raise BadInput("--surrogate: no probe of this run uses other models; add --probe attacks.transfer")
    probes = [
        plugins.configure(
            i, {**suite.settings.get(i, {}), **(lent if request.surrogates and i in takers else {})},
            where=f"suite {suite.name}",
        )
        for i in left
    ]  # fmt: skip
    return _readers_last(probes)


def _readers_last(probes: Sequence[Probe]) -> list[Probe]:
    """The same order, but whoever reads other probes' records comes after them."""
    left = sorted(probes, key=lambda probe: bool(probe.depends_on))
    ordered: list[Probe] = []
    while left:
        # where two read each other, the first goes first
        ready = next((p for p in left if not any(is_used(o.meta.id, p) for o in left if o is not p)), left[0])
        left.remove(ready)
        ordered.append(ready)
    return ordered


def is_used(probe_id: str, probe: Probe) -> bool:
    """Whether ``probe`` reads the records of ``probe_id``."""
    import fnmatch

    return any(fnmatch.fnmatch(probe_id, pattern) for pattern in probe.depends_on)

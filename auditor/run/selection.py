"""Select, configure and order the probes of a run."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence

from auditor.errors import BadInput
from auditor.findings.encoding import plain
from auditor.findings.record import Json
from auditor.plugin.registry import Registry
from auditor.plugin.suite import Suite
from auditor.probes.base import Probe
from auditor.run.request import Request

AUGMENTATIONS = "corruptions.maite-augmentations"
"""The probe that applies augmentations of MAITE; it is part of every run that they are given to."""


def choose_probes(plugins: Registry, suite: Suite, request: Request) -> list[Probe]:
    """Return the configured probes of a run in the order of measuring. Raises BadInput if none is left."""
    effects = request.objects.effects
    given = [AUGMENTATIONS] if effects else []
    selected = plugins.select([*suite.probes, *given], option="suite probes:")
    if request.probes:
        selected = plugins.select([*request.probes, *given], option="--probe")
    skipped = plugins.select(request.skip, option="--skip") if request.skip else []
    ids = [probe_id for probe_id in selected if probe_id not in skipped]
    if not ids:
        raise BadInput("no probe is left to run: --skip excludes all of them")
    if request.unknown is not None and not any("unknown" in plugins.probes[probe_id].meta.needs for probe_id in ids):
        raise BadInput(
            "--unknown: no probe of this run uses images that belong to no class; add --probe"
            " performance.unknown-inputs"
        )
    extra = {**_surrogates(plugins, request, ids), AUGMENTATIONS: {"augmentations": plain(effects)}}
    probes = [
        plugins.configure(
            probe_id,
            {**suite.settings.get(probe_id, {}), **extra.get(probe_id, {})},
            where=f"suite {suite.name}",
        )
        for probe_id in ids
    ]
    return _dependencies_first(probes)


def selection_warnings(plugins: Registry, suite: Suite, request: Request) -> list[str]:
    """Return warnings about --skip and settings of the suite that change nothing.

    They are no errors, because one command or suite may serve several selections of probes.
    """
    listed = plugins.select(suite.probes, option="suite probes:")
    chosen = plugins.select(request.probes, option="--probe") if request.probes else listed
    warnings = [
        f"--skip {pattern} has no effect: no such probe is part of this run."
        for pattern in request.skip
        if not set(plugins.select([pattern], option="--skip")) & set(chosen)
    ]
    if plugins.not_loaded:
        warnings.append(f"Installed plugins were not loaded, as requested: {', '.join(plugins.not_loaded)}.")
    unused = [probe_id for probe_id in suite.settings if probe_id not in {*listed, *chosen}]
    if unused:
        warnings.append(f"Suite {suite.name} has settings of probes that it does not run: {', '.join(unused)}.")
    return warnings


def _surrogates(plugins: Registry, request: Request, ids: Sequence[str]) -> Mapping[str, Mapping[str, Json]]:
    """Return the setting of every probe that uses the surrogates of the request."""
    for path in request.surrogates:
        if not path.is_file():
            raise BadInput(f"--surrogate {path}: no such file; expected a model for the same classes")
    users = [probe_id for probe_id in ids if plugins.probes[probe_id].accepts_surrogates]
    if not request.surrogates:
        return {}
    if not users:
        raise BadInput("--surrogate: no probe of this run uses surrogates; add --probe attacks.transfer")
    return {probe_id: {"surrogates": [str(path) for path in request.surrogates]} for probe_id in users}


def _dependencies_first(probes: Sequence[Probe]) -> list[Probe]:
    """Keep the order, but move every probe behind those that it depends on."""
    left = sorted(probes, key=lambda probe: bool(probe.depends_on))
    ordered: list[Probe] = []
    while left:
        # of two probes that depend on each other, the first one stays first
        ready = next((probe for probe in left if not _waits(probe, left)), left[0])
        left.remove(ready)
        ordered.append(ready)
    return ordered


def _waits(probe: Probe, others: Sequence[Probe]) -> bool:
    return any(depends_on(probe, other.meta.id) for other in others if other is not probe)


def depends_on(probe: Probe, probe_id: str) -> bool:
    """Whether ``probe`` reads the records of ``probe_id``."""
    return any(fnmatch.fnmatch(probe_id, pattern) for pattern in probe.depends_on)

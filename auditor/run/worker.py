"""A process that measures for the audit, with its own model and images; on this machine or on another one.

Rows depend on image, probe and seed alone, so who measures them does not change them. A worker that would open another
model, other images or other probes than the audit refuses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import auditor
from auditor.errors import BadInput
from auditor.findings.encoding import plain
from auditor.model.device import version
from auditor.plugin import registry
from auditor.plugin.registry import Registry
from auditor.plugin.suite import Suite, find_suite
from auditor.probes.base import Probe
from auditor.run.manifest import model_identity
from auditor.run.measuring import Measured, Measurer
from auditor.run.process_state import StateGuard

if TYPE_CHECKING:
    from auditor.data.dataset import Images
    from auditor.model.deployed import DeployedModel
    from auditor.run.request import Request

_PACKAGES = ("numpy", "torch", "onnxruntime-gpu", "onnxruntime")
"""Packages whose version may change rows."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What the process of the audit and its workers must have in common."""

    versions: dict[str, str | None]
    plugins: dict[str, str]
    """Version, and the error if it is broken, by name."""
    model: dict[str, Any]
    data: str
    """Digest."""

    @staticmethod
    def of(plugins: Registry, classifier: DeployedModel, images: Images) -> Identity:
        """Return the identity of this process."""
        return Identity(
            versions={"auditor": auditor.__version__, **{name: version(name) for name in _PACKAGES}},
            plugins={each.name: " ".join(filter(None, [each.version, each.error])) for each in plugins.plugins},
            model=model_identity(classifier),
            data=images.sha256,
        )

    def check(self, own: Identity) -> None:
        """Raise BadInput if a worker with the identity ``own`` would measure something else."""
        for kind, ours, theirs in (
            ("package", self.versions, own.versions),
            ("plugin", self.plugins, own.plugins),
            ("model's", self.model, own.model),
        ):
            for name in sorted({*ours, *theirs}):
                if ours.get(name) != theirs.get(name):
                    raise BadInput(
                        f"{kind} {name} is {_short(theirs.get(name))} there and {_short(ours.get(name))} in the process"
                        " of the audit; install the same packages on every machine"
                    )
        if self.data != own.data:
            raise BadInput(
                f"the images or labels there have the digest {own.data[:12]}, those of the audit {self.data[:12]};"
                " expected the same data at the same path on every machine"
            )


def _short(value: object) -> str:
    return "missing" if value is None else str(plain(value))[:80] or "without a version"


class Worker:
    """A process with its own model and images."""

    def __init__(
        self,
        request: Request,
        device: str,
        batch_size: int,
        drop_copy: str,
        looks: bytes = b"",
        *,
        suite: Suite | None = None,
        expected: Identity | None = None,
    ) -> None:
        """Open model and images; ``drop_copy`` is why the differentiable copy is not used, empty if it is.

        ``looks`` is what the audit found out when it read the images, as Parquet: those that have not changed are read
        when they are measured. ``suite`` is read from the request by default. Raises BadInput for unusable files, and
        if something differs from what is ``expected``.
        """
        from auditor.data.looks import Looks
        from auditor.run.opening import open_audit

        plugins = registry.load()
        known = Looks.from_parquet(looks) if looks else None
        suite = suite or find_suite(request.suite, plugins)
        classifier, images = open_audit(plugins, request, suite, device, known)
        classifier.batch_size = batch_size
        if drop_copy:
            classifier.drop_copy(drop_copy)
        if expected is not None:
            expected.check(Identity.of(plugins, classifier, images))
        self._measurer = Measurer(classifier, images, request.seed)
        self._guard = StateGuard(classifier)

    def measure(self, probe: Probe, ids: Sequence[str]) -> Measured:
        """Measure images."""
        with self._guard.unchanged(probe.meta.id):
            return self._measurer.measure(probe, ids)


def with_surrogates(probe: Probe, paths: dict[str, str]) -> Probe:
    """Return the probe with the paths of its surrogates on this machine, by their paths on that of the audit."""
    if not (paths and type(probe).accepts_surrogates):
        return probe
    return replace(probe, surrogates=[paths[str(Path(path))] for path in probe.surrogates])  # type: ignore[attr-defined, call-arg]

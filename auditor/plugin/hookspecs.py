"""The plugin interface: ten hooks."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from auditor.data.dataset import Source
    from auditor.data.location import Uri
    from auditor.model.artefact import Artefact
    from auditor.plugin.family import ProbeFamily
    from auditor.plugin.finished import FinishedRun
    from auditor.probes.base import Probe
    from auditor.report import ReportFormat

hookspec = pluggy.HookspecMarker("auditor")
hookimpl = pluggy.HookimplMarker("auditor")

API_VERSION = "1.0"
"""Version of the interface that plugins are written for; docs/stability.md says what it covers.

A plugin states the version it was written for as ``AUDITOR_API = "1.0"`` in the module that its entry point names.
"""


@hookspec
def auditor_probes() -> Iterable[type[Probe]]:
    """Return the probes of this plugin."""
    raise NotImplementedError


@hookspec
def auditor_probe_families() -> Iterable[ProbeFamily]:
    """Return the families of probes that this plugin generates on demand."""
    raise NotImplementedError


@hookspec(firstresult=True)
def auditor_open_model(path: Path, device: str, trust: bool = False, output: str = "") -> Artefact | None:
    """Open the model file at ``path`` for ``device`` ("cpu", "cuda:0"); return None for an unknown format.

    A model file is untrusted input: refuse code embedded in it (BadInput) unless ``trust``. ``output`` names the output
    that holds the scores; it is empty if not stated. An implementation may omit these two parameters; if it has them,
    it must repeat their defaults: ``trust: bool = False, output: str = ""``.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def auditor_open_images(path: Path) -> Source | None:
    """Open the images at ``path`` (a file or folder); return None for an unknown format."""
    raise NotImplementedError


@hookspec(firstresult=True)
def auditor_open_uri(uri: Uri) -> Source | Path | None:
    """Open the data at a URI such as ``s3://bucket/images``; return None for an unknown address.

    A path that is returned is that of a copy on this machine, which ``auditor_open_images`` opens. Several processes
    open the same URI; each reads the images that it measures.
    """
    raise NotImplementedError


@hookspec
def auditor_suites() -> Iterable[Path]:
    """Return the suite files (TOML) of this plugin; a suite is named after its file."""
    raise NotImplementedError


@hookspec
def auditor_policies() -> Iterable[Path]:
    """Return the policy files (TOML) of this plugin; a policy is named after its file."""
    raise NotImplementedError


@hookspec
def auditor_report_formats() -> Iterable[ReportFormat]:
    """Return the report formats of this plugin."""
    raise NotImplementedError


@hookspec
def auditor_run_finished(run: FinishedRun) -> None:
    """Publish a finished run, for example to a tracking server. It cannot change the run; its errors are reported."""
    raise NotImplementedError


@hookspec
def auditor_example_files(folder: Path) -> Iterable[Path]:
    """Write small files of this plugin's model and data formats into ``folder`` and return their paths.

    ``auditor plugin check`` opens them, because it cannot know the formats of a plugin.
    """
    raise NotImplementedError

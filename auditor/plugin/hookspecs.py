"""The whole plugin surface: five hooks, all returning values."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from auditor.data.dataset import Source
    from auditor.model.artefact import Artefact
    from auditor.probes.base import Probe
    from auditor.report import ReportFormat

hookspec = pluggy.HookspecMarker("auditor")
hookimpl = pluggy.HookimplMarker("auditor")


@hookspec
def auditor_probes() -> Iterable[type[Probe]]:
    """Return the probes that this plugin offers."""
    raise NotImplementedError


@hookspec(firstresult=True)
def auditor_open_model(path: Path, device: str, trust: bool = False, output: str = "") -> Artefact | None:
    """Open the model file at ``path`` for ``device`` ("cpu", "cuda:0"), or return None when the format is not yours.

    A model file is untrusted input: what would run code from the file is refused (BadInput) unless ``trust``.
    ``output`` is which of several outputs holds the scores; empty where nobody said. An implementation may leave out
    these two; it writes them with their defaults: ``trust: bool = False, output: str = ""``.
    """
    raise NotImplementedError


@hookspec(firstresult=True)
def auditor_open_images(path: Path) -> Source | None:
    """Open the images at ``path`` (file or folder), or return None when the format is not yours."""
    raise NotImplementedError


@hookspec
def auditor_suites() -> Iterable[Path]:
    """Return the suite files (TOML) that this plugin offers; a suite is called by its file's stem."""
    raise NotImplementedError


@hookspec
def auditor_report_formats() -> Iterable[ReportFormat]:
    """Return the report formats that this plugin offers."""
    raise NotImplementedError

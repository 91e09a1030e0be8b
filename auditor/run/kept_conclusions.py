"""Keep the conclusions that took long, so that a resumed run need not draw them again from the same rows.

A conclusion depends on rows, pictures, settings and code alone (``Probe.conclude`` is pure). Its file states the digest
of all of them and of itself; with any other digest it is not used. Bootstraps over 100,000 images take a minute.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import cast

from auditor.errors import BadInput
from auditor.files import digest, file_sha256
from auditor.findings.record import Json, ProbeRecord
from auditor.probes.base import Probe
from auditor.run.folder import CACHE, RunFolder
from auditor.run.record import evidence_files

WORTH_KEEPING = 1.0
"""Seconds that a conclusion must have taken to be kept."""


class KeptConclusions:
    """The conclusions in a run folder."""

    def __init__(self, folder: RunFolder) -> None:
        """Read and write conclusions in ``folder``."""
        self._folder = folder

    def find(self, probe: Probe, key: Callable[[], str | None]) -> ProbeRecord | None:
        """Return the record of a probe that was concluded under the key and whose pictures are all there, or None.

        The key takes half a second to compute, so it is computed only where a record is stored.
        """
        name = _name(probe)
        if not (self._folder.path / name).is_file():
            return None
        try:
            stored = self._folder.read_json(name)
            content = {part: stored[part] for part in ("key", "record")}
            if stored["sha256"] != digest(content) or stored["key"] != key():
                return None
        except (BadInput, LookupError, TypeError):
            return None
        record = cast(ProbeRecord, stored["record"])
        whole = all(self._folder.is_whole(file) for file in evidence_files(record["findings"]))
        return record if whole else None

    def keep(self, probe: Probe, key: Callable[[], str | None], record: ProbeRecord, seconds: float) -> None:
        """Write a record that took ``seconds`` to conclude, if that was long; it must not be judged yet."""
        if seconds < WORTH_KEEPING or (known := key()) is None:
            return
        content: dict[str, object] = {"key": known, "record": record}
        try:
            # only what JSON returns unchanged
            exact = json.loads(json.dumps(content, allow_nan=False)) == content
        except (TypeError, ValueError):
            exact = False
        if exact:
            self._folder.write_json(_name(probe), {**content, "sha256": digest(content)})


def conclusion_key(probe: Probe, rows: Sequence[Json], facts: Sequence[Json]) -> str | None:
    """Return the digest of everything that a conclusion depends on; None if its code cannot be read.

    ``rows`` are the names of the record files, which state their content, and ``facts`` everything else that it reads.
    """
    packages = {"auditor", "auditor.plugins", *(each.__module__.partition(".")[0] for each in type(probe).__mro__)}
    packages -= set(sys.stdlib_module_names)
    try:
        code = [[name, *_sources(name)] for name in sorted(packages)]
    except (KeyError, OSError, TypeError):
        return None
    return digest([code, _installed(), list(rows), list(facts)])


@cache
def _sources(package: str) -> tuple[str, ...]:
    """Return the SHA-256 of the source files of a module or package.

    Raises KeyError for a module that is not registered, such as one that a test has loaded, OSError or TypeError for
    one without files.
    """
    module = sys.modules[package]
    folders = [Path(folder) for folder in getattr(module, "__path__", ())]
    files = [file for folder in folders for file in sorted(folder.rglob("*.py"))] or [Path(cast(str, module.__file__))]
    return tuple(file_sha256(file) for file in files)


@cache
def _installed() -> tuple[tuple[str, str], ...]:
    """Return name and version of every installed package: any of them may change a number."""
    return tuple(sorted({(str(each.name), str(each.version)) for each in distributions()}))


def _name(probe: Probe) -> str:
    return f"{CACHE}/conclusion-{probe.meta.id}.json"

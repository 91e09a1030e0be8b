"""Digests of the files of a run folder, which manifest.json lists and audit.json confirms."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from auditor.files import digest, file_sha256, inside
from auditor.findings.record import DigestsRecord
from auditor.run.folder import RunFolder
from auditor.run.manifest import extend_manifest

_PARTS = {"records": "records/**/*.parquet", "evidence": "evidence/*.png"}


def file_digests(run: Path) -> dict[str, dict[str, str]]:
    """Return the SHA-256 of every record and every picture, by part of the folder and path in it."""
    names = {part: [path.relative_to(run) for path in sorted(run.glob(pattern))] for part, pattern in _PARTS.items()}
    return {part: {name.as_posix(): file_sha256(inside(run, name)) for name in found} for part, found in names.items()}


def write_digests(folder: RunFolder, suite: str) -> DigestsRecord:
    """Add the digests of all files to manifest.json; return the digests for audit.json, with that of the suite."""
    files = file_digests(folder.path)
    manifest = extend_manifest(folder, folder.read_json("manifest.json"), files=files)
    return {
        "suite": suite,
        "manifest": file_sha256(manifest),
        "records": digest(files["records"]),
        "evidence": digest(files["evidence"]),
    }


def differences(listed: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """Name the files that are changed, missing or not listed."""
    return [
        *(f"{path} is changed" for path in sorted(listed) if path in found and found[path] != listed[path]),
        *(f"{path} is missing" for path in sorted({*listed} - {*found})),
        *(f"{path} is not listed" for path in sorted({*found} - {*listed})),
    ]

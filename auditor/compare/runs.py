"""The runs of a comparison, and the images that they have in common.

Only images that are in every run count (same id, same bytes, same label).
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from auditor.errors import BadInput
from auditor.files import parse_json, read_inside
from auditor.findings.comparison_record import ImagesRecord
from auditor.findings.record import AuditRecord, FindingRecord, MetricRecord, ProbeRecord
from auditor.run.replay import read_audit

if TYPE_CHECKING:
    import pandas as pd

_IMAGES = "records/images.parquet"

MetricKey = tuple[str, str]
"""Name of a metric, and its setting as JSON."""


@dataclass(frozen=True)
class Run:
    """A run folder opened for comparison."""

    name: str
    """A, B, C, ..."""
    folder: Path
    audit: AuditRecord
    keys: Mapping[str, str]
    """Digest of each probe's records."""
    images: pd.DataFrame | None
    """Digest, label and, if the data states units, unit by image id; None for a run of an older version."""

    @property
    def units(self) -> pd.Series | None:
        """The unit of each image (patient, person, video) by id; None if the data states none."""
        return None if self.images is None else self.images.get("unit")

    @property
    def probes(self) -> dict[str, ProbeRecord]:
        """The probe records by id."""
        return {probe["id"]: probe for probe in self.audit["probes"]}


@dataclass
class ProbeResult:
    """The result of one probe in one run, on the common images."""

    metrics: dict[MetricKey, MetricRecord]
    findings: list[FindingRecord]
    values: dict[MetricKey, pd.Series] = field(default_factory=dict)
    """Each image's contribution to a metric."""


class CannotCompare(Exception):
    """Why a probe cannot be compared; shown in the report."""


def open_run(name: str, folder: Path) -> Run:
    """Open a run folder. Raises BadInput if it is not the folder of a finished audit."""
    audit = read_audit(folder)
    try:
        manifest = parse_json(read_inside(folder, "manifest.json"), f"{folder}: manifest.json")
    except FileNotFoundError:
        manifest = {}
    images = _image_list(folder, manifest.get("files", {}).get("records", {}).get(_IMAGES))
    return Run(name, folder, audit, manifest.get("records", {}), images)


def _image_list(folder: Path, sha256: str | None) -> pd.DataFrame | None:
    """Read the images of a run. ``sha256`` is the digest that the manifest states; older versions state none."""
    import pandas as pd
    import pyarrow as pa

    try:
        content = read_inside(folder, _IMAGES)
        if sha256 is not None and sha256 != hashlib.sha256(content).hexdigest():
            raise ValueError("its content does not have the digest that manifest.json states")
        return pd.read_parquet(io.BytesIO(content)).set_index("image_id")
    except FileNotFoundError:
        return None
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise BadInput(f"{folder / _IMAGES}: damaged ({error}); run the audit again with the same --out") from None


def first_record(runs: Sequence[Run], probe_id: str) -> ProbeRecord:
    """Return the record of a probe from the first run that has one."""
    return next(run.probes[probe_id] for run in runs if probe_id in run.probes)


def common_images(runs: Sequence[Run]) -> tuple[set[str] | None, ImagesRecord]:
    """Return the ids of the common images, None if all images are common, and their counts.

    Raises BadInput if the runs have no image in common.
    """
    sizes = [run.audit["data"]["n"] for run in runs]
    frames = [run.images for run in runs if run.images is not None]
    if len(frames) < len(runs):
        _refuse_unknown_images(runs)
        return None, {"common": sizes[0], "of": sizes, "other_bytes": 0, "other_label": 0}
    shared = sorted(set(frames[0].index).intersection(*(frame.index for frame in frames[1:])))
    other_bytes = _differing(frames, shared, "sha256")
    other_label = _differing(frames, shared, "label") - other_bytes
    same = set(shared) - other_bytes - other_label
    if not same:
        raise BadInput(
            f"{runs[1].folder}: has no image in common with {runs[0].folder} ({len(shared)} ids in common,"
            f" {len(other_bytes)} of them with other bytes, {len(other_label)} with another label); audit both models"
            f" with the same --data, --seed and --samples{_hint(runs) if other_label else ''}"
        )
    counts: ImagesRecord = {
        "common": len(same),
        "of": sizes,
        "other_bytes": len(other_bytes),
        "other_label": len(other_label),
    }
    return (None if all(len(same) == size for size in sizes) else same), counts


def _hint(runs: Sequence[Run]) -> str:
    """Return a likely reason of different labels."""
    orders = {tuple(run.audit["model"]["classes"]) for run in runs}
    if len(orders) == 1:
        return ""
    return "; the class orders differ, so labels that are numbers mean other classes: name the labels in the data"


def _refuse_unknown_images(runs: Sequence[Run]) -> None:
    """Refuse runs of different data if one of them does not list its images."""
    if len({run.audit["data"]["sha256"] for run in runs}) > 1:
        old = next(run for run in runs if run.images is None)
        raise BadInput(
            f"{old.folder}: the runs' data differ, and this run does not list its images (it has no"
            " records/images.parquet); audit the model again"
        )


def _differing(frames: Sequence[pd.DataFrame], ids: Sequence[str], column: str) -> set[str]:
    """Return the ids whose entries in a column differ between the runs."""
    columns = [frame.loc[list(ids), column].tolist() for frame in frames]
    return {image_id for image_id, *entries in zip(ids, *columns, strict=True) if len(set(entries)) > 1}

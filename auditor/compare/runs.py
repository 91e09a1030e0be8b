"""Two runs or more against each other, image by image: what got significantly better, what worse, what cannot be told.

Only images that are in every run count (same id, same bytes, same label); where that leaves images out, the metrics are
concluded again from the rows of the common ones. A probe whose settings differ between the runs is named and not
compared. Tests, for each metric and pair of runs:

- ``mcnemar``: proportions over the same images (McNemar's exact test);
- ``bootstrap``: other means over the same images (paired bootstrap);
- ``intervals``: everything else, from the two published intervals as if the images were not the same ones (cautious).

P-values are corrected for their number by Holm's method in two families that share 5 % equally: the headline numbers
of the probes (the first metric of each), and all the others. So a model that did not change is called worse or better
anywhere in at most 5 % of comparisons.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
from pathlib import Path
from typing import TYPE_CHECKING

from auditor.errors import BadInput
from auditor.run.replay import read_audit

if TYPE_CHECKING:
    import pandas as pd

_MOST_RUNS = 26


@dataclass(frozen=True)
class Run:
    """A run folder opened for comparison."""

    name: str
    """A, B, C, ..."""
    folder: Path
    audit: dict[str, Any]
    keys: Mapping[str, str]
    """Probe to the digest of its rows."""
    images: pd.DataFrame | None
    """Digest and label by image id; None for a run that did not write them down."""

    @property
    def probes(self) -> dict[str, dict[str, Any]]:
        """The probe records by id."""
        return {probe["id"]: probe for probe in self.audit["probes"]}


class CannotCompare(Exception):
    """Why a probe cannot be compared; the report says it."""


# the runs


def _open(name: str, folder: Path) -> Run:
    import pandas as pd

    audit = read_audit(folder)
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
    except (OSError, ValueError):
        manifest = {}
    path = folder / "records" / "images.parquet"
    images = pd.read_parquet(path).set_index("image_id") if path.is_file() else None
    return Run(name, folder, audit, manifest.get("records", {}), images)


def _common_images(runs: Sequence[Run]) -> tuple[set[str] | None, dict[str, Any]]:
    """Ids of the images that are in every run, None where all are in all; and the counts that the report states."""
    sizes = [run.audit["data"]["n"] for run in runs]
    if any(run.images is None for run in runs):
        if len({run.audit["data"]["sha256"] for run in runs}) > 1:
            old = next(run for run in runs if run.images is None)
            raise BadInput(
                f"{old.folder}: the runs' data differ, and this run did not write down which images it holds (it has no"
                " records/images.parquet); audit the model again"
            )
        return None, {"common": sizes[0], "of": sizes, "other_bytes": 0, "other_label": 0}
    frames: list[pd.DataFrame] = [run.images for run in runs if run.images is not None]
    shared = set(frames[0].index).intersection(*(frame.index for frame in frames[1:]))
    ordered = sorted(shared)
    same: list[str] = []
    other_bytes = other_label = 0
    columns = [(frame.loc[ordered, "sha256"].tolist(), frame.loc[ordered, "label"].tolist()) for frame in frames]
    for i, image_id in enumerate(ordered):
        if len({digests[i] for digests, _ in columns}) > 1:
            other_bytes += 1
        elif len({labels[i] for _, labels in columns}) > 1:
            other_label += 1
        else:
            same.append(image_id)
    if not same:
        raise BadInput(
            f"{runs[1].folder}: has no image in common with {runs[0].folder} ({len(shared)} ids in common,"
            f" {other_bytes} of them with other bytes, {other_label} with another label); audit both models with the"
            " same --data, --seed and --samples"
        )
    counts = {"common": len(same), "of": sizes, "other_bytes": other_bytes, "other_label": other_label}
    return (None if all(len(same) == size for size in sizes) else set(same)), counts


# one probe


def first_record(runs: Sequence[Run], probe_id: str) -> dict[str, Any]:
    """The record of a probe from the first run that has one."""
    return next(run.probes[probe_id] for run in runs if probe_id in run.probes)


@dataclass
class Part:
    """What one run says of one probe, on the common images."""

    metrics: dict[tuple[str, str], dict[str, Any]]
    findings: list[dict[str, Any]]
    values: dict[tuple[str, str], pd.Series] = field(default_factory=dict)

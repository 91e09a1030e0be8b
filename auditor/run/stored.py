"""A finished run as its folder states it, without the model and the data."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auditor.errors import BadInput
from auditor.files import parse_json, read_inside
from auditor.findings.record import AuditRecord
from auditor.probes.base import Probe, Records, no_examples
from auditor.run.examples import examples_key
from auditor.run.folder import read_examples, read_rows
from auditor.run.planning import random_order
from auditor.run.recorder import completed
from auditor.run.replay import read_audit
from auditor.run.selection import depends_on

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class StoredRun:
    """The run folder of a finished audit."""

    folder: Path
    audit: AuditRecord
    manifest: Mapping[str, Any]
    images: pd.DataFrame
    """Digest, label and, if the data states units, unit by image id."""

    @property
    def keys(self) -> Mapping[str, str]:
        """Digest of each probe's records."""
        keys: Mapping[str, str] = self.manifest.get("records", {})
        return keys

    @cached_property
    def order(self) -> Sequence[str]:
        """The image ids in the random order of the run."""
        return random_order(self.images.index, self.manifest["seed"])

    @cached_property
    def unit_of(self) -> Mapping[str, str] | None:
        """The unit of each image by id; None if the data states none."""
        return None if "unit" not in self.images else self.images["unit"].to_dict()

    def frame(self, probe: Probe) -> pd.DataFrame:
        """Read the rows of a probe; without rows, the frame is empty."""
        import pandas as pd

        key = self.keys.get(probe.meta.id)
        frame = None if key is None else read_rows(self.folder, probe.meta.id, key)
        return pd.DataFrame({"image_id": []}) if frame is None else completed(frame, probe, self.unit_of, self.order)

    def records(self, probe: Probe, probes: Sequence[Probe]) -> Records:
        """Read what ``probe`` concludes from; ``probes`` are all probes of the run."""
        model, data = self.audit["model"], self.audit["data"]
        others = [each for each in probes if each.meta.id in self.keys and depends_on(probe, each.meta.id)]
        records = Records(
            frame=self.frame(probe),
            examples=no_examples(),
            classes=model["classes"],
            labelled=data["labelled"],
            kind=data.get("kind", "images"),
            scores=(endpoint := model.get("endpoint")) is None or endpoint["returns"] != "labels",
            features=[feature["name"] for feature in model["input"].get("features", [])],
            others={each.meta.id: self.frame(each) for each in others},
            threats={each.meta.id: threat for each in others if (threat := each.threat_model()) is not None},
        )
        return self._with_examples(probe, records)

    def _with_examples(self, probe: Probe, records: Records) -> Records:
        requested = list(probe.examples(records)) if records.kind == "images" and len(records.frame) else []
        if not requested:
            return records
        examples = read_examples(self.folder, probe.meta.id, examples_key(self.keys[probe.meta.id], requested))
        return records if examples is None else replace(records, examples=examples)


def open_stored(folder: Path) -> StoredRun:
    """Open the folder of a finished run. Raises BadInput if it is not one, or if a part of it cannot be read."""
    import pandas as pd

    audit = read_audit(folder)
    try:
        manifest = parse_json(read_inside(folder, "manifest.json"), "manifest.json")
        images = pd.read_parquet(io.BytesIO(read_inside(folder, "records/images.parquet")))
    except (BadInput, OSError, ValueError) as error:
        raise BadInput(
            f"{folder}: manifest.json or records/images.parquet cannot be read ({error}); expected the whole folder of"
            " a finished audit"
        ) from None
    return StoredRun(folder, audit, manifest, images.set_index("image_id"))

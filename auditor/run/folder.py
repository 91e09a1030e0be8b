"""The run folder: records, evidence, manifest. Files appear whole or not at all.

A shard is a Parquet file with the rows of some images of one probe and, in its metadata, the digest of everything that
these rows depend on. Resuming is reading which images have rows under today's digest; what was measured under another
digest is never reused, and removed once the probe is measured afresh.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from auditor.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
from auditor.files import ASIDE, write_whole

FORMAT = 1
"""Raise it when the meaning of records changes; part of every digest."""


@dataclass
class Cost:
    """What measuring cost: wall time and images through the network."""

    seconds: float = 0.0
    forward: int = 0
    backward: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.seconds + other.seconds, self.forward + other.forward, self.backward + other.backward)


class RunFolder:
    """One run's folder on disk."""

    def __init__(self, path: Path) -> None:
        """Create the folder, or open it as it is. Raises BadInput when it cannot be written."""
        self.path = path
        try:
            (path / "records").mkdir(parents=True, exist_ok=True)
            (path / "evidence").mkdir(exist_ok=True)
            self._lock: IO[bytes] | None = (path / ".lock").open("ab")
        except OSError as error:
            raise BadInput(
                f"{path}: the run folder cannot be written ({error.strerror}); name another one with --out"
            ) from None
        if not _try_lock(self._lock):
            self._lock.close()
            raise BadInput(
                f"{path}: another audit is writing to this run folder now; wait for it, or name another one with --out"
            )
        # what a killed audit left half-written
        for aside in path.rglob(ASIDE):
            aside.unlink(missing_ok=True)

    def close(self) -> None:
        """Let another audit write here."""
        if self._lock is not None:
            self._lock.close()
            # the file stays: were it removed, two others could each lock a file of that name
            self._lock = None

    def write(self, name: str, content: bytes) -> Path:
        """Write a file of the run, so that a reader never sees half of it."""
        return write_whole(self.path / name, content)

    def write_json(self, name: str, content: Any) -> Path:
        """Write a JSON file, two spaces deep."""
        return self.write(name, (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())

    def read_json(self, name: str) -> Any:
        """Read a JSON file of the run; BadInput when it is not there or not whole."""
        try:
            return json.loads((self.path / name).read_bytes())
        except FileNotFoundError:
            raise BadInput(f"{self.path}: has no {name}; expected the folder of a finished audit") from None
        except ValueError as error:
            raise BadInput(f"{self.path / name}: not valid JSON ({error})") from None

    def write_shard(self, probe_id: str, key: str, table: pa.Table, cost: Cost, *, kind: str = "shard") -> Path:
        """Store rows under the digest ``key``."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        label = {"key": key, "kind": kind, **vars(cost)}
        sink = pa.BufferOutputStream()
        pq.write_table(table.replace_schema_metadata({"auditor": json.dumps(label)}), sink, compression="zstd")
        return self.write(f"records/{probe_id}/{kind}-{uuid.uuid4().hex[:12]}.parquet", sink.getvalue().to_pybytes())

    def read_shards(self, probe_id: str, key: str, *, kind: str = "shard") -> tuple[list[pa.Table], Cost]:
        """All rows under ``key`` and what they cost. An unreadable shard counts as not measured."""
        import pyarrow.parquet as pq

        tables: list[pa.Table] = []
        cost = Cost()
        for path in self._shards(probe_id):
            label = _label(path)
            if label.get("key") == key and label.get("kind") == kind:
                tables.append(pq.read_table(path))
                cost += Cost(label["seconds"], label["forward"], label["backward"])
        return tables, cost

    def measured(self, probe_id: str, key: str) -> set[str]:
        """Ids of the images that have rows under ``key``."""
        import pyarrow.parquet as pq

        return {
            image_id
            for path in self._shards(probe_id)
            if (label := _label(path)).get("key") == key and label.get("kind") == "shard"
            for image_id in pq.read_table(path, columns=["image_id"])["image_id"].to_pylist()
        }

    def drop_stale(self, probe_id: str, key: str) -> None:
        """Remove what was measured under another digest, now that the probe is measured under ``key``."""
        for path in self._shards(probe_id):
            label = _label(path)
            # pictures have a digest of their own; the engine removes them when it draws others
            if label.get("key") != key and label.get("kind") != "examples":
                path.unlink(missing_ok=True)

    def forget(self) -> None:
        """Remove everything measured: ``--fresh``."""
        for folder in ("records", "evidence"):
            for path in sorted((self.path / folder).rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()

    def keep_evidence(self, files: Sequence[str]) -> None:
        """Remove evidence that no probe of this run shows any more."""
        for path in (self.path / "evidence").glob("*.png"):
            if f"evidence/{path.name}" not in files:
                path.unlink()

    def _shards(self, probe_id: str) -> list[Path]:
        return sorted((self.path / "records" / probe_id).glob("*.parquet"))


def read_rows(run: Path, probe_id: str, key: str | None) -> pd.DataFrame | None:
    """A probe's rows in a run folder that somebody else may be writing, sorted by image id; None where there are none.

    Without ``key`` (a run from before the manifest named it) only rows of one single digest are taken.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    paths = sorted((run / "records" / probe_id).glob("shard-*.parquet"))
    labels = {path: _label(path).get("key") for path in paths}
    keys = {key} if key else set(labels.values())
    found = [pq.read_table(path) for path in paths if labels[path] in keys]
    if not found or len(keys) > 1:
        return None
    frame = pa.concat_tables(found, promote_options="permissive").to_pandas()
    return frame.sort_values("image_id", kind="stable", ignore_index=True)


def _label(path: Path) -> Mapping[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_schema(path).metadata or {}
        label: dict[str, Any] = json.loads(metadata.get(b"auditor", b"{}"))
        return label
    except (OSError, ValueError, pa.ArrowException):
        return {}


def _try_lock(file: IO[bytes]) -> bool:
    try:
        import fcntl
    except ImportError:
        # Windows: no advisory locks in the standard library that die with their process
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True

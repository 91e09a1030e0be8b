"""The run folder: records, evidence, manifest. Files appear whole or not at all.

A shard is a Parquet file with the rows of a subset of the images of one probe. Its metadata has the digest of
everything that these rows depend on. A resumed run skips the images that have rows under the current digest. Rows under
another digest are never reused; they are removed once the probe is measured again.
"""

from __future__ import annotations

import io
import json
import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from auditor.errors import BadInput
from auditor.files import ASIDE, write_whole
from auditor.run.watch import Watch

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_WAIT_SECONDS = 1.0
"""Time between two attempts to lock a folder that another audit uses."""

FORMAT = 2
"""Version of the meaning of records; part of every digest."""


@dataclass
class Cost:
    """Cost of measuring: wall time in seconds, and images through the network."""

    seconds: float = 0.0
    forward: int = 0
    backward: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.seconds + other.seconds, self.forward + other.forward, self.backward + other.backward)


class RunFolder:
    """The folder of one run."""

    def __init__(self, path: Path, watch: Watch | None = None, wait: Callable[[str], None] | None = None) -> None:
        """Create or open the folder. Raises BadInput if it cannot be written or another audit writes to it.

        ``wait`` is given the sentence about that audit, and the folder is opened when it has ended.
        """
        watch = watch or Watch()
        self.path = path
        try:
            (path / "records").mkdir(parents=True, exist_ok=True)
            (path / "evidence").mkdir(exist_ok=True)
            self._lock: IO[bytes] | None = _open_lock(path / ".lock", watch)
        except OSError as error:
            raise BadInput(
                f"{path}: the run folder cannot be written ({error.strerror}); choose another one with --out"
            ) from None
        while not _try_lock(self._lock):
            holder = f"{path}: another audit{_holder(path / '.lock')} is writing to this run folder"
            if wait is None:
                self._lock.close()
                raise BadInput(f"{holder}; wait for it with --wait, or choose another folder with --out")
            wait(f"{holder}; waiting for it")
            time.sleep(_WAIT_SECONDS)
        _write_holder(self._lock, watch.owner)
        watch.opened(path, self._lock.fileno())
        # unfinished files of a killed audit
        for unfinished in path.rglob(ASIDE):
            unfinished.unlink(missing_ok=True)

    def close(self) -> None:
        """Release the lock, so that another audit can write to the folder."""
        if self._lock is not None:
            self._lock.close()
            # the file stays: without it, two other audits could each lock their own file of that name
            self._lock = None

    def write(self, name: str, content: bytes) -> Path:
        """Write a file atomically."""
        return write_whole(self.path / name, content)

    def write_json(self, name: str, content: object) -> Path:
        """Write a JSON file. Raises ValueError for NaN."""
        return self.write(name, (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())

    def read_json(self, name: str) -> Any:
        """Read a JSON file of the run. Raises BadInput if it is missing or invalid."""
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
        """Return all rows under ``key`` and their cost. An unreadable shard counts as not measured."""
        import pyarrow.parquet as pq

        tables: list[pa.Table] = []
        cost = Cost()
        for path in self._shards(probe_id):
            label = _label(path)
            if label.get("key") == key and label.get("kind") == kind:
                tables.append(pq.read_table(_content(path)))
                cost += Cost(label["seconds"], label["forward"], label["backward"])
        return tables, cost

    def measured(self, probe_id: str, key: str) -> set[str]:
        """Return the ids of the images that have rows under ``key``."""
        import pyarrow.parquet as pq

        return {
            image_id
            for path in self._shards(probe_id)
            if (label := _label(path)).get("key") == key and label.get("kind") == "shard"
            for image_id in pq.read_table(_content(path), columns=["image_id"])["image_id"].to_pylist()
        }

    def replace_examples(self, probe_id: str, key: str, table: pa.Table, cost: Cost) -> None:
        """Store the rows of a probe's example images; remove those of other examples."""
        for path in (self.path / "records" / probe_id).glob("examples-*.parquet"):
            path.unlink()
        self.write_shard(probe_id, key, table, cost, kind="examples")

    def drop_stale(self, probe_id: str, key: str) -> None:
        """Remove rows under another digest than ``key``."""
        for path in self._shards(probe_id):
            label = _label(path)
            # example images have their own digest; replace_examples removes them
            if label.get("key") != key and label.get("kind") != "examples":
                path.unlink(missing_ok=True)

    def discard(self, probe_id: str) -> None:
        """Remove all records of a probe."""
        for path in self._shards(probe_id):
            path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove all records and evidence: ``--fresh``."""
        for folder in ("records", "evidence"):
            for path in sorted((self.path / folder).rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()

    def keep_evidence(self, files: Sequence[str]) -> None:
        """Remove all evidence except ``files``."""
        for path in (self.path / "evidence").glob("*.png"):
            if f"evidence/{path.name}" not in files:
                path.unlink()

    def records_of_others(self, probe_id: str) -> set[Path]:
        """Return the files with records of all probes but one."""
        return {path for path in (self.path / "records").glob("*/*.parquet") if path.parent.name != probe_id}

    @property
    def has_records(self) -> bool:
        """Whether any probe has rows."""
        return any(self.path.glob("records/*/*.parquet"))

    def _shards(self, probe_id: str) -> list[Path]:
        return sorted((self.path / "records" / probe_id).glob("*.parquet"))


def read_rows(run: Path, probe_id: str, key: str | None) -> pd.DataFrame | None:
    """Read a probe's rows from a run folder, sorted by image id; None without rows.

    Without ``key`` (a manifest of an older version) the rows must have a single digest. Another audit may be writing to
    the folder.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    paths = sorted((run / "records" / probe_id).glob("shard-*.parquet"))
    labels = {path: _label(path).get("key") for path in paths}
    keys = {key} if key else set(labels.values())
    found = [pq.read_table(_content(path)) for path in paths if labels[path] in keys]
    if not found or len(keys) > 1:
        return None
    frame = pa.concat_tables(found, promote_options="permissive").to_pandas()
    return frame.sort_values("image_id", kind="stable", ignore_index=True)


def read_examples(run: Path, probe_id: str, key: str) -> pd.DataFrame | None:
    """Read the rows of a probe's example images under the digest ``key``, as they were written; None without rows."""
    import pyarrow.parquet as pq

    paths = sorted((run / "records" / probe_id).glob("examples-*.parquet"))
    found = next((path for path in paths if _label(path).get("key") == key), None)
    return None if found is None else pq.read_table(_content(found)).to_pandas()


def _content(path: Path) -> io.BytesIO:
    """Return the content of a file: pyarrow does not open paths that are not UTF-8."""
    return io.BytesIO(path.read_bytes())


def _label(path: Path) -> Mapping[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_schema(_content(path)).metadata or {}
        label: dict[str, Any] = json.loads(metadata.get(b"auditor", b"{}"))
        return label
    except (OSError, ValueError, pa.ArrowException):
        return {}


def _open_lock(path: Path, watch: Watch) -> IO[bytes]:
    """Open the lock; that of an earlier process of the same run is held already."""
    inherited = watch.lock_of(path)
    return path.open("a+b") if inherited is None else os.fdopen(os.dup(inherited), "a+b")


def _holder(path: Path) -> str:
    """Describe the process that holds the lock, empty if it did not say."""
    try:
        holder = json.loads(path.read_bytes())
        return f" (process {holder['pid']}, started {holder['started']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _write_holder(file: IO[bytes], pid: int) -> None:
    """Write who holds the lock, for ``_holder``; a resuming process keeps the time of the first."""
    file.seek(0)
    with suppress(ValueError, KeyError, TypeError):
        if json.loads(file.read())["pid"] == pid:
            return
    file.truncate(0)
    file.write(json.dumps({"pid": pid, "started": datetime.now(UTC).isoformat(timespec="seconds")}).encode())
    file.flush()


def _try_lock(file: IO[bytes]) -> bool:
    try:
        import fcntl
    except ImportError:
        # Windows: the standard library has no advisory locks that end with their process
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True

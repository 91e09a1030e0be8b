"""The run folder: records, evidence, manifest. Files appear whole or not at all.

A shard is a Parquet file with the rows of a subset of the images of one probe. Its metadata has the digest of
everything that these rows depend on, except for the images: each row has the digest of its image. A resumed run
skips the images that have rows under the current digests. Other rows are never reused; they are removed once the probe
is measured again, and those of images that changed or are not measured any more before that.

The name of a shard ends in the SHA-256 of its content, so that a changed bit in either is found. A damaged shard is
removed when a run opens the folder, and its images are measured again.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from auditor.errors import BadInput
from auditor.files import ASIDE, inside, parse_json, read_inside, write_whole
from auditor.run.watch import FolderLost, Watch

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_WAIT_SECONDS = 1.0
"""Time between two attempts to lock a folder that another audit uses."""

_LAST_SECONDS = 10.0
"""Time that the last processes of a killed audit may take to end. They hold the lock until then."""

CACHE = "cache"
"""Sub-folder for what a run can find out again; it may be deleted at any time and is not part of the digests."""

FORMAT = 3
"""Version of the meaning of records; part of every digest."""

IMAGE_KEY = "image_key"
"""Column of a shard: the digest of what a row depends on in its image. Readers drop it."""

MANY_SHARDS = 16
"""Number of shards of a probe from which they are joined."""

_UNCHECKED = 12
"""Length of the random ending of the names that older versions gave to shards, in place of a digest."""


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
        # a probe may change the working directory, until that is found after its use
        self._root = path.absolute()
        for name in ("records", "evidence", CACHE, ".lock"):
            inside(path, name)
        try:
            (path / "records").mkdir(parents=True, exist_ok=True)
            (path / "evidence").mkdir(exist_ok=True)
            self._lock: IO[bytes] | None = _open_lock(path / ".lock", watch)
        except OSError as error:
            raise BadInput(
                f"{path}: the run folder cannot be written ({error.strerror}); choose another one with --out"
            ) from None
        patience = time.monotonic() + _LAST_SECONDS
        while not _try_lock(self._lock):
            holder = _Holder.read(path / ".lock")
            if holder is not None and holder.has_ended and time.monotonic() < patience:
                time.sleep(_WAIT_SECONDS / 10)
                continue
            said = f"{path}: another audit{holder or ''} is writing to this run folder"
            if wait is None:
                self._lock.close()
                raise BadInput(f"{said}; wait for it with --wait, or choose another folder with --out")
            wait(f"{said}; waiting for it")
            time.sleep(_WAIT_SECONDS)
        _write_holder(self._lock, watch.owner)
        self._identity = os.fstat(self._lock.fileno())
        watch.opened(path, self._lock.fileno())
        # unfinished files of a killed audit
        for unfinished in path.rglob(ASIDE):
            unfinished.unlink(missing_ok=True)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close the folder. Raises BadInput if it was lost."""
        self.close()
        if isinstance(error, FolderLost):
            raise BadInput(str(error)) from None

    def close(self) -> None:
        """Release the lock, so that another audit can write to the folder."""
        if self._lock is not None:
            self._lock.close()
            # the file stays: without it, two other audits could each lock their own file of that name
            self._lock = None

    def write(self, name: str, content: bytes) -> Path:
        """Write a file atomically. Raises FolderLost if the folder is gone or does not accept the file."""
        self._check_present()
        try:
            write_whole(self._root / name, content)
        except OSError as error:
            raise FolderLost(
                f"{self.path / name}: cannot be written ({error.strerror or error}); what was written before is kept."
                " Make space or the folder writable, and run the same command again to resume"
            ) from error
        return self.path / name

    def _check_present(self) -> None:
        """Raise FolderLost if the folder was deleted or moved after it was opened."""
        try:
            present = self._lock is None or os.path.samestat(self._identity, (self._root / ".lock").stat())
        except OSError:
            present = False
        if not present:
            raise FolderLost(
                f"{self.path}: the run folder was deleted, moved or replaced during the run; leave it in place until"
                " the audit has ended, and run the same command again"
            )

    def write_json(self, name: str, content: object) -> Path:
        """Write a JSON file. Raises ValueError for NaN."""
        return self.write(name, (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())

    def read_json(self, name: str) -> Any:
        """Read a JSON file of the run. Raises BadInput if it is missing or invalid."""
        self._check_present()
        try:
            return parse_json(read_inside(self._root, name), str(self.path / name))
        except FileNotFoundError:
            raise BadInput(f"{self.path}: has no {name}; expected the folder of a finished audit") from None

    def write_shard(
        self, probe_id: str, key: str, table: pa.Table, cost: Cost, *, kind: str = "shard", replaces: Sequence[str] = ()
    ) -> Path:
        """Store rows under the digest ``key``; from then on, the shards that it ``replaces`` do not count."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        label = {"key": key, "kind": kind, **vars(cost), **({"replaces": list(replaces)} if replaces else {})}
        sink = pa.BufferOutputStream()
        pq.write_table(table.replace_schema_metadata({"auditor": json.dumps(label)}), sink, compression="zstd")
        content = sink.getvalue().to_pybytes()
        return self.write(f"records/{probe_id}/{kind}-{hashlib.sha256(content).hexdigest()}.parquet", content)

    def read_shards(self, probe_id: str, key: str, *, kind: str = "shard") -> tuple[list[pa.Table], Cost]:
        """Return all rows under ``key`` and their cost. Raises BadInput for a damaged shard: it may hold such rows."""
        tables: list[pa.Table] = []
        cost = Cost()
        for shard in _in_force([_Shard.read(self._root, path) for path in self._shards(probe_id, kind)]):
            if shard.label.get("key") == key:
                tables.append(shard.rows())
                cost += shard.cost
        return tables, cost

    def measured(self, probe_id: str, key: str) -> set[str]:
        """Return the ids of the images that have rows under ``key``. A damaged shard counts as not measured."""
        return {
            image_id
            for shard in _in_force([shard for _, shard in self._readable(probe_id, "shard") if shard is not None])
            if shard.label.get("key") == key
            for image_id in shard.table(["image_id"])["image_id"].to_pylist()
        }

    def keep_rows(self, probe_id: str, key: str, images: Mapping[str, str]) -> None:
        """Remove the rows under ``key`` of all but these images, and join the shards if they are many.

        ``images`` are the digests of images by id; rows of an image with another digest are removed. The joined shard
        names those that it replaces before they are removed, so an end of the process loses and repeats no row. Its
        cost is that of all shards with rows.
        """
        import pandas as pd
        import pyarrow as pa

        readable = [shard for _, shard in self._readable(probe_id, "shard") if shard is not None]
        current = [shard for shard in _in_force(readable) if shard.label.get("key") == key]
        for shard in readable:
            if shard not in current and shard.label.get("key") == key:
                # the process ended before it was removed
                shard.path.unlink(missing_ok=True)
        digests = pd.Series(images, dtype=object)
        kept: list[tuple[_Shard, Any]] = []
        for shard in current:
            rows = shard.table(["image_id", IMAGE_KEY]).to_pandas().astype(object)
            kept.append((shard, (rows["image_id"].map(digests) == rows[IMAGE_KEY]).to_numpy(dtype=bool)))
        if len(current) < MANY_SHARDS and all(mask.all() for _, mask in kept):
            return
        tables = [shard.table().filter(pa.array(mask)) for shard, mask in kept if mask.any()]
        if tables:
            cost = sum((shard.cost for shard, mask in kept if mask.any()), Cost())
            joined = pa.concat_tables(tables, promote_options="permissive")
            self.write_shard(probe_id, key, joined, cost, replaces=[shard.path.name for shard in current])
        for shard in current:
            shard.path.unlink(missing_ok=True)

    def remove_damaged(self) -> list[str]:
        """Remove damaged shards; return their paths in the folder."""
        damaged = [
            path
            for probe in sorted((self._root / "records").iterdir())
            for path, shard in self._readable(probe.name, "*")
            if shard is None
        ]
        for path in damaged:
            path.unlink(missing_ok=True)
        return [path.relative_to(self._root).as_posix() for path in damaged]

    def is_whole(self, picture: str) -> bool:
        """Return whether an evidence picture is there and has the digest that ends its name."""
        try:
            content = read_inside(self._root, picture)
        except (OSError, BadInput):
            return False
        return hashlib.sha256(content).hexdigest().startswith(Path(picture).stem.rpartition("-")[2])

    def replace_examples(self, probe_id: str, key: str, table: pa.Table, cost: Cost) -> None:
        """Store the rows of a probe's example images; remove those of other examples."""
        for path in (self._root / "records" / probe_id).glob("examples-*.parquet"):
            path.unlink()
        self.write_shard(probe_id, key, table, cost, kind="examples")

    def drop_stale(self, probe_id: str, key: str) -> None:
        """Remove rows under another digest than ``key``."""
        # example images have their own digest; replace_examples removes them
        for path, shard in self._readable(probe_id, "shard"):
            if shard is None or shard.label.get("key") != key:
                path.unlink(missing_ok=True)

    def discard(self, probe_id: str) -> None:
        """Remove all records of a probe."""
        for path in self._shards(probe_id):
            path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove all records, evidence and the cache: ``--fresh``."""
        for folder in ("records", "evidence", CACHE):
            for path in sorted((self._root / folder).rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()

    def keep_evidence(self, files: Sequence[str]) -> None:
        """Remove all evidence except ``files``."""
        for path in (self._root / "evidence").glob("*.png"):
            if f"evidence/{path.name}" not in files:
                path.unlink()

    def records_of_others(self, probe_id: str) -> set[Path]:
        """Return the files with records of all probes but one."""
        return {path for path in (self._root / "records").glob("*/*.parquet") if path.parent.name != probe_id}

    @property
    def has_records(self) -> bool:
        """Whether any probe has rows."""
        return any(self._root.glob("records/*/*.parquet"))

    def shards(self, probe_id: str, kind: str = "shard") -> list[str]:
        """Return the names of a probe's shards, which state their content."""
        return [path.name for path in self._shards(probe_id, kind)]

    def _shards(self, probe_id: str, kind: str = "*") -> list[Path]:
        return sorted((self._root / "records" / probe_id).glob(f"{kind}-*.parquet"))

    def _readable(self, probe_id: str, kind: str) -> Iterator[tuple[Path, _Shard | None]]:
        """Yield every shard of a probe, or None in place of one that is damaged."""
        for path in self._shards(probe_id, kind):
            try:
                yield path, _Shard.read(self._root, path)
            except BadInput:
                yield path, None


@dataclass(frozen=True)
class _Shard:
    """The content of a shard that fits its name."""

    path: Path
    label: Mapping[str, Any]
    """The key, the cost and the kind of the rows."""
    content: bytes

    @classmethod
    def read(cls, run: Path, path: Path) -> _Shard:
        """Read a shard of a run folder. Raises BadInput if it is damaged."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            content = read_inside(run, path.relative_to(run))
            stated = path.stem.rpartition("-")[2]
            if len(stated) != _UNCHECKED and stated != hashlib.sha256(content).hexdigest():
                raise _damaged(path, "its content does not have the digest in its name")
            # a file object: pyarrow does not open paths that are not UTF-8
            metadata = pq.read_schema(io.BytesIO(content)).metadata or {}
            label = parse_json(metadata.get(b"auditor", b"{}"), str(path))
        except (OSError, ValueError, pa.ArrowException) as error:
            raise _damaged(path, str(error)) from None
        if not isinstance(label, dict):
            raise _damaged(path, "its metadata is not a table")
        return cls(path, label, content)

    @property
    def cost(self) -> Cost:
        return Cost(self.label["seconds"], self.label["forward"], self.label["backward"])

    def rows(self) -> pa.Table:
        """Return the rows as readers see them. Raises BadInput if they cannot be decoded."""
        table = self.table()
        return table.drop_columns([IMAGE_KEY]) if IMAGE_KEY in table.column_names else table

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows as they are stored. Raises BadInput if they cannot be decoded."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return pq.read_table(io.BytesIO(self.content), columns=columns)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise _damaged(self.path, str(error)) from None


def _in_force(shards: Sequence[_Shard]) -> list[_Shard]:
    """Return the shards that no other one replaces."""
    replaced = {name for shard in shards for name in shard.label.get("replaces", ())}
    return [shard for shard in shards if shard.path.name not in replaced]


def _damaged(path: Path, why: str) -> BadInput:
    return BadInput(f"{path}: damaged ({why}); run the audit again with the same --out to measure these images again")


def read_rows(run: Path, probe_id: str, key: str | None) -> pd.DataFrame | None:
    """Read a probe's rows from a run folder, sorted by image id; None without rows.

    Without ``key`` (a manifest of an older version) the rows must have a single digest. Another audit may be writing to
    the folder. Raises BadInput for a damaged shard.
    """
    import pyarrow as pa

    shards = _in_force([_Shard.read(run, path) for path in _paths(run, probe_id, "shard")])
    keys = {key} if key else {shard.label.get("key") for shard in shards}
    found = [shard.rows() for shard in shards if shard.label.get("key") in keys]
    if not found or len(keys) > 1:
        return None
    try:
        frame = pa.concat_tables(found, promote_options="permissive").to_pandas()
        return frame.sort_values("image_id", kind="stable", ignore_index=True)
    except (KeyError, TypeError, ValueError, pa.ArrowException) as error:
        raise BadInput(
            f"{run / 'records' / probe_id}: its rows do not have the form that auditor writes ({error!r}); audit the"
            " model again"
        ) from None


def read_examples(run: Path, probe_id: str, key: str) -> pd.DataFrame | None:
    """Read the rows of a probe's example images under the digest ``key``, as they were written; None without rows."""
    shards = (_Shard.read(run, path) for path in _paths(run, probe_id, "examples"))
    found = next((shard for shard in shards if shard.label.get("key") == key), None)
    return None if found is None else found.table().to_pandas()


def read_all_examples(run: Path) -> list[tuple[str, dict[str, Any]]]:
    """Read the rows of the example images of all probes, each with the id of its probe."""
    return [
        (path.parent.name, row)
        for path in _paths(run, "*", "examples")
        for row in _Shard.read(run, path).table().to_pylist()
    ]


def _paths(run: Path, probe_id: str, kind: str) -> list[Path]:
    return sorted((inside(run, "records")).glob(f"{probe_id}/{kind}-*.parquet"))


def _open_lock(path: Path, watch: Watch) -> IO[bytes]:
    """Open the lock; that of an earlier process of the same run is held already."""
    inherited = watch.lock_of(path)
    return path.open("a+b") if inherited is None else os.fdopen(os.dup(inherited), "a+b")


@dataclass(frozen=True)
class _Holder:
    """The process that locked the folder; those that it started hold the lock as well."""

    pid: int
    started: str

    @classmethod
    def read(cls, path: Path) -> _Holder | None:
        """Read who holds the lock, None if it did not say."""
        try:
            holder = json.loads(path.read_bytes())
            return cls(int(holder["pid"]), str(holder["started"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def __str__(self) -> str:
        return f" (process {self.pid}, started {self.started})"

    @property
    def has_ended(self) -> bool:
        try:
            os.kill(self.pid, 0)
        except (OSError, OverflowError) as error:
            return isinstance(error, ProcessLookupError)
        return False


def _write_holder(file: IO[bytes], pid: int) -> None:
    """Write who holds the lock, for ``_Holder``; a resuming process keeps the time of the first."""
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

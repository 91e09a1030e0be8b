"""What reading an image once tells about it, and how a later run knows it without reading the image again.

A run stores these facts with a stamp of each image: size, times and inode of its file. The next run trusts the facts of
an image whose stamp is the same, as git trusts its index; ``--fresh`` and ``auditor verify`` read everything. A file
that was changed within the last two seconds has no stamp: a second change could leave the times as they are.
"""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LOOK = np.dtype([("sha256", "S64"), ("largest", "f8"), ("resized", "?"), ("frames", "?")])
"""Digest of the bytes; largest value of an image with more than 8 bits, else NaN; whether its size is another than that
of the model's input; whether it has more frames or pages than the one that is read."""

_SETTLED = 2.0
"""Seconds after which a further change gives a file another time, on every usual file system."""


def file_stamp(*files: str | os.PathLike[str] | None) -> str:
    """Return size, times and inode of files, None for one that is not there to be read; empty if they are too new."""
    parts = []
    for file in files:
        if file is None:
            continue
        try:
            # a path object would take longer than the call, and there may be a million files
            state = os.stat(file)  # noqa: PTH116
        except OSError:
            return ""
        if max(state.st_mtime, state.st_ctime) > time.time() - _SETTLED:
            return ""
        parts.append(f"{state.st_size}-{state.st_mtime_ns}-{state.st_ctime_ns}-{state.st_ino}")
    return " ".join(parts)


@dataclass(frozen=True)
class Looks:
    """The facts of some images; arrays of equal length."""

    key: str
    """Digest of how the images were read: their size and the way of resizing."""
    ids: Sequence[str]
    stamps: Sequence[str]
    """Empty for an image that must be read again."""
    facts: NDArray[Any]
    """(n,) of ``LOOK``."""
    errors: Sequence[str]
    """Why an image cannot be read; empty for one that can."""
    near_duplicates: int | None = None
    """How many of all these images are nearly equal to another one; None if not counted."""

    def known(self, key: str, ids: Sequence[str], stamps: Sequence[str]) -> NDArray[np.int64]:
        """Return the row of each image with this stamp, -1 for those that must be read."""
        import pandas as pd

        if key != self.key:
            return np.full(len(ids), -1)
        rows = np.asarray(pd.Index(self.ids).get_indexer(list(ids)), dtype=np.int64)
        same = np.fromiter(
            (row >= 0 and stamp != "" and self.stamps[row] == stamp for row, stamp in zip(rows, stamps, strict=True)),
            dtype=bool,
            count=len(ids),
        )
        return np.where(same, rows, -1)

    def to_parquet(self) -> bytes:
        """Return the facts as a Parquet file."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = {name: pa.array(self.facts[name]) for name in ("largest", "resized", "frames")}
        columns["sha256"] = pa.array(self.facts["sha256"].tolist(), pa.binary())
        texts = {"image_id": self.ids, "stamp": self.stamps, "error": self.errors}
        columns |= {name: pa.array(values, pa.string()) for name, values in texts.items()}
        label = json.dumps({"key": self.key, "near_duplicates": self.near_duplicates})
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table(columns).replace_schema_metadata({"auditor": label}), sink, compression="zstd")
        content: bytes = sink.getvalue().to_pybytes()
        return content

    @classmethod
    def from_parquet(cls, content: bytes) -> Looks:
        """Read what ``to_parquet`` wrote. Raises ValueError, LookupError or a pyarrow exception for anything else."""
        import pyarrow.parquet as pq

        table = pq.read_table(io.BytesIO(content))
        label = json.loads(table.schema.metadata[b"auditor"])
        facts = np.empty(len(table), dtype=LOOK)
        for name in LOOK.names or ():
            facts[name] = table[name].to_numpy()
        texts = [table[name].to_pylist() for name in ("image_id", "stamp", "error")]
        return cls(label["key"], texts[0], texts[1], facts, texts[2], label["near_duplicates"])

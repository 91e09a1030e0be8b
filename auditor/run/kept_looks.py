"""Keep what reading the images told about them in the run folder, so that a resumed run need not read them again."""

from __future__ import annotations

import hashlib
from pathlib import Path

from auditor.data.dataset import Images
from auditor.data.looks import Looks
from auditor.errors import BadInput
from auditor.files import inside, read_inside
from auditor.run.folder import CACHE, RunFolder


def find_looks(out: Path, name: str) -> Looks | None:
    """Return what an earlier run of the folder ``out`` kept as ``name``; None without any, or if it is damaged."""
    import pyarrow as pa

    try:
        for path in sorted(inside(out, CACHE).glob(f"{name}-*.parquet")):
            content = read_inside(out, path.relative_to(out))
            if path.stem == f"{name}-{hashlib.sha256(content).hexdigest()}":
                return Looks.from_parquet(content)
    except (BadInput, OSError, LookupError, TypeError, ValueError, pa.ArrowException):
        # the images are read again
        return None
    return None


def keep_looks(folder: RunFolder, name: str, images: Images) -> None:
    """Write what reading these images told about them, unless none has a stamp; remove that of an earlier run."""
    stored = sorted((folder.path / CACHE).glob(f"{name}-*.parquet"))
    if not any(images.looks.stamps):
        kept = ""
    elif images.n_read or len(stored) != 1:
        content = images.looks.to_parquet()
        kept = f"{name}-{hashlib.sha256(content).hexdigest()}.parquet"
        folder.write(f"{CACHE}/{kept}", content)
    else:
        kept = stored[0].name
    for path in stored:
        if path.name != kept:
            path.unlink(missing_ok=True)

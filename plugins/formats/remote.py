"""Data at a URI, through fsspec: ``s3://``, ``gs://``, ``az://``, ``https://``, ``zip://`` and others.

Of a folder of images and of a manifest, only the audited images are read, one by one. Data in any other format is
copied to a temporary folder, which is removed when the process ends.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from auditor import hookimpl
from auditor.data.location import called
from auditor.plugins.formats._files import RemoteFiles

if TYPE_CHECKING:
    from auditor.data.dataset import Source
    from auditor.data.location import Uri
    from auditor.plugins.formats._folder_scan import Scan

_DESCRIPTIONS = ("metadata.jsonl", "metadata.csv")
"""Files with which a folder of images is more than that."""


@hookimpl
def auditor_open_uri(uri: Uri) -> Source | Path | None:
    """Open what any file system of fsspec holds; what cannot be read in place is returned as a copy."""
    files = RemoteFiles(uri)
    return _open_file(files) if files.is_file else _open_folder(files)


def _open_file(files: RemoteFiles) -> Source | Path:
    """Open a manifest; return a copy of any other file."""
    from auditor.plugins.formats import manifest

    copy = files.copy("", _temporary())
    if copy.suffix.lower() not in manifest.SUFFIXES:
        return copy
    with called(files.uri, copy):
        table = manifest.read_table(copy)
        # Hugging Face has columns of this name that hold the bytes of the images
        named = "image" in table.columns and table["image"].map(lambda value: isinstance(value, str)).any()
        return manifest.image_source(copy, table, files.parent) if named else copy


def _open_folder(files: RemoteFiles) -> Source | Path:
    """Open a folder of images; return a copy of a folder of anything else."""
    from auditor.plugins.formats._folder_scan import scan_names
    from auditor.plugins.formats.folder import open_folder

    names = files.names()
    # messages name it, with one slash after the scheme, as any path has
    root = PurePosixPath(files.uri)

    def scan(folder: PurePosixPath, skipped: dict[str, list[str]]) -> Scan:
        inner = "" if folder == root else f"{folder.relative_to(root)}/"
        return scan_names(folder, [name.removeprefix(inner) for name in names if name.startswith(inner)], skipped)

    described = any(PurePosixPath(name).name in _DESCRIPTIONS for name in names)
    if not described and scan(root, defaultdict(list)).everything:
        with called(files.uri, root):
            source = open_folder(root, scan, lambda folder: files.below(folder.relative_to(root).as_posix()))
        return replace(source, warnings=[text.replace(str(root), files.uri.shown) for text in source.warnings])
    copy = _temporary()
    for name in names:
        files.copy(name, copy)
    return copy


def _temporary() -> Path:
    """Return a new folder that is removed when the process ends."""
    folder = Path(tempfile.mkdtemp(prefix="auditor-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder

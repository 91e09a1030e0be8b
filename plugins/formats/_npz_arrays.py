"""Read the arrays of a NumPy archive; large ones stay on disk and are mapped into memory.

``numpy.savez`` stores arrays as they are, so a part of the archive is mapped. Those of ``numpy.savez_compressed`` are
extracted once for each process, to a temporary file without a name.
"""

from __future__ import annotations

import shutil
import struct
import tempfile
import zipfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LARGE = 64 << 20
"""Bytes from which an array is mapped instead of read."""

_LOCAL_HEADER = struct.Struct("<26xHH")
"""Of a member of a ZIP archive: the lengths of its name and of its extra field, which follow the header."""


def read_arrays(path: Path, large: int = _LARGE) -> dict[str, NDArray[Any]]:
    """Return the arrays of an archive by name; those with at least ``large`` bytes are ``numpy.memmap``.

    Raises OSError, ValueError, EOFError, zipfile.BadZipFile or zlib.error for a file that is no such archive.
    """
    import numpy as np

    with np.load(path, allow_pickle=False) as archive, zipfile.ZipFile(path) as members:
        sizes = {info.filename.removesuffix(".npy"): info for info in members.infolist()}
        return {
            name: archive[name] if sizes[name].file_size < large else _mapped(path, members, sizes[name])
            for name in archive.files
        }


def _mapped(path: Path, members: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    """Map an array into memory; its pages are read when they are used."""
    if info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1:
        with path.open("rb") as file:
            file.seek(info.header_offset)
            start = info.header_offset + _LOCAL_HEADER.size + sum(_LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size)))
            return _map(file, start)
    # the mapping keeps the file, which has no name, until the process ends
    with tempfile.TemporaryFile(prefix="auditor-") as extracted, members.open(info) as member:
        shutil.copyfileobj(member, extracted, 1 << 20)
        return _map(extracted, 0)


def _map(file: IO[bytes], start: int) -> NDArray[Any]:
    """Map the array in ``.npy`` format that begins at ``start``. Raises ValueError if it cannot be mapped."""
    import numpy as np
    from numpy.lib import format as npy

    file.seek(start)
    version = npy.read_magic(file)
    read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read_header(file)
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be loaded when allow_pickle=False")
    return np.memmap(file, dtype, "r", file.tell(), shape, "F" if fortran else "C")

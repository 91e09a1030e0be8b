"""The IDX files of MNIST, Fashion-MNIST and EMNIST, also compressed: ``t10k-images-idx3-ubyte[.gz]``.

The labels are in the file of the same name with ``labels`` and ``idx1``. The format: two zero bytes, the type, the
number of axes, the length of each axis as a big-endian 32-bit integer, the values (yann.lecun.com/exdb/mnist).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from auditor import BadInput, hookimpl

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from auditor.data.dataset import Source

_FILE = re.compile(r"(.*)(images|labels)([-.]idx[13][-.]ubyte|[-.]ubyte)(\.gz)?")
_UNSIGNED_BYTE = 8


# a folder of these files holds no images that the plugin for folders could find
@hookimpl(tryfirst=True)
def auditor_open_images(path: Path) -> Source | None:
    """Open files called ``*images-idx3-ubyte``, with or without ``.gz``, and folders that hold some."""
    if path.is_dir():
        files = [file for file in sorted(path.iterdir()) if (kind := _kind(file)) == "images" and file.is_file()]
        return _open(_choose(path, files)) if files else None
    kind = _kind(path)
    if kind == "labels":
        raise BadInput(f"{path}: holds labels; expected the file of the images, {_with_labels(path, 'images').name}")
    return _open(path) if kind == "images" else None


def _kind(path: Path) -> str:
    """Return what a file holds by its name, "images" or "labels"; empty for other files."""
    match = _FILE.fullmatch(path.name)
    return match[2] if match else ""


def _choose(folder: Path, files: list[Path]) -> Path:
    """Return the file of the test images. Raises BadInput if none or several could be meant."""
    test = [file for file in files if file.name.startswith(("t10k", "test")) or "-test-" in file.name]
    if len(test) == 1:
        return test[0]
    names = ", ".join(file.name for file in files)
    raise BadInput(
        f"{folder}: contains the images {names}; expected one file of test images (t10k-images-idx3-ubyte); pass the"
        f" file to audit, such as --data {files[0]}"
    )


def _open(path: Path) -> Source:
    from auditor.data.dataset import Source

    images = _read(path, axes=3)
    label_file = _with_labels(path, "labels")
    found = [file for file in (label_file, _other_compression(label_file)) if file.is_file()]
    labels = None if not found else _read(found[0], axes=1)
    if labels is not None and len(labels) != len(images):
        raise BadInput(f"{found[0]}: holds {len(labels)} labels; expected {len(images)}, one per image of {path.name}")
    return Source(
        path=str(path),
        ids=[f"{i:06d}" for i in range(len(images))],
        labels=None if labels is None else [str(label) for label in labels.tolist()],
        read=lambda index: (images[index].tobytes(), images[index]),
        warnings=[] if found else [f"The labels of {path.name} are missing: there is no file {label_file.name}."],
    )


def _with_labels(path: Path, kind: str) -> Path:
    """Return the file with the labels of images, or the other way round."""
    axes = {"labels": "idx1", "images": "idx3"}[kind]
    match = _FILE.fullmatch(path.name)
    assert match is not None
    return path.with_name(match[1] + kind + re.sub(r"idx[13]", axes, match[3]) + (match[4] or ""))


def _other_compression(path: Path) -> Path:
    return path.with_suffix("") if path.suffix == ".gz" else path.with_name(f"{path.name}.gz")


def _read(path: Path, *, axes: int) -> NDArray[np.uint8]:
    """Return the array of a file. Raises BadInput for one that is not unsigned bytes with this many axes."""
    import gzip
    import zlib

    import numpy as np

    try:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (OSError, EOFError, zlib.error) as error:
        raise BadInput(f"{path}: cannot be read: {error}") from None
    header = 4 + 4 * axes
    if len(raw) < header or raw[:4] != bytes([0, 0, _UNSIGNED_BYTE, axes]):
        raise BadInput(
            f"{path}: begins with {raw[:4].hex(' ') or 'nothing'}; expected 00 00 08 {axes:02d}, an IDX file"
        )
    shape = np.frombuffer(raw[4:header], dtype=">u4").astype(np.int64)
    if len(raw) - header != int(np.prod(shape)):
        sizes = " x ".join(map(str, shape))
        raise BadInput(f"{path}: holds {len(raw) - header} values; its header states {sizes}")
    return np.frombuffer(raw, dtype=np.uint8, offset=header).reshape(shape)

"""The identity of a model: one digest over every byte that its predictions depend on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from auditor.files import file_sha256


def model_digest(path: Path, files: Sequence[Path] = ()) -> str:
    """Return the SHA-256 of a model.

    Args:
        path: the model file.
        files: further files of the model in its folder, such as external data of an ONNX file.

    For a model in one file it is the digest of that file. With further files it is the digest of a list with one line
    per file, ``<sha256>  <path relative to the folder>``, the model file first and the others sorted by path.
    """
    if not files:
        return file_sha256(path)
    named = {file.relative_to(path.parent).as_posix(): file for file in files}
    lines = [(file_sha256(path), path.name), *((file_sha256(named[name]), name) for name in sorted(named))]
    text = "".join(f"{digest}  {name}\n" for digest, name in lines)
    return hashlib.sha256(text.encode()).hexdigest()


def model_size(path: Path, files: Sequence[Path] = ()) -> int:
    """Return the size of a model in bytes, with its further files."""
    return sum(file.stat().st_size for file in (path, *files))


def object_digest(identity: str, scores: NDArray[np.float32]) -> str:
    """Return the SHA-256 of a model that is a Python object: of its ``identity`` and its scores for test images."""
    return hashlib.sha256(identity.encode() + scores.tobytes()).hexdigest()

"""Send model files to workers that may be on another machine: by content, checked by digest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auditor.errors import BadInput
from auditor.files import file_sha256, write_whole
from auditor.model.loading.metadata import nearby_files
from auditor.model.loading.sidecar import sidecar_path

Content = NDArray[np.uint8]
"""The bytes of a file, (n,): an array, which processes of one machine can share."""


@dataclass(frozen=True, kw_only=True)
class Shipment:
    """A model and the files near it that its opening reads."""

    model: Path
    """Absolute, on the machine of the audit."""
    files: Mapping[str, str]
    """SHA-256 by path, relative to the folder above that of the model."""

    def contents(self) -> Iterator[tuple[str, Content]]:
        """Yield digest and bytes of each file. Raises BadInput for a file that has changed meanwhile."""
        for name, digest in self.files.items():
            path = _root(self.model) / name
            content: Content = np.fromfile(path, np.uint8)
            if _sha256(content) != digest:
                raise BadInput(f"{path}: has changed since the audit began; start it again")
            yield digest, content


def ship(model: Path, further: Sequence[Path] = ()) -> Shipment:
    """Return the shipment of a model; ``further`` are more files of it in its folder, such as external data."""
    model = model.absolute()
    found = [model, *(path.absolute() for path in further)]
    found += [path for path in (sidecar_path(model), *nearby_files(model)) if path.is_file()]
    root = _root(model)
    return Shipment(model=model, files={path.relative_to(root).as_posix(): file_sha256(path) for path in found})


def unpack(shipment: Shipment, fetch: Callable[[str], Any], cache: Path) -> Path:
    """Return the path of a shipped model on this machine.

    It is that of the audit's machine if every file is there with the same content. Otherwise the files are written
    below ``cache``; ``fetch`` returns the bytes for a digest. Raises BadInput for other bytes than those sent.
    """
    root = _root(shipment.model)
    if all(_has(root / name, digest) for name, digest in shipment.files.items()):
        return shipment.model
    place = cache / hashlib.sha256(str(shipment).encode()).hexdigest()[:16]
    for name, digest in shipment.files.items():
        content = fetch(digest)
        if _sha256(content) != digest:
            raise BadInput(f"{root / name}: arrived with another digest than it was sent with; start the audit again")
        write_whole(place / name, memoryview(content))
    return place / shipment.model.relative_to(root)


def _root(model: Path) -> Path:
    """Return the folder above that of a model: Hugging Face keeps its configuration there."""
    return model.parent.parent


def _sha256(content: Any) -> str:
    return hashlib.sha256(content).hexdigest()


def _has(path: Path, digest: str) -> bool:
    try:
        return file_sha256(path) == digest
    except OSError:
        return False
